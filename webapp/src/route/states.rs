//! What the coreapps last said about the number, for `/v1/health` (spec/health-and-stats.md §1).
//!
//! Coreapps push their state on the data stream; nothing is asked when health is called. While the
//! stream lives the last word counts; five seconds after it broke the node counts as disconnected.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use estafet_model::{Owner, ShardMap, WaId};
use estafet_proto::v1::{GatewayStatus, NumberState};
use tokio::time::Instant;

/// How long a state outlives its stream.
const STALE_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Node {
    /// When the stream broke; `None` while it lives.
    lost_at: Option<Instant>,
    states: HashMap<(u64, u32, u32), GatewayStatus>,
}

/// States by node address.
#[derive(Debug, Default)]
pub(crate) struct States {
    nodes: Mutex<HashMap<String, Node>>,
}

impl States {
    /// The stream to a node is up.
    pub(crate) fn connected(&self, address: &str) {
        let mut nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let node = nodes.entry(address.to_owned()).or_insert_with(|| Node { lost_at: None, states: HashMap::new() });
        node.lost_at = None;
    }

    /// A node said how its shards are.
    pub(crate) fn heard(&self, address: &str, states: &[NumberState]) {
        let mut nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(node) = nodes.get_mut(address) {
            for state in states {
                node.states.insert((state.number, state.shard, state.shard_count), state.gateway_status());
            }
        }
    }

    /// The stream to a node broke.
    pub(crate) fn lost(&self, address: &str, now: Instant) {
        if let Some(node) = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_mut(address) {
            node.lost_at.get_or_insert(now);
        }
    }

    /// A node has left the map for good.
    pub(crate) fn forget(&self, address: &str) {
        self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(address);
    }

    /// How the owner of a shard is connected for it.
    pub(crate) fn of_shard(&self, number: WaId, owner: &Owner, now: Instant) -> GatewayStatus {
        let nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shard_status(nodes.get(&owner.address), number, owner, now)
    }

    /// The status of the number: that of its worst shard; `None` while no node is known at all.
    pub(crate) fn overall(&self, number: WaId, map: &ShardMap, now: Instant) -> Option<GatewayStatus> {
        let nodes = self.nodes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut covered = 0;
        let mut worst = GatewayStatus::Connected;
        for owner in map.owners(number) {
            let slots = owner.count.slots_of(owner.shard);
            covered += slots.end().get() - slots.start().get() + 1;
            worst = worse(worst, shard_status(nodes.get(&owner.address), number, owner, now));
        }
        if covered == 0 && nodes.is_empty() {
            return None;
        }
        Some(if covered < estafet_model::slot::SLOTS { GatewayStatus::Disconnected } else { worst })
    }
}

fn shard_status(node: Option<&Node>, number: WaId, owner: &Owner, now: Instant) -> GatewayStatus {
    let Some(node) = node else { return GatewayStatus::Connecting };
    if node.lost_at.is_some_and(|lost| now.duration_since(lost) > STALE_AFTER) {
        return GatewayStatus::Disconnected;
    }
    let key = (number.as_u64(), u32::from(owner.shard.get()), u32::from(owner.count.get()));
    // A node that does not know the shard yet is about to take it.
    node.states.get(&key).copied().unwrap_or(GatewayStatus::Connecting)
}

/// The worse of two.
pub(crate) fn worse(one: GatewayStatus, other: GatewayStatus) -> GatewayStatus {
    if badness(other) > badness(one) { other } else { one }
}

fn badness(status: GatewayStatus) -> u8 {
    match status {
        GatewayStatus::Connected => 0,
        GatewayStatus::Connecting => 1,
        GatewayStatus::Disconnected | GatewayStatus::Unspecified => 2,
        GatewayStatus::Uninitialized => 3,
        GatewayStatus::Unregistered => 4,
    }
}

/// The word of the API.
pub(crate) fn word(status: GatewayStatus) -> &'static str {
    match status {
        GatewayStatus::Connected => "connected",
        GatewayStatus::Connecting => "connecting",
        GatewayStatus::Disconnected | GatewayStatus::Unspecified => "disconnected",
        GatewayStatus::Uninitialized => "uninitialized",
        GatewayStatus::Unregistered => "unregistered",
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::{Epoch, Shard, ShardCount};

    use super::*;

    const NUMBER: u64 = 15_550_000_001;

    fn two_shards() -> ShardMap {
        let count = ShardCount::new(2).unwrap();
        let mut map = ShardMap::default();
        for shard in 0..2 {
            let shard = Shard::new(shard, count).unwrap();
            map.insert(
                WaId::from_u64(NUMBER).unwrap(),
                Owner { address: format!("core-{shard}"), shard, count, epoch: Epoch::new(1) },
            );
        }
        map
    }

    fn say(states: &States, shard: u32, status: GatewayStatus) {
        let state =
            NumberState { number: NUMBER, gateway_status: status.into(), shard, shard_count: 2, ..NumberState::default() };
        states.heard(&format!("core-{shard}"), &[state]);
    }

    #[test]
    fn the_worst_shard_decides_and_a_broken_stream_counts_after_five_seconds() {
        let (states, map, now) = (States::default(), two_shards(), Instant::now());
        let number = WaId::from_u64(NUMBER).unwrap();
        assert_eq!(states.overall(number, &ShardMap::default(), now), None);
        assert_eq!(states.overall(number, &map, now), Some(GatewayStatus::Connecting));
        for shard in 0..2 {
            states.connected(&format!("core-{shard}"));
            say(&states, shard, GatewayStatus::Connected);
        }
        assert_eq!(states.overall(number, &map, now), Some(GatewayStatus::Connected));
        say(&states, 1, GatewayStatus::Disconnected);
        assert_eq!(states.overall(number, &map, now), Some(GatewayStatus::Disconnected));
        say(&states, 1, GatewayStatus::Connected);
        states.lost("core-0", now);
        assert_eq!(states.overall(number, &map, now + STALE_AFTER), Some(GatewayStatus::Connected));
        let later = now + STALE_AFTER + Duration::from_millis(1);
        assert_eq!(states.overall(number, &map, later), Some(GatewayStatus::Disconnected));
    }

    #[test]
    fn a_shard_without_an_owner_disconnects_the_number() {
        let (states, mut map) = (States::default(), two_shards());
        let number = WaId::from_u64(NUMBER).unwrap();
        map.remove(number, estafet_model::Slot::new(0).unwrap());
        assert_eq!(states.overall(number, &map, Instant::now()), Some(GatewayStatus::Disconnected));
    }
}
