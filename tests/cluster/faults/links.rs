//! Links that stop, break, are slow, or damage what they carry.

use std::{num::NonZeroU64, time::Duration};

use anyhow::ensure;
use estafet_harness::{
    client::until,
    cluster::Role,
    proxy::{End, Faults},
};

use estafet_proto::v1::{NodeStatus, NodeTrouble, reach};

use crate::stage::{Stage, lasts, small, survives};

/// Resets of one road.
const RESETS: usize = 12;

/// F26: only the way from the webapps is gone. They tell the masters, which let others serve the shards meanwhile; the
/// owner hands them off itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_shards_of_an_owner_that_no_webapp_reaches_are_served_by_others() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        stage.roads.set("anybody", &owner, Faults::partition()).await?;
        stage.is_overtaken(&owner).await?;
        stage.suffers(&owner, NodeTrouble::Unreached).await?;
        ensure!(stage.hears(&owner).await?, "{owner} is cut off from its clients only");
        stage.traffic.answers_for_each(20).await?;
        stage.roads.heal().await;
        stage.recovers().await
    })
    .await
}

/// F21: the node may be taken for dead; then its epochs are over, and it learns so from the database.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_no_master_hears_fails_no_request() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        stage.roads.set(&owner, "master-", Faults::partition()).await?;
        stage.is_overtaken(&owner).await?;
        stage.traffic.answers_for_each(20).await?;
        let stored = stage.of_former_owners().await?;
        stage.roads.heal().await;
        until("the masters hear it again", async || stage.hears(&owner).await).await?;
        stage.traffic.answers_for_each(20).await?;
        ensure!(stage.of_former_owners().await? == stored, "a former owner stored something after it was overtaken (I2)");
        ensure!(stage.traffic.refused() == 0, "{} requests failed", stage.traffic.refused());
        Ok(())
    })
    .await
}

/// F24: what is accepted waits in the database and goes out when the network is there again.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_without_the_network_accepts_and_sends_later() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        stage.roads.set(&owner, "chatd", Faults::partition()).await?;
        stage.traffic.answers_for_each(50).await?;
        ensure!(stage.traffic.refused() == 0, "{} requests failed although only the network was away", stage.traffic.refused());
        stage.roads.heal().await;
        stage.traffic.answers_for_each(10).await
    })
    .await
}

/// F24: what the owner alone does not reach, others do: after five seconds they have its shards, and what it had
/// accepted meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_alone_lost_the_network_hands_its_shards_off() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        stage.roads.set(&owner, "chatd", Faults::partition()).await?;
        stage.is_overtaken(&owner).await?;
        stage.suffers(&owner, NodeTrouble::NoNetwork).await?;
        stage.traffic.answers_for_each(10).await?;
        ensure!(stage.traffic.refused() == 0, "{} requests failed although shards were handed off", stage.traffic.refused());
        Ok(())
    })
    .await
}

/// F24: nobody would do better, so nothing moves, however long it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_nobody_reaches_moves_nothing() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let epochs = stage.epochs().await?;
        stage.roads.set("coreapp-", "chatd", Faults::partition()).await?;
        let lost = |node: &NodeStatus| reach_of(node).is_some_and(|ms| ms > 8_000);
        until("every node has lacked the network for eight seconds", async || {
            Ok(stage.cluster.status().await?.nodes.iter().all(lost))
        })
        .await?;
        stage.roads.heal().await;
        stage.recovers().await?;
        ensure!(stage.epochs().await? == epochs, "shards moved although nobody reached the network");
        Ok(())
    })
    .await
}

fn reach_of(node: &NodeStatus) -> Option<u64> {
    match node.network.as_ref()?.state {
        Some(reach::State::LostMs(ms)) => Some(ms),
        _ => None,
    }
}

/// F33: a webapp repeats with the same id what was under way.
#[tokio::test(flavor = "multi_thread")]
async fn resets_of_any_link_under_load_lose_and_double_nothing() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        for (from, to) in [("anybody", "coreapp-"), ("coreapp-", "chatd"), ("coreapp-", "database"), ("", "master-")] {
            let made = stage.roads.counts(from, to).connections;
            for _ in 0..RESETS {
                stage.roads.cut(from, to, End::Reset);
                stage.traffic.answers(15).await?;
            }
            let again = stage.roads.counts(from, to).connections;
            ensure!(again > made, "nothing was dialled again from {from} to {to}");
        }
        stage.recovers().await
    })
    .await
}

