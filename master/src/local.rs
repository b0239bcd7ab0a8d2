//! Coordination inside one process: the master's part without etcd, for the sandbox.
//!
//! The process holds its number in the database first, so a second one is refused with the holder's
//! name; then it claims every shard for its one node, and claims again what it loses: another epoch was
//! seen, so the next is higher than both. Safety is the epoch's alone, as in a cluster.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use estafet_model::{BootId, Epoch, Owner, ShardCount, ShardMap, WaId};
use estafet_runtime::{Backoff, Clock};
use estafet_store::{Fence, SharedStore};
use tokio::sync::watch;

use crate::core::placement::{Plan, Problem, ShardKey, solve};

/// The one node of the process.
#[async_trait]
pub trait LocalNode: Send + Sync {
    /// Starts a shard that was just claimed.
    /// The error says why it could not, for people.
    async fn acquire(&self, fence: Fence) -> Result<(), String>;
}

/// Why coordination failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error("ownership of {number} cannot be read or claimed")]
    Store {
        /// The number.
        number: WaId,
        /// Cause.
        source: estafet_store::Error,
    },
    /// The node would not take a shard.
    #[error("shard {shard} of {number} could not be started: {reason}")]
    Node {
        /// The number.
        number: WaId,
        /// The shard.
        shard: estafet_model::Shard,
        /// Why.
        reason: String,
    },
}

/// The coordinator of a process.
pub struct Local<N> {
    store: SharedStore,
    clock: Clock,
    node: N,
    /// Name and address of the node: in one process they are the same.
    name: String,
    boot: BootId,
    map: watch::Sender<ShardMap>,
}

/// Claims that somebody else wins in a row before it is given up for this time.
const RACES: u32 = 16;

impl<N: LocalNode> Local<N> {
    /// A coordinator that has placed nothing yet.
    pub fn new(store: SharedStore, clock: Clock, node: N, name: String, boot: BootId) -> Self {
        Self { store, clock, node, name, boot, map: watch::Sender::default() }
    }

    /// The shard map, pushed with every change.
    pub fn map(&self) -> watch::Receiver<ShardMap> {
        self.map.subscribe()
    }

    /// Claims and starts every shard of the number.
    pub async fn place(&self, number: WaId, count: ShardCount) -> Result<(), Error> {
        let problem =
            Problem { nodes: vec![self.name.clone()], numbers: BTreeMap::from([(number, count)]), ..Problem::default() };
        for (key, _) in solve(&problem, &Plan::new()) {
            self.take(key, Epoch::default()).await?;
        }
        Ok(())
    }

    /// Claims a shard again that ended because somebody saw an epoch of at least `seen`.
    pub async fn retake(&self, fence: &Fence, seen: Epoch) -> Result<(), Error> {
        self.map.send_modify(|map| map.remove(fence.number, *fence.slots().start()));
        self.take((fence.number, fence.count, fence.shard), seen).await
    }

    async fn take(&self, key: ShardKey, above: Epoch) -> Result<(), Error> {
        let (number, count, shard) = key;
        let fence = self.claim(key, above).await.map_err(|source| Error::Store { number, source })?;
        self.node.acquire(fence).await.map_err(|reason| Error::Node { number, shard, reason })?;
        let owner = Owner { address: self.name.clone(), shard, count, epoch: fence.epoch };
        self.map.send_modify(|map| map.insert(number, owner));
        Ok(())
    }

    /// Raises the epoch until it is ours and above what anybody has seen.
    async fn claim(&self, key: ShardKey, above: Epoch) -> estafet_store::Result<Fence> {
        let (number, count, shard) = key;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut races = 0;
        loop {
            let seen = self.store.owners().await?.into_iter().find(|row| (row.number, row.count, row.shard) == key);
            let seen = seen.map(|row| row.epoch);
            let claimed = self.store.claim(number, shard, count, seen, &self.name, self.boot, 0, self.clock.now_ms()).await?;
            match claimed {
                Some(fence) if fence.epoch > above => return Ok(fence),
                Some(_) => {}
                None if races >= RACES => {
                    return Err(estafet_store::Error::Unavailable("another process keeps claiming the shard".to_owned()));
                }
                None => {
                    races += 1;
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }
}
