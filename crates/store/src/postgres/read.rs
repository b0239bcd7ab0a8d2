//! What an owner reads back: outbox, events, states, sessions. One statement each.
//!
//! Joins are written so that the planner cannot reorder them (LATERAL with LIMIT, scalar sub-selects):
//! queues are empty one minute and long the next, and a plan made from the statistics of an empty table
//! once read a whole number's rows for each row of the list.

use std::ops::RangeInclusive;

use estafet_model::{EndpointId, IdKey, Seq, Slot, WaId};
use tokio_postgres::Row;

use super::{
    callbacks::{self, columns},
    claim,
    commit::{at, slot},
    connections::{Connections, Step},
};
use crate::{
    InboundRow, MessageRow, OwnerRow, Result, SessionRow, StatusRow, StoredEvent,
    decode::{self, storable},
};

fn position(row: &Row) -> (i64, i64) {
    (i64::from(row.get::<_, i32>(0)), row.get(1))
}

fn message(row: &Row) -> Option<MessageRow> {
    decode::message(position(row), row.get(2), row.get(3), row.get(4), row.get(5))
}

pub(super) async fn owners(reader: &Connections) -> Result<Vec<OwnerRow>> {
    let step = Step::new(
        "SELECT number, shard, shard_count, epoch, owner_id, owner_boot, state FROM shard_owner ORDER BY number, shard_count, shard",
    );
    let rows = reader.query(step).await?;
    let decoded = rows.iter().filter_map(|row| {
        decode::owner(decode::Owner {
            number: row.get(0),
            shard: row.get::<_, i32>(1).into(),
            count: row.get::<_, i32>(2).into(),
            epoch: row.get(3),
            owner: row.get(4),
            boot: row.get(5),
            state: row.get(6),
        })
    });
    Ok(decoded.collect())
}

pub(super) async fn outbox(reader: &Connections, number: WaId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<MessageRow>> {
    if after.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let rows = reader.query(unsettled(number.as_i64(), after, limit)).await?;
    Ok(rows.iter().filter_map(message).collect())
}

fn unsettled(number: i64, after: &[(Slot, Seq)], limit: u32) -> Step<'static> {
    let step = Step::new(
        "SELECT m.slot, m.seq, m.id_key, m.recipient, m.accepted_at, m.body
         FROM unnest($2::int4[], $3::int8[]) AS w (slot, seq)
         LEFT JOIN outbox_cursor c ON c.number = $1 AND c.slot = w.slot
         CROSS JOIN LATERAL (
           SELECT m.* FROM message_out m
           WHERE m.number = $1 AND m.slot = w.slot AND m.seq > greatest(w.seq, c.seq)
             AND coalesce((SELECT s.statuses FROM message_state s
               WHERE s.number = $1 AND s.slot = m.slot AND s.seq = m.seq), 0) = 0
           ORDER BY m.number, m.slot, m.seq LIMIT $4
         ) m ORDER BY m.slot, m.seq",
    );
    at(step.bind(number), after).bind(i64::from(limit))
}

pub(super) async fn messages(reader: &Connections, number: WaId, places: &[(Slot, Seq)]) -> Result<Vec<MessageRow>> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let step = Step::new(
        "SELECT m.slot, m.seq, m.id_key, m.recipient, m.accepted_at, m.body
         FROM unnest($2::int4[], $3::int8[]) AS w (slot, seq)
         CROSS JOIN LATERAL (
           SELECT m.* FROM message_out m WHERE m.number = $1 AND m.slot = w.slot AND m.seq = w.seq LIMIT 1) m",
    );
    let rows = reader.query(at(step.bind(number.as_i64()), places)).await?;
    Ok(rows.iter().filter_map(message).collect())
}

pub(super) async fn message_of(reader: &Connections, number: WaId, key: IdKey) -> Result<Option<MessageRow>> {
    let step =
        Step::new("SELECT slot, seq, id_key, recipient, accepted_at, body FROM message_out WHERE id_key = $1 AND number = $2");
    let rows = reader.query(step.bind(key.0.to_vec()).bind(number.as_i64())).await?;
    Ok(rows.iter().find_map(message))
}

pub(super) async fn statuses(reader: &Connections, number: WaId, places: &[(Slot, Seq)]) -> Result<Vec<StatusRow>> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let step = Step::new(
        "SELECT s.slot, s.seq, s.statuses, s.error_code, s.changed_at, s.left_at, s.sent_at, s.delivered_at, s.seen_at, s.failed_at
         FROM unnest($2::int4[], $3::int8[]) AS w (slot, seq)
         CROSS JOIN LATERAL (
           SELECT s.* FROM message_state s WHERE s.number = $1 AND s.slot = w.slot AND s.seq = w.seq LIMIT 1) s",
    );
    let rows = reader.query(at(step.bind(number.as_i64()), places)).await?;
    Ok(rows.iter().filter_map(state).collect())
}

