//! From stored columns to words of the model, the same for every back end.
//!
//! A row whose key columns are not in the model (changed by hand, F57) is logged and left out, so
//! that the rest of the queue goes on.

use std::borrow::Cow;

use bytes::Bytes;
use estafet_model::{BootId, EndpointId, Epoch, IdKey, Layout, Seq, Shard, ShardCount, Slot, StatusSet, WaId};
use uuid::Uuid;

use crate::{
    ContactRow, End, InboundRow, KeptCallback, MediaRow, MessageRow, NumberRow, OwnerRow, Queue, Role, SessionRow, StatusRow,
    StoredEvent, SubmissionKey, Times, UserRow,
};

/// Text as every back end can store it: PostgreSQL has no place for NUL.
pub(crate) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

pub(crate) fn wa_id(value: i64) -> Option<WaId> {
    WaId::from_u64(u64::try_from(value).ok()?).ok()
}

fn slot(value: i64) -> Option<Slot> {
    Slot::new(u32::try_from(value).ok()?)
}

fn checked<T>(table: &'static str, row: Option<T>) -> Option<T> {
    if row.is_none() {
        tracing::error!(table, "row with impossible values left out");
    }
    row
}

pub(crate) struct Owner<'a> {
    pub(crate) number: i64,
    pub(crate) shard: i64,
    pub(crate) count: i64,
    pub(crate) epoch: i64,
    pub(crate) owner: String,
    pub(crate) boot: &'a [u8],
    pub(crate) state: &'a str,
}

/// State of an owner row whose slots belong to shards of another count.
const RETIRED: &str = "retired";

pub(crate) fn owner(row: Owner<'_>) -> Option<OwnerRow> {
    let decode = || {
        let count = ShardCount::new(u32::try_from(row.count).ok()?)?;
        Some(OwnerRow {
            number: wa_id(row.number)?,
            shard: Shard::new(u32::try_from(row.shard).ok()?, count)?,
            count,
            epoch: epoch(row.epoch)?,
            owner: row.owner,
            boot: BootId::from_slice(row.boot)?,
            retired: row.state == RETIRED,
        })
    };
    checked("shard_owner", decode())
}

pub(crate) struct Number<'a> {
    pub(crate) number: i64,
    pub(crate) host: Option<String>,
    pub(crate) created_at_ms: i64,
    pub(crate) wanted: i64,
    pub(crate) phase: &'a str,
    pub(crate) count: i64,
    pub(crate) next: Option<i64>,
}

pub(crate) fn number(row: Number<'_>) -> Option<NumberRow> {
    let decode = || {
        let count = |value: i64| u32::try_from(value).ok();
        let next = match row.next {
            Some(next) => Some(count(next)?),
            None => None,
        };
        Some(NumberRow {
            number: wa_id(row.number)?,
            host: row.host,
            created_at_ms: row.created_at_ms,
            wanted: ShardCount::new(count(row.wanted)?)?,
            layout: Layout::read(row.phase, count(row.count)?, next)?,
        })
    };
    checked("business_number", decode())
}

pub(crate) fn epoch(value: i64) -> Option<Epoch> {
    u32::try_from(value).ok().map(Epoch::new)
}

pub(crate) fn message(at: (i64, i64), id_key: &[u8], recipient: i64, accepted_at_ms: i64, body: Vec<u8>) -> Option<MessageRow> {
    let decode = || {
        Some(MessageRow {
            slot: slot(at.0)?,
            seq: Seq::new(at.1),
            id_key: IdKey::from_slice(id_key)?,
            recipient: wa_id(recipient)?,
            accepted_at_ms,
            body: Bytes::from(body),
        })
    };
    checked("message_out", decode())
}

pub(crate) struct Status {
    pub(crate) at: (i64, i64),
    pub(crate) statuses: i64,
    pub(crate) error_code: Option<i64>,
    pub(crate) changed_at_ms: i64,
    pub(crate) times: [Option<i64>; 5],
}

pub(crate) fn status(row: Status) -> Option<StatusRow> {
    let decode = || {
        Some(StatusRow {
            slot: slot(row.at.0)?,
            seq: Seq::new(row.at.1),
            statuses: StatusSet::from_bits(u8::try_from(row.statuses).ok()?),
            error_code: row.error_code.map(u16::try_from).transpose().ok()?,
            changed_at_ms: row.changed_at_ms,
            times: Times::read(row.times),
        })
    };
    checked("message_state", decode())
}

