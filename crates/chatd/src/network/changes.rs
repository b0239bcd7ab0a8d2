//! What a batch of decisions writes: rows for one transaction. No SQL here.

use std::collections::BTreeMap;

use bytes::Bytes;
use estafet_model::{IdKey, Slot, WaId};

use crate::{e2e::Sealed, phones::Mode, session::Claim};

/// A number's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NumberRow {
    pub(crate) number: WaId,
    pub(crate) static_key: [u8; 32],
    pub(crate) identity_key: Bytes,
    pub(crate) fallback_key: Bytes,
}

/// A delivery to a business, kept until it is acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeliveryRow {
    pub(crate) number: WaId,
    pub(crate) delivery: u64,
    pub(crate) slot: Slot,
    /// `chat::Delivery`, encoded.
    pub(crate) body: Vec<u8>,
}

/// A message for a phone, as the business sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    pub(crate) phone: WaId,
    pub(crate) number: WaId,
    pub(crate) slot: Slot,
    pub(crate) seq: i64,
    pub(crate) id_key: IdKey,
    pub(crate) sealed: Sealed,
    pub(crate) at_ms: i64,
}

/// A parcel that waits for its phone, and the handle of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WaitingRow {
    pub(crate) row: i64,
    pub(crate) parcel: Parcel,
}

/// A message in a phone's inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InboxRow {
    pub(crate) phone: WaId,
    pub(crate) number: WaId,
    pub(crate) id_key: IdKey,
    pub(crate) position: u64,
    pub(crate) at_ms: i64,
    /// JSON.
    pub(crate) content: String,
}

/// A message a phone sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SentRow {
    pub(crate) phone: WaId,
    pub(crate) number: WaId,
    pub(crate) position: u64,
    pub(crate) message_id: String,
    pub(crate) at_ms: i64,
    /// JSON.
    pub(crate) content: String,
}

/// How often a phone asked for a message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) asked: u8,
    /// Whether the next arrival of the id goes to the phone.
    pub(crate) pending: bool,
    pub(crate) at_ms: i64,
}

/// A phone without its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PhoneRow {
    pub(crate) phone: WaId,
    pub(crate) name: String,
    pub(crate) mode: Mode,
    /// Stored account; empty until the phone is first used.
    pub(crate) account: Vec<u8>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// Everything a batch writes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) numbers: Vec<NumberRow>,
    pub(crate) admissions: Vec<Claim>,
    /// Last accepted seq of a slot.
    pub(crate) last_seq: BTreeMap<(WaId, Slot), i64>,
    pub(crate) seen: Vec<(WaId, IdKey, i64)>,
    pub(crate) retries: BTreeMap<(WaId, IdKey), Retry>,
    pub(crate) deliveries: Vec<DeliveryRow>,
    pub(crate) acknowledged: Vec<(WaId, u64)>,
    pub(crate) phones: Vec<PhoneRow>,
    /// (phone, business) -> stored ratchet.
    pub(crate) ratchets: BTreeMap<(WaId, WaId), Vec<u8>>,
    /// Ratchets of these businesses are void: their identity changed.
    pub(crate) ratchets_dropped: Vec<WaId>,
    pub(crate) waiting: Vec<Parcel>,
    pub(crate) waiting_done: Vec<i64>,
    pub(crate) inbox: Vec<InboxRow>,
    pub(crate) sent: Vec<SentRow>,
    /// (phone, message id) marked as read by the business.
    pub(crate) read_marks: Vec<(WaId, String)>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
            && self.admissions.is_empty()
            && self.last_seq.is_empty()
            && self.seen.is_empty()
            && self.retries.is_empty()
            && self.deliveries.is_empty()
            && self.acknowledged.is_empty()
            && self.phones.is_empty()
            && self.ratchets.is_empty()
            && self.ratchets_dropped.is_empty()
            && self.waiting.is_empty()
            && self.waiting_done.is_empty()
            && self.inbox.is_empty()
            && self.sent.is_empty()
            && self.read_marks.is_empty()
    }
}

/// What was stored, for a start.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) numbers: Vec<NumberRow>,
    pub(crate) admissions: Vec<Claim>,
    pub(crate) last_seq: Vec<(WaId, Slot, i64)>,
    pub(crate) retries: Vec<(WaId, IdKey, Retry)>,
    /// Highest delivery ever given out per number.
    pub(crate) last_delivery: Vec<(WaId, u64)>,
    pub(crate) phones: Vec<PhoneRow>,
    pub(crate) ratchets: Vec<(WaId, WaId, Vec<u8>)>,
    pub(crate) waiting: Vec<(WaId, u64)>,
}
