//! What the processes of a cluster keep in etcd: who is there, and what the leader decided (F41, F46). None of it is
//! needed to serve messages.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use estafet_harness::{Cluster, client::until, cluster::Role};
use serde_json::{Value, json};

use crate::stage::{Stage, small, survives};

const PREFIX: &str = "/estafet";

async fn keys(cluster: &mut Cluster, below: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let keys = cluster.etcd()[0].keys(&format!("{PREFIX}/{below}/")).await?;
    keys.into_iter().map(|(name, value)| Ok((name, serde_json::from_str(&value)?))).collect()
}

/// Owner and epoch of each shard, as the database has them and as the keys should say.
async fn stored(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Value>> {
    let rows = "SELECT number, shard_count, shard, owner_id, epoch FROM estafet.shard_owner WHERE state <> 'retired'";
    let rows = cluster.sql(rows).await?;
    let row = |line: &str| {
        let [number, count, shard, owner, epoch] = line.split('|').collect::<Vec<_>>()[..] else { return None };
        Some((format!("{number}/{count}/{shard}"), json!({ "owner": owner, "epoch": epoch.parse::<u32>().ok()? })))
    };
    rows.lines().map(|line| row(line).with_context(|| format!("no owner row: {line}"))).collect()
}

/// Waits until the keys say what the database says.
async fn agree(cluster: &mut Cluster) -> anyhow::Result<BTreeMap<String, Value>> {
    until("etcd says what the database says", async || {
        let stored = stored(cluster).await?;
        Ok(!stored.is_empty() && keys(cluster, "assign").await.is_ok_and(|keys| keys == stored))
    })
    .await?;
    keys(cluster, "assign").await
}

/// Waits until these processes, and no others, are registered; what they say.
async fn registered(cluster: &mut Cluster, wanted: &[&str]) -> anyhow::Result<BTreeMap<String, Value>> {
    until(&format!("{wanted:?} are registered"), async || {
        let keys = keys(cluster, "node").await.unwrap_or_default();
        let coreapps = keys.iter().filter(|(_, value)| value["role"] == "coreapp").map(|(id, _)| id.as_str());
        Ok(coreapps.eq(wanted.iter().copied()))
    })
    .await?;
    keys(cluster, "node").await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_registered_while_they_live_and_assignments_follow_the_database() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let known = registered(stage.cluster, &["coreapp-0", "coreapp-1"]).await?;
        let masters = known.values().filter(|value| value["role"] == "master").count();
        ensure!(masters == 2, "{known:?}");
        let before = agree(stage.cluster).await?;

        stage.cluster.member("coreapp-0")?.kill();
        stage.is_overtaken("coreapp-0").await?;
        registered(stage.cluster, &["coreapp-1"]).await?;
        let after = agree(stage.cluster).await?;
        ensure!(before != after && after.values().all(|value| value["owner"] == "coreapp-1"), "{after:?}");

        // Another start of the process is another registration.
        stage.cluster.member("coreapp-0")?.restart().await?;
        let again = registered(stage.cluster, &["coreapp-0", "coreapp-1"]).await?;
        ensure!(again["coreapp-0"]["boot"] != known["coreapp-0"]["boot"], "{again:?}");
        let shown = stage.cluster.status().await?.registered;
        ensure!(shown.iter().any(|node| node.id == "coreapp-1"), "the status does not show who is registered: {shown:?}");

        // Whoever ends in order is gone at once.
        ensure!(stage.cluster.member("coreapp-1")?.terminate().await?.success(), "it did not end well");
        let left = keys(stage.cluster, "node").await?;
        ensure!(!left.contains_key("coreapp-1"), "{left:?}");
        agree(stage.cluster).await.map(drop)
    })
    .await
}

