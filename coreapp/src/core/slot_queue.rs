//! Bounded windows over rows that are stored slot by slot.
//!
//! The backlog lives in the database; memory holds, for each slot, a prefix of what is left to do.
//! A slot whose newer rows are only in the database is *spilled*; when its window runs low, the
//! rows after the last one taken are loaded. Invariant: a window never skips a row, so order in a
//! slot is kept whatever was spilled.
//!
//!     window of a slot:   [ s1 s2 s3 ] high=s3 | s4 s5 ...   (spilled: only stored)

use std::collections::{BTreeSet, HashMap, VecDeque};

use estafet_model::{Seq, Slot};

/// A row with a place in a slot.
pub trait Positioned {
    /// Its slot.
    fn slot(&self) -> Slot;
    /// Its place in the slot.
    fn seq(&self) -> Seq;
}

/// How much memory may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows in all slots together.
    pub total: usize,
    /// Rows in one slot.
    pub per_slot: usize,
}

#[derive(Debug)]
struct Window<T> {
    rows: VecDeque<T>,
    /// The last row that was ever taken into memory.
    high: Seq,
    spilled: bool,
    loading: bool,
    /// Rows were stored while a load was running; it may have missed them.
    stored_meanwhile: bool,
}

/// The windows of one kind of row.
#[derive(Debug)]
pub struct SlotQueues<T> {
    limits: Limits,
    windows: HashMap<Slot, Window<T>>,
    total: usize,
    /// Spilled slots with an empty window and no load running.
    hungry: BTreeSet<Slot>,
    /// Rows that the loads under way may bring.
    expected: usize,
}

impl<T: Positioned> SlotQueues<T> {
    /// Windows over slots that may all have rows stored by an earlier owner.
    pub fn recovering(limits: Limits, slots: impl Iterator<Item = Slot>) -> Self {
        let mut queues = Self { limits, windows: HashMap::new(), total: 0, hungry: BTreeSet::new(), expected: 0 };
        for slot in slots {
            queues.windows.insert(slot, Window::empty(true));
            queues.hungry.insert(slot);
        }
        queues
    }

    /// Changes how many rows all slots may have together; what is too much goes as it is taken.
    pub fn set_total(&mut self, total: usize) {
        self.limits.total = total;
    }

    /// Takes a row that was just stored; says whether it went into memory. A row at or below the last
    /// one taken is there already: a load saw it between its commit and this call.
    pub fn push(&mut self, row: T) -> bool {
        let slot = row.slot();
        let full = self.total >= self.limits.total;
        let window = self.windows.entry(slot).or_insert_with(|| Window::empty(false));
        if row.seq() <= window.high {
            return false;
        }
        if window.spilled || full || window.rows.len() >= self.limits.per_slot {
            self.spill(slot);
            return false;
        }
        window.high = row.seq();
        window.rows.push_back(row);
        self.total += 1;
        true
    }

    /// Notes that rows of `slot` were stored which memory does not have.
    pub fn spill(&mut self, slot: Slot) {
        let window = self.windows.entry(slot).or_insert_with(|| Window::empty(false));
        window.spilled = true;
        window.stored_meanwhile |= window.loading;
        if window.rows.is_empty() && !window.loading {
            self.hungry.insert(slot);
        }
    }

    /// The first row of a slot.
    pub fn front(&self, slot: Slot) -> Option<&T> {
        self.windows.get(&slot)?.rows.front()
    }

    /// Removes the first row of a slot.
    pub fn pop(&mut self, slot: Slot) -> Option<T> {
        let window = self.windows.get_mut(&slot)?;
        let row = window.rows.pop_front()?;
        self.total -= 1;
        if window.rows.is_empty() && window.spilled && !window.loading {
            self.hungry.insert(slot);
        }
        Some(row)
    }

    /// Puts rows back in front of a slot, in their order.
    pub fn put_back(&mut self, slot: Slot, rows: impl DoubleEndedIterator<Item = T>) {
        let window = self.windows.entry(slot).or_insert_with(|| Window::empty(false));
        for row in rows.rev() {
            window.rows.push_front(row);
            self.total += 1;
        }
        self.hungry.remove(&slot);
    }

    /// Slots to load from the database, each with the position to load after; at most `most`, each of at most
    /// `rows` rows. Each counts as being loaded until [`Self::loaded`], and its rows as being in memory.
    pub fn take_loads(&mut self, most: usize, rows: usize) -> Vec<(Slot, Seq)> {
        let room = self.limits.total.saturating_sub(self.total + self.expected).div_ceil(rows.max(1));
        let slots: Vec<Slot> = self.hungry.iter().copied().take(most.min(room)).collect();
        self.expected += slots.len() * rows;
        slots
            .into_iter()
            .map(|slot| {
                self.hungry.remove(&slot);
                let window = self.windows.get_mut(&slot).expect("hungry slots have a window");
                window.loading = true;
                window.stored_meanwhile = false;
                (slot, window.high)
            })
            .collect()
    }

