//! What an owner reads back: outbox, events, states, sessions.
//!
//! Single rows are looked up by a list (see [`super::commit`]). Ranges are not: a join cannot use the
//! position in an index, and would read all a slot ever had. So each slot is a SELECT of its own with the
//! position as a parameter, [`SLOTS`] of them in one statement.

use std::{collections::HashMap, fmt::Write, ops::RangeInclusive, sync::LazyLock};

use estafet_model::{EndpointId, IdKey, Seq, Slot, WaId};
use sqlx::{FromRow, MySql, mysql::MySqlArguments, mysql::MySqlRow, query::QueryAs};

use super::{
    commit::{packed_rows, places, positions, rows, texts},
    connections::{Connections, answered},
};
use crate::{
    InboundRow, MessageRow, OwnerRow, Result, SessionRow, StatusRow, StoredEvent, columns, decode,
    packed::{Packed, json},
};

/// Slots in one statement. Those left over ask for [`NO_SLOT`], so that the text is always the same.
const SLOTS: usize = 32;
const NO_SLOT: i32 = -1;

/// What is not settled; a scalar sub-select, because nothing turns that into a join.
macro_rules! unsettled {
    () => {
        "FROM message_out m WHERE m.number = ? AND m.slot = ? AND m.seq > ? AND COALESCE((SELECT s.statuses FROM message_state s
           WHERE s.number = m.number AND s.slot = m.slot AND s.seq = m.seq), 0) = 0"
    };
}

static OUTBOX: LazyLock<String> = LazyLock::new(|| {
    of_each_slot(concat!(
        "SELECT m.slot, m.seq, m.id_key, m.recipient, m.accepted_at, m.body ",
        unsettled!(),
        " ORDER BY m.number, m.slot, m.seq LIMIT ?"
    ))
});
static EVENTS: LazyLock<String> = LazyLock::new(|| {
    of_each_slot(
        "SELECT e.slot, e.endpoint, e.seq, e.origin, e.contact, e.kind, e.created_at, e.body FROM callback_event e
         WHERE e.number = ? AND e.slot = ? AND e.seq > ? AND e.endpoint = ? ORDER BY e.number, e.slot, e.endpoint, e.seq LIMIT ?",
    )
});
static UNSETTLED: LazyLock<String> = LazyLock::new(|| of_each_slot(concat!("SELECT COUNT(*) ", unsettled!())));

fn of_each_slot(select: &str) -> String {
    let mut sql = format!("({select})");
    for _ in 1..SLOTS {
        write!(sql, " UNION ALL ({select})").expect("a string takes any text");
    }
    sql
}

#[derive(FromRow)]
struct Message {
    slot: i64,
    seq: i64,
    id_key: Vec<u8>,
    recipient: i64,
    accepted_at: i64,
    body: Vec<u8>,
}

fn decoded(rows: Vec<Message>) -> Vec<MessageRow> {
    rows.into_iter().filter_map(|m| decode::message((m.slot, m.seq), &m.id_key, m.recipient, m.accepted_at, m.body)).collect()
}

/// Runs one of the statements above for all slots; `rest` are the parameters after the position.
async fn each_slot<R>(
    reader: &Connections,
    sql: &'static str,
    number: WaId,
    after: &[(Slot, Seq)],
    rest: &[i64],
) -> Result<Vec<R>>
where
    R: for<'r> FromRow<'r, MySqlRow> + Send + Unpin,
{
    let mut rows = Vec::new();
    let mut session = reader.session().await?;
    for part in after.chunks(SLOTS) {
        let mut query: QueryAs<'_, MySql, R, MySqlArguments> = sqlx::query_as(sql);
        for i in 0..SLOTS {
            let (slot, seq) = part.get(i).map_or((NO_SLOT, 0), |(slot, seq)| (i32::from(slot.get()), seq.get()));
            query = query.bind(number.as_i64()).bind(slot).bind(seq);
            for value in rest {
                query = query.bind(*value);
            }
        }
        rows.append(&mut answered(query.fetch_all(&mut *session)).await?);
    }
    session.keep();
    Ok(rows)
}

