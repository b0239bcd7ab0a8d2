//! Adaptive group commit: one transaction runs, the next one collects.

use std::time::Duration;

use estafet_proto::v1::outcome::Result as Answer;
use estafet_runtime::Backoff;
use estafet_store::{Batch, Error, Fence, SharedStore};
use estafet_upstream::Command;
use tokio::time::Instant;

use super::{Done, Shard};
use crate::{
    core::{
        life::Reason,
        pending::{Effect, Pending},
    },
    request::{Reply, not_owner},
};

/// An answer that waits for its commit.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) reply: Reply,
    pub(super) answer: Answer,
}

/// A transaction that ended, one way or the other.
pub(super) struct Committed {
    pending: Pending<Answered>,
    result: Result<estafet_store::Committed, Error>,
    /// An earlier try got no answer, so rows of this very batch may count as duplicates.
    retried: bool,
    started: Instant,
}

/// How long one call tries before the shard is told that the database is lost.
const PATIENCE: Duration = Duration::from_millis(500);

impl Shard {
    /// Starts a commit if none runs and there is something to write.
    pub(super) fn start_commit(&mut self) {
        if self.committing || self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        if pending.batch.is_empty() {
            return self.perform(pending.effects, &[], false);
        }
        self.commit(pending, false);
    }

    fn commit(&mut self, pending: Pending<Answered>, retried: bool) {
        self.committing = true;
        let (store, fence) = (self.context.store.clone(), self.fence);
        let started = Instant::now();
        self.jobs.push(Box::pin(async move {
            let (result, retried) = commit_patiently(&store, &fence, &pending.batch, retried).await;
            Done::Committed(Box::new(Committed { pending, result, retried, started }))
        }));
    }

    /// Acts on the end of a commit. A commit without an answer is tried again for as long as it takes:
    /// it may have taken place, so nothing about it can be told to anybody.
    pub(super) fn committed(&mut self, committed: Committed) {
        let Committed { pending, result, retried, started } = committed;
        self.committing = false;
        match result {
            Ok(stored) => {
                self.database_lost_since = None;
                self.metrics.commits.add(1, &[]);
                self.metrics.commit_seconds.record(started.elapsed().as_secs_f64(), &[]);
                self.metrics.rows.add(pending.batch.rows() as u64, &[]);
                self.metrics.accepted.add((pending.batch.messages.len() - stored.duplicate_messages.len()) as u64, &[]);
                self.perform(pending.effects, &stored.duplicate_messages, retried);
            }
            Err(Error::Fenced { .. }) => {
                tracing::warn!(number = %self.fence.number, shard = %self.fence.shard, epoch = %self.fence.epoch, "fenced: a newer epoch owns the shard");
                self.metrics.fenced.add(1, &[]);
                replies(pending.effects).for_each(|reply| reply.send(not_owner()));
                self.life.superseded(Reason::Fenced);
            }
            Err(error) => {
                let since = *self.database_lost_since.get_or_insert_with(Instant::now);
                tracing::error!(%error, lost_for = ?since.elapsed(), rows = pending.batch.rows(), "commit without an answer, trying again");
                self.commit(pending, true);
            }
        }
    }

    fn perform(&mut self, effects: Vec<Effect<Answered>>, duplicates: &[usize], retried: bool) {
        for effect in effects {
            match effect {
                Effect::Answer(Answered { reply, answer }) => reply.send(answer),
                Effect::Enqueue(_, message) if retried => self.outbox.stored_unseen(message.slot),
                Effect::Enqueue(index, _) if duplicates.contains(&index) => self.unsettled = self.unsettled.saturating_sub(1),
                Effect::Enqueue(_, message) => self.outbox.accepted(message),
                Effect::Send(generation, envelopes) => {
                    if generation == self.generation {
                        self.outgoing.push_back(Command::Send(envelopes));
                    }
                }
                Effect::Acknowledge(deliveries) => self.outgoing.push_back(Command::Acknowledge(deliveries)),
                Effect::MarkRead(marks) => self.outgoing.push_back(Command::MarkRead(marks)),
                Effect::Deliver(event) => self.lanes.push(event),
            }
        }
    }

    /// The requests that will get no answer from this shard any more.
    pub(super) fn unanswered(&mut self) -> impl Iterator<Item = Reply> + use<> {
        replies(std::mem::take(&mut self.pending.effects))
    }
}

fn replies(effects: Vec<Effect<Answered>>) -> impl Iterator<Item = Reply> {
    effects.into_iter().filter_map(|effect| match effect {
        Effect::Answer(Answered { reply, .. }) => Some(reply),
        _ => None,
    })
}

/// Tries a commit again while the database does not answer, at most for [`PATIENCE`]. Repeating is
/// harmless: every write of a batch is.
async fn commit_patiently(
    store: &SharedStore,
    fence: &Fence,
    batch: &Batch,
    mut retried: bool,
) -> (Result<estafet_store::Committed, Error>, bool) {
    let started = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    loop {
        match store.commit(fence, batch).await {
            Err(error) if !matches!(error, Error::Fenced { .. }) => {
                retried = true;
                tokio::time::sleep(backoff.next_delay()).await;
                if started.elapsed() >= PATIENCE {
                    return (Err(error), retried);
                }
            }
            result => return (result, retried),
        }
    }
}
