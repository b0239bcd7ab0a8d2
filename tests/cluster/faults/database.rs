//! The database fails, or somebody cannot reach it.

use anyhow::ensure;
use estafet_harness::{client::until, proxy::Faults};
use estafet_proto::v1::{NodeStatus, NodeTrouble, reach};
use nix::sys::signal::Signal;

use crate::stage::{small, survives};

/// Held by a stranger, so that owners wait inside their transactions; ends with the stranger's session.
const LOCK: &str = "LOCK TABLE estafet.message_out IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(120) -- stranger";
const UNLOCK: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE query LIKE '%-- stranger' AND pid <> pg_backend_pid()";

/// F47: shut down in order and not in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_restarts_under_load_costs_no_accepted_message() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        for signal in [Signal::SIGINT, Signal::SIGQUIT] {
            let Some(postgres) = stage.cluster.postgres() else { anyhow::bail!("the cluster has no database of its own") };
            postgres.halt(signal).await?;
            let refused = stage.traffic.refused();
            until("requests are refused", async || Ok(stage.traffic.refused() > refused)).await?;
            let Some(postgres) = stage.cluster.postgres() else { anyhow::bail!("the cluster has no database of its own") };
            postgres.restart().await?;
            stage.recovers().await?;
        }
        Ok(())
    })
    .await
}

/// F23: the sessions of the owner are stuck, not closed. Others reach the database, so they are given its shards; when
/// its sessions wake, its epochs are over.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_alone_lost_the_database_is_overtaken_and_writes_nothing_afterwards() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        stage.roads.set(&owner, "database", Faults::black_hole()).await?;
        stage.is_overtaken(&owner).await?;
        stage.suffers(&owner, NodeTrouble::NoDatabase).await?;
        stage.traffic.answers_for_each(20).await?;
        let stored = stage.of_former_owners().await?;
        stage.roads.heal().await;
        stage.recovers().await?;
        ensure!(stage.of_former_owners().await? == stored, "writes of a former owner were accepted (I2)");
        Ok(())
    })
    .await
}

/// F23: nobody would do better, so the shards stay where they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_no_owner_reaches_moves_nothing() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let epochs = stage.epochs().await?;
        stage.roads.set("coreapp-", "database", Faults::black_hole()).await?;
        let lost = |node: &NodeStatus| reach_of(node).is_some_and(|ms| ms > 4_000);
        until("every node has lacked the database for four seconds", async || {
            Ok(stage.cluster.status().await?.nodes.iter().all(lost))
        })
        .await?;
        stage.roads.heal().await;
        stage.recovers().await?;
        ensure!(stage.epochs().await? == epochs, "shards moved although nobody reached the database");
        Ok(())
    })
    .await
}

fn reach_of(node: &NodeStatus) -> Option<u64> {
    match node.database.as_ref()?.state {
        Some(reach::State::LostMs(ms)) => Some(ms),
        _ => None,
    }
}

/// F23: the same owner hangs as well and is overtaken; what its sessions still held back is refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_fenced_owner_had_on_its_way_to_the_database_is_refused() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        stage.traffic.answers(50).await?;
        // The way there only: whatever the owner writes now arrives when its epoch is over.
        let late = Faults { to_client: Default::default(), ..Faults::black_hole() };
        stage.roads.set(&owner, "database", late).await?;
        stage.roads.set(&owner, "master-", Faults::partition()).await?;
        stage.is_overtaken(&owner).await?;
        let stored = stage.of_former_owners().await?;
        stage.roads.heal().await;
        stage.recovers().await?;
        ensure!(stage.of_former_owners().await? == stored, "writes of a former owner were accepted (I2)");
        Ok(())
    })
    .await
}

/// F4: an owner that hangs inside a transaction holds the row of its ownership; it must not hold up its successor.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_hangs_inside_a_transaction_is_overtaken() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        let owner = stage.owner().await?;
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'coreapp/{owner}/%' AND wait_event_type = 'Lock'"
        );
        {
            let cluster = &*stage.cluster;
            // Fails, as its session is ended below.
            let lock = async { drop(cluster.sql(LOCK).await) };
            let hanging = async {
                until("the owner waits inside a transaction", async || Ok(cluster.sql(&waiting).await? != "0")).await?;
                let hung = cluster.of(estafet_harness::cluster::Role::Coreapp).find(|member| member.name() == owner);
                hung.map_or(Ok(()), |member| member.hang())?;
                cluster.sql(UNLOCK).await
            };
            let ((), hung) = tokio::join!(lock, hanging);
            hung?;
        }
        stage.is_overtaken(&owner).await?;
        stage.traffic.answers_for_each(10).await?;
        let stored = stage.of_former_owners().await?;
        stage.cluster.member(&owner)?.wake()?;
        stage.traffic.answers_for_each(20).await?;
        ensure!(stage.of_former_owners().await? == stored, "a former owner stored something after it woke (I2)");
        Ok(())
    })
    .await
}
