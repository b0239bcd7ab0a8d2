//! What an ownership on the wire is in the words of the model, for every role that writes or reads one.
//!
//! Whether an epoch that no owner can have is refused or taken for the highest is up to the reader: a coreapp does
//! nothing for it, a master must not forget the node that says it.

use estafet_model::{Epoch, Shard, ShardCount, WaId};

use crate::v1::Ownership;

/// A shard of a number, in the order of the key of its row.
pub type ShardKey = (WaId, ShardCount, Shard);

impl Ownership {
    /// As it travels.
    pub fn new((number, count, shard): ShardKey, epoch: Epoch) -> Self {
        Self { number: number.as_u64(), shard: shard.get().into(), shard_count: count.get().into(), epoch: epoch.get().into() }
    }

    /// Whose it is; `None` if there is no such shard.
    pub fn key(&self) -> Option<ShardKey> {
        let count = ShardCount::new(self.shard_count)?;
        Some((WaId::from_u64(self.number).ok()?, count, Shard::new(self.shard, count)?))
    }

    /// The same with its epoch; `None` also if there is no such epoch.
    pub fn read(&self) -> Option<(ShardKey, Epoch)> {
        Some((self.key()?, Epoch::new(u32::try_from(self.epoch).ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ownership_survives_the_wire_and_nonsense_is_refused() {
        let wire = Ownership { number: 15_550_000_001, shard: 3, shard_count: 4, epoch: 9 };
        assert_eq!(wire.read().map(|(key, epoch)| Ownership::new(key, epoch)), Some(wire));
        for (shard, shard_count, number) in [(4, 4, 15_550_000_001), (0, 3, 15_550_000_001), (0, 4, 0)] {
            let wire = Ownership { number, shard, shard_count, epoch: 1 };
            assert_eq!((wire.key(), wire.read()), (None, None));
        }
        let beyond = Ownership { epoch: u64::MAX, ..wire };
        assert_eq!((beyond.key(), beyond.read()), (wire.key(), None));
    }
}
