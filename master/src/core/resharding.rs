//! A number changes its shard count while messages flow (reliability.md §7.3).
//!
//!     Stable(n) --> Prepare(n, m) --> Switch(n, m): group after group --> Stable(m)
//!                                       old owners let go
//!                                       one transaction: old shards retire, new ones are claimed
//!                                       new owners start
//!
//! Each arrow is one transaction, refused if the row is not as it was read or a newer term has written. A leader
//! keeps nothing that the next one needs: which groups have changed is seen by the owner rows. A count goes to
//! its goal through the powers of two. One group of a number changes at a time, and only while every shard of
//! the number is held, so a gap is that of one group. An owner that does not let go in time is fenced.

use std::{collections::BTreeMap, time::Duration};

use estafet_model::{BootId, Epoch, Group, Layout, Shard, ShardCount, WaId};

use super::{
    Effect, Moment, Record,
    membership::Health,
    placement::{NodeName, Plan, Problem, ShardKey, solve},
    state::{Switching, Tenure, Term},
    step::{Standing, View},
};

/// How long old owners may take to let go. What they had not finished is repeated by the new ones under the
/// same ids, so waiting longer would only lengthen the gap.
const LET_GO: Duration = Duration::from_millis(100);
/// Pause after a step that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A number, as it is and as it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its shards now.
    pub layout: Layout,
    /// The count somebody asked for.
    pub wanted: ShardCount,
}

impl Shape {
    /// A number whose count stays.
    pub fn settled(count: ShardCount) -> Self {
        Self { layout: Layout::Stable(count), wanted: count }
    }

    /// Whether the count is on its way to another.
    pub fn changes(&self) -> bool {
        self.layout.after(self.wanted).is_some()
    }
}

/// The shards of a number that are to have owners, when `retired` says which have none any more.
pub fn shards(number: WaId, layout: Layout, retired: impl Fn(&ShardKey) -> bool) -> Vec<ShardKey> {
    let of = |count: ShardCount, shard: Shard| (number, count, shard);
    match layout {
        Layout::Stable(count) | Layout::Prepare { from: count, .. } => count.shards().map(|shard| of(count, shard)).collect(),
        Layout::Switch { from, to } => from
            .groups(to)
            .flat_map(|group| {
                let changed = group.retiring.iter().all(|shard| retired(&of(from, *shard)));
                let (count, shards) = if changed { (to, group.arising) } else { (from, group.retiring) };
                shards.into_iter().map(move |shard| of(count, shard))
            })
            .collect(),
    }
}

/// A group in flight: what it is of.
struct Piece<'a> {
    number: WaId,
    from: ShardCount,
    to: ShardCount,
    group: &'a Group,
}

impl Piece<'_> {
    fn retiring(&self) -> impl Iterator<Item = ShardKey> {
        self.group.retiring.iter().map(|shard| (self.number, self.from, *shard))
    }

    fn arising(&self) -> impl Iterator<Item = ShardKey> {
        self.group.arising.iter().map(|shard| (self.number, self.to, *shard))
    }
}

impl Term {
    /// Whether the slots of the shard are being given to shards of another count.
    pub(super) fn is_switching(&self, key: &ShardKey) -> bool {
        let of_group = |switching: &Switching| switching.from == key.1 && switching.group.retiring.contains(&key.2);
        self.switches.get(&key.0).is_some_and(of_group)
    }

    pub(super) fn is_retired(&self, key: &ShardKey) -> bool {
        self.tenure(key).is_some_and(|tenure| tenure.retired)
    }

    /// Takes every number a step further towards the count it should have.
    pub(super) fn reshard(
        &mut self,
        view: &View<'_>,
        plan: &Plan,
        standings: &BTreeMap<ShardKey, Standing>,
        effects: &mut Vec<Effect>,
    ) {
        self.switches.retain(|number, _| view.numbers.contains_key(number));
        for (number, shape) in view.numbers {
            let paused = self.reshard_after.get(number).is_some_and(|after| view.now < *after);
            if paused || self.stepping.contains(number) {
                continue;
            }
            let mut of_number =
                standings.range((*number, ShardCount::ONE, Shard::ZERO)..).take_while(|(key, _)| key.0 == *number);
            let calm = of_number.all(|(key, standing)| {
                *standing == Standing::Held && !self.moves.contains_key(key) && !self.claims.contains_key(key)
            });
            match shape.layout {
                Layout::Switch { from, to } => {
                    let open = from
                        .groups(to)
                        .find(|group| !group.retiring.iter().all(|shard| self.is_retired(&(*number, from, *shard))));
                    match open {
                        Some(group) => {
                            self.switch(view, plan, &Piece { number: *number, from, to, group: &group }, calm, effects)
                        }
                        None if calm => self.step_layout(*number, shape.layout, Layout::Stable(to), effects),
                        None => {}
                    }
                }
                layout => {
                    if let Some(next) = layout.after(shape.wanted).filter(|_| calm) {
                        self.step_layout(*number, layout, next, effects);
                    }
                }
            }
        }
    }