pub(crate) struct Event {
    pub(crate) at: (i64, i64, i64),
    pub(crate) origin: Option<i64>,
    pub(crate) contact: Option<i64>,
    pub(crate) kind: String,
    pub(crate) created_at_ms: i64,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn event(row: Event) -> Option<StoredEvent> {
    let decode = || {
        let contact = match row.contact {
            Some(value) => Some(wa_id(value)?),
            None => None,
        };
        let (slot, endpoint) = (slot(row.at.0)?, EndpointId::new(u16::try_from(row.at.1).ok()?));
        Some(StoredEvent {
            slot,
            endpoint,
            seq: Seq::new(row.at.2),
            origin: row.origin.map(Seq::new),
            contact,
            kind: row.kind,
            created_at_ms: row.created_at_ms,
            body: Bytes::from(row.body),
        })
    };
    checked("callback_event", decode())
}

/// `ended_at` is of no meaning for one that waits.
pub(crate) fn callback(queue: Queue, event: Option<StoredEvent>, reason: String, ended_at: i64) -> Option<KeptCallback> {
    let end = match queue {
        Queue::Waiting => End::Open,
        Queue::Dead => End::GivenUp { reason, at_ms: ended_at },
        Queue::Delivered => End::Taken { at_ms: ended_at },
    };
    Some(KeptCallback { event: event?, end })
}

/// Of an incoming message: its sender, and when it was sent, stored and read.
pub(crate) type Inbound = (i64, i64, Option<i64>, Option<i64>);

pub(crate) fn inbound(id: String, row: Inbound) -> Option<InboundRow> {
    let (sender, sent_at_ms, stored_at_ms, read_at_ms) = row;
    let sender = wa_id(sender);
    checked("message_in", sender.map(|sender| InboundRow { id, sender, sent_at_ms, stored_at_ms, read_at_ms }))
}

pub(crate) fn session(at: i64, peer: i64, state: Vec<u8>) -> Option<SessionRow> {
    let decode = || Some(SessionRow { slot: slot(at)?, peer: wa_id(peer)?, state: Bytes::from(state) });
    checked("e2e_session", decode())
}

/// Slot, hash, fingerprint, id key and time of use, as the servers without arrays give them.
pub(crate) type KeyColumns = (i64, Vec<u8>, Vec<u8>, Vec<u8>, i64);

pub(crate) fn submission_key(at: i64, hash: &[u8], fingerprint: &[u8], id_key: &[u8], used_at_ms: i64) -> Option<SubmissionKey> {
    let decode = || {
        Some(SubmissionKey {
            slot: slot(at)?,
            hash: hash.try_into().ok()?,
            fingerprint: fingerprint.try_into().ok()?,
            id_key: IdKey::from_slice(id_key)?,
            used_at_ms,
        })
    };
    checked("submission_key", decode())
}

pub(crate) fn contact(wa: i64, on_network: bool, checked_at_ms: i64) -> Option<ContactRow> {
    checked("contact", wa_id(wa).map(|wa_id| ContactRow { wa_id, on_network, checked_at_ms }))
}

pub(crate) struct Media<'a> {
    pub(crate) id: Uuid,
    pub(crate) mime_type: String,
    pub(crate) sha256: &'a [u8],
    pub(crate) size: i64,
    pub(crate) created_at_ms: i64,
    pub(crate) used_at_ms: i64,
}

pub(crate) fn media(row: Media<'_>) -> Option<MediaRow> {
    let Media { id, mime_type, sha256, size, created_at_ms, used_at_ms } = row;
    let decode = || {
        let (sha256, size) = (sha256.try_into().ok()?, u64::try_from(size).ok()?);
        Some(MediaRow { id, mime_type, sha256, size, created_at_ms, used_at_ms })
    };
    checked("media", decode())
}

pub(crate) const fn role_text(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::User => "user",
    }
}

/// A user whose role is unknown gets the lesser one.
pub(crate) fn user(mut row: UserRow, role: &str) -> UserRow {
    row.role = if role == "admin" { Role::Admin } else { Role::User };
    row
}
