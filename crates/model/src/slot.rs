//! Slots and shards (design.md §5, reliability.md §7.2).
//!
//! A recipient belongs to one of 1,024 fixed slots for ever; rows are keyed by slot, so a
//! change of the shard count moves no data. A shard is a prefix of the slot: when the count
//! doubles, shard i splits exactly into 2i and 2i+1.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use crate::{Epoch, WaId};

/// Number of slots; protocol, never changes.
pub const SLOTS: u16 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 10;

/// The slot of a recipient: the top 10 bits of xxHash64 (seed 0) of the `wa_id` digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(u16);

impl Slot {
    /// The lowest slot.
    pub const FIRST: Self = Self(0);
    /// The highest slot.
    pub const LAST: Self = Self(SLOTS - 1);

    /// The slot of `wa_id`.
    pub fn of(wa_id: WaId) -> Self {
        let mut digits = [0u8; 20];
        let text = format_digits(wa_id.as_u64(), &mut digits);
        Self((xxh64(text, 0) >> (u64::BITS - SLOT_BITS)) as u16)
    }

    /// Takes a slot number from the wire or the database.
    pub fn new(value: u32) -> Option<Self> {
        u16::try_from(value).ok().filter(|v| *v < SLOTS).map(Self)
    }

    /// The slot number, 0..1024.
    pub const fn get(self) -> u16 {
        self.0
    }
}

fn format_digits(mut value: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &buffer[at..];
        }
    }
}

/// How many shards a number has: a power of two, 1 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardCount(u16);

impl ShardCount {
    /// A single shard.
    pub const ONE: Self = Self(1);

    /// Checks that `value` is a power of two from 1 to 256.
    pub fn new(value: u32) -> Option<Self> {
        (value.is_power_of_two() && value <= 256).then_some(Self(value as u16))
    }

    /// The count.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// All shards of this count.
    pub fn shards(self) -> impl Iterator<Item = Shard> {
        (0..self.0).map(Shard)
    }

    /// The shard `slot` belongs to: `slot >> (10 - log2(count))`.
    pub fn shard_of(self, slot: Slot) -> Shard {
        Shard(slot.0 >> self.shift())
    }

    /// The slots of `shard`.
    pub fn slots_of(self, shard: Shard) -> RangeInclusive<Slot> {
        let first = shard.0 << self.shift();
        Slot(first)..=Slot(first + ((1 << self.shift()) - 1))
    }

    /// Whether `shard` of this count and `other`, a shard of `count`, share slots: one of them is a part of the other.
    pub fn overlap(self, shard: Shard, (count, other): (Self, Shard)) -> bool {
        let (mine, theirs) = (self.slots_of(shard), count.slots_of(other));
        mine.start() <= theirs.end() && theirs.start() <= mine.end()
    }

    fn shift(self) -> u32 {
        SLOT_BITS - self.0.trailing_zeros()
    }
}

/// One slice of a number's recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shard(u16);

impl Shard {
    /// The first shard.
    pub const ZERO: Self = Self(0);

    /// Checks that `value` is a shard of `count`.
    pub fn new(value: u32, count: ShardCount) -> Option<Self> {
        (value < u32::from(count.0)).then_some(Self(value as u16))
    }

    /// The shard number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who owns a range of slots, as the master pushes it to the webapps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Where the owner's data service listens; in one process, the name of the node.
    pub address: String,
    /// Shard and count the range stands for.
    pub shard: Shard,
    /// The count `shard` belongs to.
    pub count: ShardCount,
    /// Epoch of the ownership.
    pub epoch: Epoch,
}

/// Who owns which slots of which number. Entries are slot ranges, so shard counts may be
/// mixed while a number is resharded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMap {
    /// Grows with every change.
    pub version: u64,
    /// (number, first slot) -> (last slot, owner).
    ranges: BTreeMap<(WaId, Slot), (Slot, Owner)>,
}

impl ShardMap {
    /// Adds or replaces the entry of a shard; entries it overlaps are removed.
    pub fn insert(&mut self, number: WaId, owner: Owner) {
        let slots = owner.count.slots_of(owner.shard);
        let (first, last) = slots.into_inner();
        self.ranges.retain(|&(n, f), &mut (l, _)| n != number || l < first || f > last);
        self.ranges.insert((number, first), (last, owner));
        self.version += 1;
    }

    /// Takes what is newer than everything it overlaps; says whether it was. Epochs of a slot only grow, whatever
    /// the shard count, so maps that learn the same entries end equal in whatever order these come, and a shard
    /// that was split or merged never comes back.
    pub fn learn(&mut self, number: WaId, owner: Owner) -> bool {
        let slots = owner.count.slots_of(owner.shard);
        let overlapping =
            self.ranges.range((number, Slot(0))..=(number, *slots.end())).filter(|(_, (last, _))| last >= slots.start());
        let newer = overlapping.map(|(_, (_, known))| known.epoch).max().is_none_or(|known| known < owner.epoch);
        if newer {
            self.insert(number, owner);
        }
        newer
    }

    /// Removes the entry that covers `slot`.
    pub fn remove(&mut self, number: WaId, slot: Slot) {
        self.ranges.retain(|&(n, f), &mut (l, _)| n != number || slot < f || slot > l);
        self.version += 1;
    }

