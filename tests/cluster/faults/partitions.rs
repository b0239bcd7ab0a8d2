//! Partitions made by the kernel: packets are lost, nobody is told (F21, F25, F27). Skipped, with a line on standard
//! error, where a private network is not permitted.

use anyhow::ensure;
use estafet_harness::{
    FaultyRoads,
    client::until,
    network::{self, Lost, Network},
};

use crate::stage::{Stage, small, survives};

#[test]
fn an_owner_cut_off_by_the_kernel_is_overtaken_and_stores_nothing_afterwards() -> anyhow::Result<()> {
    network::run(async |network: Network| {
        survives(small(), async |stage| {
            // F25: from everything; F27: it can speak and hears nothing.
            for (own, others) in [(Lost::Both, Lost::Both), (Lost::ToClient, Lost::ToServer)] {
                let owner = stage.owner().await?;
                let mut ports = ways(stage.roads, &owner, "", own);
                ports.extend(ways(stage.roads, "anybody", &owner, others));
                network.lose(&ports)?;
                stage.is_overtaken(&owner).await?;
                stage.traffic.answers_for_each(20).await?;
                comes_back(stage, &network, &owner).await?;
            }
            Ok(())
        })
        .await
    })
}

#[test]
fn an_owner_cut_off_from_the_masters_by_the_kernel_fails_no_request() -> anyhow::Result<()> {
    network::run(async |network: Network| {
        survives(small(), async |stage| {
            let owner = stage.owner().await?;
            network.lose(&ways(stage.roads, &owner, "master-", Lost::Both))?;
            stage.is_overtaken(&owner).await?;
            stage.traffic.answers_for_each(20).await?;
            comes_back(stage, &network, &owner).await?;
            ensure!(stage.traffic.refused() == 0, "{} requests failed", stage.traffic.refused());
            Ok(())
        })
        .await
    })
}

fn ways(roads: &FaultyRoads, from: &str, to: &str, lost: Lost) -> Vec<(u16, Lost)> {
    roads.between(from, to).iter().map(|proxy| (proxy.address().port(), lost)).collect()
}

/// Heals; whatever the former owner had on its way is refused.
async fn comes_back(stage: &Stage<'_>, network: &Network, owner: &str) -> anyhow::Result<()> {
    let stored = stage.of_former_owners().await?;
    network.heal()?;
    until("the masters hear it again", async || stage.hears(owner).await).await?;
    stage.recovers().await?;
    ensure!(stage.of_former_owners().await? == stored, "a former owner stored something after it was overtaken (I2)");
    Ok(())
}
