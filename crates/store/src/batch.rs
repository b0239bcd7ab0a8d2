//! What the owner of a shard writes: one [`Batch`] is one fenced transaction.

use bytes::Bytes;
use estafet_model::{EndpointId, IdKey, Seq, Slot, Status, StatusSet, WaId};

use crate::SubmissionKey;

/// Everything one transaction writes. Each list becomes one statement (or a few) on every back end.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Accepted messages; those whose `id_key` is already stored are ignored.
    pub messages: Vec<NewMessage>,
    /// Statuses, as the owner decided them (absolute values; replaces the row).
    pub statuses: Vec<StatusRow>,
    /// Slots below whose position every message is settled; only ever moves up.
    pub outbox_cursors: Vec<(Slot, Seq)>,
    /// End-to-end sessions, replaced.
    pub sessions: Vec<SessionRow>,
    /// Keys that callers gave the messages, replaced; some old ones in the same slots are removed.
    pub keys: Vec<SubmissionKey>,
    /// Incoming messages; those whose id is already stored are ignored.
    pub inbound: Vec<NewInbound>,
    /// Incoming messages that the business has read, by id.
    pub inbound_read: Vec<String>,
    /// Callback events; those whose position is already stored are ignored.
    pub events: Vec<NewEvent>,
    /// Callback events that are done, removed.
    pub events_done: Vec<EventRef>,
    /// Callback events that are done and kept for a while: moved to the delivered ones.
    pub events_kept: Vec<Delivered>,
    /// Callback events given up: moved to the dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// Dead letters that are to be tried again, as new events.
    pub requeued: Vec<Requeued>,
    /// Delivered callbacks that are to be posted again, as new events; they stay where they are.
    pub replayed: Vec<Requeued>,
    /// Dead letters that nobody wants any more, removed.
    pub letters_dropped: Vec<EventRef>,
    /// Messages that are removed with their statuses: by `pass_through` once settled, or because they are over.
    pub forgotten_messages: Vec<(Slot, Seq)>,
    /// Incoming messages that are removed, by id.
    pub forgotten_inbound: Vec<String>,
}

impl Batch {
    /// Number of rows it writes.
    pub fn rows(&self) -> usize {
        self.messages.len()
            + self.statuses.len()
            + self.outbox_cursors.len()
            + self.sessions.len()
            + self.inbound.len()
            + self.inbound_read.len()
            + self.events.len()
            + self.events_done.len()
            + self.events_kept.len()
            + self.dead_letters.len()
            + self.keys.len()
            + self.requeued.len()
            + self.replayed.len()
            + self.letters_dropped.len()
            + self.forgotten_messages.len()
            + self.forgotten_inbound.len()
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }
}

/// An accepted message.
#[derive(Clone, Debug)]
pub struct NewMessage {
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

/// The statuses of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRow {
    /// Slot of the message.
    pub slot: Slot,
    /// Position of the message.
    pub seq: Seq,
    /// Statuses reached.
    pub statuses: StatusSet,
    /// Code of the failure, if it failed.
    pub error_code: Option<u16>,
    /// When the last status was reached, milliseconds since 1970.
    pub changed_at_ms: i64,
    /// When what happened. Times that are stored already stay.
    pub times: Times,
}

/// When what happened to a message, milliseconds since 1970, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// It left the queue for the network.
    pub left: Option<i64>,
    /// The network took it.
    pub sent: Option<i64>,
    /// A phone had it.
    pub delivered: Option<i64>,
    /// A person saw it.
    pub seen: Option<i64>,
    /// It failed.
    pub failed: Option<i64>,
}

impl Times {
    /// Only this status, reached at this time.
    pub fn of(status: Status, at_ms: i64) -> Self {
        let at = Some(at_ms);
        match status {
            Status::Sent => Self { sent: at, ..Self::default() },
            Status::Delivered => Self { delivered: at, ..Self::default() },
            Status::Read => Self { seen: at, ..Self::default() },
            Status::Failed => Self { failed: at, ..Self::default() },
            Status::Warning => Self::default(),
        }
    }

    /// These, and what only `later` knows.
    #[must_use]
    pub fn or(self, later: Self) -> Self {
        Self {
            left: self.left.or(later.left),
            sent: self.sent.or(later.sent),
            delivered: self.delivered.or(later.delivered),
            seen: self.seen.or(later.seen),
            failed: self.failed.or(later.failed),
        }
    }

    /// In the order of the columns.
    pub(crate) fn columns(&self) -> [Option<i64>; 5] {
        [self.left, self.sent, self.delivered, self.seen, self.failed]
    }

    pub(crate) fn read([left, sent, delivered, seen, failed]: [Option<i64>; 5]) -> Self {
        Self { left, sent, delivered, seen, failed }
    }
}

/// The end-to-end state with one peer, opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Slot of the peer.
    pub slot: Slot,
    /// The peer.
    pub peer: WaId,
    /// Pickled state.
    pub state: Bytes,
}

/// An incoming message.
#[derive(Clone, Debug)]
pub struct NewInbound {
    /// Slot of the sender.
    pub slot: Slot,
    /// Id in text form, unique for the number.
    pub id: String,
    /// The user who wrote it.
    pub sender: WaId,
    /// Profile name the sender had, if known.
    pub profile_name: String,
    /// When the network took it, milliseconds since 1970.
    pub sent_at_ms: i64,
    /// When it came here, milliseconds since 1970.
    pub stored_at_ms: i64,
    /// Canonical JSON of the message.
    pub body: Bytes,
}

/// A callback event, rendered once.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Slot of the contact.
    pub slot: Slot,
    /// The receiver it is for.
    pub endpoint: EndpointId,
    /// Position in the slot.
    pub seq: Seq,
    /// The contact whose lane it waits in; `None` for events of the number itself.
    pub contact: Option<WaId>,
    /// Kind, for metrics: `status_change`, `inbound_message`, `error`.
    pub kind: &'static str,
    /// When it happened, milliseconds since 1970.
    pub created_at_ms: i64,
    /// The body to POST.
    pub body: Bytes,
}

/// The position of an event. Those of one slot and receiver are posted in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventRef {
    /// Slot of the contact.
    pub slot: Slot,
    /// The receiver it is for.
    pub endpoint: EndpointId,
    /// Position in the slot.
    pub seq: Seq,
}

/// An event that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Which one.
    pub event: EventRef,
    /// Why, for people.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
}

/// An event that its receiver took.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    /// Which one.
    pub event: EventRef,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
}

/// A dead letter or a delivered callback that becomes an event again.
#[derive(Clone, Copy, Debug)]
pub struct Requeued {
    /// Which one; nothing happens if there is none such.
    pub letter: EventRef,
    /// Position of the new event in the same slot.
    pub seq: Seq,
    /// When, milliseconds since 1970: the event's age counts from here.
    pub at_ms: i64,
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Indices into `Batch::messages` of those that were stored before under the same id.
    pub duplicate_messages: Vec<usize>,
}
