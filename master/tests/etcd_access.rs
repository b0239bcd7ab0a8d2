//! Election on an etcd with certificates and authentication.

use std::{path::Path, time::Duration};

use estafet_harness::{Etcd, PATIENCE, client::until, etcd::Options};
use estafet_master::election::{Access, Candidate, Leadership};
use estafet_runtime::{Clock, Tasks};
use estafet_tls::{Files, issue::Authority};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, PermissionType, TlsOptions};
use tokio::time::timeout;

const PREFIX: &str = "/test";
const USER: &str = "estafet";
const PASSWORD: &str = "p@ss w%rd";

fn issue(directory: &Path, name: &str) -> anyhow::Result<Files> {
    let now = Clock::system().now_ms();
    let authority = Authority::open(directory, "test", now)?;
    Ok(authority.issue_for_hosts(name, &["127.0.0.1".to_owned()], now, Duration::from_secs(3600))?)
}

/// Lets `USER` use the keys below `PREFIX`, and nobody anything without logging in.
async fn switch_authentication_on(etcd: &Etcd, files: &Files) -> anyhow::Result<Client> {
    let identity = Identity::from_pem(std::fs::read(&files.cert)?, std::fs::read(&files.key)?);
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(std::fs::read(&files.ca)?)).identity(identity);
    let options = ConnectOptions::new().with_tls(tls);
    let mut open = Client::connect([etcd.url()], Some(options.clone())).await?;
    open.user_add("root", "root", None).await?;
    open.role_add("root").await?;
    open.user_grant_role("root", "root").await?;
    open.user_add(USER, PASSWORD, None).await?;
    open.role_add("masters").await?;
    let below = Permission::new(PermissionType::Readwrite, format!("{PREFIX}/")).with_prefix();
    open.role_grant_permission("masters", below).await?;
    open.user_grant_role(USER, "masters").await?;
    open.auth_enable().await?;
    Ok(Client::connect([etcd.url()], Some(options.with_user("root", "root"))).await?)
}

async fn leads(candidate: &mut Candidate) -> anyhow::Result<Leadership> {
    let campaigning = async {
        loop {
            // A call may miss its deadline on a busy machine.
            if let Ok(leadership) = candidate.campaign().await {
                return leadership;
            }
        }
    };
    Ok(timeout(PATIENCE, campaigning).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_survives_the_end_of_its_token_and_strangers_are_refused() -> anyhow::Result<()> {
    estafet_runtime::install_crypto();
    let directory = tempfile::tempdir()?;
    let (server, client) = (issue(directory.path(), "etcd")?, issue(directory.path(), "client")?);
    let etcd = Options::default().encrypted(server).start().await?.pop().expect("one member");
    let mut root = switch_authentication_on(&etcd, &client).await?;
    let access = Access {
        ca: Some(client.ca.clone()),
        cert: Some((client.cert, client.key)),
        user: Some((USER.to_owned(), PASSWORD.to_owned())),
    };
    let candidate = async |access: &Access| {
        Candidate::connect_as(access, &[etcd.url().to_owned()], PREFIX, "127.0.0.1:1", Tasks::new()).await
    };
    for stranger in [
        Access { user: Some((USER.to_owned(), "wrong".to_owned())), ..access.clone() },
        Access { cert: None, ..access.clone() },
        Access { ca: None, cert: None, ..access.clone() },
    ] {
        assert!(candidate(&stranger).await.is_err(), "{stranger:?}");
    }
    let nobody = Access { user: None, ..access.clone() };
    assert!(candidate(&nobody).await?.campaign().await.is_err(), "a certificate alone is not enough");

    let mut candidate = candidate(&access).await?;
    let mut leadership = leads(&mut candidate).await?;
    let term = leadership.term();
    leadership.put("/test/key", "one").await?;
    assert!(leadership.put("/elsewhere", "one").await.is_err(), "only its own keys");
    // A changed password ends all tokens of the user.
    root.user_change_password(USER, "another").await?;
    root.user_change_password(USER, PASSWORD).await?;
    let mut renewed = leadership.renewed();
    until("a write is taken again", async || Ok(leadership.put("/test/key", "two").await.is_ok())).await?;
    let before = *renewed.borrow_and_update();
    timeout(PATIENCE, renewed.wait_for(|sent| *sent != before)).await??;
    assert!(renewed.borrow().is_some(), "the lease is kept");
    assert_eq!(leadership.term(), term);
    Ok(())
}
