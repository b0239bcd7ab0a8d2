//! The owner's side of a planned move, as [`crate::core::handoff`] decides it.
//!
//! The epoch is raised by the owner, in favour of the target, in the transaction that any takeover is
//! ([`estafet_store::Store::claim`], over our own epoch and under the term of the master that ordered it). Nothing
//! is written by us while that runs. If its answer is lost it is asked for again, and the row read: whatever it
//! says counts, and if we cannot know we go on, because the fence will tell us (**I2**).

use std::time::{Duration, Instant};

use estafet_model::{BootId, Epoch};
use estafet_proto::v1::outcome::Result as Answer;
use estafet_runtime::Backoff;
use estafet_store::{Fence, SharedStore};

use super::{Order, Shard};
use crate::{
    core::{
        handoff::{Handoff, Next, Target, UnderWay},
        life::Reason,
    },
    request::{not_owner, owned_by},
};

/// A handoff under way.
pub(super) struct Handing {
    handoff: Handoff,
    target: Target,
    /// The transaction runs.
    raising: bool,
    /// When to look again at the latest.
    wake: Instant,
}

/// What became of raising the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// The target has it.
    Handed(Epoch),
    /// We still have it, as far as can be known.
    Kept,
    /// Somebody else has it.
    Lost,
}

impl Shard {
    /// Begins to hand the shard off, if it is in a state for that.
    pub(super) fn hand_off(&mut self, target: Target) {
        if self.life.hand_off() {
            self.handing = Some(Handing { handoff: Handoff::begin(self.now), target, raising: false, wake: self.now });
        }
    }

    /// Whether nothing may be written, because the epoch is being raised.
    pub(super) fn is_raising(&self) -> bool {
        self.handing.as_ref().is_some_and(|handing| handing.raising)
    }

    /// When a handoff goes on though nothing happens.
    pub(super) fn handing_due(&self) -> Option<Instant> {
        self.handing.as_ref().filter(|_| self.life.is_handing_off()).map(|handing| handing.wake)
    }

    /// To whom the shard was handed, and in which epoch.
    pub fn handed(&self) -> Option<(&Target, Epoch)> {
        match (&self.handing, self.life.released()) {
            (Some(handing), Some(Reason::HandedOff { epoch })) => Some((&handing.target, epoch)),
            _ => None,
        }
    }

    /// Goes on with a handoff as far as possible.
    pub(super) fn advance_handoff(&mut self) {
        let under_way = UnderWay {
            writes: self.committing.is_some() || !self.pending.is_empty(),
            unanswered: self.outbox.in_flight() + self.outlets.posting(),
        };
        let is_handing = self.life.is_handing_off();
        let Some(handing) = self.handing.as_mut().filter(|handing| is_handing && !handing.raising) else { return };
        match handing.handoff.next(self.now, under_way) {
            Next::Wait(until) => handing.wake = until,
            Next::Close => {
                self.life.quiet();
                self.advance_handoff();
            }
            Next::GiveUp => self.raised(Raised::Kept),
            Next::Raise => {
                let deadline = handing.handoff.give_up_at();
                (handing.raising, handing.wake) = (true, deadline);
                self.orders.push(Order::Raise { target: handing.target.clone(), deadline });
            }
        }
    }

    /// The end of a handoff.
    pub(super) fn raised(&mut self, raised: Raised) {
        let Some(handing) = &mut self.handing else { return };
        handing.raising = false;
        let (number, shard, to) = (self.fence.number, self.fence.shard, &handing.target.node);
        match raised {
            Raised::Handed(epoch) => {
                tracing::info!(%number, %shard, to, %epoch, "handed off");
                self.life.superseded(Reason::HandedOff { epoch });
            }
            Raised::Lost => {
                tracing::warn!(%number, %shard, to, "a newer epoch owns the shard that was to be handed off");
                self.metrics.fenced.add(1, &[]);
                self.life.superseded(Reason::Fenced);
            }
            Raised::Kept => {
                tracing::warn!(%number, %shard, to, "not handed off, the shard stays");
                self.handing = None;
                self.life.keep();
            }
        }
    }

    /// The answer to what this shard does not answer any more.
    pub(super) fn elsewhere(&self) -> Answer {
        self.handed().map_or_else(not_owner, |(target, epoch)| owned_by(&target.address, epoch))
    }
}

/// Raises the epoch for the target, until it is known what became of that or the time is over.
pub(super) async fn raise(store: &SharedStore, fence: &Fence, target: &Target, now_ms: i64, deadline: Instant) -> Raised {
    let Fence { number, shard, count, epoch } = *fence;
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    let trying = async {
        loop {
            let claim = store.claim(number, shard, count, Some(epoch), &target.node, target.boot, target.term, now_ms);
            let known = match claim.await {
                Ok(Some(raised)) => return Raised::Handed(raised.epoch),
                // Refused: by a newer epoch, perhaps of a first try without an answer, or by a newer term.
                Ok(None) => owner(store, fence).await,
                Err(error) => Err(error),
            };
            match known {
                Ok(Some((stored, node, boot))) => return verdict(fence, target, stored, &node, boot),
                Ok(None) => return Raised::Lost,
                Err(error) => tracing::warn!(%number, %shard, %error, "the epoch could not be raised, trying again"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    tokio::time::timeout_at(deadline.into(), trying).await.unwrap_or(Raised::Kept)
}

/// The owner row of a shard, if it is not retired.
async fn owner(store: &SharedStore, fence: &Fence) -> estafet_store::Result<Option<(Epoch, String, BootId)>> {
    let rows = store.owners().await?;
    let ours = rows.into_iter().find(|row| (row.number, row.count, row.shard) == (fence.number, fence.count, fence.shard));
    Ok(ours.filter(|row| !row.retired).map(|row| (row.epoch, row.owner, row.boot)))
}

/// What a row says about raising the epoch of `fence` in favour of `target`, when the answer was lost.
pub fn verdict(fence: &Fence, target: &Target, stored: Epoch, node: &str, boot: BootId) -> Raised {
    if stored == fence.epoch {
        Raised::Kept
    } else if stored == fence.epoch.next() && (node, boot) == (target.node.as_str(), target.boot) {
        Raised::Handed(stored)
    } else {
        Raised::Lost
    }
}
