//! Load that goes on through the death of the server, and writes down what was answered.
//!
//! Each sender writes to one phone and waits for each answer, so the order of its messages is certain. A try
//! that was not answered with an id is not repeated: the next message is another one.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use estafet_harness::{Api, Ledger, PATIENCE, client::text_message};
use reqwest::Method;
use tokio::{sync::watch, time::timeout};

/// Pace of tries while nothing is answered.
const KNOCK: Duration = Duration::from_millis(50);

/// What senders share with the one who kills.
pub(crate) struct Traffic {
    /// Answers so far; senders move it, the killer waits on it.
    answered: watch::Sender<usize>,
    /// Counts the lives of the server.
    life: watch::Sender<usize>,
    stop: AtomicBool,
    inbound: AtomicUsize,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        Self {
            answered: watch::Sender::new(0),
            life: watch::Sender::new(0),
            stop: AtomicBool::new(false),
            inbound: AtomicUsize::new(0),
        }
    }

    /// Waits until `count` more messages were answered; fails if they are not, because the server ended by itself or hangs.
    pub(crate) async fn answers(&self, count: usize) -> anyhow::Result<()> {
        let mut answered = self.answered.subscribe();
        let goal = *answered.borrow() + count;
        // The sender lives in `self`, so only the deadline can end the waiting.
        let waited = timeout(PATIENCE, answered.wait_for(|answered| *answered >= goal)).await;
        let answered = *self.answered.borrow();
        anyhow::ensure!(waited.is_ok(), "{} of {count} messages were answered in {PATIENCE:?}", count + answered - goal);
        Ok(())
    }

    /// Tells the senders that the server is up again.
    pub(crate) fn is_up(&self) {
        self.life.send_modify(|life| *life += 1);
    }

    /// Lets the senders end.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.is_up();
    }

    /// Number of messages that phones wrote to the business.
    pub(crate) fn inbound(&self) -> usize {
        self.inbound.load(Ordering::Relaxed)
    }

    /// Sends to one phone, and writes from it, until [`Traffic::end`]. Returns what was sent, and the ids of what was written.
    pub(crate) async fn flow(&self, api: &Api, phone: &str) -> (Ledger, Vec<String>) {
        let (mut ledger, mut written) = (Ledger::new(), Vec::new());
        let mut life = self.life.subscribe();
        for n in 0usize.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let life_before = *life.borrow_and_update();
            let text = format!("message {n} of life {life_before} for {phone}");
            match self.send(api, phone, &text).await {
                Some(id) => {
                    ledger.accepted(phone, &text, &id);
                    self.answered.send_modify(|answered| *answered += 1);
                }
                None => {
                    ledger.unanswered(phone, &text);
                    // Down: wait for the next life. A connection that died unseen fails once in the new life as well,
                    // and a server that starts may refuse, so knock again at a slow pace.
                    let _ = timeout(KNOCK, life.wait_for(|life| *life > life_before)).await;
                }
            }
            if n % 5 == 0
                && let Ok(id) = api.phone_sends_text(phone, &format!("from {phone}, {n}")).await
            {
                self.inbound.fetch_add(1, Ordering::Relaxed);
                written.push(id);
            }
        }
        (ledger, written)
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
