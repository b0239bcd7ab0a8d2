//! The outbox: accepted messages the upstream has not acknowledged (**I3**), sent in order (**I5**).
//!
//! A slot's messages are sent in the order of their sequence numbers; chatd guards that order. What
//! was sent and not acknowledged when a connection ends is sent again, first and in the same order,
//! on the next one; the upstream drops what it had (**I4**).

use std::collections::{HashMap, VecDeque};

use estafet_model::{Seq, Slot};
use estafet_store::MessageRow;

use super::slot_queue::{Limits, Positioned, SlotQueues};

impl Positioned for MessageRow {
    fn slot(&self) -> Slot {
        self.slot
    }
    fn seq(&self) -> Seq {
        self.seq
    }
}

/// Messages in memory: with bodies of about a kilobyte, 16 MiB for a shard.
const WINDOW: Limits = Limits { total: 16_384, per_slot: 4096 };
/// Messages sent and not acknowledged, in one shard. Covers 10,000 msg/s at 200 ms round trip.
pub const MAX_IN_FLIGHT: usize = 2048;
/// The same for one slot, so that one busy recipient leaves room for the others.
const MAX_IN_FLIGHT_PER_SLOT: usize = 256;
/// A slot's cursor is written after this many settled messages; a new owner reads at most as many
/// settled rows again.
const CURSOR_EVERY: u32 = 32;

/// The outbox of one shard.
#[derive(Debug)]
pub struct Outbox {
    queues: SlotQueues<MessageRow>,
    flights: HashMap<Slot, Flight>,
    in_flight: usize,
    /// Slots with something to send, each once.
    ready: VecDeque<Slot>,
}

/// A message under way to the upstream.
#[derive(Debug)]
struct Sent {
    message: MessageRow,
    left_ms: i64,
}

#[derive(Debug, Default)]
struct Flight {
    sent: VecDeque<Sent>,
    is_ready: bool,
    settled_since_cursor: u32,
    last_settled: Seq,
}

impl Outbox {
    /// The outbox of a shard just acquired: everything must be loaded first.
    pub fn recovering(slots: impl Iterator<Item = Slot>) -> Self {
        Self { queues: SlotQueues::recovering(WINDOW, slots), flights: HashMap::new(), in_flight: 0, ready: VecDeque::new() }
    }

    /// Takes a message that was just stored.
    pub fn accepted(&mut self, message: MessageRow) {
        let slot = message.slot;
        if self.queues.push(message) {
            self.make_ready(slot);
        }
    }

    /// Notes messages stored by a commit whose answer was lost; they will be loaded.
    pub fn stored_unseen(&mut self, slot: Slot) {
        self.queues.spill(slot);
    }

    /// The next messages to send, at most `most`; they count as in flight from now on. One that may not go holds
    /// its slot until [`Self::released`]. `now_ms` is noted as the time at which they left the queue.
    pub fn next(&mut self, most: usize, now_ms: i64, mut may_go: impl FnMut(&MessageRow) -> bool) -> Vec<MessageRow> {
        let mut batch = Vec::new();
        let mut room = most.min(MAX_IN_FLIGHT.saturating_sub(self.in_flight));
        while room > 0
            && let Some(slot) = self.ready.pop_front()
        {
            let flight = self.flights.entry(slot).or_default();
            flight.is_ready = false;
            let take = room.min(MAX_IN_FLIGHT_PER_SLOT.saturating_sub(flight.sent.len()));
            let before = batch.len();
            while batch.len() - before < take
                && self.queues.front(slot).is_some_and(&mut may_go)
                && let Some(message) = self.queues.pop(slot)
            {
                flight.sent.push_back(Sent { message: message.clone(), left_ms: now_ms });
                batch.push(message);
            }
            let taken = batch.len() - before;
            self.in_flight += taken;
            room -= taken;
            if taken == take {
                self.make_ready(slot);
                if taken == 0 {
                    break;
                }
            }
        }
        batch
    }

    /// The first message of a slot, which might not go, may go now.
    pub fn released(&mut self, slot: Slot) {
        self.make_ready(slot);
    }