    /// Takes the answer of a load: for each slot asked for, the rows after the asked position, at most `limit`.
    pub fn loaded(&mut self, asked: &[(Slot, Seq)], rows: Vec<T>, limit: usize) {
        self.expected = self.expected.saturating_sub(asked.len() * limit);
        let mut by_slot: HashMap<Slot, Vec<T>> = HashMap::new();
        for row in rows {
            by_slot.entry(row.slot()).or_default().push(row);
        }
        for (slot, _) in asked {
            self.slot_loaded(*slot, by_slot.remove(slot).unwrap_or_default(), limit);
        }
    }

    fn slot_loaded(&mut self, slot: Slot, rows: Vec<T>, limit: usize) {
        let Some(window) = self.windows.get_mut(&slot) else { return };
        window.loading = false;
        window.spilled = rows.len() >= limit || window.stored_meanwhile;
        for row in rows {
            if row.seq() > window.high {
                window.high = row.seq();
                window.rows.push_back(row);
                self.total += 1;
            }
        }
        if window.rows.is_empty() && window.spilled {
            self.hungry.insert(slot);
        }
    }

    /// Whether nothing of `slot` is in memory or only stored.
    #[cfg(test)]
    fn is_drained(&self, slot: Slot) -> bool {
        self.windows.get(&slot).is_none_or(|w| w.rows.is_empty() && !w.spilled && !w.loading)
    }

    /// While memory is empty: whether nothing waits to be loaded either.
    pub(super) fn is_exhausted(&self) -> bool {
        self.hungry.is_empty() && self.expected == 0
    }

    /// Rows in memory.
    pub(super) fn len(&self) -> usize {
        self.total
    }
}

impl<T> Window<T> {
    fn empty(spilled: bool) -> Self {
        Self { rows: VecDeque::new(), high: Seq::ZERO, spilled, loading: false, stored_meanwhile: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Row(u32, i64);

    impl Positioned for Row {
        fn slot(&self) -> Slot {
            slot(self.0)
        }
        fn seq(&self) -> Seq {
            Seq::new(self.1)
        }
    }

    fn slot(n: u32) -> Slot {
        Slot::new(n).unwrap()
    }

    const LIMITS: Limits = Limits { total: 4, per_slot: 3 };

    #[test]
    fn no_row_is_skipped_when_a_slot_spills_and_is_loaded_again() {
        let mut queues = SlotQueues::recovering(LIMITS, std::iter::empty());
        let stored: Vec<Row> = (1..=7).map(|n| Row(5, n)).collect();
        for row in &stored {
            queues.push(row.clone());
        }
        let mut seen = Vec::new();
        loop {
            while let Some(row) = queues.pop(slot(5)) {
                seen.push(row);
            }
            let loads = queues.take_loads(10, 3);
            let Some(&(_, after)) = loads.first() else { break };
            let rows = stored.iter().filter(|r| r.seq() > after).take(3).cloned().collect();
            queues.loaded(&[(slot(5), Seq::ZERO)], rows, 3);
        }
        assert_eq!(seen, stored);
        assert!(queues.is_drained(slot(5)));
    }

    #[test]
    fn a_row_stored_while_a_load_runs_is_loaded_next() {
        let mut queues = SlotQueues::<Row>::recovering(LIMITS, [slot(1)].into_iter());
        assert_eq!(queues.take_loads(10, 3), [(slot(1), Seq::ZERO)]);
        assert!(!queues.push(Row(1, 9)), "the load may or may not see it");
        queues.loaded(&[(slot(1), Seq::ZERO)], vec![], 3);
        assert_eq!(queues.take_loads(10, 3), [(slot(1), Seq::ZERO)]);
        queues.loaded(&[(slot(1), Seq::ZERO)], vec![Row(1, 9)], 3);
        assert_eq!(queues.pop(slot(1)), Some(Row(1, 9)));
        assert!(queues.is_drained(slot(1)));
    }

    #[test]
    fn a_row_that_a_load_saw_before_its_commit_was_told_is_taken_once() {
        let mut queues = SlotQueues::<Row>::recovering(LIMITS, [slot(1)].into_iter());
        queues.take_loads(10, 3);
        queues.loaded(&[(slot(1), Seq::ZERO)], vec![Row(1, 4), Row(1, 5)], 3);
        assert!(!queues.push(Row(1, 5)));
        assert!(queues.push(Row(1, 6)));
        let taken: Vec<i64> = std::iter::from_fn(|| queues.pop(slot(1))).map(|row| row.1).collect();
        assert_eq!(taken, [4, 5, 6]);
    }

    #[test]
    fn rows_that_loads_under_way_bring_count_as_in_memory() {
        let mut queues = SlotQueues::<Row>::recovering(LIMITS, (0..10).map(slot));
        assert_eq!(queues.take_loads(10, 3), [(slot(0), Seq::ZERO), (slot(1), Seq::ZERO)]);
        assert_eq!(queues.take_loads(10, 3), [], "six rows are under way where four have room");
        queues.loaded(&[(slot(0), Seq::ZERO)], vec![], 3);
        assert_eq!(queues.take_loads(10, 3), [(slot(2), Seq::ZERO)]);
    }

    #[test]
    fn memory_stays_within_its_limits() {
        let mut queues = SlotQueues::recovering(LIMITS, std::iter::empty());
        for n in 0..100 {
            queues.push(Row(n % 10, i64::from(n) + 1));
        }
        assert_eq!(queues.len(), 4);
        assert!(queues.take_loads(100, 3).is_empty(), "no load while memory is full");
    }
}
