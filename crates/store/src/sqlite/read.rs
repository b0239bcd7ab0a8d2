//! What an owner reads back: outbox, events, states, sessions. One statement each.

use std::ops::RangeInclusive;

use estafet_model::{EndpointId, IdKey, Seq, Slot, WaId};
use sqlx::{FromRow, SqlitePool};

use super::commit::positions;
use crate::{
    InboundRow, MessageRow, OwnerRow, SessionRow, StatusRow, StoredEvent, columns,
    decode::{self, storable},
    packed::json,
};

type Db<T> = Result<T, sqlx::Error>;

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

/// An incoming message: its id, sender, and when it was sent, stored and read.
type Inbound = (String, i64, i64, Option<i64>, Option<i64>);

/// An owner row, in the order of the columns.
type Owner = (i64, i64, i64, i64, String, Vec<u8>, String);

pub(super) async fn owners(reader: &SqlitePool) -> Db<Vec<OwnerRow>> {
    let rows: Vec<Owner> = sqlx::query_as(
        "SELECT number, shard, shard_count, epoch, owner_id, owner_boot, state FROM shard_owner ORDER BY number, shard_count, shard",
    )
    .fetch_all(reader)
    .await?;
    let decoded = rows.into_iter().filter_map(|(number, shard, count, epoch, owner, boot, state)| {
        decode::owner(decode::Owner { number, shard, count, epoch, owner, boot: &boot, state: &state })
    });
    Ok(decoded.collect())
}

/// SQLite has no lateral joins: `last` is the position of the slot's `limit`-th row, if it has so many.
pub(super) async fn outbox(reader: &SqlitePool, number: WaId, after: &[(Slot, Seq)], limit: u32) -> Db<Vec<MessageRow>> {
    if after.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as(
        "WITH start (slot, seq) AS MATERIALIZED (
           SELECT w.value->>0, max(w.value->>1, coalesce(c.seq, 0)) FROM json_each(?2) w
           LEFT JOIN outbox_cursor c ON c.number = ?1 AND c.slot = w.value->>0
         ), span (slot, seq, last) AS MATERIALIZED (
           SELECT slot, seq, (
             SELECT m.seq FROM message_out m WHERE m.number = ?1 AND m.slot = start.slot AND m.seq > start.seq
               AND NOT EXISTS (SELECT 1 FROM message_state s
                 WHERE s.number = ?1 AND s.slot = m.slot AND s.seq = m.seq AND s.statuses <> 0)
             ORDER BY m.seq LIMIT 1 OFFSET ?3 - 1)
           FROM start
         )
         SELECT m.slot, m.seq, m.id_key, m.recipient, m.accepted_at, m.body
         FROM span CROSS JOIN message_out m
           ON m.number = ?1 AND m.slot = span.slot AND m.seq > span.seq AND m.seq <= coalesce(span.last, 9223372036854775807)
         WHERE NOT EXISTS (SELECT 1 FROM message_state s
           WHERE s.number = ?1 AND s.slot = m.slot AND s.seq = m.seq AND s.statuses <> 0)
         ORDER BY m.slot, m.seq",
    )
    .bind(number.as_i64())
    .bind(positions(after))
    .bind(i64::from(limit))
    .fetch_all(reader)
    .await?;
    Ok(decoded(rows))
}

pub(super) async fn messages(reader: &SqlitePool, number: WaId, at: &[(Slot, Seq)]) -> Db<Vec<MessageRow>> {
    if at.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as(
        "SELECT m.slot, m.seq, m.id_key, m.recipient, m.accepted_at, m.body FROM json_each(?2) w
         CROSS JOIN message_out m ON m.number = ?1 AND m.slot = w.value->>0 AND m.seq = w.value->>1",
    )
    .bind(number.as_i64())
    .bind(positions(at))
    .fetch_all(reader)
    .await?;
    Ok(decoded(rows))
}

pub(super) async fn message_of(reader: &SqlitePool, number: WaId, key: IdKey) -> Db<Option<MessageRow>> {
    let rows = sqlx::query_as(
        "SELECT slot, seq, id_key, recipient, accepted_at, body FROM message_out WHERE id_key = ?1 AND number = ?2",
    )
    .bind(key.0.to_vec())
    .bind(number.as_i64())
    .fetch_all(reader)
    .await?;
    Ok(decoded(rows).pop())
}

pub(super) async fn statuses(reader: &SqlitePool, number: WaId, at: &[(Slot, Seq)]) -> Db<Vec<StatusRow>> {
    if at.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<columns::State> = sqlx::query_as(
        "SELECT s.slot, s.seq, s.statuses, s.error_code, s.changed_at, s.left_at, s.sent_at, s.delivered_at, s.seen_at,
           s.failed_at FROM json_each(?2) w
         CROSS JOIN message_state s ON s.number = ?1 AND s.slot = w.value->>0 AND s.seq = w.value->>1",
    )
    .bind(number.as_i64())
    .bind(positions(at))
    .fetch_all(reader)
    .await?;
    Ok(rows.into_iter().filter_map(|row| decode::status(row.into())).collect())
}

