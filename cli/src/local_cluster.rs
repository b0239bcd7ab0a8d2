//! `estafet cluster`: a whole cluster on this machine, each role a process of its own, in the foreground.
//!
//! For trying out and for drills, not for production: everything shares a machine. etcd begins empty each time; what
//! matters is in the database.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use estafet_harness::{
    Cluster,
    client::until,
    cluster::{ADMIN_PASSWORD, Member, Role},
};
use estafet_model::{ShardCount, WaId};
use serde_json::{Value, json};

use crate::args::Misconfigured;

/// Options of `estafet cluster`; each is also read from `ESTAFET_CLUSTER_` and its name in capitals.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Where database, network and logs are kept. Without it a temporary directory, removed at the end. A
    /// PostgreSQL started by root runs as the user postgres, who must be able to get there.
    #[arg(long, env = "ESTAFET_CLUSTER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Business number.
    #[arg(long, env = "ESTAFET_CLUSTER_NUMBER", default_value = "15550000001")]
    number: WaId,
    /// Shards of the number: a power of two, 1 to 256.
    #[arg(long, env = "ESTAFET_CLUSTER_SHARDS", default_value_t = 8)]
    shards: u32,
    /// How many simulated phones: 15550001001, 15550001002, ...
    #[arg(long, env = "ESTAFET_CLUSTER_PHONES", default_value_t = 320, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    phones: u32,
    /// Members of etcd: 1 or 3.
    #[arg(long, env = "ESTAFET_CLUSTER_ETCD_MEMBERS", default_value_t = 1)]
    etcd_members: usize,
    /// Initial webhooks.url.
    #[arg(long, env = "ESTAFET_CLUSTER_WEBHOOK_URL")]
    webhook_url: Option<String>,
}

/// Runs a cluster until SIGTERM or SIGINT.
pub(crate) async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    check(&args)?;
    let mut options = Cluster::options()
        .binary(std::env::current_exe().context("the path of this binary is unknown")?)
        .fsync(true)
        .own_group(true)
        .numbers([args.number.to_string()])
        .shards(args.shards)
        .phones(args.phones)
        .etcd_members(args.etcd_members);
    if let Some(path) = &args.data_dir {
        options = options.data_dir(path);
    }
    if let Some(url) = &args.webhook_url {
        options = options.webhook(url);
    }
    let termination = estafet_runtime::tasks::termination();
    tokio::pin!(termination);
    let started = async {
        let cluster = options.start().await.context("the cluster could not be started")?;
        until("every shard has an owner", async || Ok(cluster.is_owned().await.unwrap_or(false))).await?;
        anyhow::Ok(cluster)
    };
    let cluster = tokio::select! {
        cluster = started => cluster?,
        // What was started ends with the future that is dropped.
        signal = &mut termination => return signal.context("signals"),
    };
    announce(&args, &cluster)?;
    termination.await.context("signals")?;
    cluster.stop().await
}

fn check(args: &ClusterArgs) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    if ShardCount::new(args.shards).is_none() {
        problems.push(format!("--shards {}: a power of two, 1 to 256", args.shards));
    }
    if ![1, 3].contains(&args.etcd_members) {
        problems.push(format!("--etcd-members {}: 1 or 3", args.etcd_members));
    }
    if problems.is_empty() { Ok(()) } else { Err(Misconfigured(problems).into()) }
}

/// The ready line on stdout, and lines for people on stderr.
#[allow(clippy::print_stderr, reason = "the contract of the command")]
fn announce(args: &ClusterArgs, cluster: &Cluster) -> anyhow::Result<()> {
    let webapps: Vec<&str> = cluster.of(Role::Webapp).map(Member::base_url).collect::<anyhow::Result<_>>()?;
    let (masters, phones) = (cluster.master_addresses().join(","), cluster.phones()?.base_url().to_owned());
    eprintln!("estafet cluster: {} is served at {}", args.number, webapps.join(" and "));
    eprintln!("  log in as `admin` with the password `{ADMIN_PASSWORD}`, unless the data directory has another");
    eprintln!("  phones 15550001001 and on: estafet phone --url {phones} list");
    eprintln!("  what is where:             estafet status --masters {masters}");
    for member in processes(cluster) {
        eprintln!("  {:<10} process {:<8} {}", text(&member, "name"), member["pid"], text(&member, "address"));
    }
    eprintln!("  kill what you like (kill -9, kill -STOP); figures: estafet drill run kill-owner --local");
    let ready = json!({
        "ready": true,
        "base_urls": webapps,
        "business_number": args.number,
        "masters": cluster.master_addresses(),
        "phones_url": phones,
        "chatd_audit": cluster.audit_path()?,
        "database_url": cluster.database(),
        "directory": cluster.directory(),
        "processes": processes(cluster),
        "pid": std::process::id(),
    });
    crate::output::line(&ready.to_string())
}

fn processes(cluster: &Cluster) -> Vec<Value> {
    let roles = [Role::Chatd, Role::Master, Role::Webapp, Role::Coreapp];
    let members = roles.into_iter().flat_map(|role| cluster.of(role));
    members.map(|member| json!({ "name": member.name(), "pid": member.pid(), "address": member.address() })).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn every_setting_at_fault_is_named_at_once() {
        let cli = Cli::try_parse_from(["estafet", "cluster", "--shards", "3", "--etcd-members", "2"]).unwrap();
        let Command::Cluster(args) = cli.command else { panic!("not a cluster") };
        let error = check(&args).unwrap_err();
        assert!(error.is::<Misconfigured>());
        assert!(error.to_string().contains("--shards 3") && error.to_string().contains("--etcd-members 2"), "{error}");
    }
}
