//! Requests for shards that a node is about to own.
//!
//! In a planned move the former owner sends who asks it to the next one, which may hear of that before its own order to
//! start: to turn them away would cost each a pause and another try. Only shards that a node is ready for, or is
//! starting, are waited for, and for a short time: the word to start may never come.

use std::collections::BTreeMap;

use estafet_model::{Slot, WaId};

use super::handoff::Key;

/// Requests that wait for one shard.
const REQUESTS: usize = 4096;

/// What waits, by shard and in order.
#[derive(Debug)]
pub struct Held<T> {
    by_shard: BTreeMap<Key, Vec<T>>,
}

/// Where a request came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Nothing waited for this shard: from now on time counts.
    First(Key),
    /// Others wait already.
    Behind,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { by_shard: BTreeMap::new() }
    }
}

impl<T> Held<T> {
    /// Requests for this shard may wait. Harmless if they may already.
    pub fn open(&mut self, key: Key) {
        self.by_shard.entry(key).or_default();
    }

    /// Lets a request wait; gives it back if nothing is known of its shard, or too many wait.
    pub fn push(&mut self, number: WaId, slot: Slot, request: T) -> Result<Pushed, T> {
        let covers = |(of, count, shard): &Key| *of == number && count.slots_of(*shard).contains(&slot);
        let Some((key, queue)) = self.by_shard.iter_mut().find(|(key, _)| covers(key)) else { return Err(request) };
        if queue.len() >= REQUESTS {
            return Err(request);
        }
        queue.push(request);
        Ok(if queue.len() == 1 { Pushed::First(*key) } else { Pushed::Behind })
    }

    /// Takes what waits for a shard; others may wait after it.
    pub fn give_up(&mut self, key: &Key) -> Vec<T> {
        self.by_shard.get_mut(key).map(std::mem::take).unwrap_or_default()
    }

    /// Takes what waits for a shard; nothing waits for it any more.
    pub fn close(&mut self, key: &Key) -> Vec<T> {
        self.by_shard.remove(key).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::{Shard, ShardCount};

    use super::*;

    fn number() -> WaId {
        WaId::from_u64(15_550_000_001).unwrap()
    }

    fn key(shard: u32) -> Key {
        let count = ShardCount::new(4).unwrap();
        (number(), count, Shard::new(shard, count).unwrap())
    }

    fn slot(slot: u32) -> Slot {
        Slot::new(slot).unwrap()
    }

    #[test]
    fn requests_wait_in_order_for_shards_that_are_awaited_and_for_no_others() {
        let mut held = Held::default();
        assert_eq!(held.push(number(), slot(0), 'a'), Err('a'), "nothing is known of the shard");
        held.open(key(0));
        assert_eq!(held.push(number(), slot(0), 'a'), Ok(Pushed::First(key(0))));
        held.open(key(0));
        assert_eq!(held.push(number(), slot(255), 'b'), Ok(Pushed::Behind));
        assert_eq!(held.push(number(), slot(256), 'c'), Err('c'), "another shard");
        let another = WaId::from_u64(15_550_000_002).unwrap();
        assert_eq!(held.push(another, slot(0), 'd'), Err('d'), "another number");
        assert_eq!(held.close(&key(0)), ['a', 'b']);
        assert_eq!(held.push(number(), slot(0), 'e'), Err('e'));
    }

    #[test]
    fn who_waited_in_vain_leaves_room_for_others() {
        let mut held = Held::default();
        held.open(key(1));
        for n in 0..REQUESTS {
            assert!(held.push(number(), slot(256), n).is_ok());
        }
        assert_eq!(held.push(number(), slot(256), 0), Err(0), "one too many");
        assert_eq!(held.give_up(&key(1)).len(), REQUESTS);
        assert_eq!(held.push(number(), slot(256), 7), Ok(Pushed::First(key(1))));
        assert!(held.give_up(&key(2)).is_empty());
    }
}
