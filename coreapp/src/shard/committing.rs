//! Adaptive group commit: one transaction runs, the next one collects.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use estafet_model::{ApiError, Code};
use estafet_proto::v1::outcome::Result as Answer;
use estafet_store::{Batch, Error};
use estafet_upstream::Command;

use super::{Order, Shard};
use crate::{
    core::{life::Reason, pending::Effect},
    request::{Reply, not_owner},
    stats::count,
};

/// An answer that waits for its commit.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) reply: Reply,
    pub(super) answer: Answer,
}

/// The database does not take what is written.
pub(super) struct Lost {
    since: Instant,
    /// What is answered meanwhile: each cause has an error of its own.
    pub(super) refusal: ApiError,
}

/// Nothing was stored of what is refused so, and it may be tried again.
fn refusal(error: &Error) -> ApiError {
    match error {
        Error::NoConnection(_) => ApiError::new(Code::Database, "The database has too few connections").with_status(503),
        error if error.is_retryable() => ApiError::new(Code::NotReady, "The database does not answer"),
        _ => ApiError::new(Code::Database, "The database refuses what is written").with_status(503),
    }
}

/// The transaction that is being committed.
pub(super) struct Transaction {
    batch: Arc<Batch>,
    effects: Vec<Effect<Answered>>,
}

impl Shard {
    /// Starts a commit if none runs and there is something to write. A shard that is over acts on nothing more: what it
    /// knows may come from a transaction that was fenced.
    pub(super) fn start_commit(&mut self) {
        if self.life.released().is_some() || self.committing.is_some() || self.is_raising() || self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        if pending.batch.is_empty() {
            return self.perform(pending.effects, &[], false);
        }
        self.commit(Transaction { batch: Arc::new(pending.batch), effects: pending.effects }, false);
    }

    fn commit(&mut self, transaction: Transaction, retried: bool) {
        self.orders.push(Order::Commit { batch: transaction.batch.clone(), retried });
        self.committing = Some(transaction);
    }

    /// Acts on the end of a commit. A commit without an answer is tried again for as long as it takes:
    /// it may have taken place, so nothing about it can be told to anybody. `retried` says that an earlier try got
    /// no answer, so rows of this very batch may count as duplicates.
    pub(super) fn committed(&mut self, result: Result<estafet_store::Committed, Error>, retried: bool, took: Duration) {
        let Some(Transaction { batch, effects }) = self.committing.take() else { return };
        match result {
            Ok(stored) => {
                self.database_lost = None;
                self.writes.committed(self.now);
                self.metrics.commits.add(1, &[]);
                self.metrics.commit_seconds.record(took.as_secs_f64(), &[]);
                self.metrics.rows.add(batch.rows() as u64, &[]);
                let accepted = (batch.messages.len() - stored.duplicate_messages.len()) as u64;
                self.metrics.accepted.add(accepted, &[]);
                let stats = &self.metrics.stats;
                stats.commits.add(took);
                count(&stats.persisted_out, accepted);
                count(&stats.persisted_in, batch.inbound.len() as u64);
                self.perform(effects, &stored.duplicate_messages, retried);
            }
            Err(Error::Fenced { .. }) => {
                self.metrics.stats.failed_commits.add(took);
                tracing::warn!(number = %self.fence.number, shard = %self.fence.shard, epoch = %self.fence.epoch, "fenced: a newer epoch owns the shard");
                self.metrics.fenced.add(1, &[]);
                replies(effects).for_each(|reply| reply.send(not_owner()));
                self.life.superseded(Reason::Fenced);
            }
            Err(error) => {
                if error.is_retryable() {
                    self.writes.unanswered(self.now.checked_sub(took).unwrap_or(self.now));
                }
                self.metrics.stats.failed_commits.add(took);
                let since = self.database_lost.as_ref().map_or(self.now, |lost| lost.since);
                self.database_lost = Some(Lost { since, refusal: refusal(&error) });
                let lost_for = self.now.saturating_duration_since(since);
                tracing::error!(%error, ?lost_for, rows = batch.rows(), "commit without an answer, trying again");
                self.commit(Transaction { batch, effects }, true);
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
                Effect::LoadEvents(endpoint, slot) => self.outlets.stored_unseen(endpoint, slot),
                Effect::Deliver(event) => self.outlets.push(event),
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
