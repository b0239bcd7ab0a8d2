//! Sends under keys while their owner dies: whoever got no answer asks again, elsewhere, and nothing arrives twice.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context as _, ensure};
use estafet_harness::{
    Api, Cluster,
    client::{Message, text_message, until},
};
use futures::future::join_all;
use tokio::sync::Mutex;

const PHONES: u32 = 6;
const SENDS: usize = 60;

/// One send: to whom, and what.
struct Sending {
    phone: String,
    text: String,
    id: Mutex<Option<String>>,
}

impl Sending {
    /// Asks once; notes the id, which never changes.
    async fn ask(&self, api: &Api) -> anyhow::Result<bool> {
        // A broken connection is as good as no answer.
        let Ok(answer) = api.send_with_key(&self.text, &text_message(&self.phone, &self.text)).await else { return Ok(false) };
        if answer.status != 201 {
            ensure!(matches!(answer.status, 429 | 503 | 504), "{}: {} {}", self.text, answer.status, answer.text);
            return Ok(false);
        }
        let id = answer.text_at("/messages/0/id").context("no id")?.to_owned();
        let mut known = self.id.lock().await;
        ensure!(known.as_ref().is_none_or(|known| *known == id), "{}: {id} after {known:?}", self.text);
        *known = Some(id);
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_repeated_at_another_webapp_after_their_owner_died_arrive_once_under_one_id() -> anyhow::Result<()> {
    let mut cluster = Cluster::options().sizes(1, 2, 2).phones(PHONES).start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    let (admins, network) = (cluster.login().await?, cluster.phones()?);
    let phones: Vec<String> = (0..PHONES).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect();
    let send = |n: usize| Sending { phone: phones[n % phones.len()].clone(), text: format!("send {n}"), id: Mutex::new(None) };
    let sends: Vec<Sending> = (0..SENDS).map(send).collect();
    let owner = cluster.owners().await?.into_iter().next().context("nobody owns anything")?.1;

    // The owner dies while some are answered, some stored, and some neither.
    let answered = AtomicUsize::new(0);
    let asking = join_all(sends.iter().map(async |send| {
        let result = send.ask(&admins[0]).await;
        answered.fetch_add(1, Ordering::Relaxed);
        result
    }));
    let dying = async {
        until("some are answered", async || Ok(answered.load(Ordering::Relaxed) > SENDS / 4)).await?;
        cluster.member(&owner)?.kill();
        anyhow::Ok(())
    };
    let (asked, died) = tokio::join!(asking, dying);
    died?;
    asked.into_iter().collect::<anyhow::Result<Vec<bool>>>()?;

    // Everybody asks again, at the other webapp, until there is an answer; then once more.
    for send in &sends {
        until("the send is answered", async || send.ask(&admins[1]).await).await?;
        ensure!(send.ask(&admins[0]).await?, "{}: not answered again", send.text);
    }
    let mut ids = BTreeSet::new();
    for send in &sends {
        ids.extend(send.id.lock().await.clone());
    }
    ensure!(ids.len() == SENDS, "{} ids of {SENDS} sends", ids.len());
    for phone in &phones {
        let expected: BTreeSet<&str> = sends.iter().filter(|send| send.phone == *phone).map(|send| &*send.text).collect();
        until("everything has arrived", async || Ok(network.inbox(phone).await?.messages.len() >= expected.len())).await?;
    }
    // What would arrive a second time is in the outbox before this.
    for phone in &phones {
        admins[1].send_text(phone, "the last one").await?;
        until("the last one has arrived", async || {
            Ok(network.inbox(phone).await?.messages.iter().any(|message| message.text() == "the last one"))
        })
        .await?;
        let inbox = network.inbox(phone).await?;
        let texts: Vec<&str> = inbox.messages.iter().map(Message::text).collect();
        let expected = sends.iter().filter(|send| send.phone == *phone).count();
        ensure!(texts.len() == expected + 1 && inbox.duplicates == 0, "{phone}: {texts:?}");
    }
    cluster.audit_is_clean()
}
