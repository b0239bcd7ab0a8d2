//! Claims of shards, as the core orders them.
//!
//! What one step orders is claimed together: a node that owned fifty shards dies once. Each shard has its own outcome, and
//! a claim without an answer counts as lost: whether it took place is read before the next try.

use estafet_model::{BootId, Epoch};
use estafet_store::{Claim, Fence, SharedStore};
use tokio::time::timeout;

use crate::{
    core::{
        Event, Record,
        placement::{NodeName, ShardKey},
    },
    driver::{DATABASE, Handle},
};

/// One order to claim.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) term: i64,
    pub(crate) key: ShardKey,
    pub(crate) node: NodeName,
    pub(crate) boot: BootId,
    pub(crate) seen: Option<Epoch>,
}

impl Wish {
    fn claim(&self, now_ms: i64) -> Claim<'_> {
        let (number, count, shard) = self.key;
        let Self { term, node, boot, seen, .. } = self;
        Claim { number, shard, count, seen: *seen, owner: node, boot: *boot, master_term: *term, now_ms }
    }

    /// What became of it; `None`: no answer came.
    fn came_of(self, outcome: Option<estafet_store::Result<Option<Fence>>>) -> Event {
        let Self { term, key, node, boot, .. } = self;
        match outcome {
            Some(Ok(Some(fence))) => {
                Event::Claimed { term, record: Record { key, epoch: fence.epoch, node, boot, retired: false } }
            }
            Some(Ok(None)) => Event::ClaimFailed { term, key, stale: true },
            unknown => {
                tracing::warn!(number = %key.0, shard = %key.2, ?unknown, "claim without an answer");
                Event::ClaimFailed { term, key, stale: true }
            }
        }
    }
}

/// Claims all of them, and says what became of each.
pub(crate) async fn carry_out(wishes: Vec<Wish>, store: SharedStore, now_ms: i64, handle: Handle) {
    for Wish { key, node, seen, .. } in &wishes {
        tracing::info!(number = %key.0, shard = %key.2, node, ?seen, "claiming");
    }
    let claims: Vec<Claim<'_>> = wishes.iter().map(|wish| wish.claim(now_ms)).collect();
    let answered = timeout(DATABASE, store.claim_all(&claims)).await;
    let mut outcomes = answered.unwrap_or_default().into_iter();
    for wish in wishes {
        handle.happened(wish.came_of(outcomes.next())).await;
    }
}
