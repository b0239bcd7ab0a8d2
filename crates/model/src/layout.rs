//! How a number is cut into shards, also while that changes (reliability.md §7.3).
//!
//! A count changes by one power of two at a time: each shard splits in two, or two neighbours become one. A
//! [`Group`] is one such piece, and it changes alone. The layout of a number is a row of the message database;
//! whoever leads next goes on from it.

use serde::{Deserialize, Serialize};

use crate::{Shard, ShardCount};

/// The shards of a number now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// Every shard is one of this count.
    Stable(ShardCount),
    /// The next count is decided; nothing has changed, and it may be called off.
    Prepare {
        /// What is.
        from: ShardCount,
        /// What comes: the double or the half.
        to: ShardCount,
    },
    /// Group by group, shards of `from` are replaced by shards of `to`. There is no way back.
    Switch {
        /// What was.
        from: ShardCount,
        /// What comes.
        to: ShardCount,
    },
}

/// Shards that are replaced by others of the same slots, at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Shards of the old count.
    pub retiring: Vec<Shard>,
    /// Shards of the new one.
    pub arising: Vec<Shard>,
}

impl Layout {
    /// Reads what is stored: the phase, the count, and the next count if there is one.
    pub fn read(phase: &str, count: u32, next: Option<u32>) -> Option<Self> {
        let from = ShardCount::new(count)?;
        let to = || ShardCount::new(next?).filter(|to| from.towards(*to) == Some(*to));
        match phase {
            "stable" => Some(Self::Stable(from)),
            "prepare" => Some(Self::Prepare { from, to: to()? }),
            "switch" => Some(Self::Switch { from, to: to()? }),
            _ => None,
        }
    }

    /// The phase, as it is stored.
    pub fn phase(self) -> &'static str {
        match self {
            Self::Stable(_) => "stable",
            Self::Prepare { .. } => "prepare",
            Self::Switch { .. } => "switch",
        }
    }

    /// The count that is, or was before the switch.
    pub fn count(self) -> ShardCount {
        match self {
            Self::Stable(count) | Self::Prepare { from: count, .. } | Self::Switch { from: count, .. } => count,
        }
    }

    /// The count that comes.
    pub fn next(self) -> Option<ShardCount> {
        match self {
            Self::Stable(_) => None,
            Self::Prepare { to, .. } | Self::Switch { to, .. } => Some(to),
        }
    }

    /// The layout after this one, on the way to `wanted`; `None` if it is there. A switch goes only forward, all
    /// groups must have changed before its successor is stored.
    pub fn after(self, wanted: ShardCount) -> Option<Self> {
        match self {
            Self::Stable(from) => from.towards(wanted).map(|to| Self::Prepare { from, to }),
            Self::Prepare { from, to } if from.towards(wanted) == Some(to) => Some(Self::Switch { from, to }),
            Self::Prepare { from, .. } => Some(Self::Stable(from)),
            Self::Switch { to, .. } => Some(Self::Stable(to)),
        }
    }
}

impl ShardCount {
    /// The count one power of two nearer to `wanted`; `None` if this is it.
    pub fn towards(self, wanted: Self) -> Option<Self> {
        match self.cmp(&wanted) {
            std::cmp::Ordering::Less => Self::new(u32::from(self.get()) * 2),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Self::new(u32::from(self.get()) / 2),
        }
    }

    /// The pieces in which this count changes to `to`, by slot.
    pub fn groups(self, to: Self) -> impl Iterator<Item = Group> {
        let coarse = self.min(to);
        coarse.shards().map(move |shard| {
            let slots = coarse.slots_of(shard);
            let within = |count: Self| count.shards().filter(|s| slots.contains(count.slots_of(*s).start())).collect();
            Group { retiring: within(self), arising: within(to) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(value: u32) -> ShardCount {
        ShardCount::new(value).unwrap()
    }

    #[test]
    fn counts_go_through_the_powers_and_every_step_comes_back_from_the_row() {
        let (mut layout, mut seen) = (Layout::Stable(count(1)), Vec::new());
        for wanted in [8, 4] {
            while let Some(next) = layout.after(count(wanted)) {
                let stored = Layout::read(next.phase(), next.count().get().into(), next.next().map(|next| u32::from(next.get())));
                assert_eq!(stored, Some(next));
                layout = next;
                seen.push((layout.phase(), layout.count().get()));
            }
        }
        let expected = [("prepare", 1), ("switch", 1), ("stable", 2), ("prepare", 2), ("switch", 2), ("stable", 4)];
        assert_eq!(seen[..6], expected);
        assert_eq!(seen[6..], [("prepare", 4), ("switch", 4), ("stable", 8), ("prepare", 8), ("switch", 8), ("stable", 4)]);
    }

    #[test]
    fn what_was_prepared_is_called_off_but_a_switch_goes_forward() {
        let (from, to) = (count(4), count(8));
        assert_eq!(Layout::Prepare { from, to }.after(from), Some(Layout::Stable(from)));
        assert_eq!(Layout::Prepare { from, to }.after(count(2)), Some(Layout::Stable(from)));
        assert_eq!(Layout::Switch { from, to }.after(from), Some(Layout::Stable(to)));
    }

    #[test]
    fn rows_that_make_no_sense_are_none() {
        for (phase, from, to) in
            [("stable", 3, None), ("prepare", 4, None), ("switch", 4, Some(16)), ("switch", 4, Some(4)), ("x", 1, None)]
        {
            assert_eq!(Layout::read(phase, from, to), None, "{phase} {from} {to:?}");
        }
    }

    #[test]
    fn groups_cover_every_shard_once() {
        for (from, to) in [(1, 2), (4, 8), (8, 4), (2, 1), (128, 256), (256, 128)] {
            let (from, to) = (count(from), count(to));
            let groups: Vec<Group> = from.groups(to).collect();
            assert!(groups.iter().flat_map(|group| group.retiring.clone()).eq(from.shards()));
            assert!(groups.iter().flat_map(|group| group.arising.clone()).eq(to.shards()));
            assert!(groups.iter().all(|group| group.retiring.len() + group.arising.len() == 3));
        }
    }
}