/// F50: the answer to a commit is lost with the connection, at any byte of it.
#[tokio::test(flavor = "multi_thread")]
async fn commits_whose_answers_are_lost_are_neither_lost_nor_doubled() -> anyhow::Result<()> {
    use estafet_harness::proxy::Flow;
    survives(small(), async |stage| {
        for bytes in (0..10).map(|n| 20_011 + 1_009 * n) {
            let ends = Flow { end_after: Some((bytes, End::Reset)), ..Flow::default() };
            stage.roads.set("coreapp-", "database", Faults { to_client: ends, ..Faults::default() }).await?;
            stage.traffic.answers(20).await?;
        }
        Ok(())
    })
    .await
}

/// F31: slow and unsteady links are no failure.
#[tokio::test(flavor = "multi_thread")]
async fn latency_and_jitter_between_all_move_nothing_and_fail_nothing() -> anyhow::Result<()> {
    survives(small(), async |stage| stage.unnoticed(all_links_are_slow).await).await
}

async fn all_links_are_slow(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let slow = Faults::delay(Duration::from_millis(50), Duration::from_millis(30));
    for (from, to) in [("anybody", "coreapp-"), ("", "master-"), ("coreapp-", "chatd"), ("master-", "etcd-")] {
        stage.roads.set(from, to, slow).await?;
    }
    stage.traffic.answers_for_each(15).await?;
    stage.roads.heal().await;
    stage.traffic.answers_for_each(15).await
}

/// F34: what the network and its coreapps say to each other is authenticated, so a flipped bit costs a connection.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_on_the_way_to_the_network_cost_connections_and_nothing_else() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let made = stage.roads.counts("coreapp-", "chatd").connections;
        let flips = Faults::flips(NonZeroU64::new(20_000).expect("not zero"));
        stage.roads.set("coreapp-", "chatd", flips).await?;
        until("bits were flipped", async || Ok(stage.roads.counts("coreapp-", "chatd").flipped >= 10)).await?;
        ensure!(stage.traffic.refused() == 0, "{} requests failed", stage.traffic.refused());
        stage.roads.heal().await;
        let again = stage.roads.counts("coreapp-", "chatd").connections;
        ensure!(again > made, "no connection was given up");
        Ok(())
    })
    .await
}

/// With certificates a flipped bit between the roles costs a connection, too.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_between_roles_with_certificates_cost_connections_and_nothing_else() -> anyhow::Result<()> {
    survives(small().encrypted(), async |stage| {
        let flips = Faults::flips(NonZeroU64::new(20_000).expect("not zero"));
        for (from, to) in [("anybody", "coreapp-"), ("", "master-")] {
            let made = stage.roads.counts(from, to).connections;
            stage.roads.set(from, to, flips).await?;
            until("bits were flipped", async || Ok(stage.roads.counts(from, to).flipped >= 10)).await?;
            stage.roads.heal().await;
            stage.recovers().await?;
            let again = stage.roads.counts(from, to).connections;
            ensure!(again > made, "no connection from {from} to {to} was given up");
        }
        Ok(())
    })
    .await
}

/// Without certificates gRPC cannot see a flipped bit in what it carries, so a map may be wrong afterwards; the
/// masters' links carry no messages, so none of them is.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_on_the_way_to_the_masters_end_no_process_and_lose_nothing() -> anyhow::Result<()> {
    lasts(small(), async |stage| {
        stage.roads.set("coreapp-", "master-", Faults::flips(NonZeroU64::new(3_000).expect("not zero"))).await?;
        until("bits were flipped", async || Ok(stage.roads.counts("coreapp-", "master-").flipped >= 20)).await?;
        stage.roads.heal().await;
        for role in [Role::Master, Role::Coreapp, Role::Webapp] {
            for name in stage.names(role) {
                ensure!(stage.cluster.member(&name)?.is_running(), "{name} ended");
            }
        }
        Ok(())
    })
    .await
}
