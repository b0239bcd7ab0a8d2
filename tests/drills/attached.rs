//! A drill on a cluster that somebody else runs, whose roles show each other certificates and whose API is https.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use estafet_drill::{Choice, Drill, Hook, Options};
use estafet_harness::{
    Cluster,
    client::until,
    cluster::{ADMIN_PASSWORD, Role},
};
use estafet_runtime::Clock;
use estafet_tls::{Files, Flags, Identity, issue::Authority};

use crate::failover::assert_whole;

const LIFE: Duration = Duration::from_secs(3600);

fn now_ms() -> i64 {
    Clock::system().now_ms()
}

/// The certificate of the API, of an authority of its own.
fn certificate_of_the_api(directory: &Path) -> anyhow::Result<Files> {
    Ok(Authority::open(directory, "api", now_ms())?.issue_for_hosts("api", &["127.0.0.1".to_owned()], now_ms(), LIFE)?)
}

/// The certificate of an operator of this cluster.
fn operator_of(cluster: &Cluster) -> anyhow::Result<Flags> {
    let authority = Authority::open(&cluster.directory().join("certificates"), "test", now_ms())?;
    let operator = Identity::new("test", estafet_tls::Role::Operator, "drill")?;
    let Files { ca, cert, key } = authority.issue(&operator, &[], now_ms(), LIFE)?;
    Ok(Flags { tls_ca: Some(ca), tls_cert: Some(cert), tls_key: Some(key) })
}

/// What kills a master, by its address.
fn killing(cluster: &mut Cluster) -> String {
    let masters = cluster.members().iter().filter(|member| member.role() == Role::Master);
    let cases = masters.map(|master| format!("{}) kill -9 {} ;;", master.address(), master.pid()));
    format!("case {{node}} in {} *) exit 1 ;; esac", cases.collect::<Vec<_>>().join(" "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_a_cluster_with_certificates_is_an_operators() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let api = certificate_of_the_api(directory.path())?;
    let path = |path: &Path| path.to_str().map(str::to_owned).context("a plain path");
    let https = ["--https-cert".to_owned(), path(&api.cert)?, "--https-key".to_owned(), path(&api.key)?];
    let cluster = Cluster::options().sizes(2, 3, 1).shards(1).phones(20).encrypted();
    let mut cluster = cluster.flags(Role::Webapp, https.iter().map(String::as_str)).start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    let webapp = cluster.members().iter().find(|member| member.role() == Role::Webapp).context("a webapp")?.base_url()?;
    ensure!(webapp.starts_with("https://"), "{webapp}");
    let hook = |verb: &str, command: &str| Hook { verb: verb.to_owned(), command: command.to_owned() };
    let options = Options {
        drills: vec![Choice::One(Drill::KillMaster)],
        rate: 40,
        repeat: 1,
        probe_ms: 100,
        shards: 1,
        local: false,
        webapp: vec![webapp.to_owned()],
        webapp_ca: Some(api.ca.clone()),
        masters: cluster.master_addresses(),
        tls: operator_of(&cluster)?,
        phones_url: Some(cluster.phones()?.base_url().to_owned()),
        admin_password: Some(ADMIN_PASSWORD.to_owned()),
        audit: Some(cluster.audit_path()?),
        sink: Some(([127, 0, 0, 1], 0).into()),
        hook: vec![hook("kill", &killing(&mut cluster)), hook("restore", "true")],
        ..Options::local([])
    };
    for (refused, flag) in [
        (Options { tls: Flags::default(), ..options.clone() }, "--tls-ca"),
        (Options { webapp_ca: None, ..options.clone() }, "--webapp-ca"),
    ] {
        let error = estafet_drill::run(&refused).await.err().context("a drill without what the cluster asks for")?;
        ensure!(format!("{error:#}").contains(flag), "{error:#}");
    }
    let outcome = estafet_drill::run(&options).await?.outcomes.remove(0);
    assert_whole(&outcome);
    ensure!(outcome.samples.len() == 1 && outcome.samples[0].leader.is_some(), "{:?}", outcome.samples);
    Ok(())
}