    /// Whether [`Self::next`] would give anything.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty() && self.in_flight < MAX_IN_FLIGHT
    }

    /// The upstream answered for a message; gives it back if it was in flight, with the time at which it left the queue.
    pub fn settled(&mut self, slot: Slot, seq: Seq) -> Option<(MessageRow, i64)> {
        let flight = self.flights.get_mut(&slot)?;
        let at = flight.sent.iter().position(|sent| sent.message.seq == seq)?;
        let Sent { message, left_ms } = flight.sent.remove(at)?;
        self.in_flight -= 1;
        flight.settled_since_cursor += 1;
        flight.last_settled = flight.last_settled.max(seq);
        self.make_ready(slot);
        Some((message, left_ms))
    }

    /// The position below which everything of `slot` is settled, when it is time to write it.
    pub fn take_cursor(&mut self, slot: Slot) -> Option<Seq> {
        let first_open = self.flights.get(&slot)?.sent.front().map(|sent| sent.message.seq);
        let first_queued = self.queues.front(slot).map(|m| m.seq);
        let flight = self.flights.get_mut(&slot)?;
        if flight.settled_since_cursor < CURSOR_EVERY {
            return None;
        }
        flight.settled_since_cursor = 0;
        let open = [first_open, first_queued].into_iter().flatten().min();
        Some(open.map_or(flight.last_settled, |seq| Seq::new(seq.get() - 1)).min(flight.last_settled))
    }

    /// A message must go out again although the upstream took it: first in its slot.
    pub fn resend(&mut self, message: MessageRow) {
        let slot = message.slot;
        self.queues.put_back(slot, std::iter::once(message));
        self.make_ready(slot);
    }

    /// The connection is gone: everything in flight goes back to the front.
    pub fn disconnected(&mut self) {
        let mut slots: Vec<Slot> = self.flights.iter().filter(|(_, f)| !f.sent.is_empty()).map(|(s, _)| *s).collect();
        slots.sort_unstable();
        for slot in slots {
            let flight = self.flights.get_mut(&slot).expect("listed just now");
            let sent = std::mem::take(&mut flight.sent);
            self.queues.put_back(slot, sent.into_iter().map(|sent| sent.message));
            self.make_ready(slot);
        }
        self.in_flight = 0;
    }

    /// Slots to load, with the positions to load after.
    pub fn take_loads(&mut self, most: usize, rows: usize) -> Vec<(Slot, Seq)> {
        self.queues.take_loads(most, rows)
    }

    /// The answer of a load.
    pub fn loaded(&mut self, asked: &[(Slot, Seq)], rows: Vec<MessageRow>, limit: usize) {
        self.queues.loaded(asked, rows, limit);
        asked.iter().for_each(|(slot, _)| self.make_ready(*slot));
    }

    /// Messages sent that the upstream has not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Messages in memory that are not settled.
    pub fn len(&self) -> usize {
        self.queues.len() + self.in_flight
    }

    /// Whether memory holds no unsettled message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_ready(&mut self, slot: Slot) {
        if self.queues.front(slot).is_none() {
            return;
        }
        let flight = self.flights.entry(slot).or_default();
        if !flight.is_ready && flight.sent.len() < MAX_IN_FLIGHT_PER_SLOT {
            flight.is_ready = true;
            self.ready.push_back(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use estafet_model::{IdKey, WaId};

    use super::*;

    fn message(slot: u32, seq: i64) -> MessageRow {
        MessageRow {
            slot: Slot::new(slot).unwrap(),
            seq: Seq::new(seq),
            id_key: IdKey([0; 9]),
            recipient: WaId::from_u64(15_550_001_001).unwrap(),
            accepted_at_ms: 0,
            body: Bytes::new(),
        }
    }

    fn seqs(messages: &[MessageRow]) -> Vec<i64> {
        messages.iter().map(|m| m.seq.get()).collect()
    }

    #[test]
    fn what_was_in_flight_is_sent_again_first_and_in_order() {
        let mut outbox = Outbox::recovering(std::iter::empty());
        (1..=5).for_each(|n| outbox.accepted(message(1, n)));
        assert_eq!(seqs(&outbox.next(3, 0, |_| true)), [1, 2, 3]);
        assert!(outbox.settled(Slot::new(1).unwrap(), Seq::new(2)).is_some());
        outbox.disconnected();
        assert_eq!(seqs(&outbox.next(10, 0, |_| true)), [1, 3, 4, 5]);
        assert!(outbox.next(10, 0, |_| true).is_empty());
    }

    #[test]
    fn slots_take_turns_and_a_busy_one_leaves_room() {
        let mut outbox = Outbox::recovering(std::iter::empty());
        (1..=1000).for_each(|n| outbox.accepted(message(1, n)));
        outbox.accepted(message(2, 1001));
        let batch = outbox.next(5000, 0, |_| true);
        assert_eq!(batch.len(), MAX_IN_FLIGHT_PER_SLOT + 1);
        assert_eq!(batch.last().unwrap().slot.get(), 2);
        assert!(!outbox.has_ready());
        outbox.settled(Slot::new(1).unwrap(), Seq::new(1));
        assert_eq!(seqs(&outbox.next(5000, 0, |_| true)), [257]);
    }

    #[test]
    fn the_cursor_stays_below_everything_that_is_open() {
        let mut outbox = Outbox::recovering(std::iter::empty());
        let slot = Slot::new(1).unwrap();
        (1..=100).for_each(|n| outbox.accepted(message(1, n)));
        outbox.next(100, 0, |_| true);
        for n in 2..=40 {
            outbox.settled(slot, Seq::new(n));
        }
        assert_eq!(outbox.take_cursor(slot), Some(Seq::new(0)), "message 1 is open");
        for n in (1..=1).chain(41..=100) {
            outbox.settled(slot, Seq::new(n));
        }
        assert_eq!(outbox.take_cursor(slot), Some(Seq::new(100)));
        assert_eq!(outbox.take_cursor(slot), None, "nothing new");
    }

    #[test]
    fn a_message_that_may_not_go_holds_its_slot_and_no_other() {
        let mut outbox = Outbox::recovering(std::iter::empty());
        (1..=3).for_each(|n| outbox.accepted(message(1, n)));
        outbox.accepted(message(2, 4));
        assert_eq!(seqs(&outbox.next(10, 0, |m| m.seq.get() != 2)), [1, 4]);
        assert!(!outbox.has_ready());
        outbox.released(Slot::new(1).unwrap());
        assert_eq!(seqs(&outbox.next(10, 0, |_| true)), [2, 3]);
    }
}