/// Where each slot's outbox begins, if that is later than `after`.
async fn from_cursors(reader: &Connections, number: WaId, after: &[(Slot, Seq)]) -> Result<Vec<(Slot, Seq)>> {
    let slots = after.iter().map(|(slot, _)| i32::from(slot.get()));
    let (Some(first), Some(last)) = (slots.clone().min(), slots.max()) else { return Ok(Vec::new()) };
    let sql = "SELECT slot, seq FROM outbox_cursor WHERE number = ? AND slot BETWEEN ? AND ?";
    let rows: Vec<(i64, i64)> = reader.rows(sqlx::query_as(sql).bind(number.as_i64()).bind(first).bind(last)).await?;
    let cursors: HashMap<i64, i64> = rows.into_iter().collect();
    let cursor = |slot: Slot| cursors.get(&i64::from(slot.get())).map_or(Seq::new(0), |&seq| Seq::new(seq));
    Ok(after.iter().map(|&(slot, seq)| (slot, seq.max(cursor(slot)))).collect())
}

/// An incoming message: its id, sender, and when it was sent, stored and read.
type Inbound = (Vec<u8>, i64, i64, Option<i64>, Option<i64>);

/// An owner row, in the order of the columns.
type Owner = (i64, i64, i64, i64, String, Vec<u8>, String);

pub(super) async fn owners(reader: &Connections) -> Result<Vec<OwnerRow>> {
    let sql = "SELECT number, shard, shard_count, epoch, owner_id, owner_boot, state FROM shard_owner ORDER BY number, shard_count, shard";
    let rows: Vec<Owner> = reader.rows(sqlx::query_as(sql)).await?;
    let decoded = rows.into_iter().filter_map(|(number, shard, count, epoch, owner, boot, state)| {
        decode::owner(decode::Owner { number, shard, count, epoch, owner, boot: &boot, state: &state })
    });
    Ok(decoded.collect())
}

