//! The shard count of the number changes: somebody asks, the leader takes the layout step by step, the modelled
//! database does what the back ends do (reliability.md §7.3).
//!
//! A switch waits for the locks of its old shards as a claim does, looks at everything before it changes anything, and
//! is one transaction: old rows retire under an epoch that nobody has, new ones begin above every epoch of their slots.

use std::collections::VecDeque;

use estafet_master::core::{Event, Record, placement::ShardKey, resharding::Shape};
use estafet_model::{Epoch, Layout, Shard, ShardCount};
use estafet_store::Switch;
use rand::{RngExt as _, rngs::SmallRng};

use crate::{
    Mutation,
    database::Owner,
    masters::Asked,
    messages::Body,
    world::{MS, Place, Time, Timer, What, World},
};

/// How long the database may take.
const DATABASE: Time = 2_000 * MS;
/// How often a leader looks which count is wanted.
pub(crate) const LOOK: Time = 300 * MS;

/// The row of the number.
pub(crate) struct Number {
    pub(crate) shape: Shape,
    term: i64,
    /// Counts that will be asked for, in this order.
    wishes: VecDeque<ShardCount>,
}

impl Number {
    /// A third of the runs go from one shard to eight and back to four, the others stay with four.
    pub(crate) fn new(chance: &mut SmallRng) -> Self {
        let counts: &[u32] = if chance.random_range(0..3) == 0 { &[1, 2, 4, 8, 4] } else { &[4] };
        let mut wishes: VecDeque<ShardCount> = counts.iter().filter_map(|count| ShardCount::new(*count)).collect();
        let first = wishes.pop_front().unwrap_or(ShardCount::ONE);
        Self { shape: Shape::settled(first), term: 0, wishes }
    }

    /// Whether every wish was heard and fulfilled.
    pub(crate) fn is_settled(&self) -> bool {
        self.wishes.is_empty() && self.shape == Shape::settled(self.shape.wanted)
    }
}

/// A switch on its way through the database.
pub(crate) struct Switching {
    pub(crate) asker: (Place, u32),
    pub(crate) call: u64,
    pub(crate) switch: Switch,
}

impl Switching {
    /// The rows that it locks.
    pub(crate) fn retiring(&self) -> impl Iterator<Item = ShardKey> {
        self.switch.retire.iter().map(|(shard, _)| (self.switch.number, self.switch.from, *shard))
    }
}

impl World {
    /// Somebody asks for the next count, as soon as the one before is on its way or done.
    pub(crate) fn wish(&mut self) {
        let number = &mut self.database.number;
        let Shape { layout, wanted } = number.shape;
        // The rule of `Store::want_shards`.
        let may_ask = layout == Layout::Stable(wanted);
        if let Some(next) = number.wishes.front().copied() {
            if may_ask && self.processes[&Place::Database].up {
                number.wishes.pop_front();
                number.shape.wanted = next;
                self.note(|now| format!("{now:>9} {} shards are wanted", next.get()));
            }
            let pause = self.between(50 * MS, 800 * MS);
            self.world_in(pause, What::Wish);
        }
    }

    // -- the master --

    /// A leader looks which count is wanted.
    pub(crate) fn look_at_number(&mut self, i: usize) {
        self.wake(Place::Master(i), LOOK, Timer::Look);
        if let Some(term) = self.masters[i].term() {
            self.ask_database(i, Asked::Number { term }, Body::Number);
        }
    }

    pub(crate) fn set_layout(&mut self, i: usize, term: i64, from: Layout, to: Layout) {
        self.ask_database(i, Asked::Layout { term, to }, Body::SetLayout { term, from, to });
    }

    pub(crate) fn order_switch(&mut self, i: usize, switch: Switch) {
        self.ask_database(i, Asked::Switch(switch.clone()), Body::Switch(switch));
    }

    fn ask_database(&mut self, i: usize, asked: Asked, body: Body) {
        let call = self.fresh();
        self.masters[i].ask(call, asked);
        self.call(Place::Master(i), Place::Database, call, DATABASE, body);
    }

    // -- the database --

