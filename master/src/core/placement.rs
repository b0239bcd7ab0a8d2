//! Which node should own which shard.
//!
//! Wanted: every shard has an owner while any node lives; no node owns more than `ceil(shards / nodes)`
//! of a number's shards if that can be had without moving what has a living owner; a shard whose owner
//! lives stays (failover moves only orphans); solving twice moves nothing; all masters solve alike.

use std::collections::{BTreeMap, BTreeSet};

use estafet_model::{Shard, ShardCount, WaId};

/// Name of a node.
pub type NodeName = String;

/// A shard of a number at a count.
pub type ShardKey = (WaId, ShardCount, Shard);

/// What is to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// Nodes that may be given shards.
    pub nodes: Vec<NodeName>,
    /// Nodes that keep what they have and get nothing new (unless they are also in `nodes`).
    pub keepers: Vec<NodeName>,
    /// The shards that are to have owners.
    pub shards: BTreeSet<ShardKey>,
}

/// Who should own what.
pub type Plan = BTreeMap<ShardKey, NodeName>;

/// Places every shard, keeping what `previous` says where its owner lives.
pub fn solve(problem: &Problem, previous: &Plan) -> Plan {
    let mut load: BTreeMap<&NodeName, usize> = problem.nodes.iter().map(|node| (node, 0)).collect();
    let keepers: BTreeSet<&NodeName> = problem.keepers.iter().collect();
    let mut plan = Plan::new();
    for key in &problem.shards {
        let Some(owner) = previous.get(key) else { continue };
        let load = load.get_mut(owner);
        if load.is_some() || keepers.contains(owner) {
            load.into_iter().for_each(|load| *load += 1);
            plan.insert(*key, owner.clone());
        }
    }
    for key in &problem.shards {
        if plan.contains_key(key) {
            continue;
        }
        // The least loaded; among equals the first by name, so that all masters choose alike.
        let Some((node, count)) = load.iter_mut().min_by_key(|(node, count)| (**count, **node)) else { break };
        *count += 1;
        plan.insert(*key, (*node).clone());
    }
    plan
}

/// The move that makes a complete plan more even, if there is one: a shard of the most loaded node goes to
/// the least loaded. Made one at a time, since each move costs its shard a handoff.
pub fn balance(problem: &Problem, plan: &Plan) -> Option<(ShardKey, NodeName)> {
    let mut load: BTreeMap<&NodeName, Vec<ShardKey>> = problem.nodes.iter().map(|node| (node, Vec::new())).collect();
    for (key, node) in plan {
        if let Some(keys) = load.get_mut(node) {
            keys.push(*key);
        }
    }
    let (_, most) = load.iter().max_by_key(|(node, keys)| (keys.len(), std::cmp::Reverse(**node)))?;
    let (least, fewest) = load.iter().min_by_key(|(node, keys)| (keys.len(), **node))?;
    (most.len() >= fewest.len() + 2).then(|| (most[0], (*least).clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(nodes: &[&str], counts: &[u32]) -> Problem {
        Problem {
            nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
            keepers: Vec::new(),
            shards: (15_550_000_001..)
                .zip(counts)
                .flat_map(|(number, count)| {
                    let (number, count) = (WaId::from_u64(number).unwrap(), ShardCount::new(*count).unwrap());
                    count.shards().map(move |shard| (number, count, shard))
                })
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
    fn twenty_numbers_of_eight_shards_are_even_on_three_nodes_and_on_the_two_that_are_left() {
        let plan = solve(&problem(&["a", "b", "c"], &[8; 20]), &Plan::new());
        assert!(plan.len() == 160 && loads(&plan).values().all(|load| *load <= 54), "{:?}", loads(&plan));
        let after = solve(&problem(&["a", "c"], &[8; 20]), &plan);
        assert!(after.len() == 160 && loads(&after).values().all(|load| *load == 80), "{:?}", loads(&after));
        assert!(plan.iter().all(|(key, node)| node == "b" || after[key] == *node), "what has a living owner stays");
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

    #[test]
    fn a_keeper_keeps_and_gets_nothing_new() {
        let before = solve(&problem(&["a", "b"], &[4]), &Plan::new());
        let mut shaky = problem(&["b"], &[8]);
        shaky.keepers = vec!["a".to_owned()];
        assert!(solve(&shaky, &Plan::new()).values().all(|node| node == "b"));
        shaky.shards = problem(&[], &[4]).shards;
        assert_eq!(solve(&shaky, &before), before);
    }

    #[test]
    fn balancing_ends_with_loads_that_differ_by_one_at_most() {
        let (one, three) = (problem(&["a"], &[8]), problem(&["a", "b", "c"], &[8]));
        let mut plan = solve(&one, &Plan::new());
        let mut moves = 0;
        while let Some((key, node)) = balance(&three, &plan) {
            plan.insert(key, node);
            moves += 1;
        }
        assert_eq!((moves, loads(&plan).values().copied().max()), (5, Some(3)));
    }
}
