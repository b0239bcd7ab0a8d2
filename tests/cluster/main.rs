//! What holds in a cluster of real processes when some of them die (**I1**-**I5**).

mod faults;
mod idempotency;
mod numbers;
mod operator;
mod ops;
mod registry;
mod requirements;
mod resharding;
mod roles;
mod stage;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use estafet_harness::{
    Api, Cluster, Ledger,
    client::{Inbox, text_message, until},
    cluster::Role,
    ledger::{Difference, assert_none},
};
use futures::future::join_all;
use reqwest::Method;

const PHONES: u32 = 6;

/// Senders, one for each phone, until told to end.
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    refused: AtomicUsize,
}

impl Load {
    /// Sends to one phone, each message after the answer to the one before.
    async fn send_to(&self, api: &Api, phone: &str) -> Ledger {
        let mut ledger = Ledger::new();
        for n in 0usize.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let text = format!("message {n} for {phone}");
            let answer = api.call(Method::POST, "/v1/messages", Some(&text_message(phone, &text))).await;
            let answer = answer.ok();
            match answer.as_ref().and_then(|answer| answer.text_at("/messages/0/id")) {
                Some(id) => {
                    ledger.accepted(phone, &text, id);
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                None => {
                    ledger.unanswered(phone, &text);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        ledger
    }

    /// Waits until so many more messages were answered.
    async fn answers(&self, count: usize) -> anyhow::Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        until("messages are answered", async || Ok(self.answered.load(Ordering::Relaxed) >= goal)).await
    }
}

/// Runs `incidents` while one sender for each phone writes; what was sent, and to whom.
async fn under_load(
    cluster: &Cluster,
    phones: u32,
    incidents: impl AsyncFnOnce(&Load) -> anyhow::Result<()>,
) -> anyhow::Result<(Ledger, Vec<String>)> {
    until("every shard has an owner", async || Ok(!cluster.owners().await?.is_empty())).await?;
    let admin = cluster.login().await?.remove(0);
    let phones: Vec<String> = (0..phones).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect();
    let load = Load { stop: AtomicBool::new(false), answered: AtomicUsize::new(0), refused: AtomicUsize::new(0) };
    let ending = async {
        let result = incidents(&load).await;
        load.stop.store(true, Ordering::Relaxed);
        result
    };
    let (ledgers, result) = tokio::join!(join_all(phones.iter().map(|phone| load.send_to(&admin, phone))), ending);
    result?;
    let mut ledger = Ledger::new();
    ledgers.into_iter().for_each(|one| ledger.merge(one));
    Ok((ledger, phones))
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_a_handoff_and_a_hang_lose_double_and_reorder_nothing() -> anyhow::Result<()> {
    let mut cluster = Cluster::options().sizes(2, 2, 1).phones(PHONES).encrypted().start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    let admin = cluster.login().await?.remove(0);
    let phones: Vec<String> = (0..PHONES).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect();
    let load = Load { stop: AtomicBool::new(false), answered: AtomicUsize::new(0), refused: AtomicUsize::new(0) };
    let incidents = async {
        let result = incidents(&mut cluster, &load).await;
        load.stop.store(true, Ordering::Relaxed);
        result
    };
    let (ledgers, result) = tokio::join!(join_all(phones.iter().map(|phone| load.send_to(&admin, phone))), incidents);
    result?;
    let mut ledger = Ledger::new();
    ledgers.into_iter().for_each(|one| ledger.merge(one));
    compare(&ledger, &cluster, &phones).await?;
    cluster.audit_is_clean()
}

async fn incidents(cluster: &mut Cluster, load: &Load) -> anyhow::Result<()> {
    load.answers(100).await?;
    // The leader dies: the data path does not notice, and the other one leads.
    let leader = cluster.leader().await?;
    cluster.member(&leader)?.kill();
    load.answers(100).await?;
    until("the other master leads", async || Ok(cluster.status().await?.term > 0)).await?;
    assert_eq!(load.refused.load(Ordering::Relaxed), 0, "requests failed although only a master died");

    // An owner dies: the other one takes its shards over.
    cluster.member("coreapp-0")?.kill();
    until("every shard has a living owner", async || cluster.is_owned_without(&["coreapp-0"]).await).await?;
    load.answers(200).await?;

    // A newcomer joins and the last owner is asked to end: it hands everything over first.
    cluster.add(Role::Coreapp).await?;
    until("the newcomer is known", async || cluster.knows("coreapp-2").await).await?;
    let owned = cluster.owners().await?.iter().filter(|(_, node)| node == "coreapp-1").count();
    assert_ne!(owned, 0, "the one who leaves has something to hand off");
    let refused = load.refused.load(Ordering::Relaxed);
    let status = cluster.member("coreapp-1")?.terminate().await?;
    assert!(status.success(), "the coreapp that left ended with {status}");
    let gone = ["coreapp-0", "coreapp-1"];
    until("the newcomer has every shard", async || cluster.is_owned_without(&gone).await).await?;
    load.answers(100).await?;
    assert_eq!(load.refused.load(Ordering::Relaxed), refused, "requests failed during a handoff");
    let log = std::fs::read_to_string(cluster.member("coreapp-1")?.log())?;
    let handed = |line: &&str| line.contains("handed off") && line.contains("coreapp-2");
    assert_eq!(log.lines().filter(handed).count(), owned, "each shard was handed to the newcomer by its owner:\n{log}");

    // The owner hangs, is overtaken, and wakes with epochs that are refused.
    cluster.add(Role::Coreapp).await?;
    until("the newcomer is known", async || cluster.knows("coreapp-3").await).await?;
    cluster.member("coreapp-2")?.hang()?;
    let gone = ["coreapp-0", "coreapp-1", "coreapp-2"];
    until("the owner that hangs has nothing", async || cluster.is_owned_without(&gone).await).await?;
    cluster.member("coreapp-2")?.wake()?;
    load.answers(200).await?;
    Ok(())
}

async fn compare(ledger: &Ledger, cluster: &Cluster, phones: &[String]) -> anyhow::Result<()> {
    let network = cluster.phones()?;
    let all_arrived = until("every accepted message is on its phone", async || {
        let differences = ledger.compare_phones(&inboxes(&network, phones).await?);
        Ok(!differences.iter().any(|difference| matches!(difference, Difference::Lost { .. })))
    });
    // If not, the comparison below says which are missing.
    let _ = all_arrived.await;
    let inboxes = inboxes(&network, phones).await?;
    assert_none(&ledger.compare_phones(&inboxes));
    let doubled: Vec<&str> = inboxes.iter().filter(|inbox| inbox.duplicates > 0).map(|inbox| inbox.phone.as_str()).collect();
    assert!(doubled.is_empty(), "phones that were sent a message twice (I4): {doubled:?}");
    Ok(())
}

async fn inboxes(network: &Api, phones: &[String]) -> anyhow::Result<Vec<Inbox>> {
    let mut inboxes = Vec::new();
    for phone in phones {
        inboxes.push(network.inbox(phone).await?);
    }
    Ok(inboxes)
}
