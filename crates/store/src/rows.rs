//! What the store gives back.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
};

use bytes::Bytes;
use estafet_model::{BootId, EndpointId, Epoch, IdKey, Layout, Seq, Shard, ShardCount, Slot, WaId};
use serde::{Deserialize, Serialize};

use crate::EventRef;

/// Who holds a number or a data directory; shown to the one who is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the node.
    pub node: String,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Since when, milliseconds since 1970.
    pub since_ms: i64,
    /// Where its API answers, if it has one.
    pub base_url: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {} on {})", self.node, self.pid, self.host)
    }
}

/// One row of `shard_owner`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRow {
    /// Business number.
    pub number: WaId,
    /// Shard of `count`.
    pub shard: Shard,
    /// Shard count.
    pub count: ShardCount,
    /// Current epoch.
    pub epoch: Epoch,
    /// Node that owns it.
    pub owner: String,
    /// Start of that node's process.
    pub boot: BootId,
    /// Whether shards of another count took its slots over; nobody owns it any more.
    pub retired: bool,
}

/// A number of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberRow {
    /// The business number.
    pub number: WaId,
    /// Name under which requests for it come, in lower case.
    pub host: Option<String>,
    /// When it was added, milliseconds since 1970.
    pub created_at_ms: i64,
    /// The shard count somebody asked for last.
    pub wanted: ShardCount,
    /// Its shards now.
    pub layout: Layout,
}

impl NumberRow {
    /// A number that begins with `count` shards.
    pub fn new(number: WaId, count: ShardCount, host: Option<String>, created_at_ms: i64) -> Self {
        Self { number, host, created_at_ms, wanted: count, layout: Layout::Stable(count) }
    }

    /// Whether the shard count is what was asked for, and stays.
    pub fn is_settled(&self) -> bool {
        self.layout == Layout::Stable(self.wanted)
    }
}

/// An outgoing message as the sender needs it.
#[derive(Clone, Debug)]
pub struct MessageRow {
    /// Slot of the recipient.
    pub slot: Slot,
    /// Position in the slot.
    pub seq: Seq,
    /// Unique key of the id.
    pub id_key: IdKey,
    /// The user it is for.
    pub recipient: WaId,
    /// Wall clock at acceptance, milliseconds since 1970.
    pub accepted_at_ms: i64,
    /// Canonical JSON of the message.
    pub body: Bytes,
}

/// A stored callback event.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Slot of the contact.
    pub slot: Slot,
    /// The receiver it is for.
    pub endpoint: EndpointId,
    /// Position in the slot.
    pub seq: Seq,
    /// Position it had at first, if it is posted again: what receivers know it by.
    pub origin: Option<Seq>,
    /// The contact, `None` for events of the number itself.
    pub contact: Option<WaId>,
    /// Kind, for metrics.
    pub kind: String,
    /// When it happened, milliseconds since 1970.
    pub created_at_ms: i64,
    /// The body to POST.
    pub body: Bytes,
}

impl StoredEvent {
    /// Its position.
    pub fn at(&self) -> EventRef {
        EventRef { slot: self.slot, endpoint: self.endpoint, seq: self.seq }
    }
}

/// Which callbacks are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Those that wait for their receiver.
    Waiting,
    /// Those that were given up.
    Dead,
    /// Those that were taken, and are kept for a while.
    Delivered,
}

/// A page of callbacks: those that fit, by slot, receiver and position, after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Slots.
    pub slots: RangeInclusive<Slot>,
    /// The position the page begins after.
    pub after: EventRef,
    /// When they happened, milliseconds since 1970.
    pub created_ms: Range<i64>,
    /// Only those of this contact.
    pub contact: Option<WaId>,
    /// Only those for this receiver.
    pub endpoint: Option<EndpointId>,
    /// Longest page.
    pub limit: u32,
}

/// A callback of one of the queues.
#[derive(Clone, Debug)]
pub struct KeptCallback {
    /// The event.
    pub event: StoredEvent,
    /// What became of it.
    pub end: End,
}

