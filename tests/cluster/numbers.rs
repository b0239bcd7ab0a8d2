//! Twenty numbers of eight shards each in one cluster: placed evenly, and served again after a death (**I1**-**I5**).

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::ensure;
use estafet_harness::{
    Api, Cluster, Ledger,
    client::{text_message, until},
};
use estafet_model::{ShardCount, Slot, WaId};
use futures::future::{join_all, try_join_all};
use reqwest::Method;

use crate::{Load, compare};

const NUMBERS: u64 = 20;
const SHARDS: u32 = 8;
const PHONES: u32 = 60;
/// The first phones are written to through everything, one by each number.
const LOADED: u32 = 20;

/// One message of each number to a recipient of each of its shards is accepted and arrives.
async fn all_shards_serve(admins: &[Api], network: &Api, text: &str) -> anyhow::Result<()> {
    let count = ShardCount::new(SHARDS).expect("a power of two");
    let mut recipients: BTreeMap<u16, String> = BTreeMap::new();
    for phone in phones().split_off(LOADED as usize) {
        let shard = count.shard_of(Slot::of(phone.parse::<WaId>()?)).get();
        recipients.entry(shard).or_insert(phone);
    }
    ensure!(recipients.len() == SHARDS as usize, "some shard has no phone: {recipients:?}");
    for admin in admins {
        let answers = recipients.values().map(|phone| async {
            let answer = admin.call(Method::POST, "/v1/messages", Some(&text_message(phone, text))).await?;
            ensure!(answer.status == 201, "{} {}", answer.status, answer.text);
            Ok(())
        });
        try_join_all(answers).await?;
    }
    until("each message is on its phone", async || {
        for phone in recipients.values() {
            let inbox = network.inbox(phone).await?;
            ensure!(inbox.duplicates == 0, "{phone} was sent a message twice (I4)");
            if inbox.messages.iter().filter(|message| message.text() == text).count() < admins.len() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

fn phones() -> Vec<String> {
    (0..PHONES).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect()
}

/// How often is looked for as long as [`until`] looks: what began unevenly, because a node was slow, is made even after half a
/// minute of quiet, a tenth of all shards in each half minute.
const LOOKS: u32 = 4;

/// Waits until no node has more than its part. A shard may be claimed again for a node that was slow to say that it
/// starts it; what the map shows in between is not what was placed.
async fn is_even(cluster: &Cluster, nodes: usize) -> anyhow::Result<()> {
    let part = (NUMBERS as usize * SHARDS as usize).div_ceil(nodes);
    let look = async || {
        let mut loads: BTreeMap<String, usize> = BTreeMap::new();
        for (_, node) in cluster.owners().await? {
            *loads.entry(node).or_default() += 1;
        }
        Ok(loads.len() == nodes && loads.values().all(|load| *load <= part))
    };
    let what = format!("none of {nodes} nodes has more than {part} shards");
    for _ in 1..LOOKS {
        if until(&what, look).await.is_ok() {
            return Ok(());
        }
    }
    until(&what, look).await
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_numbers_of_eight_shards_are_spread_evenly_and_outlive_an_owner() -> anyhow::Result<()> {
    let numbers: Vec<String> = (0..NUMBERS).map(|n| (15_550_000_001 + n).to_string()).collect();
    let options = Cluster::options().sizes(2, 3, 1).numbers(numbers.clone()).shards(SHARDS).phones(PHONES);
    let mut cluster = options.start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    is_even(&cluster, 3).await?;
    let (admins, network) = (cluster.login_each(&numbers).await?, cluster.phones()?);
    all_shards_serve(&admins, &network, "before").await?;

    let load = Load { stop: AtomicBool::new(false), answered: AtomicUsize::new(0), refused: AtomicUsize::new(0) };
    let mut loaded = phones();
    loaded.truncate(LOADED as usize);
    let incident = async {
        let result = async {
            load.answers(100).await?;
            cluster.member("coreapp-1")?.kill();
            until("every shard has a living owner", async || cluster.is_owned_without(&["coreapp-1"]).await).await?;
            load.answers(100).await
        }
        .await;
        load.stop.store(true, Ordering::Relaxed);
        result
    };
    let senders = admins.iter().zip(&loaded).map(|(admin, phone)| load.send_to(admin, phone));
    let (ledgers, result) = tokio::join!(join_all(senders), incident);
    if let Err(error) = result {
        // The cluster shows its logs when it is dropped by a panic.
        panic!("{error:#}");
    }
    is_even(&cluster, 2).await?;
    all_shards_serve(&admins, &network, "after").await?;
    let mut ledger = Ledger::new();
    ledgers.into_iter().for_each(|one| ledger.merge(one));
    compare(&ledger, &cluster, &loaded).await?;
    cluster.audit_is_clean()
}
