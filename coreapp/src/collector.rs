//! Removes messages that are over (`garbagecollector_enable.messages`, on by default): outgoing ones by [`garbage`],
//! incoming ones a week after they came, when they cannot be marked as read any more.
//!
//! The owner of a shard looks through it at random moments some hours apart, page by page, and has what may go removed
//! by the shard: in a transaction of its own, fenced as every other. It takes a quarter of the time at most, so a database
//! that is slow is asked less. Incoming messages are the first shard's, for all of them: they go by age alone.

use std::time::Duration;

use estafet_model::{Seq, Slot, WaId};
use estafet_proto::v1::outcome::Result as Answer;
use estafet_store::Fence;
use opentelemetry::{KeyValue, metrics::Counter};
use rand::RngExt as _;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    core::garbage,
    node::Node,
    request::{Action, Reply},
    settings::Versioned,
};

/// Rows looked at, and at most removed, at a time.
const AT_ONCE: u32 = 500;
/// Pause after a page, in times of what the page took.
const RESTS: u32 = 3;
/// Pause between two collections, in seconds.
const PAUSE_S: std::ops::Range<u64> = 2 * 3600..6 * 3600;

/// Messages that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Outgoing ones.
    pub outgoing: u64,
    /// Incoming ones.
    pub incoming: u64,
}

/// Why a collection ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be read.
    #[error("messages that are over cannot be looked for")]
    Read(#[from] estafet_store::Error),
    /// The shard did not remove them: it is another node's by now, or the database does not answer.
    #[error("messages that are over were not removed: {0}")]
    NotRemoved(String),
}

/// Collects for one ownership.
pub(crate) struct Collector {
    node: Node,
    fence: Fence,
    keep_ms: i64,
    removed: Counter<u64>,
}

impl Collector {
    pub(crate) fn new(node: Node, fence: Fence, keep: Duration) -> Self {
        let meter = estafet_runtime::metrics::meter("coreapp");
        let removed = meter.u64_counter("messages_collected").with_description("Messages removed because they are over").build();
        Self { node, fence, keep_ms: i64::try_from(keep.as_millis()).unwrap_or(i64::MAX), removed }
    }

    /// Collects now and then, if the settings say so, until the shard is over.
    pub(crate) async fn now_and_then(self, settings: watch::Receiver<Versioned>, over: CancellationToken) {
        loop {
            let pause = Duration::from_secs(rand::rng().random_range(PAUSE_S));
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if !settings.borrow().settings.garbagecollector_enable.messages {
                continue;
            }
            let (number, shard) = (self.fence.number, self.fence.shard);
            tokio::select! {
                () = over.cancelled() => return,
                collected = self.collect() => match collected {
                    Ok(removed) => tracing::info!(%number, %shard, ?removed, "messages that are over were removed"),
                    Err(error) => tracing::warn!(%number, %shard, %error, "a collection of messages ended early"),
                },
            }
        }
    }

    /// Removes what may go.
    pub(crate) async fn collect(&self) -> Result<Removed, Error> {
        let outgoing = self.outgoing().await?;
        let is_first = self.fence.slots().start() == &Slot::FIRST;
        let incoming = if is_first { self.incoming().await? } else { 0 };
        Ok(Removed { outgoing, incoming })
    }

    async fn outgoing(&self) -> Result<u64, Error> {
        let (number, now_ms) = (self.fence.number, self.node.now_ms());
        let (first, last) = self.fence.slots().into_inner();
        let (mut after, mut count) = ((first, Seq::ZERO), 0);
        loop {
            let began = Instant::now();
            let rows = self.node.store().states(number, after, last, AT_ONCE).await?;
            let Some(end) = rows.last() else { return Ok(count) };
            after = (end.slot, end.seq);
            let over: Vec<_> =
                rows.iter().filter(|row| garbage::is_over(row, self.keep_ms, now_ms)).map(|row| (row.slot, row.seq)).collect();
            count += self.remove("outgoing", over, Vec::new()).await?;
            tokio::time::sleep(began.elapsed() * RESTS).await;
        }
    }

    async fn incoming(&self) -> Result<u64, Error> {
        let (number, before_ms) = (self.fence.number, self.node.now_ms().saturating_sub(self.keep_ms));
        let (mut after, mut count) = (String::new(), 0);
        loop {
            let began = Instant::now();
            let rows = self.node.store().inbound_ids(number, &after, AT_ONCE).await?;
            let Some((end, _)) = rows.last() else { return Ok(count) };
            after.clone_from(end);
            let over = rows.into_iter().filter(|(_, came_at_ms)| *came_at_ms < before_ms).map(|(id, _)| id).collect();
            count += self.remove("incoming", Vec::new(), over).await?;
            tokio::time::sleep(began.elapsed() * RESTS).await;
        }
    }

    /// Has the shard remove these; how many, once that is durable.
    async fn remove(&self, direction: &'static str, messages: Vec<(Slot, Seq)>, inbound: Vec<String>) -> Result<u64, Error> {
        let count = (messages.len() + inbound.len()) as u64;
        if count == 0 {
            return Ok(0);
        }
        let (reply, outcome) = oneshot::channel();
        let action = Action::Forget { messages, inbound };
        self.node.dispatch(self.fence.number, *self.fence.slots().start(), action, Reply::Single(reply));
        match outcome.await.ok().and_then(|outcome| outcome.result) {
            Some(Answer::Done(_)) => {
                self.removed.add(count, &[KeyValue::new("direction", direction)]);
                Ok(count)
            }
            Some(Answer::Refused(refused)) => Err(Error::NotRemoved(refused.details)),
            _ => Err(Error::NotRemoved("the shard is elsewhere".to_owned())),
        }
    }
}

impl Node {
    /// Removes the messages of a number's shards here that are over, at once and whatever the settings say.
    pub async fn collect_messages(&self, number: WaId) -> Result<Removed, Error> {
        let mut all = Removed::default();
        for fence in self.owned().into_iter().filter(|fence| fence.number == number) {
            let removed = self.collector(fence).collect().await?;
            all.outgoing += removed.outgoing;
            all.incoming += removed.incoming;
        }
        Ok(all)
    }
}