pub(super) async fn outbox(reader: &Connections, number: WaId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<MessageRow>> {
    if after.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let after = from_cursors(reader, number, after).await?;
    let mut rows = decoded(each_slot(reader, &OUTBOX, number, &after, &[i64::from(limit)]).await?);
    rows.sort_by_key(|m| (m.slot, m.seq));
    Ok(rows)
}

pub(super) async fn messages(reader: &Connections, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<MessageRow>> {
    if at.is_empty() {
        return Ok(Vec::new());
    }
    let sql = concat!(
        "SELECT m.slot, m.seq, m.id_key, m.recipient, m.accepted_at, m.body FROM ",
        places!(),
        " STRAIGHT_JOIN message_out m ON m.number = ? AND m.slot = w.slot AND m.seq = w.seq"
    );
    Ok(decoded(reader.rows(sqlx::query_as(sql).bind(positions(at)).bind(number.as_i64())).await?))
}

pub(super) async fn message_of(reader: &Connections, number: WaId, key: IdKey) -> Result<Option<MessageRow>> {
    let sql = "SELECT slot, seq, id_key, recipient, accepted_at, body FROM message_out WHERE id_key = ? AND number = ?";
    Ok(decoded(reader.rows(sqlx::query_as(sql).bind(key.0.to_vec()).bind(number.as_i64())).await?).pop())
}

pub(super) async fn statuses(reader: &Connections, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<StatusRow>> {
    if at.is_empty() {
        return Ok(Vec::new());
    }
    let sql = concat!(
        "SELECT s.slot, s.seq, s.statuses, s.error_code, s.changed_at, s.left_at, s.sent_at, s.delivered_at, s.seen_at, s.failed_at FROM ",
        places!(),
        " STRAIGHT_JOIN message_state s ON s.number = ? AND s.slot = w.slot AND s.seq = w.seq"
    );
    let rows: Vec<columns::State> = reader.rows(sqlx::query_as(sql).bind(positions(at)).bind(number.as_i64())).await?;
    Ok(rows.into_iter().filter_map(|row| decode::status(row.into())).collect())
}

pub(super) async fn events(
    reader: &Connections,
    number: WaId,
    endpoint: EndpointId,
    after: &[(Slot, Seq)],
    limit: u32,
) -> Result<Vec<StoredEvent>> {
    if after.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let rest = [i64::from(endpoint.get()), i64::from(limit)];
    let rows: Vec<columns::Event> = each_slot(reader, &EVENTS, number, after, &rest).await?;
    let mut events: Vec<StoredEvent> = rows.into_iter().filter_map(|row| decode::event(row.into())).collect();
    events.sort_by_key(|e| (e.slot, e.seq));
    Ok(events)
}

pub(super) async fn backlog(reader: &Connections, number: WaId, slots: RangeInclusive<Slot>) -> Result<(u64, u64)> {
    let sql = "SELECT COUNT(*) FROM callback_event WHERE number = ? AND slot BETWEEN ? AND ?";
    let events = sqlx::query_as(sql).bind(number.as_i64()).bind(slots.start().get()).bind(slots.end().get());
    let events: Vec<(i64,)> = reader.rows(events).await?;
    let all: Vec<(Slot, Seq)> =
        (slots.start().get()..=slots.end().get()).filter_map(|s| Some((Slot::new(u32::from(s))?, Seq::new(0)))).collect();
    let from = from_cursors(reader, number, &all).await?;
    let messages: Vec<(i64,)> = each_slot(reader, &UNSETTLED, number, &from, &[]).await?;
    let sum = |counts: Vec<(i64,)>| counts.into_iter().map(|(count,)| count.unsigned_abs()).sum();
    Ok((sum(events), sum(messages)))
}

pub(super) async fn tables(reader: &Connections, number: WaId) -> Result<(i64, i64, i64, i64, i64)> {
    let sql = "SELECT (SELECT COUNT(*) FROM contact WHERE number = ? AND on_network),
           (SELECT COUNT(*) FROM contact WHERE number = ? AND NOT on_network),
           (SELECT COUNT(*) FROM message_out WHERE number = ?), (SELECT COUNT(*) FROM message_in WHERE number = ?),
           (SELECT COUNT(*) FROM message_state WHERE number = ?)";
    let query = sqlx::query_as(sql).bind(number.as_i64()).bind(number.as_i64()).bind(number.as_i64());
    let rows: Vec<(i64, i64, i64, i64, i64)> = reader.rows(query.bind(number.as_i64()).bind(number.as_i64())).await?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

pub(super) async fn inbound(reader: &Connections, number: WaId, ids: &[String]) -> Result<Vec<InboundRow>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut packed = Packed::new();
    let rows = texts(&mut packed, ids);
    let sql = concat!(
        "SELECT m.id, m.sender, m.sent_at, m.stored_at, m.read_at FROM ",
        packed_rows!("start BIGINT PATH '$[0]', length BIGINT PATH '$[1]'"),
        " STRAIGHT_JOIN message_in m ON m.number = ? AND m.id = SUBSTRING(p.packed, w.start, w.length)"
    );
    let query = sqlx::query_as(sql).bind(packed.into_bytes()).bind(rows).bind(number.as_i64());
    let rows: Vec<Inbound> = reader.rows(query).await?;
    let decoded = |(id, sender, sent, stored, read)| decode::inbound(text(id), (sender, sent, stored, read));
    Ok(rows.into_iter().filter_map(decoded).collect())
}

pub(super) async fn sessions(reader: &Connections, number: WaId, peers: &[WaId]) -> Result<Vec<SessionRow>> {
    if peers.is_empty() {
        return Ok(Vec::new());
    }
    let sql = concat!(
        "SELECT s.slot, s.peer, s.state FROM ",
        rows!("peer BIGINT PATH '$[0]'"),
        " STRAIGHT_JOIN e2e_session s ON s.number = ? AND s.peer = w.peer"
    );
    let peers = json(peers.iter().map(|peer| [peer.as_i64()]));
    let rows: Vec<(i64, i64, Vec<u8>)> = reader.rows(sqlx::query_as(sql).bind(peers).bind(number.as_i64())).await?;
    Ok(rows.into_iter().filter_map(|(slot, peer, state)| decode::session(slot, peer, state)).collect())
}

/// Text that is a key is stored as bytes.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
