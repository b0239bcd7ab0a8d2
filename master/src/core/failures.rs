//! Shards that cannot be started, or end at once by themselves.
//!
//! 1. The first node that fails to start a shard may be at fault: another is tried, soon, and the node is blamed
//!    ([`super::fitness`]). When a second node fails too it is the shard's fault, and nobody is blamed.
//! 2. Each failure in a row doubles the pause before the next try, from 100 ms to 30 s. A part of it depends on the
//!    shard, so that shards that failed together are not tried together.
//! 3. A shard that was held for five seconds begins anew.
//!
//! A new leader knows nothing of it and tries at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use super::{
    Moment,
    placement::{NodeName, ShardKey},
};

/// The pause after the first failure, and the longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// How long a shard must be held to count as started.
pub(super) const STEADY: Duration = Duration::from_secs(5);

/// Failures of one shard in a row.
#[derive(Clone, Debug)]
pub struct Failing {
    /// How many.
    pub count: u32,
    /// When it may be tried again.
    pub after: Moment,
    /// The nodes that failed since all had their turn, and the last of them.
    nodes: BTreeSet<NodeName>,
    last: NodeName,
    /// More than one node failed.
    is_its_own_fault: bool,
}

/// The shards that fail.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_shard: BTreeMap<ShardKey, Failing>,
}

impl Failures {
    /// A node could not start the shard, or not keep it; says whether the node is to be blamed.
    pub(super) fn failed(&mut self, now: Moment, key: ShardKey, node: &NodeName) -> bool {
        let failing = self.by_shard.entry(key).or_insert_with(|| Failing {
            count: 0,
            after: now,
            nodes: BTreeSet::new(),
            last: node.clone(),
            is_its_own_fault: false,
        });
        failing.is_its_own_fault |= failing.last != *node;
        failing.count = failing.count.saturating_add(1);
        failing.after = now + pause(&key, failing.count);
        failing.nodes.insert(node.clone());
        failing.last.clone_from(node);
        !failing.is_its_own_fault
    }

    /// It is held for a while.
    pub(super) fn steady(&mut self, key: &ShardKey) {
        self.by_shard.remove(key);
    }

    /// Forgets shards that are no more.
    pub(super) fn retain(&mut self, exists: impl Fn(&ShardKey) -> bool) {
        self.by_shard.retain(|key, _| exists(key));
    }

    /// Whether it must wait.
    pub(super) fn pauses(&self, now: Moment, key: &ShardKey) -> bool {
        self.by_shard.get(key).is_some_and(|failing| now < failing.after)
    }

    /// Who is to try next, when `planned` is planned: somebody who has not failed yet, else anybody but the last who
    /// did. Of several the one that `load` says has least.
    pub(super) fn next_node(
        &mut self,
        key: &ShardKey,
        planned: &NodeName,
        candidates: &[NodeName],
        load: impl Fn(&NodeName) -> usize,
    ) -> NodeName {
        let Some(failing) = self.by_shard.get_mut(key) else { return planned.clone() };
        if candidates.iter().all(|node| failing.nodes.contains(node)) {
            failing.nodes.clear();
        }
        let is_untried = |node: &&NodeName| !failing.nodes.contains(*node) && failing.last != **node;
        if is_untried(&planned) {
            return planned.clone();
        }
        let untried = candidates.iter().filter(is_untried);
        untried.min_by_key(|node| (load(node), *node)).unwrap_or(planned).clone()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ShardKey, &Failing)> {
        self.by_shard.iter()
    }
}

/// Between half of the bound and the bound, by the shard and the count alone: the same in every run.
fn pause(key: &ShardKey, count: u32) -> Duration {
    let bound = SHORTEST.saturating_mul(1 << (count - 1).min(10)).min(LONGEST);
    let mut hasher = DefaultHasher::new();
    (key.0.as_u64(), key.1.get(), key.2.get(), count).hash(&mut hasher);
    bound / 2 + (bound / 2).mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::key, *};

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_differ_between_shards() {
        let (mut failures, mut now, a) = (Failures::default(), Duration::ZERO, "a".to_owned());
        for bound in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
            failures.failed(now, key(0, 2), &a);
            let pause = failures.by_shard[&key(0, 2)].after - now;
            assert!(pause >= Duration::from_millis(bound / 2) && pause <= Duration::from_millis(bound), "{pause:?} of {bound}");
            assert!(failures.pauses(now, &key(0, 2)) && !failures.pauses(now + pause, &key(0, 2)));
            now += pause;
        }
        failures.steady(&key(0, 2));
        failures.failed(now, key(0, 2), &a);
        assert_eq!(failures.by_shard[&key(0, 2)].count, 1, "it had begun anew");
        let pauses: BTreeSet<Duration> = (0..32).map(|shard| pause(&key(shard, 32), 5)).collect();
        assert!(pauses.len() > 16, "shards that fail together are tried together");
    }

    #[test]
    fn the_first_node_that_fails_is_blamed_and_when_others_fail_nobody() {
        let mut failures = Failures::default();
        let [a, b] = ["a", "b"].map(str::to_owned);
        assert!(failures.failed(Duration::ZERO, key(0, 1), &a) && failures.failed(Duration::ZERO, key(0, 1), &a));
        assert!(!failures.failed(Duration::ZERO, key(0, 1), &b) && !failures.failed(Duration::ZERO, key(0, 1), &a));
    }

    #[test]
    fn every_node_has_its_turn_and_the_last_that_failed_is_not_the_next() {
        let (mut failures, all) = (Failures::default(), names(&["a", "b", "c"]));
        let load = |node: &NodeName| if node == "b" { 5 } else { 1 };
        assert_eq!(failures.next_node(&key(0, 1), &all[0], &all, load), "a", "it has not failed");
        let mut tried = Vec::new();
        for _ in 0..6 {
            let node = failures.next_node(&key(0, 1), &all[0], &all, load);
            failures.failed(Duration::ZERO, key(0, 1), &node);
            tried.push(node);
        }
        assert_eq!(tried, ["a", "c", "b", "a", "c", "b"]);
        assert_eq!(failures.next_node(&key(0, 1), &all[1], &all[1..2], load), "b", "there is nobody else");
    }
}
