//! A number changes its shard count under load (reliability.md §7.3, F76, F77).

use anyhow::ensure;
use estafet_harness::{Api, Cluster, client::until};
use reqwest::Method;
use serde_json::json;

use crate::{
    Load, compare,
    stage::{small, survives},
    under_load,
};

const PHONES: u32 = 8;

pub(crate) async fn ask_for(admin: &Api, shards: u32) -> anyhow::Result<()> {
    let body = json!({ "cc": "1", "phone_number": "5550000001", "shards": shards, "cert": "CmkKJQjX" });
    let answer = admin.call(Method::POST, "/v1/account/shards", Some(&body)).await?;
    ensure!(answer.status == 201, "{} {}", answer.status, answer.text);
    Ok(())
}

/// Whether the change is complete: the database says so, and every new shard has an owner.
pub(crate) async fn has(cluster: &Cluster, shards: u32) -> anyhow::Result<bool> {
    let row = cluster.number("15550000001").await?;
    let settled = row["phase"] == "stable" && row["shards"] == shards && row["wanted_shards"] == shards;
    Ok(settled && cluster.owners().await?.len() == shards as usize)
}

/// Messages of both directions and their callbacks (**I3**-**I6**); webapps hold what comes while a shard is replaced, so
/// no request fails. From four shards, which the stage begins with, to one and up to eight.
#[tokio::test(flavor = "multi_thread")]
async fn merges_and_splits_lose_double_and_reorder_nothing_fail_no_request_and_tell_every_callback() -> anyhow::Result<()> {
    survives(small(), async |stage| {
        for shards in [1, 2, 4, 8, 4] {
            stage.traffic.answers_for_each(8).await?;
            stage.reshards(shards).await?;
        }
        stage.traffic.answers_for_each(12).await?;
        ensure!(
            stage.traffic.refused() == 0,
            "{} requests failed although only the shard count changed",
            stage.traffic.refused()
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_dies_in_the_middle_leaves_the_rest_to_the_next() -> anyhow::Result<()> {
    let mut cluster = Cluster::options().sizes(2, 2, 1).shards(4).phones(PHONES).start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    let admin = cluster.login().await?.remove(0);
    let leader = cluster.leader().await?;
    let leader = cluster.take(&leader)?;
    let (ledger, phones) = under_load(&cluster, PHONES, async |load: &Load| {
        load.answers(60).await?;
        ask_for(&admin, 16).await?;
        until("the change has begun", async || Ok(cluster.number("15550000001").await?["shards"] != 4)).await?;
        let mut leader = leader;
        leader.kill();
        let row = cluster.number("15550000001").await?;
        ensure!(row["shards"] != 16, "the change was complete before the master died: {row}");
        until("the next master finished it", async || has(&cluster, 16).await).await?;
        load.answers(100).await
    })
    .await?;
    compare(&ledger, &cluster, &phones).await?;
    cluster.audit_is_clean()
}
