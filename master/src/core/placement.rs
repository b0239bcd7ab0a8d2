//! Which node should own which shard.
//!
//! Wanted: every shard has an owner while any node lives; no node owns more than `ceil(shards / nodes)`
//! of a number's shards if that can be had without moving what has a living owner; a shard whose owner
//! lives stays (failover moves only orphans); solving twice moves nothing; all masters solve alike.

use std::collections::BTreeMap;

use estafet_model::{Shard, ShardCount, WaId};

/// Name of a node.
pub type NodeName = String;

/// A shard of a number at a count.
pub type ShardKey = (WaId, ShardCount, Shard);

/// What is to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// Nodes that live.
    pub nodes: Vec<NodeName>,
    /// Shard count of each number.
    pub numbers: BTreeMap<WaId, ShardCount>,
}

/// Who should own what.
pub type Plan = BTreeMap<ShardKey, NodeName>;

/// Places every shard, keeping what `previous` says where its owner lives.
pub fn solve(problem: &Problem, previous: &Plan) -> Plan {
    let mut load: BTreeMap<&NodeName, usize> = problem.nodes.iter().map(|node| (node, 0)).collect();
    let keys: Vec<ShardKey> =
        problem.numbers.iter().flat_map(|(number, count)| count.shards().map(|shard| (*number, *count, shard))).collect();
    let mut plan = Plan::new();
    for key in &keys {
        if let Some(owner) = previous.get(key)
            && let Some(load) = load.get_mut(owner)
        {
            *load += 1;
            plan.insert(*key, owner.clone());
        }
    }
    for key in keys {
        if plan.contains_key(&key) {
            continue;
        }
        // The least loaded; among equals the first by name, so that all masters choose alike.
        let Some((node, count)) = load.iter_mut().min_by_key(|(node, count)| (**count, **node)) else { break };
        *count += 1;
        plan.insert(key, (*node).clone());
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(nodes: &[&str], counts: &[u32]) -> Problem {
        Problem {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            numbers: (15_550_000_001..)
                .zip(counts)
                .map(|(number, count)| (WaId::from_u64(number).unwrap(), ShardCount::new(*count).unwrap()))
                .collect(),
        }
    }

    fn loads(plan: &Plan) -> BTreeMap<&str, usize> {
        plan.values().fold(BTreeMap::new(), |mut loads, node| {
            *loads.entry(node.as_str()).or_default() += 1;
            loads
        })
    }

    #[test]
    fn shards_are_spread_evenly_and_solving_twice_moves_nothing() {
        let problem = problem(&["a", "b", "c"], &[8, 8, 2]);
        let plan = solve(&problem, &Plan::new());
        assert_eq!(plan.len(), 18);
        assert!(loads(&plan).values().all(|load| *load == 6));
        assert_eq!(solve(&problem, &plan), plan);
    }

    #[test]
    fn failover_moves_only_the_orphans() {
        let before = solve(&problem(&["a", "b", "c"], &[32]), &Plan::new());
        let after = solve(&problem(&["a", "c"], &[32]), &before);
        for (key, owner) in &before {
            if owner != "b" {
                assert_eq!(after.get(key), Some(owner));
            }
        }
        assert!(loads(&after).values().all(|load| *load == 16));
    }

    #[test]
    fn without_nodes_nothing_is_owned() {
        assert!(solve(&problem(&[], &[4]), &Plan::new()).is_empty());
    }
}
