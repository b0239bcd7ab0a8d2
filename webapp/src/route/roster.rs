//! The processes of a cluster as `/v1/health` shows them, node by node (spec/health-and-stats.md §1).
//!
//! The masters are asked each second who is there, beside the requests, and the last answer of each is kept: health is
//! told from memory. How a node's shards are connected it says itself on its data stream ([`super::states`]); masters
//! only add the nodes that own nothing, and those that died. A word older than five seconds counts for nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use estafet_model::{BootId, Owner, ShardMap, WaId};
use estafet_proto::v1::{ClusterStatus, GatewayStatus, NodeHealth, NodeStatus};
use tokio::time::Instant;

use super::states::worse;

/// How long the word of a master counts.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// What the masters last said. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Masters>>);

/// Masters by address, with what each said and when.
type Masters = BTreeMap<String, Option<(Instant, ClusterStatus)>>;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Leads.
    PrimaryMaster,
    /// Waits for its turn.
    SecondaryMaster,
    /// Owns shards, or could.
    Coreapp,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// It is there.
    Told(Duty, GatewayStatus),
    /// It does not answer; where it was last.
    Silent(String),
}

impl Roster {
    /// Nothing is known of these masters yet.
    pub fn new(masters: &[String]) -> Self {
        Self(Arc::new(Mutex::new(masters.iter().map(|master| (master.clone(), None)).collect())))
    }

    /// A master answered.
    pub fn heard(&self, master: &str, status: ClusterStatus, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(master.to_owned(), Some((now, status)));
    }

    /// Addresses of the coreapps that live and may be given shards.
    pub(crate) fn living(&self, now: Instant) -> HashSet<String> {
        let masters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let said = masters.values().filter_map(|said| fresh(said, now)).max_by_key(|status| status.term);
        let lives = |node: &&NodeStatus| node.health() == NodeHealth::Alive && !node.draining;
        said.into_iter().flat_map(|status| &status.nodes).filter(lives).map(|node| node.address.clone()).collect()
    }

    /// Every process that is known, by name. `of_shard` says how the owner of a shard is connected, `overall` how the
    /// number is.
    pub(crate) fn by_node(
        &self,
        (number, map): (WaId, &ShardMap),
        of_shard: impl Fn(&Owner) -> GatewayStatus,
        overall: GatewayStatus,
        now: Instant,
    ) -> BTreeMap<String, NodeState> {
        let masters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh: BTreeMap<&String, Option<&ClusterStatus>> =
            masters.iter().map(|(address, said)| (address, fresh(said, now))).collect();
        let leading = fresh.values().flatten().map(|status| status.term).max().filter(|term| *term > 0);
        let mut nodes: BTreeMap<String, NodeState> = BTreeMap::new();
        for (address, status) in &fresh {
            nodes.insert((*address).clone(), master(address, *status, leading, overall));
        }
        // Who leads hears everybody; without a leader the first that answers is as good as any.
        let said = fresh.values().flatten().max_by_key(|status| status.term);
        let mut owners: BTreeMap<&str, GatewayStatus> = BTreeMap::new();
        for owner in map.owners(number) {
            let status = of_shard(owner);
            owners.entry(&owner.address).and_modify(|known| *known = worse(*known, status)).or_insert(status);
        }
        let listed = said.map(|status| status.nodes.as_slice()).unwrap_or_default();
        for node in listed {
            nodes.insert(name(node), coreapp(node, owners.get(node.address.as_str()).copied()));
        }
        let listed: BTreeSet<&str> = listed.iter().map(|node| node.address.as_str()).collect();
        for (address, status) in owners.into_iter().filter(|(address, _)| !listed.contains(address)) {
            nodes.insert(address.to_owned(), NodeState::Told(Duty::Coreapp, status));
        }
        nodes
    }
}

/// What a master said, if its word still counts.
fn fresh(said: &Option<(Instant, ClusterStatus)>, now: Instant) -> Option<&ClusterStatus> {
    said.as_ref().filter(|(at, _)| now.saturating_duration_since(*at) <= STALE_AFTER).map(|(_, status)| status)
}

/// The name that statistics have, too.
fn name(node: &NodeStatus) -> String {
    BootId::from_slice(&node.boot).map_or_else(|| node.node.clone(), |boot| format!("{}:{:.12}", node.node, boot.to_string()))
}

/// The control shard of the original was the primary master's: it is connected while the number is.
fn master(address: &str, status: Option<&ClusterStatus>, leading: Option<i64>, overall: GatewayStatus) -> NodeState {
    match status {
        None => NodeState::Silent(address.to_owned()),
        Some(status) if Some(status.term) == leading => {
            let connected = overall == GatewayStatus::Connected;
            let gateway = if connected { GatewayStatus::Connected } else { GatewayStatus::Disconnected };
            NodeState::Told(Duty::PrimaryMaster, gateway)
        }
        Some(_) => NodeState::Told(Duty::SecondaryMaster, GatewayStatus::Disconnected),
    }
}

fn coreapp(node: &NodeStatus, owned: Option<GatewayStatus>) -> NodeState {
    if node.health() == NodeHealth::Dead {
        return NodeState::Silent(node.address.clone());
    }
    // Who owns nothing of the number has no connection for it, as it should be.
    NodeState::Told(Duty::Coreapp, owned.unwrap_or(GatewayStatus::Disconnected))
}

