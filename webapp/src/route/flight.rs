//! The requests under way on one stream: correlations and credits (pure).
//!
//! The coreapp grants credits; a request costs one. An answer finds its waiter by correlation;
//! answers to nothing (a stranger's, or a second one) are dropped.

use std::collections::HashMap;

use estafet_model::{Epoch, ShardMap, Slot, WaId};
use estafet_proto::v1;

/// Requests in one frame.
pub const FRAME_REQUESTS: usize = 256;
/// Bytes of message bodies in one frame; well below the 4 MiB a gRPC peer accepts.
pub const FRAME_BYTES: usize = 1 << 20;

/// Requests sent and not answered, each with a waiter `W`.
#[derive(Debug)]
pub struct Flight<W> {
    last: u64,
    credits: u64,
    pending: HashMap<u64, Entry<W>>,
}

#[derive(Debug)]
struct Entry<W> {
    number: u64,
    slot: u32,
    /// Epoch of the owner that the map named when it was sent.
    seen: Option<Epoch>,
    waiter: W,
}

impl<W> Default for Flight<W> {
    fn default() -> Self {
        Self { last: 0, credits: 0, pending: HashMap::new() }
    }
}

impl<W> Flight<W> {
    /// Adds to what the coreapp takes.
    pub fn grant(&mut self, credits: u32) {
        self.credits = self.credits.saturating_add(u64::from(credits));
    }

    /// How many more requests may go.
    pub fn credits(&self) -> usize {
        usize::try_from(self.credits).unwrap_or(usize::MAX)
    }

    /// Whether one more request may go.
    pub fn has_credit(&self) -> bool {
        self.credits > 0
    }

    /// Spends a credit and gives the request its correlation. Call only with a credit at hand. `seen` is the epoch of the
    /// owner that the map named when the way was chosen.
    pub fn depart(&mut self, request: &mut v1::Request, seen: Option<Epoch>, waiter: W) {
        debug_assert!(self.has_credit());
        self.credits = self.credits.saturating_sub(1);
        self.last += 1;
        request.correlation = self.last;
        self.pending.insert(self.last, Entry { number: request.number, slot: request.slot, seen, waiter });
    }

    /// The waiter of an answer.
    pub fn land(&mut self, correlation: u64) -> Option<W> {
        self.pending.remove(&correlation).map(|entry| entry.waiter)
    }

    /// Lets go of the requests whose slot another node than `address` owns by now, under an epoch that was not known
    /// when they were sent: one that a hint sent here stays while the map lags behind. Dropping a waiter makes its
    /// request try again there, with the same id.
    pub fn release_moved(&mut self, map: &ShardMap, address: &str) {
        self.pending.retain(|_, entry| {
            let owner =
                WaId::from_u64(entry.number).ok().zip(Slot::new(entry.slot)).and_then(|(number, slot)| map.owner(number, slot));
            owner.is_none_or(|owner| owner.address == address || Some(owner.epoch) <= entry.seen)
        });
    }
}

/// Bytes a request adds to a frame, roughly.
pub fn weight(request: &v1::Request) -> usize {
    64 + match &request.action {
        Some(v1::request::Action::Submit(submit)) => submit.body.len(),
        Some(v1::request::Action::MarkRead(mark)) => mark.message_id.len(),
        Some(v1::request::Action::CheckContacts(check)) => 10 * check.wa_ids.len(),
        Some(v1::request::Action::MoveCallbacks(moved)) => 8 * moved.seqs.len(),
        Some(
            v1::request::Action::ReadIdentity(_)
            | v1::request::Action::AcknowledgeIdentity(_)
            | v1::request::Action::CollectMedia(_),
        )
        | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::{Epoch, Owner, Shard, ShardCount};

    use super::*;

    fn request(slot: u32) -> v1::Request {
        v1::Request { correlation: 0, number: 15_550_000_001, slot, action: None }
    }

    #[test]
    fn each_request_costs_a_credit_and_each_answer_finds_its_waiter_once() {
        let mut flight = Flight::default();
        assert!(!flight.has_credit());
        flight.grant(2);
        let (mut a, mut b) = (request(1), request(2));
        flight.depart(&mut a, None, "a");
        flight.depart(&mut b, None, "b");
        assert!(!flight.has_credit());
        assert_ne!(a.correlation, b.correlation);
        assert_eq!(flight.land(b.correlation), Some("b"));
        assert_eq!((flight.land(b.correlation), flight.land(999)), (None, None));
        assert_eq!(flight.land(a.correlation), Some("a"));
    }

    #[test]
    fn requests_whose_slot_moved_are_let_go_and_the_others_stay() {
        let number = WaId::from_u64(15_550_000_001).unwrap();
        let count = ShardCount::new(2).unwrap();
        let mut map = ShardMap::default();
        for (shard, address) in [(0, "core-0"), (1, "core-1")] {
            let shard = Shard::new(shard, count).unwrap();
            map.insert(number, Owner { address: address.into(), shard, count, epoch: Epoch::new(1) });
        }
        let mut flight = Flight::default();
        flight.grant(5);
        let (mut stays, mut hinted, mut moves, mut blind) = (request(0), request(1023), request(1023), request(1023));
        flight.depart(&mut stays, Some(Epoch::new(1)), ());
        flight.depart(&mut hinted, Some(Epoch::new(1)), ());
        flight.depart(&mut moves, Some(Epoch::new(0)), ());
        flight.depart(&mut blind, None, ());
        flight.release_moved(&map, "core-0");
        assert_eq!((flight.land(moves.correlation), flight.land(blind.correlation)), (None, None));
        flight.release_moved(&map, "core-0");
        assert_eq!(flight.land(hinted.correlation), Some(()), "the map named that owner when the request was sent elsewhere");
        flight.depart(&mut hinted, Some(Epoch::new(1)), ());
        let shard = Shard::new(1, count).unwrap();
        map.insert(number, Owner { address: "core-2".into(), shard, count, epoch: Epoch::new(2) });
        flight.release_moved(&map, "core-0");
        assert_eq!((flight.land(stays.correlation), flight.land(hinted.correlation)), (Some(()), None));
    }
}