/// An owner that dies while etcd is away is replaced, in the database and in etcd, when etcd is back.
#[tokio::test(flavor = "multi_thread")]
async fn with_etcd_away_messages_flow_and_the_keys_catch_up_when_it_returns() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        agree(stage.cluster).await?;
        stage.cluster.etcd()[0].kill();
        until("no master is sure that it leads", async || Ok(stage.cluster.leader().await.is_err())).await?;
        stage.traffic.answers_for_each(20).await?;
        ensure!(stage.traffic.refused() == 0, "{} requests failed while etcd was away", stage.traffic.refused());
        stage.cluster.member("coreapp-0")?.kill();
        stage.cluster.etcd()[0].restart().await?;
        registered(stage.cluster, &["coreapp-1"]).await?;
        // Until somebody leads again both say what was the case before.
        until("the keys say who lives", async || {
            let after = agree(stage.cluster).await?;
            Ok(after.values().all(|value| value["owner"] == "coreapp-1"))
        })
        .await
    })
    .await
}

/// F41: everything that was in etcd is lost; it is made again from the database, and nothing moves.
#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_all_that_is_in_etcd_moves_nothing_and_fails_no_request() -> anyhow::Result<()> {
    survives(small(), async |stage| stage.unnoticed(etcd_is_wiped).await).await
}

/// F41: the terms of an empty etcd begin below the one that the database knows, which refuses them. The leader goes on
/// above it by itself.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_loss_of_etcds_data_a_dead_owner_is_replaced_under_a_higher_term() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let term = a_high_term(stage).await?;
        let etcd = &mut stage.cluster.etcd()[0];
        etcd.kill();
        etcd.wipe()?;
        etcd.restart().await?;
        until("the term is above that of before", async || Ok(stage.cluster.status().await?.term > term)).await?;
        let owner = stage.owner().await?;
        stage.cluster.member(&owner)?.kill();
        stage.is_overtaken(&owner).await?;
        let stored = stage.cluster.sql("SELECT max(master_term) FROM estafet.shard_owner").await?;
        ensure!(stored.parse::<i64>()? > term, "the last claim was of term {stored}, before it was {term}");

        // Whoever leads next has a higher one without the help of the database.
        let term = stage.cluster.status().await?.term;
        let leader = stage.cluster.leader().await?;
        stage.cluster.member(&leader)?.kill();
        until("the other master leads", async || Ok(stage.cluster.status().await?.term > term)).await?;
        agree(stage.cluster).await.map(drop)
    })
    .await
}

/// Makes the terms higher than an empty etcd has them for a while; the database knows the one that is returned.
async fn a_high_term(stage: &mut Stage<'_>) -> anyhow::Result<i64> {
    const WRITES: i64 = 300;
    let mut client = stage.cluster.etcd()[0].client().await?;
    for n in 0..WRITES {
        client.put("/elsewhere", n.to_string(), None).await?;
    }
    // Each master stands again, behind those writes.
    for _ in 0..stage.names(Role::Master).len() {
        let (leader, term) = (stage.cluster.leader().await?, stage.cluster.status().await?.term);
        stage.cluster.member(&leader)?.kill();
        stage.cluster.member(&leader)?.restart().await?;
        until("the next master leads", async || Ok(stage.cluster.status().await?.term > term)).await?;
    }
    until("the database knows the new term", async || {
        let stored: i64 = stage.cluster.sql("SELECT master_term FROM estafet.cluster").await?.parse()?;
        Ok(stored > WRITES && stage.cluster.status().await?.term == stored)
    })
    .await?;
    Ok(stage.cluster.status().await?.term)
}

async fn etcd_is_wiped(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let before = agree(stage.cluster).await?;
    let etcd = &mut stage.cluster.etcd()[0];
    etcd.kill();
    etcd.wipe()?;
    etcd.restart().await?;
    registered(stage.cluster, &["coreapp-0", "coreapp-1"]).await?;
    let after = agree(stage.cluster).await?;
    ensure!(after.keys().eq(before.keys()), "{after:?}");
    stage.traffic.answers_for_each(10).await
}
