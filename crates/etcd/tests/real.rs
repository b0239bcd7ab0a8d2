//! Registrations and followed keys against a real etcd.

use std::{sync::Arc, time::Duration};

use estafet_etcd::{Members, Node, Timing, follow::Copied, node_key, node_prefix, register};
use estafet_harness::{Etcd, PATIENCE, client::until};
use estafet_model::BootId;
use estafet_runtime::Tasks;
use etcd_client::GetOptions;
use tokio::{sync::watch, time::timeout};

const PREFIX: &str = "/test";
const STOP: Duration = Duration::from_secs(5);

fn members(etcd: &Etcd) -> Arc<Members> {
    Arc::new(Members { endpoints: vec![etcd.url().to_owned()], ..Members::default() })
}

fn node(boot: u8) -> Node {
    Node::new("coreapp", "127.0.0.1:1", BootId([boot; 16]))
}

/// A process that keeps itself registered under `id`.
fn process(etcd: &Etcd, id: &str, boot: u8) -> Tasks {
    let tasks = Tasks::new();
    let registering = register(members(etcd), Timing::default(), PREFIX.to_owned(), id.to_owned(), node(boot), tasks.clone());
    tasks.spawn("registration", registering);
    tasks
}

async fn registered(etcd: &Etcd) -> Vec<(String, Node)> {
    let keys = etcd.keys(&node_prefix(PREFIX)).await.unwrap_or_default();
    keys.into_iter().map(|(id, value)| (id, Node::from_json(value.as_bytes()).expect("a registration"))).collect()
}

async fn is_registered(etcd: &Etcd, id: &str, boot: u8) -> anyhow::Result<()> {
    let wanted = [(id.to_owned(), node(boot))];
    until(&format!("{id} of boot {boot} is registered"), async || Ok(registered(etcd).await == wanted)).await
}

/// The lease that a registration is under.
async fn lease(etcd: &Etcd, id: &str) -> anyhow::Result<i64> {
    let got = etcd.client().await?.get(node_key(PREFIX, id), None).await?;
    Ok(got.kvs().first().map_or(0, |kv| kv.lease()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_registered_under_a_lease_until_it_ends_in_order() -> anyhow::Result<()> {
    let etcd = Etcd::start().await?;
    let tasks = process(&etcd, "core-0", 1);
    is_registered(&etcd, "core-0", 1).await?;
    assert_ne!(lease(&etcd, "core-0").await?, 0, "a registration outlives its process");
    assert!(tasks.stop(STOP).await);
    assert_eq!(registered(&etcd).await, [], "one that has ended is still registered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_comes_back_after_the_loss_of_its_lease_its_key_or_all_of_etcd() -> anyhow::Result<()> {
    let mut etcd = Etcd::start().await?;
    let tasks = process(&etcd, "core-0", 1);
    is_registered(&etcd, "core-0", 1).await?;
    let first = lease(&etcd, "core-0").await?;
    etcd.client().await?.lease_revoke(first).await?;
    is_registered(&etcd, "core-0", 1).await?;

    etcd.client().await?.delete(node_key(PREFIX, "core-0"), None).await?;
    is_registered(&etcd, "core-0", 1).await?;

    etcd.kill();
    etcd.wipe()?;
    etcd.restart().await?;
    is_registered(&etcd, "core-0", 1).await?;
    assert!(tasks.stop(STOP).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_name_the_newer_stays_registered() -> anyhow::Result<()> {
    let etcd = Etcd::start().await?;
    let old = process(&etcd, "core-0", 1);
    is_registered(&etcd, "core-0", 1).await?;
    let first = lease(&etcd, "core-0").await?;
    let new = process(&etcd, "core-0", 2);
    is_registered(&etcd, "core-0", 2).await?;
    // The old one loses its lease, comes back and finds the place taken.
    let mut client = etcd.client().await?;
    client.lease_revoke(first).await?;
    let others = async || Ok(client.clone().leases().await?.leases().len() == 2);
    until("the old process has a lease again", others).await?;
    assert_eq!(registered(&etcd).await, [("core-0".to_owned(), node(2))]);
    // When the newer one ends, the place is free for whoever is left.
    assert!(new.stop(STOP).await);
    is_registered(&etcd, "core-0", 1).await?;
    assert!(old.stop(STOP).await);
    Ok(())
}

async fn copied(told: &mut watch::Receiver<Arc<Copied>>, wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let wanted: Copied = wanted.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
    timeout(PATIENCE, told.wait_for(|copied| **copied == wanted)).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_comes_right_after_changes_compactions_restarts_and_the_loss_of_all_data() -> anyhow::Result<()> {
    let mut etcd = Etcd::start().await?;
    let (tasks, network) = (Tasks::new(), members(&etcd));
    let (sender, mut told) = watch::channel(Arc::default());
    let mut client = etcd.client().await?;
    client.put("/keys/a", "1", None).await?;
    client.put("/other", "1", None).await?;
    let following = tasks.clone();
    tasks.spawn("copy", async move {
        tokio::select! {
            () = estafet_etcd::follow(&*network, Timing::default(), "/keys/", &following, &sender) => {}
            () = following.shutdown().cancelled() => {}
        }
    });
    copied(&mut told, &[("a", "1")]).await?;
    client.put("/keys/b", "2", None).await?;
    copied(&mut told, &[("a", "1"), ("b", "2")]).await?;

    // While it is cut off, more happens than etcd remembers.
    etcd.kill();
    etcd.restart().await?;
    let mut client = etcd.client().await?;
    client.delete("/keys/a", None).await?;
    let put = client.put("/keys/c", "3", None).await?;
    client.compact(put.header().map_or(0, |header| header.revision()), None).await?;
    copied(&mut told, &[("b", "2"), ("c", "3")]).await?;

    etcd.kill();
    etcd.wipe()?;
    etcd.restart().await?;
    etcd.client().await?.put("/keys/d", "4", None).await?;
    copied(&mut told, &[("d", "4")]).await?;
    let left = etcd.client().await?.get("/keys/", Some(GetOptions::new().with_prefix())).await?;
    assert_eq!(left.kvs().len(), 1);
    assert!(tasks.stop(STOP).await);
    Ok(())
}