#[cfg(test)]
mod tests {
    use estafet_model::{Epoch, Shard, ShardCount};

    use super::*;

    fn number() -> WaId {
        "15550000001".parse().unwrap()
    }

    fn node(name: &str, address: &str, health: NodeHealth) -> NodeStatus {
        let boot = vec![7; 16].into();
        NodeStatus { node: name.to_owned(), address: address.to_owned(), boot, health: health.into(), ..NodeStatus::default() }
    }

    /// Two shards, owned at these addresses.
    fn map(addresses: [&str; 2]) -> ShardMap {
        let (count, mut map) = (ShardCount::new(2).unwrap(), ShardMap::default());
        for (shard, address) in (0..).zip(addresses) {
            let (shard, epoch) = (Shard::new(shard, count).unwrap(), Epoch::new(1));
            map.insert(number(), Owner { address: address.to_owned(), shard, count, epoch });
        }
        map
    }

    fn shown(roster: &Roster, map: &ShardMap, shards: [GatewayStatus; 2], now: Instant) -> BTreeMap<String, NodeState> {
        let overall = worse(shards[0], shards[1]);
        roster.by_node((number(), map), |owner| shards[usize::from(owner.shard.get())], overall, now)
    }

    #[test]
    fn r93_every_node_has_its_role_and_the_state_of_its_own_shards() {
        use GatewayStatus::{Connected, Connecting, Disconnected};
        let (roster, now) = (Roster::new(&["m:1".to_owned(), "m:2".to_owned(), "m:3".to_owned()]), Instant::now());
        let alive = |name, address| node(name, address, NodeHealth::Alive);
        let nodes =
            vec![alive("core-0", "c:0"), alive("core-1", "c:1"), alive("spare", "c:2"), node("gone", "c:3", NodeHealth::Dead)];
        roster.heard("m:1", ClusterStatus { term: 0, ..ClusterStatus::default() }, now);
        roster.heard("m:2", ClusterStatus { term: 9, nodes, ..ClusterStatus::default() }, now);
        let map = map(["c:0", "c:1"]);
        let told = |duty, status| NodeState::Told(duty, status);
        let expected = |zero, one, primary| {
            let silent = |address: &str| NodeState::Silent(address.to_owned());
            let boot = "070707070707";
            BTreeMap::from([
                ("m:1".to_owned(), told(Duty::SecondaryMaster, Disconnected)),
                ("m:2".to_owned(), told(Duty::PrimaryMaster, primary)),
                ("m:3".to_owned(), silent("m:3")),
                (format!("core-0:{boot}"), told(Duty::Coreapp, zero)),
                (format!("core-1:{boot}"), told(Duty::Coreapp, one)),
                (format!("spare:{boot}"), told(Duty::Coreapp, Disconnected)),
                (format!("gone:{boot}"), silent("c:3")),
            ])
        };
        assert_eq!(shown(&roster, &map, [Connected, Connected], now), expected(Connected, Connected, Connected));
        assert_eq!(shown(&roster, &map, [Connected, Connecting], now), expected(Connected, Connecting, Disconnected));
        // Masters that are not heard any more say nothing; owners still say how they are.
        let later = now + STALE_AFTER + Duration::from_millis(1);
        let alone = shown(&roster, &map, [Connected, Disconnected], later);
        assert!(["m:1", "m:2", "m:3"].iter().all(|master| matches!(alone[*master], NodeState::Silent(_))));
        assert_eq!((&alone["c:0"], &alone["c:1"]), (&told(Duty::Coreapp, Connected), &told(Duty::Coreapp, Disconnected)));
        assert_eq!(alone.len(), 5);
    }

    #[test]
    fn coreapps_that_may_be_given_shards_are_those_that_live_and_stay_as_the_leader_says() {
        let (roster, now) = (Roster::new(&["m:1".to_owned()]), Instant::now());
        let alive = |name, address| node(name, address, NodeHealth::Alive);
        let leaves = NodeStatus { draining: true, ..alive("leaves", "c:2") };
        let nodes = vec![alive("core-0", "c:0"), node("gone", "c:1", NodeHealth::Dead), leaves];
        roster.heard("m:1", ClusterStatus { term: 9, nodes, ..ClusterStatus::default() }, now);
        roster.heard("m:2", ClusterStatus { term: 8, nodes: vec![alive("old", "c:3")], ..ClusterStatus::default() }, now);
        assert_eq!(roster.living(now), HashSet::from(["c:0".to_owned()]));
        assert!(roster.living(now + STALE_AFTER + Duration::from_millis(1)).is_empty());
    }

    #[test]
    fn r93_a_node_with_several_shards_is_as_well_as_the_worst() {
        use GatewayStatus::{Connected, Connecting};
        let (roster, now) = (Roster::default(), Instant::now());
        let nodes = shown(&roster, &map(["c:0", "c:0"]), [Connecting, Connected], now);
        assert_eq!(nodes, BTreeMap::from([("c:0".to_owned(), NodeState::Told(Duty::Coreapp, Connecting))]));
        assert!(shown(&roster, &ShardMap::default(), [Connected, Connected], now).is_empty());
    }
}