/// What became of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing yet: it waits.
    Open,
    /// It was given up.
    GivenUp {
        /// Why, for people.
        reason: String,
        /// When, milliseconds since 1970.
        at_ms: i64,
    },
    /// Its receiver took it.
    Taken {
        /// When, milliseconds since 1970.
        at_ms: i64,
    },
}

/// An incoming message, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRow {
    /// Id in text form.
    pub id: String,
    /// The user who wrote it.
    pub sender: WaId,
    /// When the network took it, milliseconds since 1970.
    pub sent_at_ms: i64,
    /// When it came here; not known of old ones.
    pub stored_at_ms: Option<i64>,
    /// When the business had read it, if it has.
    pub read_at_ms: Option<i64>,
}

impl InboundRow {
    /// Whether the business has read it.
    pub fn is_read(&self) -> bool {
        self.read_at_ms.is_some()
    }
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Everything.
    Admin,
    /// Messaging.
    User,
}

/// An account of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// Name, unique for the number.
    pub username: String,
    /// Role.
    pub role: Role,
    /// Argon2id hash in PHC form.
    pub password_hash: String,
    /// Whether the password is the initial one and must be changed at the next login.
    pub must_change: bool,
    /// Tokens issued at or before this moment are void, milliseconds since 1970.
    pub tokens_valid_after_ms: i64,
    /// Distinguishes two accounts of the same name, one deleted: tokens carry it.
    pub generation: i64,
}

/// A token revoked on its own (`auth.logout_scope = token`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedToken {
    /// Random id of the token.
    pub id: String,
    /// When it would have expired, milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// Change counters of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// Users and revoked tokens.
    pub users: u64,
    /// Application settings.
    pub settings: u64,
}

/// The first bytes of a SHA-256.
pub type Digest = [u8; 16];

/// How long a key stands for its message, milliseconds.
pub const KEY_LIFE_MS: i64 = 24 * 3600 * 1000;

/// Old keys removed for each that is written, at most: so that they are fewer in the end.
pub(crate) const KEYS_FORGOTTEN: i64 = 4;

/// A key that a caller gave a send, and the message it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmissionKey {
    /// Slot of the recipient.
    pub slot: Slot,
    /// Of key and recipient.
    pub hash: Digest,
    /// Of the request, to tell another one under the same key.
    pub fingerprint: Digest,
    /// Unique key of the message's id.
    pub id_key: IdKey,
    /// When the message was accepted, milliseconds since 1970.
    pub used_at_ms: i64,
}

/// How large a table is, or all of them together (`all`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// Its name.
    pub table: String,
    /// Rows; an estimate of the server, if it makes one.
    pub rows: Option<u64>,
    /// Bytes with the indexes, where they are known of a single table.
    pub bytes: Option<u64>,
}

/// How much the database holds for a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Contacts the network knows.
    pub contacts: u64,
    /// Contacts it does not know.
    pub strangers: u64,
    /// Outgoing messages.
    pub outgoing: u64,
    /// Incoming messages.
    pub incoming: u64,
    /// Outgoing messages with a status.
    pub receipts: u64,
    /// Callbacks that are not done.
    pub pending_callbacks: u64,
    /// Outgoing messages the upstream has not settled.
    pub pending_messages: u64,
}

impl Counts {
    /// From the rows of the tables in the order of the first five members, and callbacks and messages that wait.
    pub(crate) fn new(tables: (i64, i64, i64, i64, i64), (pending_callbacks, pending_messages): (u64, u64)) -> Self {
        let (contacts, strangers, outgoing, incoming, receipts) = tables;
        Self {
            contacts: contacts.unsigned_abs(),
            strangers: strangers.unsigned_abs(),
            outgoing: outgoing.unsigned_abs(),
            incoming: incoming.unsigned_abs(),
            receipts: receipts.unsigned_abs(),
            pending_callbacks,
            pending_messages,
        }
    }
}

/// What is known of a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactRow {
    /// The user.
    pub wa_id: WaId,
    /// Whether the network knows the user.
    pub on_network: bool,
    /// When that was looked up, milliseconds since 1970.
    pub checked_at_ms: i64,
}
