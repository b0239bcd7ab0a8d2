//! Planned moves: shards of a node that wants to end, and balance.
//!
//!     owner: Active --Release--> Draining --ended--> (claimed for the target, epoch + 1) --Acquire--> target
//!
//! One move at a time for each target, eight in all. An owner that does not let go in time is overtaken: the
//! epoch makes that safe. Balance moves wait for 30 s in which no node came, left or died, and are one shard or a
//! tenth of all in 30 s (reliability.md §2 rule 8).

use std::{collections::BTreeMap, time::Duration};

use super::{
    Effect, Moment,
    placement::{NodeName, Plan, Problem, ShardKey, balance},
    state::{Move, Term},
    step::{Standing, View},
};

/// How long an owner may take to let go.
const LET_GO: Duration = Duration::from_secs(2);
/// Moves at once.
const MOVES: usize = 8;
/// Quiet before a move for balance, and the window its budget is for.
const QUIET: Duration = Duration::from_secs(30);
/// A new leader looks on so long before it moves anything for balance.
const NEW_LEADER: Duration = Duration::from_secs(2);

impl Term {
    /// Whether the owner was to let go and did not.
    pub(super) fn is_overdue(&self, key: &ShardKey, now: Moment) -> bool {
        self.moves.get(key).is_some_and(|planned| now.saturating_sub(planned.since) >= LET_GO)
    }

    /// Orders what the plan has elsewhere than its living owner.
    pub(super) fn hand_off(
        &mut self,
        view: &View<'_>,
        plan: &Plan,
        standings: &BTreeMap<ShardKey, Standing>,
        effects: &mut Vec<Effect>,
    ) {
        for (key, node) in plan {
            if standings.get(key) == Some(&Standing::Held) {
                self.move_to(view.now, key, node, effects);
            }
        }
    }

    fn move_to(&mut self, now: Moment, key: &ShardKey, to: &NodeName, effects: &mut Vec<Effect>) {
        let Some(tenure) = self.tenure(key) else { return };
        let busy =
            self.claims.contains_key(key) || self.moves.contains_key(key) || self.moves.len() >= MOVES || self.is_switching(key);
        if tenure.node == *to || busy || self.moves.values().any(|planned| planned.to == *to) {
            return;
        }
        effects.push(Effect::Release { term: self.number, node: tenure.node.clone(), key: *key, epoch: tenure.epoch });
        self.moves.insert(*key, Move { to: to.clone(), since: now });
    }

    /// Makes the loads even, slowly, when nothing else happens.
    pub(super) fn balance(
        &mut self,
        view: &View<'_>,
        problem: &Problem,
        plan: &Plan,
        standings: &BTreeMap<ShardKey, Standing>,
        effects: &mut Vec<Effect>,
    ) {
        let now = view.now;
        self.balanced.retain(|at| now.saturating_sub(*at) < QUIET);
        let quiet = now.saturating_sub(view.membership.changed_at()) >= QUIET && now.saturating_sub(self.began) >= NEW_LEADER;
        let settled =
            self.moves.is_empty() && self.switches.is_empty() && standings.values().all(|standing| *standing == Standing::Held);
        if !quiet || !settled || self.balanced.len() >= (standings.len() / 10).max(1) {
            return;
        }
        if let Some((key, to)) = balance(problem, plan) {
            self.balanced.push_back(now);
            self.move_to(now, &key, &to, effects);
        }
    }
}
