//! etcd and the masters fail: the data path does not notice (R9, R13).

use anyhow::{Context as _, ensure};
use estafet_harness::{Etcd, client::until, cluster::Role};
use futures::future::try_join_all;

use crate::stage::{Stage, small, survives};

/// F38-F40: a majority is enough, and without one everything goes on as it was.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_without_its_leader_and_then_without_any_member_fails_no_request_and_moves_nothing() -> anyhow::Result<()> {
    survives(small().etcd_members(3), async |stage| stage.unnoticed(etcd_comes_and_goes).await).await
}

async fn etcd_comes_and_goes(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let leader = etcd_leader(stage).await?;
    stage.cluster.etcd()[leader].kill();
    stage.traffic.answers_for_each(20).await?;
    stage.is_led().await?;
    stage.cluster.etcd()[leader].restart().await?;

    stage.cluster.etcd().iter_mut().for_each(Etcd::kill);
    until("no master is sure that it leads", async || Ok(stage.cluster.leader().await.is_err())).await?;
    stage.traffic.answers_for_each(40).await?;
    try_join_all(stage.cluster.etcd().iter_mut().map(Etcd::restart)).await?;
    stage.is_led().await?;
    stage.traffic.answers_for_each(20).await
}

async fn etcd_leader(stage: &mut Stage<'_>) -> anyhow::Result<usize> {
    for (place, member) in stage.cluster.etcd().iter().enumerate() {
        if member.leads().await? {
            return Ok(place);
        }
    }
    anyhow::bail!("no member of etcd leads")
}

/// F10: without any master the shards stay where they are, and masters that come back leave them there.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_master_requests_are_served_and_masters_that_return_move_nothing() -> anyhow::Result<()> {
    survives(small(), async |stage| stage.unnoticed(masters_come_and_go).await).await
}

async fn masters_come_and_go(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let masters = stage.names(Role::Master);
    for master in &masters {
        stage.cluster.member(master)?.kill();
    }
    stage.traffic.answers_for_each(40).await?;
    for master in &masters {
        stage.cluster.member(master)?.restart().await?;
    }
    stage.is_led().await?;
    stage.traffic.answers_for_each(20).await
}

/// F9, F11: a leader that hangs is replaced, and when it wakes its term is over: an owner that died meanwhile
/// is replaced once, by the new leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_after_its_successor_decides_nothing() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let old = stage.cluster.leader().await?;
        let term = stage.cluster.status().await?.term;
        stage.cluster.member(&old)?.hang()?;
        until("the other master leads", async || Ok(stage.cluster.leader().await.is_ok_and(|leader| leader != old))).await?;
        let owner = stage.owner().await?;
        stage.cluster.member(&owner)?.kill();
        stage.is_overtaken(&owner).await?;
        let epochs = stage.epochs().await?;
        stage.cluster.member(&old)?.wake()?;
        until("the old leader knows that it does not lead", async || {
            let address = stage.cluster.member(&old)?.address().to_string();
            Ok(estafet_master::status(&address).await.is_ok_and(|status| status.term == 0))
        })
        .await?;
        stage.traffic.answers_for_each(20).await?;
        let now = stage.cluster.status().await?;
        ensure!(now.term > term, "the term did not grow");
        let stored = stage.cluster.sql("SELECT max(master_term) FROM estafet.shard_owner").await?;
        ensure!(stored.parse::<i64>()? == now.term, "the last claim was of term {stored}, the leader has {}", now.term);
        ensure!(stage.epochs().await? == epochs, "shards moved again when the old leader woke");
        stage.cluster.member(&owner)?.restart().await.context("the dead owner")
    })
    .await
}