    fn step_layout(&mut self, number: WaId, from: Layout, to: Layout, effects: &mut Vec<Effect>) {
        self.stepping.insert(number);
        effects.push(Effect::SetLayout { term: self.number, number, from, to });
    }

    fn switch(&mut self, view: &View<'_>, plan: &Plan, piece: &Piece<'_>, calm: bool, effects: &mut Vec<Effect>) {
        let Some(switching) = self.switches.get(&piece.number) else {
            if calm {
                self.ask_to_let_go(view.now, piece, effects);
            }
            return;
        };
        let gone = |key: &ShardKey| {
            let Some(tenure) = self.tenure(key) else { return true };
            let lives = view
                .membership
                .get(&tenure.node)
                .is_some_and(|member| member.boot == tenure.boot && member.health != Health::Dead);
            tenure.over || !lives
        };
        let due = piece.retiring().all(|key| gone(&key)) || view.now.saturating_sub(switching.since) >= LET_GO;
        if switching.ordered || !due {
            return;
        }
        let Some(claim) = self.new_owners(view, plan, piece) else { return };
        let seen = |key: ShardKey| self.tenure(&key).map(|tenure| (key.2, tenure.epoch));
        let retire: Vec<(Shard, Epoch)> = piece.retiring().filter_map(seen).collect();
        let above = piece.retiring().filter_map(|key| Some(self.tenure(&key)?.above)).max().unwrap_or_default();
        if let Some(switching) = self.switches.get_mut(&piece.number) {
            switching.ordered = true;
        }
        effects.push(Effect::Switch {
            term: self.number,
            number: piece.number,
            from: piece.from,
            to: piece.to,
            retire,
            claim,
            above,
        });
    }

    fn ask_to_let_go(&mut self, now: Moment, piece: &Piece<'_>, effects: &mut Vec<Effect>) {
        for key in piece.retiring() {
            if let Some(tenure) = self.tenure(&key) {
                effects.push(Effect::Release { term: self.number, node: tenure.node.clone(), key, epoch: tenure.epoch });
            }
        }
        let switching = Switching { from: piece.from, group: piece.group.clone(), since: now, ordered: false };
        self.switches.insert(piece.number, switching);
    }

    /// The first new shard stays at a node that had one of the old, so half of the traffic does not move; what
    /// else there is goes where the placement has room.
    fn new_owners(&self, view: &View<'_>, plan: &Plan, piece: &Piece<'_>) -> Option<Vec<(Shard, NodeName, BootId)>> {
        let nodes = view.membership.candidates(view.now);
        let mut previous: Plan =
            plan.iter().filter(|(key, _)| !self.is_switching(key)).map(|(key, node)| (*key, node.clone())).collect();
        let stays = piece.retiring().filter_map(|key| Some(self.tenure(&key)?.node.clone())).find(|node| nodes.contains(node));
        if let (Some(node), Some(first)) = (stays, piece.arising().next()) {
            previous.insert(first, node);
        }
        let shards = previous.keys().copied().chain(piece.arising()).collect();
        let solved = solve(&Problem { nodes, keepers: view.membership.keepers(view.now), shards }, &previous);
        let owner = |key: ShardKey| {
            let node = solved.get(&key)?;
            let member = view.membership.get(node).filter(|member| member.health == Health::Alive)?;
            Some((key.2, node.clone(), member.boot))
        };
        piece.arising().map(owner).collect()
    }

    /// The database has the new shards; says what their owners are to be told.
    pub(super) fn switched(&mut self, now: Moment, number: WaId, retired: &[ShardKey], records: Vec<Record>) -> Vec<Effect> {
        self.switches.remove(&number);
        self.picture += 1;
        let owners = self.owners.get_or_insert_default();
        for key in retired {
            if let Some(tenure) = owners.get_mut(key) {
                (tenure.epoch, tenure.retired, tenure.over) = (tenure.epoch.next(), true, true);
            }
        }
        let mut orders = Vec::new();
        for record in records {
            let (key, epoch, node) = (record.key, record.epoch, record.node.clone());
            owners.insert(key, Tenure::new(record, now));
            orders.push(Effect::Acquire { term: self.number, node, key, epoch });
        }
        orders
    }

    /// Something was not as known: it is read again before the next try.
    pub(super) fn not_switched(&mut self, now: Moment, number: WaId) {
        self.switches.remove(&number);
        self.stepping.remove(&number);
        self.reshard_after.insert(number, now + PAUSE);
        self.stale = true;
    }
}
