//! Planned moves: shards of a node that wants to end, and balance.
//!
//!     target: Prepare -> warm                                         Acquire (epoch + 1) -> active
//!     owner:               HandOff -> finishes, raises the epoch itself -> handed
//!
//! One move at a time for each target, eight in all. Until the epoch is raised the owner keeps the shard and
//! serves it; a step that takes too long ends the move, and the next target is tried. From the moment the epoch
//! is raised the database names the target: the owner says so to every master, and a leader that never hears it
//! reads it. Balance moves wait for 30 s in which no node came, left, died or got into trouble, and until no node
//! lacks anything; they are one shard or a tenth of all in 30 s (reliability.md §2 rule 8).

use std::{collections::BTreeMap, time::Duration};

use super::{
    Effect,
    placement::{NodeName, Plan, Problem, ShardKey, balance},
    resharding::Shape,
    state::{Move, MoveStep, Term},
    step::{Standing, View},
};

/// How long a target may take to get ready, and an owner to hand off.
const STEP: Duration = Duration::from_secs(2);
/// An owner gives up by itself after [`STEP`]; so much later its word would have come.
const MARGIN: Duration = Duration::from_millis(500);
/// How long a node is not tried again for a shard that could not be handed to it.
const AVOID: Duration = Duration::from_secs(10);
/// Moves at once.
const MOVES: usize = 8;
/// Quiet before a move for balance, and the window its budget is for.
const QUIET: Duration = Duration::from_secs(30);
/// A new leader looks on so long before it moves anything for balance.
const NEW_LEADER: Duration = Duration::from_secs(2);

impl Term {
    /// Drives the moves under way, and begins what the plan has elsewhere than its living owner.
    pub(super) fn hand_off(
        &mut self,
        view: &View<'_>,
        plan: &Plan,
        standings: &BTreeMap<ShardKey, Standing>,
        effects: &mut Vec<Effect>,
    ) {
        self.end_moves(view, standings);
        self.order_moves(view, effects);
        for (key, node) in plan {
            if standings.get(key) == Some(&Standing::Held) {
                self.move_to(view, key, node, effects);
            }
        }
    }

    /// Ends moves without an owner that could hand off, without a target that may take over, or without progress.
    fn end_moves(&mut self, view: &View<'_>, standings: &BTreeMap<ShardKey, Standing>) {
        self.avoided.retain(|_, until| view.now < *until);
        let candidates = view.membership.candidates(view.now);
        let avoided = &mut self.avoided;
        self.moves.retain(|key, planned| {
            let longest = match planned.step {
                MoveStep::Preparing => STEP,
                MoveStep::Ordered => STEP + MARGIN,
            };
            let late = view.now.saturating_sub(planned.since) >= longest;
            if late {
                avoided.insert((*key, planned.to.clone()), view.now + AVOID);
            }
            !late && standings.get(key) == Some(&Standing::Held) && candidates.contains(&planned.to)
        });
    }

    /// Where the target is ready, the owner is told to hand off.
    fn order_moves(&mut self, view: &View<'_>, effects: &mut Vec<Effect>) {
        let Some(owners) = &self.owners else { return };
        for (key, planned) in self.moves.iter_mut().filter(|(_, planned)| planned.step == MoveStep::Preparing) {
            let (Some(tenure), Some(target)) = (owners.get(key), view.membership.get(&planned.to)) else { continue };
            if target.warm.get(key) != Some(&tenure.epoch) {
                continue;
            }
            (planned.step, planned.since) = (MoveStep::Ordered, view.now);
            effects.push(Effect::HandOff {
                term: self.number,
                node: tenure.node.clone(),
                key: *key,
                epoch: tenure.epoch,
                to: planned.to.clone(),
                boot: target.boot,
                address: target.address.clone(),
            });
        }
    }

    fn move_to(&mut self, view: &View<'_>, key: &ShardKey, wanted: &NodeName, effects: &mut Vec<Effect>) {
        let Some(tenure) = self.tenure(key) else { return };
        let busy = self.claims.contains_key(key) || self.moves.contains_key(key) || self.moves.len() >= MOVES;
        // A number whose count is changing waits for its moves to end, so none is begun.
        let changes = view.numbers.get(&key.0).is_some_and(Shape::changes);
        if tenure.node == *wanted || busy || changes {
            return;
        }
        let Some(to) = self.target(view, key, wanted, &tenure.node) else { return };
        let epoch = tenure.epoch;
        effects.push(Effect::Prepare { term: self.number, node: to.clone(), key: *key, epoch });
        self.moves.insert(*key, Move { to, step: MoveStep::Preparing, since: view.now });
    }

    /// Who takes the shard: the wanted node, or another when that one failed to lately. One shard at a time.
    fn target(&self, view: &View<'_>, key: &ShardKey, wanted: &NodeName, owner: &NodeName) -> Option<NodeName> {
        let avoids = |node: &NodeName| self.avoided.contains_key(&(*key, node.clone()));
        let to = if avoids(wanted) {
            let mut others = view.membership.candidates(view.now);
            others.retain(|node| node != owner && !avoids(node));
            let load = |node: &NodeName| view.membership.get(node).map_or(0, |member| member.holdings.len());
            others.into_iter().min_by_key(|node| load(node))?
        } else {
            wanted.clone()
        };
        (!self.moves.values().any(|planned| planned.to == to)).then_some(to)
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
        if !quiet || !settled || !view.membership.lacks_nothing() || self.balanced.len() >= (standings.len() / 10).max(1) {
            return;
        }
        if let Some((key, to)) = balance(problem, plan) {
            self.balanced.push_back(now);
            self.move_to(view, &key, &to, effects);
        }
    }
}
