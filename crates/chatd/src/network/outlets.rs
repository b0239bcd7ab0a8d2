//! Deliveries on their way to the businesses' connections.
//!
//! Every delivery is stored until it is acknowledged; an outlet holds only a window of them. It sends in the
//! order of the delivery ids, at most [`WINDOW`] unacknowledged at a time. What does not fit in memory is left
//! in the database and loaded when there is room: the outlet is then `behind`, and takes nothing new directly,
//! so that the order holds. A new outlet begins behind, from the first delivery: that is the redelivery.

use std::collections::{BTreeMap, HashSet, VecDeque};

use estafet_model::WaId;
use estafet_proto::chat::Delivery;
use prost::Message as _;

use crate::session::{Claim, ConnId};

/// Unacknowledged deliveries in flight per connection.
const WINDOW: usize = 1024;

/// Deliveries an outlet holds in memory beyond those in flight.
const READY: usize = 4096;

/// Most deliveries and bytes of one frame (which may have 1 MiB).
const FRAME_DELIVERIES: usize = 256;
const FRAME_BYTES: usize = 512 * 1024;

/// A wish to load stored deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refill {
    /// For whom.
    pub conn: ConnId,
    /// Of which number.
    pub number: WaId,
    /// First and last slot.
    pub slots: (u16, u16),
    /// Deliveries above this one.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
}

#[derive(Debug)]
struct Outlet {
    number: WaId,
    slots: (u16, u16),
    /// The last delivery that was ready or sent.
    reached: u64,
    in_flight: HashSet<u64>,
    ready: VecDeque<Delivery>,
    /// The database holds deliveries above `reached` that are not in `ready`.
    is_behind: bool,
}

/// The outlets of all current connections.
#[derive(Debug, Default)]
pub(super) struct Outlets {
    open: BTreeMap<ConnId, Outlet>,
}

impl Outlets {
    pub(super) fn open(&mut self, conn: ConnId, claim: &Claim) {
        let slots = claim.count.slots_of(claim.shard);
        let outlet = Outlet {
            number: claim.number,
            slots: (slots.start().get(), slots.end().get()),
            reached: 0,
            in_flight: HashSet::new(),
            ready: VecDeque::new(),
            is_behind: true,
        };
        self.open.insert(conn, outlet);
    }

    pub(super) fn close(&mut self, conn: ConnId) {
        self.open.remove(&conn);
    }

    /// A new delivery for a connection.
    pub(super) fn offer(&mut self, conn: ConnId, delivery: Delivery) {
        let Some(outlet) = self.open.get_mut(&conn) else { return };
        if outlet.is_behind || outlet.ready.len() >= READY {
            outlet.is_behind = true;
        } else {
            outlet.reached = delivery.delivery;
            outlet.ready.push_back(delivery);
        }
    }

    /// Whether the delivery was in flight there.
    pub(super) fn acknowledge(&mut self, conn: ConnId, delivery: u64) -> bool {
        self.open.get_mut(&conn).is_some_and(|outlet| outlet.in_flight.remove(&delivery))
    }

    pub(super) fn refills(&self) -> Vec<Refill> {
        let wants = |outlet: &Outlet| outlet.is_behind && outlet.ready.len() < WINDOW && outlet.in_flight.len() < WINDOW;
        let refill = |(conn, outlet): (&ConnId, &Outlet)| Refill {
            conn: *conn,
            number: outlet.number,
            slots: outlet.slots,
            after: outlet.reached,
            limit: WINDOW,
        };
        self.open.iter().filter(|(_, outlet)| wants(outlet)).map(refill).collect()
    }

    /// Takes the answer to a refill; `complete` says that the database holds no more.
    pub(super) fn loaded(&mut self, conn: ConnId, deliveries: Vec<Delivery>, complete: bool) {
        let Some(outlet) = self.open.get_mut(&conn) else { return };
        if let Some(last) = deliveries.last() {
            outlet.reached = last.delivery;
        }
        outlet.ready.extend(deliveries);
        outlet.is_behind = !complete;
    }

    /// Takes what the windows allow, as the contents of frames.
    pub(super) fn pump(&mut self) -> Vec<(ConnId, Vec<Delivery>)> {
        let mut frames = Vec::new();
        for (conn, outlet) in &mut self.open {
            let (mut frame, mut bytes) = (Vec::new(), 0);
            while outlet.in_flight.len() < WINDOW {
                let Some(delivery) = outlet.ready.pop_front() else { break };
                let size = delivery.encoded_len();
                if frame.len() >= FRAME_DELIVERIES || (bytes + size > FRAME_BYTES && !frame.is_empty()) {
                    frames.push((*conn, std::mem::take(&mut frame)));
                    bytes = 0;
                }
                bytes += size;
                outlet.in_flight.insert(delivery.delivery);
                frame.push(delivery);
            }
            if !frame.is_empty() {
                frames.push((*conn, frame));
            }
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::{BootId, Shard, ShardCount};

    use super::*;

    fn outlets() -> Outlets {
        let (shard, count) = (Shard::ZERO, ShardCount::ONE);
        let number = WaId::from_u64(15_550_000_001).unwrap();
        let claim = Claim { number, shard, count, epoch: 1, boot: BootId([0; 16]), holder: String::new() };
        let mut outlets = Outlets::default();
        outlets.open(ConnId(1), &claim);
        outlets
    }

    fn delivery(delivery: u64) -> Delivery {
        Delivery { delivery, item: None }
    }

    /// Everything goes out once, in order and within the window, whatever mix of memory and database it came through.
    #[test]
    fn a_slow_business_gets_everything_in_order_within_the_window() {
        let mut outlets = outlets();
        let mut stored: Vec<u64> = (1..=50).collect();
        let (mut sent, mut unacknowledged) = (Vec::new(), VecDeque::new());
        for next in 51..=20_000u64 {
            stored.push(next);
            outlets.offer(ConnId(1), delivery(next));
            if next % 7 == 0 {
                for refill in outlets.refills() {
                    let loaded: Vec<_> =
                        stored.iter().filter(|id| **id > refill.after).take(refill.limit).map(|id| delivery(*id)).collect();
                    let complete = loaded.len() < refill.limit;
                    outlets.loaded(ConnId(1), loaded, complete);
                }
                for (_, frame) in outlets.pump() {
                    assert!(frame.len() <= FRAME_DELIVERIES);
                    sent.extend(frame.iter().map(|delivery| delivery.delivery));
                    unacknowledged.extend(frame.iter().map(|delivery| delivery.delivery));
                }
                assert!(unacknowledged.len() <= WINDOW && outlets.open[&ConnId(1)].ready.len() <= READY + WINDOW);
                // Slow at first, then fast.
                for id in unacknowledged.drain(..unacknowledged.len().min(if next < 10_000 { 2 } else { 40 })) {
                    assert!(outlets.acknowledge(ConnId(1), id) && !outlets.acknowledge(ConnId(1), id));
                    stored.retain(|stored| *stored != id);
                }
            }
        }
        assert!(sent.len() > 19_000);
        assert!(sent.iter().zip(1..).all(|(sent, expected)| *sent == expected));
    }
}
