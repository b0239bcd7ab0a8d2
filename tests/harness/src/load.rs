//! Load that goes on through faults, and writes down what was answered.
//!
//! Each sender writes to one phone and waits for each answer, so the order of its messages is certain. A try
//! that was not answered with an id is not repeated: the next message is another one.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::ensure;
use reqwest::Method;
use tokio::{sync::watch, time::timeout};

use crate::{Api, Ledger, PATIENCE, client::text_message};

/// Pace of tries while nothing is answered.
const KNOCK: Duration = Duration::from_millis(50);
/// Every so many messages to a phone, it writes one itself.
const INBOUND_EVERY: usize = 5;

/// What senders share with the one who makes the faults.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Answers so far, by phone; senders move it, the one who makes faults waits on it.
    answered: watch::Sender<BTreeMap<String, usize>>,
    refused: AtomicUsize,
    /// Counts the lives of the server.
    life: watch::Sender<usize>,
    stop: AtomicBool,
    inbound: AtomicUsize,
}

/// What one sender did.
#[derive(Debug)]
pub struct Sent {
    /// Its messages.
    pub ledger: Ledger,
    /// Ids of what the phone wrote.
    pub written: Vec<String>,
}

impl Traffic {
    /// No traffic yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until `count` more messages were answered, whoever they were for; fails if they are not, because the
    /// server ended by itself or hangs.
    pub async fn answers(&self, count: usize) -> anyhow::Result<()> {
        let total = |answered: &BTreeMap<String, usize>| answered.values().sum::<usize>();
        let goal = total(&self.answered.borrow()) + count;
        self.wait_for(&format!("{count} more answers"), |answered| total(answered) >= goal).await
    }

    /// Waits until every phone was sent `count` more messages: all shards are served.
    pub async fn answers_for_each(&self, count: usize) -> anyhow::Result<()> {
        let before = self.answered.borrow().clone();
        let more = |answered: &BTreeMap<String, usize>| {
            answered.iter().all(|(phone, now)| *now >= before.get(phone).copied().unwrap_or_default() + count)
        };
        self.wait_for(&format!("{count} more answers for each phone"), more).await
    }

    async fn wait_for(&self, what: &str, enough: impl FnMut(&BTreeMap<String, usize>) -> bool) -> anyhow::Result<()> {
        let before = self.answered.borrow().clone();
        // The sender lives in `self`, so only the deadline can end the waiting.
        let waited = timeout(PATIENCE, self.answered.subscribe().wait_for(enough)).await.is_ok();
        ensure!(waited, "waited {PATIENCE:?} for {what}: {before:?} became {:?}", *self.answered.borrow());
        Ok(())
    }

    /// Tries that were answered with an error, or not at all.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Tells the senders that the server is up again.
    pub fn is_up(&self) {
        self.life.send_modify(|life| *life += 1);
    }

    /// Lets the senders end.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.is_up();
    }

    /// Number of messages that phones wrote to the business.
    pub fn inbound(&self) -> usize {
        self.inbound.load(Ordering::Relaxed)
    }

    /// Sends to one phone over `api`, and writes from it over `phones`, until [`Traffic::end`].
    pub async fn flow(&self, api: &Api, phones: &Api, phone: &str) -> Sent {
        let mut sent = Sent { ledger: Ledger::new(), written: Vec::new() };
        self.answered.send_modify(|answered| *answered.entry(phone.to_owned()).or_default() += 0);
        let mut life = self.life.subscribe();
        for n in 0usize.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let life_before = *life.borrow_and_update();
            let text = format!("message {n} of life {life_before} for {phone}");
            match self.send(api, phone, &text).await {
                Some(id) => {
                    sent.ledger.accepted(phone, &text, &id);
                    self.answered.send_modify(|answered| *answered.entry(phone.to_owned()).or_default() += 1);
                }
                None => {
                    sent.ledger.unanswered(phone, &text);
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    // Down: wait for the next life. A connection that died unseen fails once in the new life as well,
                    // and a server that starts may refuse, so knock again at a slow pace.
                    let _ = timeout(KNOCK, life.wait_for(|life| *life > life_before)).await;
                }
            }
            if n % INBOUND_EVERY == 0
                && let Ok(id) = phones.phone_sends_text(phone, &format!("from {phone}, {n}")).await
            {
                self.inbound.fetch_add(1, Ordering::Relaxed);
                sent.written.push(id);
            }
        }
        sent
    }

    async fn send(&self, api: &Api, phone: &str, text: &str) -> Option<String> {
        let answer = api.call(Method::POST, "/v1/messages", Some(&text_message(phone, text))).await.ok()?;
        match answer.status {
            201 => answer.text_at("/messages/0/id").map(str::to_owned),
            // Safe to retry, so it may or may not have been stored (I9).
            429 | 500..=599 => None,
            other => panic!("a good message was answered with {other}: {}", answer.text),
        }
    }
}
