//! What a batch of decisions writes: rows for one transaction. No SQL here.

use std::collections::BTreeMap;

use bytes::Bytes;
use estafet_model::{IdKey, Slot, WaId};

use crate::{
    e2e::Sealed,
    phones::{Mode, Rules},
    session::Claim,
};

/// A number's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberRow {
    pub number: WaId,
    pub static_key: [u8; 32],
    pub identity_key: Bytes,
    pub fallback_key: Bytes,
}

/// A delivery to a business, kept until it is acknowledged.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryRow {
    pub number: WaId,
    pub delivery: u64,
    pub slot: Slot,
    /// `chat::Delivery`, encoded.
    pub body: Vec<u8>,
}

/// A message for a phone, as the business sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    pub phone: WaId,
    pub number: WaId,
    pub slot: Slot,
    pub seq: i64,
    pub id_key: IdKey,
    pub sealed: Sealed,
    pub at_ms: i64,
}

/// A parcel that waits for its phone, and the handle of its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRow {
    pub row: i64,
    pub parcel: Parcel,
}

/// A message in a phone's inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    pub phone: WaId,
    pub number: WaId,
    pub id_key: IdKey,
    pub position: u64,
    pub at_ms: i64,
    /// JSON.
    pub content: String,
}

/// A message a phone sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRow {
    pub phone: WaId,
    pub number: WaId,
    pub position: u64,
    pub message_id: String,
    pub at_ms: i64,
    /// JSON.
    pub content: String,
}

/// How often a phone asked for a message again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub asked: u8,
    /// Whether the next arrival of the id goes to the phone.
    pub pending: bool,
    pub at_ms: i64,
}

/// A phone without its sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneRow {
    pub phone: WaId,
    pub name: String,
    pub mode: Mode,
    /// Stored account; empty until the phone is first used.
    pub account: Vec<u8>,
    pub received: u64,
    pub sent: u64,
}

/// Everything a batch writes.
#[derive(Debug, Default)]
pub struct Changes {
    pub numbers: Vec<NumberRow>,
    pub admissions: Vec<Claim>,
    /// Last accepted seq of a slot.
    pub last_seq: BTreeMap<(WaId, Slot), i64>,
    pub seen: Vec<(WaId, IdKey, i64)>,
    pub retries: BTreeMap<(WaId, IdKey), Retry>,
    pub deliveries: Vec<DeliveryRow>,
    pub acknowledged: Vec<(WaId, u64)>,
    pub phones: Vec<PhoneRow>,
    /// (phone, business) -> stored ratchet.
    pub ratchets: BTreeMap<(WaId, WaId), Vec<u8>>,
    /// Ratchets of these businesses are void: their identity changed.
    pub ratchets_dropped: Vec<WaId>,
    /// Ratchets of these phones are void: they have new keys, or left.
    pub phones_reset: Vec<WaId>,
    pub waiting: Vec<Parcel>,
    pub waiting_done: Vec<i64>,
    pub inbox: Vec<InboxRow>,
    pub sent: Vec<SentRow>,
    /// (phone, message id) marked as read by the business.
    pub read_marks: Vec<(WaId, String)>,
    /// (phone, business) -> when the phone last wrote.
    pub windows: BTreeMap<(WaId, WaId), i64>,
    pub rules: Option<Rules>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
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
            && self.phones_reset.is_empty()
            && self.waiting.is_empty()
            && self.waiting_done.is_empty()
            && self.inbox.is_empty()
            && self.sent.is_empty()
            && self.read_marks.is_empty()
            && self.windows.is_empty()
            && self.rules.is_none()
    }
}

/// What was stored, for a start.
#[derive(Debug, Default)]
pub struct Stored {
    pub numbers: Vec<NumberRow>,
    pub admissions: Vec<Claim>,
    pub last_seq: Vec<(WaId, Slot, i64)>,
    pub retries: Vec<(WaId, IdKey, Retry)>,
    /// Highest delivery ever given out per number.
    pub last_delivery: Vec<(WaId, u64)>,
    pub phones: Vec<PhoneRow>,
    pub ratchets: Vec<(WaId, WaId, Vec<u8>)>,
    pub waiting: Vec<(WaId, u64)>,
    pub windows: Vec<(WaId, WaId, i64)>,
    pub rules: Rules,
}
