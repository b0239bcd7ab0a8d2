//! Coordination inside one process: the master's part without etcd, for the sandbox.
//!
//! The process holds its number in the database first, so a second one is refused with the holder's
//! name; then it claims every shard for its one node, and claims again what it loses: another epoch was
//! seen, so the next is higher than both. Safety is the epoch's alone, as in a cluster.
//!
//! A shard count changes by the same steps and the same rows as in a cluster; a process that dies in the middle
//! goes on at its next start.

use std::time::Duration;

use async_trait::async_trait;
use estafet_model::{BootId, Epoch, Group, Layout, Owner, Shard, ShardCount, ShardMap, WaId};
use estafet_runtime::{Backoff, Clock, Tasks};
use estafet_store::{Fence, NumberRow, OwnerRow, SharedStore, Switch};
use futures::future::join_all;
use tokio::{
    sync::{Mutex, watch},
    time::timeout,
};

use crate::core::{placement::ShardKey, resharding};

/// The one node of the process.
#[async_trait]
pub trait LocalNode: Send + Sync {
    /// Starts a shard that was just claimed.
    /// The error says why it could not, for people.
    async fn acquire(&self, fence: Fence) -> Result<(), String>;

    /// Lets an ownership finish what runs; returns when it has ended.
    async fn let_go(&self, fence: Fence);
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
    /// Held by whoever changes ownerships.
    changing: Mutex<()>,
}

/// Claims that somebody else wins in a row before it is given up for this time.
const RACES: u32 = 16;
/// How long old owners may take to let go of their slots; then they are fenced.
const LET_GO: Duration = Duration::from_millis(100);
/// How often it is looked whether somebody wants another shard count.
const LOOK: Duration = Duration::from_millis(100);

impl<N: LocalNode> Local<N> {
    /// A coordinator that has placed nothing yet.
    pub fn new(store: SharedStore, clock: Clock, node: N, name: String, boot: BootId) -> Self {
        Self { store, clock, node, name, boot, map: watch::Sender::default(), changing: Mutex::new(()) }
    }

    /// The shard map, pushed with every change.
    pub fn map(&self) -> watch::Receiver<ShardMap> {
        self.map.subscribe()
    }

    /// Claims and starts every shard of the number. One that is new begins with `count` shards, or with one; one
    /// that is known has as many as it had, and is brought to `count` if that is given.
    pub async fn place(&self, number: WaId, count: Option<ShardCount>) -> Result<(), Error> {
        let store = |source| Error::Store { number, source };
        let seed = NumberRow::new(number, count.unwrap_or(ShardCount::ONE), None, self.clock.now_ms());
        self.store.add_number(&seed).await.map_err(store)?;
        let owners = self.store.owners().await.map_err(store)?;
        let row = self.row(number).await?.unwrap_or(seed);
        for key in resharding::shards(number, row.layout, |key| row_of(&owners, key).is_some_and(|row| row.retired)) {
            self.take(key, Epoch::default()).await?;
        }
        if let Some(count) = count {
            // `false`: a change is under way, and goes on first.
            self.store.want_shards(number, count).await.map_err(store)?;
        }
        self.reshard(number).await
    }

    /// Follows the count that is wanted for the number, until the tasks end.
    pub async fn follow(&self, number: WaId, tasks: Tasks) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = tasks.shutdown().cancelled() => return,
            }
            if let Err(error) = self.reshard(number).await {
                tracing::warn!(%number, %error, "the shard count could not be changed, it is tried again");
            }
        }
    }

    /// Claims a shard again that ended because somebody saw an epoch of at least `seen`; nothing, if its slots
    /// belong to shards of another count by now.
    pub async fn retake(&self, fence: &Fence, seen: Epoch) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        let key = (fence.number, fence.count, fence.shard);
        let owners = self.store.owners().await.map_err(|source| Error::Store { number: fence.number, source })?;
        if row_of(&owners, &key).is_some_and(|row| row.retired) {
            return Ok(());
        }
        self.map.send_modify(|map| map.remove(fence.number, *fence.slots().start()));
        self.take(key, seen).await
    }

    async fn row(&self, number: WaId) -> Result<Option<NumberRow>, Error> {
        let rows = self.store.numbers().await.map_err(|source| Error::Store { number, source })?;
        Ok(rows.into_iter().find(|row| row.number == number))
    }

    /// Takes the number step by step to the count that is wanted.
    async fn reshard(&self, number: WaId) -> Result<(), Error> {
        while let Some(row) = self.row(number).await?
            && let Some(next) = row.layout.after(row.wanted)
        {
            let _changing = self.changing.lock().await;
            if let Layout::Switch { from, to } = row.layout {
                for group in from.groups(to) {
                    self.switch(number, from, to, &group).await?;
                }
            }
            let set = self.store.set_layout(number, row.layout, next, 0).await;
            if set.map_err(|source| Error::Store { number, source })? {
                tracing::info!(%number, from = ?row.layout, to = ?next, "layout changed");
            }
        }
        Ok(())
    }

    /// Gives the slots of a group to shards of the new count, unless they are there.
    async fn switch(&self, number: WaId, from: ShardCount, to: ShardCount, group: &Group) -> Result<(), Error> {
        let store = |source| Error::Store { number, source };
        let owners = self.store.owners().await.map_err(store)?;
        let old = group.retiring.iter().filter_map(|shard| row_of(&owners, &(number, from, *shard)));
        let retire: Vec<(Shard, Epoch)> = old.filter(|row| !row.retired).map(|row| (row.shard, row.epoch)).collect();
        if retire.is_empty() {
            return self.take_missing(number, to, group).await;
        }
        let fences = retire.iter().map(|(shard, epoch)| Fence { number, shard: *shard, count: from, epoch: *epoch });
        let gone = join_all(fences.map(|fence| self.node.let_go(fence)));
        // Whoever takes longer is fenced; what it had not finished is repeated.
        let _ = timeout(LET_GO, gone).await;
        let claim = group.arising.iter().map(|shard| (*shard, self.name.clone(), self.boot)).collect();
        let above = Epoch::default();
        let switch = Switch { number, from, to, retire, claim, above, master_term: 0, now_ms: self.clock.now_ms() };
        match self.store.switch_shards(&switch).await.map_err(store)? {
            Some(fences) => {
                for fence in fences {
                    self.start(fence).await?;
                }
                Ok(())
            }
            None => Err(store(estafet_store::Error::Unavailable("the owners of a shard changed meanwhile".to_owned()))),
        }
    }

    /// Starts what an earlier try had claimed and not started.
    async fn take_missing(&self, number: WaId, count: ShardCount, group: &Group) -> Result<(), Error> {
        for shard in &group.arising {
            let slot = *count.slots_of(*shard).start();
            let runs = self.map.borrow().owner(number, slot).is_some_and(|owner| (owner.count, owner.shard) == (count, *shard));
            if !runs {
                self.take((number, count, *shard), Epoch::default()).await?;
            }
        }
        Ok(())
    }

    async fn take(&self, key: ShardKey, above: Epoch) -> Result<(), Error> {
        let number = key.0;
        let fence = self.claim(key, above).await.map_err(|source| Error::Store { number, source })?;
        self.start(fence).await
    }

    async fn start(&self, fence: Fence) -> Result<(), Error> {
        let Fence { number, shard, count, .. } = fence;
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

fn row_of<'a>(owners: &'a [OwnerRow], key: &ShardKey) -> Option<&'a OwnerRow> {
    owners.iter().find(|row| (row.number, row.count, row.shard) == *key)
}
