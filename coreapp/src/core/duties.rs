//! What a node makes of its masters' orders, and what it tells them of itself.
//!
//! An epoch that was started here is never started again, because its sequence numbers are used (**I3**), and
//! orders of an older term than was seen are ignored. What ended by itself is told in every report: a stream may
//! break with any of them. A crash forgets all of it, and the next process has another boot.

use std::collections::{BTreeMap, VecDeque};

use estafet_model::Epoch;
use estafet_store::Fence;

use super::handoff::{Key, Standbys, Target};

/// Endings, and handoffs, told again and again.
const ENDINGS: usize = 512;

/// The duties of one process.
#[derive(Debug, Default)]
pub struct Duties {
    draining: bool,
    /// Highest term of an order.
    term: i64,
    /// Highest epoch of each shard that was ever started here.
    started: BTreeMap<Key, Epoch>,
    /// Ordered and not yet running.
    starting: Vec<Fence>,
    endings: VecDeque<(Fence, u64)>,
    standbys: Standbys,
    handed: VecDeque<(Fence, Target)>,
}

impl Duties {
    /// Wants to give everything away from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether it does.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether an order of this term is to be obeyed.
    pub fn heeds(&mut self, term: i64) -> bool {
        self.term = self.term.max(term);
        term == self.term
    }

    /// Notes the epoch as started, unless it or a later one was before.
    pub fn may_start(&mut self, fence: Fence) -> bool {
        let started = self.started.entry(key(&fence)).or_default();
        if fence.epoch <= *started {
            return false;
        }
        *started = fence.epoch;
        self.standbys.remove(&key(&fence));
        self.starting.push(fence);
        true
    }

    /// The start of an ownership came to an end: it runs, or [`Self::ended`] follows.
    pub fn started(&mut self, fence: &Fence) {
        self.starting.retain(|starting| starting != fence);
    }

    /// An ownership ended; `above` is the highest epoch seen anywhere, 0 for none.
    pub fn ended(&mut self, fence: Fence, above: u64) {
        if self.endings.len() == ENDINGS {
            self.endings.pop_front();
        }
        self.endings.push_back((fence, above));
    }

    /// A shard was handed off; `fence` is the next owner's.
    pub fn handed_off(&mut self, fence: Fence, target: Target) {
        if self.handed.len() == ENDINGS {
            self.handed.pop_front();
        }
        self.handed.push_back((fence, target));
    }

    /// What was handed off lately, and to whom.
    pub fn handed(&self) -> impl Iterator<Item = &(Fence, Target)> {
        self.handed.iter()
    }

    /// What it is, or gets, ready for.
    pub fn standbys(&mut self) -> &mut Standbys {
        &mut self.standbys
    }

    /// What a report says is held, given what runs, and whether it is active: the newest ownership of each shard,
    /// since an older one may still be ending.
    pub fn holdings(&self, running: &[Fence]) -> Vec<(Fence, bool)> {
        let starting = self.starting.iter().filter(|fence| !running.contains(fence)).map(|fence| (*fence, false));
        let mut newest: BTreeMap<Key, (Fence, bool)> = BTreeMap::new();
        for (fence, active) in running.iter().map(|fence| (*fence, true)).chain(starting) {
            let known = newest.entry(key(&fence)).or_insert((fence, active));
            if known.0.epoch < fence.epoch {
                *known = (fence, active);
            }
        }
        newest.into_values().collect()
    }

    /// What ended lately, with the highest epoch seen anywhere.
    pub fn endings(&self) -> impl Iterator<Item = &(Fence, u64)> {
        self.endings.iter()
    }
}

/// The running ownerships that a newer one of the same slots is known to have fenced.
pub fn outdated<'a>(running: &'a [Fence], newer: &'a Fence) -> impl Iterator<Item = &'a Fence> {
    running.iter().filter(|old| old.number == newer.number && overlap(old, newer))
}

/// Whether two ownerships of a number share slots.
pub(crate) fn overlap(one: &Fence, other: &Fence) -> bool {
    one.count.overlap(one.shard, (other.count, other.shard))
}

fn key(fence: &Fence) -> Key {
    (fence.number, fence.count, fence.shard)
}

#[cfg(test)]
mod tests {
    use estafet_model::{Shard, ShardCount, WaId};

    use super::*;

    fn fence(shard: u32, epoch: u32) -> Fence {
        let count = ShardCount::new(4).unwrap();
        let number = WaId::from_u64(15_550_000_001).unwrap();
        Fence { number, shard: Shard::new(shard, count).unwrap(), count, epoch: Epoch::new(epoch) }
    }

    #[test]
    fn an_epoch_is_started_once() {
        let mut duties = Duties::default();
        assert!(duties.may_start(fence(1, 3)));
        duties.started(&fence(1, 3));
        duties.ended(fence(1, 3), 0);
        assert!(!duties.may_start(fence(1, 3)) && !duties.may_start(fence(1, 2)));
        assert!(duties.may_start(fence(1, 4)) && duties.may_start(fence(2, 1)));
    }

    #[test]
    fn an_order_of_a_former_leader_is_ignored() {
        let mut duties = Duties::default();
        assert!(duties.heeds(7) && duties.heeds(7) && duties.heeds(9));
        assert!(!duties.heeds(7));
    }

    #[test]
    fn the_newest_ownership_of_a_shard_is_reported() {
        let mut duties = Duties::default();
        assert!(duties.may_start(fence(0, 5)));
        assert_eq!(duties.holdings(&[fence(0, 4), fence(1, 1)]), [(fence(0, 5), false), (fence(1, 1), true)]);
        assert_eq!(duties.holdings(&[fence(0, 5), fence(0, 4)]), [(fence(0, 5), true)]);
    }
}