    pub(crate) fn store_layout(&mut self, asker: (Place, u32), call: u64, term: i64, (from, to): (Layout, Layout)) {
        let is_newest = self.raise_term(term);
        let number = &mut self.database.number;
        let stored = is_newest && number.shape.layout == from && number.term <= term;
        if stored {
            (number.shape.layout, number.term) = (to, term);
            self.note(|now| format!("{now:>9} database: the layout is {to:?}"));
        }
        self.answer(Place::Database, asker, call, Body::LayoutSet(stored));
    }

    /// Makes the term known; `false`: a newer one was known.
    pub(crate) fn raise_term(&mut self, term: i64) -> bool {
        let known = &mut self.database.term;
        *known = term.max(*known);
        *known == term
    }

    pub(crate) fn switch(&mut self, switching: Switching) {
        let Switching { asker, call, switch } = switching;
        let epoch = self.replaced(&switch);
        self.answer(Place::Database, asker, call, Body::Switched(epoch));
    }

    /// The new epoch; `None`, and nothing changed, if anything is not as the switch says.
    fn replaced(&mut self, switch: &Switch) -> Option<Epoch> {
        let &Switch { number, from, to, master_term: term, .. } = switch;
        let is_newest = self.raise_term(term);
        let row = &self.database.number;
        if !is_newest || row.term > term || row.shape.layout != (Layout::Switch { from, to }) {
            return None;
        }
        let owners = &self.database.owners;
        let as_seen = |(shard, seen): &(Shard, Epoch)| {
            let stored = owners.get(&(number, from, *shard));
            stored.is_some_and(|owner| !owner.retired && owner.epoch == *seen && owner.term <= term)
        };
        let retiring = |key: &ShardKey| switch.retire.iter().any(|(shard, _)| *key == (number, from, *shard));
        let arising: Vec<ShardKey> = switch.claim.iter().map(|(shard, ..)| (number, to, *shard)).collect();
        let touched = || owners.iter().filter(|(key, _)| arising.iter().any(|new| overlap(key, new)));
        if !switch.retire.iter().all(as_seen) || touched().any(|(key, owner)| !owner.retired && !retiring(key)) {
            return None;
        }
        let raised = self.mutation != Some(Mutation::SwitchWithoutFence);
        let highest = touched().map(|(key, owner)| if retiring(key) { owner.epoch.next() } else { owner.epoch }).max();
        let epoch = highest.unwrap_or_default().max(switch.above).next();
        self.note(|now| format!("{now:>9} database: {:?} retire, {:?} begin in epoch {epoch}", switch.retire, arising));
        for (shard, _) in &switch.retire {
            if let Some(owner) = self.database.owners.get_mut(&(number, from, *shard)) {
                owner.epoch = if raised { owner.epoch.next() } else { owner.epoch };
                (owner.retired, owner.term) = (true, term);
            }
        }
        for (shard, node, boot) in &switch.claim {
            let owner = Owner { epoch, node: node.clone(), boot: *boot, term, retired: false };
            self.database.owners.insert((number, to, *shard), owner);
        }
        (self.database.number.term, self.database.switches) = (term, self.database.switches + 1);
        Some(epoch)
    }
}

/// Whether two shards of the number share slots.
pub(crate) fn overlap(one: &ShardKey, other: &ShardKey) -> bool {
    let (mine, theirs) = (one.1.slots_of(one.2), other.1.slots_of(other.2));
    one.0 == other.0 && mine.start() <= theirs.end() && theirs.start() <= mine.end()
}

/// What a master makes of the answer to a switch.
pub(crate) fn switched(switch: Switch, epoch: Option<Epoch>) -> Event {
    let Switch { number, from, to, master_term: term, retire, claim, .. } = switch;
    let Some(epoch) = epoch else { return Event::NotSwitched { term, number } };
    let record = |(shard, node, boot)| Record { key: (number, to, shard), epoch, node, boot, retired: false };
    let retired = retire.into_iter().map(|(shard, _)| (number, from, shard)).collect();
    Event::Switched { term, number, retired, records: claim.into_iter().map(record).collect() }
}
