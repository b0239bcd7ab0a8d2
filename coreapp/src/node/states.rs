//! What the shards of a node last told of themselves: for health, metrics and the needs of the node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use estafet_model::WaId;
use estafet_proto::v1::{GatewayStatus, NumberState};
use estafet_store::Fence;
use tokio::sync::watch;

use crate::core::{needs::Writes, outlets::Backlog};

/// Number, shard count and shard.
type Place = (u64, u32, u32);

/// What a shard last told of itself.
#[derive(Debug, Default)]
struct Told {
    state: NumberState,
    writes: Writes,
    backlogs: Vec<Backlog>,
}

/// What the shards of a node last told.
#[derive(Debug, Default)]
pub(crate) struct States(BTreeMap<Place, Told>);

impl States {
    /// What waits for receivers, by shard.
    pub(crate) fn backlogs(&self) -> Vec<(WaId, Backlog)> {
        let of = |told: &Told| WaId::from_u64(told.state.number).ok().map(|number| (number, told.backlogs.clone()));
        let shards = self.0.values().filter_map(of);
        shards.flat_map(|(number, backlogs)| backlogs.into_iter().map(move |backlog| (number, backlog))).collect()
    }
}

/// The states of the shards of this node.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    states: Arc<Mutex<States>>,
    changed: Arc<watch::Sender<u64>>,
}

impl NodeState {
    pub(crate) fn publish(&self, state: NumberState, writes: Writes, backlogs: impl Iterator<Item = Backlog>) {
        let mut states = self.states();
        let told = states.0.entry((state.number, state.shard_count, state.shard)).or_default();
        // The counters move all the time and are read, not pushed.
        let is_news = (told.state.gateway_status, told.state.epoch) != (state.gateway_status, state.epoch);
        (told.state, told.writes) = (state, writes);
        told.backlogs.clear();
        told.backlogs.extend(backlogs);
        if is_news {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    pub(crate) fn downgrade(&self) -> Weak<Mutex<States>> {
        Arc::downgrade(&self.states)
    }

    /// Forgets an ownership that ended; a newer one of the same shard stays.
    pub(crate) fn remove(&self, fence: &Fence) {
        let mut states = self.states();
        let key = (fence.number.as_u64(), fence.count.get().into(), fence.shard.get().into());
        if states.0.get(&key).is_some_and(|told| told.state.epoch == u64::from(fence.epoch.get())) {
            states.0.remove(&key);
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// The states now.
    pub fn snapshot(&self) -> Vec<NumberState> {
        self.states().0.values().map(|told| told.state).collect()
    }

    /// Whether some shard is connected to the network.
    pub(crate) fn is_connected(&self) -> bool {
        self.states().0.values().any(|told| told.state.gateway_status() == GatewayStatus::Connected)
    }

    /// What the commits of all shards say of the database.
    pub(crate) fn writes(&self) -> Writes {
        self.states().0.values().fold(Writes::default(), |all, told| all.with(told.writes))
    }

    pub(super) fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Word of changed connections and epochs.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