    /// The owner of a slot.
    pub fn owner(&self, number: WaId, slot: Slot) -> Option<&Owner> {
        let (_, (last, owner)) = self.ranges.range((number, Slot(0))..=(number, slot)).next_back()?;
        (slot <= *last).then_some(owner)
    }

    /// All owners of a number, by slot.
    pub fn owners(&self, number: WaId) -> impl Iterator<Item = &Owner> {
        self.ranges.range((number, Slot(0))..=(number, Slot(SLOTS - 1))).map(|(_, (_, owner))| owner)
    }

    /// Every entry of every number.
    pub fn iter(&self) -> impl Iterator<Item = (WaId, &Owner)> {
        self.ranges.iter().map(|((number, _), (_, owner))| (*number, owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        wa_id: WaId,
        slot: u16,
    }

    #[test]
    fn slots_follow_the_published_vectors() {
        let file: Vectors = serde_json::from_str(include_str!("../../../proto/vectors/slots.json")).unwrap();
        assert!(file.vectors.len() >= 10);
        for vector in file.vectors {
            assert_eq!(Slot::of(vector.wa_id).get(), vector.slot, "{}", vector.wa_id);
        }
    }

    #[test]
    fn doubling_the_count_splits_each_shard_in_two() {
        for bits in 0..8 {
            let count = ShardCount::new(1 << bits).unwrap();
            let double = ShardCount::new(2 << bits).unwrap();
            for slot in (0..u32::from(SLOTS)).map(|s| Slot::new(s).unwrap()) {
                assert_eq!(double.shard_of(slot).get() / 2, count.shard_of(slot).get());
                assert!(count.slots_of(count.shard_of(slot)).contains(&slot));
            }
        }
        assert!(ShardCount::new(3).is_none() && ShardCount::new(512).is_none() && ShardCount::new(0).is_none());
    }

    #[test]
    fn shards_overlap_when_they_share_a_slot() {
        let counts = [1, 2, 4, 8].map(|count| ShardCount::new(count).unwrap());
        let all = || counts.iter().flat_map(|count| count.shards().map(move |shard| (*count, shard)));
        for (count, shard) in all() {
            for other in all() {
                let mut slots = (0..u32::from(SLOTS)).map(|s| Slot::new(s).unwrap());
                let shared = slots.any(|slot| [count.shard_of(slot), other.0.shard_of(slot)] == [shard, other.1]);
                assert_eq!(count.overlap(shard, other), shared, "{shard} of {count:?} and {other:?}");
            }
        }
    }

    #[test]
    fn the_newer_epoch_of_a_slot_wins_whatever_the_count_and_the_order() {
        let number = WaId::from_u64(15_550_000_001).unwrap();
        let owner = |shard, count, epoch| {
            let count = ShardCount::new(count).unwrap();
            Owner {
                address: format!("{shard}/{count:?}/{epoch}"),
                shard: Shard::new(shard, count).unwrap(),
                count,
                epoch: Epoch::new(epoch),
            }
        };
        // One shard, split, one half failed over, split again, merged.
        let history =
            [owner(0, 1, 3), owner(0, 2, 5), owner(1, 2, 5), owner(1, 2, 6), owner(2, 4, 8), owner(3, 4, 8), owner(1, 2, 10)];
        let expected = [&history[1], &history[6]];
        for rotation in 0..history.len() {
            for reversed in [false, true] {
                let mut news: Vec<&Owner> = history.iter().cycle().skip(rotation).take(history.len()).collect();
                if reversed {
                    news.reverse();
                }
                let mut map = ShardMap::default();
                for owner in news {
                    map.learn(number, owner.clone());
                }
                assert_eq!(map.owners(number).collect::<Vec<_>>(), expected, "from {rotation}, reversed {reversed}");
                assert!(!history.iter().any(|owner| map.learn(number, owner.clone())), "nothing is new any more");
            }
        }
    }

    #[test]
    fn the_map_holds_mixed_counts_and_replaces_what_overlaps() {
        let number = WaId::from_u64(15_550_000_001).unwrap();
        let owner = |shard, count| {
            let count = ShardCount::new(count).unwrap();
            Owner { address: format!("{shard}/{count:?}"), shard: Shard::new(shard, count).unwrap(), count, epoch: Epoch::new(1) }
        };
        let slot = |s| Slot::new(s).unwrap();
        let mut map = ShardMap::default();
        map.insert(number, owner(0, 1));
        map.insert(number, owner(1, 2));
        assert_eq!(map.owner(number, slot(0)), None, "the parent overlaps its child and is gone");
        map.insert(number, owner(0, 4));
        map.insert(number, owner(1, 4));
        assert_eq!(map.owner(number, slot(255)), Some(&owner(0, 4)));
        assert_eq!(map.owner(number, slot(256)), Some(&owner(1, 4)));
        assert_eq!(map.owner(number, slot(1023)), Some(&owner(1, 2)));
        assert_eq!(map.owner(WaId::from_u64(15_550_000_002).unwrap(), slot(0)), None);
        assert_eq!(map.owners(number).count(), 3);
    }
}