/// A row of `message_state`.
pub(super) fn state(row: &Row) -> Option<StatusRow> {
    let error_code: Option<i32> = row.get(3);
    decode::status(decode::Status {
        at: position(row),
        statuses: row.get::<_, i16>(2).into(),
        error_code: error_code.map(i64::from),
        changed_at_ms: row.get(4),
        times: [5, 6, 7, 8, 9].map(|column| row.get(column)),
    })
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
    let step = waiting_events(number.as_i64(), endpoint, after, limit);
    Ok(reader.query(step).await?.iter().filter_map(callbacks::event).collect())
}

fn waiting_events(number: i64, endpoint: EndpointId, after: &[(Slot, Seq)], limit: u32) -> Step<'static> {
    let step = Step::new(concat!(
        "SELECT ",
        columns!("origin"),
        " FROM unnest($2::int4[], $3::int8[]) AS w (w_slot, w_seq)
         CROSS JOIN LATERAL (
           SELECT e.* FROM callback_event e
           WHERE e.number = $1 AND e.slot = w.w_slot AND e.endpoint = $5 AND e.seq > w.w_seq
           ORDER BY e.number, e.slot, e.endpoint, e.seq LIMIT $4
         ) e ORDER BY slot, seq"
    ));
    at(step.bind(number), after).bind(i64::from(limit)).bind(i32::from(endpoint.get()))
}

/// What an owner reads first, about nothing: no number is 0.
pub(super) fn rehearsal() -> Vec<Step<'static>> {
    vec![unsettled(0, &[], 1), waiting_events(0, EndpointId::MAIN, &[], 1), sessions_of(0, Vec::new()), claim::raise(0)]
}

pub(super) async fn backlog(reader: &Connections, number: WaId, slots: RangeInclusive<Slot>) -> Result<(u64, u64)> {
    let step = Step::new(
        "SELECT
           (SELECT count(*) FROM callback_event WHERE number = $1 AND slot BETWEEN $2 AND $3),
           (SELECT coalesce(sum(m.count), 0)::int8 FROM generate_series($2::int4, $3::int4) AS w (slot)
            CROSS JOIN LATERAL (
              SELECT count(*) FROM message_out m
              WHERE m.number = $1 AND m.slot = w.slot
                AND m.seq > coalesce((SELECT c.seq FROM outbox_cursor c WHERE c.number = $1 AND c.slot = w.slot), 0)
                AND coalesce((SELECT s.statuses FROM message_state s
                  WHERE s.number = $1 AND s.slot = m.slot AND s.seq = m.seq), 0) = 0
            ) m)",
    );
    let rows = reader.query(step.bind(number.as_i64()).bind(slot(*slots.start())).bind(slot(*slots.end()))).await?;
    let count = |i| rows.first().map_or(0, |row| row.get::<_, i64>(i).unsigned_abs());
    Ok((count(0), count(1)))
}

pub(super) async fn tables(reader: &Connections, number: WaId) -> Result<(i64, i64, i64, i64, i64)> {
    let step = Step::new(
        "SELECT (SELECT count(*) FROM contact WHERE number = $1 AND on_network),
           (SELECT count(*) FROM contact WHERE number = $1 AND NOT on_network),
           (SELECT count(*) FROM message_out WHERE number = $1), (SELECT count(*) FROM message_in WHERE number = $1),
           (SELECT count(*) FROM message_state WHERE number = $1)",
    );
    let rows = reader.query(step.bind(number.as_i64())).await?;
    Ok(rows.first().map_or((0, 0, 0, 0, 0), |row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))))
}

pub(super) async fn inbound(reader: &Connections, number: WaId, ids: &[String]) -> Result<Vec<InboundRow>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let step =
        Step::new("SELECT id, sender, sent_at, stored_at, read_at FROM message_in WHERE number = $1 AND id = ANY($2::text[])")
            .bind(number.as_i64())
            .bind(ids.iter().map(|id| storable(id)).collect::<Vec<_>>());
    let rows = reader.query(step).await?;
    Ok(rows.iter().filter_map(|row| decode::inbound(row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4)))).collect())
}

pub(super) async fn sessions(reader: &Connections, number: WaId, peers: &[WaId]) -> Result<Vec<SessionRow>> {
    if peers.is_empty() {
        return Ok(Vec::new());
    }
    let step = sessions_of(number.as_i64(), peers.iter().map(|peer| peer.as_i64()).collect());
    let rows = reader.query(step).await?;
    Ok(rows.iter().filter_map(|row| decode::session(row.get::<_, i32>(0).into(), row.get(1), row.get(2))).collect())
}

fn sessions_of(number: i64, peers: Vec<i64>) -> Step<'static> {
    let sql = "SELECT slot, peer, state FROM e2e_session WHERE number = $1 AND peer = ANY($2::int8[])";
    Step::new(sql).bind(number).bind(peers)
}