pub(super) async fn events(
    reader: &SqlitePool,
    number: WaId,
    endpoint: EndpointId,
    after: &[(Slot, Seq)],
    limit: u32,
) -> Db<Vec<StoredEvent>> {
    if after.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let rows: Vec<columns::Event> = sqlx::query_as(
        "WITH span (slot, seq, last) AS MATERIALIZED (
           SELECT w.value->>0, w.value->>1, (
             SELECT e.seq FROM callback_event e
             WHERE e.number = ?1 AND e.slot = w.value->>0 AND e.endpoint = ?4 AND e.seq > w.value->>1
             ORDER BY e.seq LIMIT 1 OFFSET ?3 - 1)
           FROM json_each(?2) w
         )
         SELECT e.slot, e.endpoint, e.seq, e.origin, e.contact, e.kind, e.created_at, e.body
         FROM span CROSS JOIN callback_event e
           ON e.number = ?1 AND e.slot = span.slot AND e.endpoint = ?4 AND e.seq > span.seq
             AND e.seq <= coalesce(span.last, 9223372036854775807)
         ORDER BY e.slot, e.seq",
    )
    .bind(number.as_i64())
    .bind(positions(after))
    .bind(i64::from(limit))
    .bind(i64::from(endpoint.get()))
    .fetch_all(reader)
    .await?;
    Ok(rows.into_iter().filter_map(|row| decode::event(row.into())).collect())
}

pub(super) async fn backlog(reader: &SqlitePool, number: WaId, slots: RangeInclusive<Slot>) -> Db<(u64, u64)> {
    let (events, messages): (i64, i64) = sqlx::query_as(
        "SELECT
           (SELECT count(*) FROM callback_event WHERE number = ?1 AND slot BETWEEN ?2 AND ?3),
           (WITH RECURSIVE slots (slot) AS (SELECT ?2 UNION ALL SELECT slot + 1 FROM slots WHERE slot < ?3)
            SELECT count(*) FROM slots
            LEFT JOIN outbox_cursor c ON c.number = ?1 AND c.slot = slots.slot
            CROSS JOIN message_out m ON m.number = ?1 AND m.slot = slots.slot AND m.seq > coalesce(c.seq, 0)
            WHERE NOT EXISTS (SELECT 1 FROM message_state s
              WHERE s.number = ?1 AND s.slot = m.slot AND s.seq = m.seq AND s.statuses <> 0))",
    )
    .bind(number.as_i64())
    .bind(i64::from(slots.start().get()))
    .bind(i64::from(slots.end().get()))
    .fetch_one(reader)
    .await?;
    Ok((events.unsigned_abs(), messages.unsigned_abs()))
}

pub(super) async fn tables(reader: &SqlitePool, number: WaId) -> Db<(i64, i64, i64, i64, i64)> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM contact WHERE number = ?1 AND on_network), \
         (SELECT count(*) FROM contact WHERE number = ?1 AND NOT on_network), \
         (SELECT count(*) FROM message_out WHERE number = ?1), (SELECT count(*) FROM message_in WHERE number = ?1), \
         (SELECT count(*) FROM message_state WHERE number = ?1)",
    )
    .bind(number.as_i64())
    .fetch_one(reader)
    .await
}

pub(super) async fn inbound(reader: &SqlitePool, number: WaId, ids: &[String]) -> Db<Vec<InboundRow>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<Inbound> = sqlx::query_as(
        "SELECT id, sender, sent_at, stored_at, read_at FROM message_in
         WHERE number = ?1 AND id IN (SELECT value FROM json_each(?2))",
    )
    .bind(number.as_i64())
    .bind(json(ids.iter().map(|id| storable(id))))
    .fetch_all(reader)
    .await?;
    let decoded = |(id, sender, sent, stored, read)| decode::inbound(id, (sender, sent, stored, read));
    Ok(rows.into_iter().filter_map(decoded).collect())
}

pub(super) async fn sessions(reader: &SqlitePool, number: WaId, peers: &[WaId]) -> Db<Vec<SessionRow>> {
    if peers.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT slot, peer, state FROM e2e_session WHERE number = ?1 AND peer IN (SELECT value FROM json_each(?2))",
    )
    .bind(number.as_i64())
    .bind(json(peers.iter().map(|peer| peer.as_i64())))
    .fetch_all(reader)
    .await?;
    Ok(rows.into_iter().filter_map(|(slot, peer, state)| decode::session(slot, peer, state)).collect())
}
