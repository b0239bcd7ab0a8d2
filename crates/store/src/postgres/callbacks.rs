//! Callbacks that wait, were given up or are kept, as an operator sees and moves them.

use std::ops::RangeInclusive;

use estafet_model::{EndpointId, Slot, WaId};
use tokio_postgres::Row;

use super::{
    commit::{at_events, column, last_of_each, slot},
    connections::{Connections, Step},
};
use crate::{Delivered, EventRef, KeptCallback, Page, Queue, Requeued, Result, StoredEvent, decode};

/// The columns of an event, in the order [`event`] reads them.
macro_rules! columns {
    ($origin:literal) => {
        concat!("slot, endpoint, seq, ", $origin, ", contact, kind, created_at, body")
    };
}

pub(super) use columns;

pub(super) fn event(row: &Row) -> Option<StoredEvent> {
    decode::event(decode::Event {
        at: (row.get::<_, i32>(0).into(), row.get::<_, i32>(1).into(), row.get(2)),
        origin: row.get(3),
        contact: row.get(4),
        kind: row.get(5),
        created_at_ms: row.get(6),
        body: row.get(7),
    })
}

macro_rules! page {
    ($columns:expr, $end:literal, $table:literal) => {
        concat!(
            "SELECT ",
            $columns,
            ", ",
            $end,
            " FROM ",
            $table,
            " WHERE number = $1 AND slot BETWEEN $2 AND $3 AND (slot, endpoint, seq) > ($4, $5, $6)
               AND created_at >= $7 AND created_at < $8 AND ($9::int8 IS NULL OR contact = $9)
               AND ($10::int4 IS NULL OR endpoint = $10) ORDER BY number, slot, endpoint, seq LIMIT $11"
        )
    };
}

pub(super) async fn page(reader: &Connections, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>> {
    let step = Step::new(match queue {
        Queue::Waiting => page!(columns!("origin"), "''::text, 0::int8", "callback_event"),
        Queue::Dead => page!(columns!("origin"), "reason, given_up_at", "dead_letter"),
        Queue::Delivered => page!(columns!("NULL::int8"), "''::text, delivered_at", "callback_delivered"),
    });
    let step = step
        .bind(number.as_i64())
        .bind(slot(*page.slots.start()))
        .bind(slot(*page.slots.end()))
        .bind(slot(page.after.slot))
        .bind(i32::from(page.after.endpoint.get()))
        .bind(page.after.seq.get())
        .bind(page.created_ms.start)
        .bind(page.created_ms.end)
        .bind(page.contact.map(|contact| contact.as_i64()))
        .bind(page.endpoint.map(|endpoint| i32::from(endpoint.get())))
        .bind(i64::from(page.limit));
    let rows = reader.query(step).await?;
    Ok(rows.iter().filter_map(|row| decode::callback(queue, event(row), row.get(8), row.get(9))).collect())
}

/// Moves events to the delivered ones. One that was posted again is there already, or takes its first place.
pub(super) fn kept(number: i64, list: &[Delivered]) -> Step<'_> {
    let list = last_of_each(list, |d| d.event);
    let step = Step::new(
        "WITH w AS MATERIALIZED (
           SELECT w.*, (
             SELECT e.ctid FROM callback_event e
             WHERE e.number = $1 AND e.slot = w.slot AND e.endpoint = w.endpoint AND e.seq = w.seq) AS event
           FROM unnest($2::int4[], $3::int4[], $4::int8[], $5::int8[]) AS w (slot, endpoint, seq, delivered_at)
         ), gone AS (
           DELETE FROM callback_event WHERE ctid = ANY (ARRAY(SELECT event FROM w)) RETURNING *
         )
         INSERT INTO callback_delivered (number, slot, endpoint, seq, contact, kind, created_at, delivered_at, body)
         SELECT $1, slot, endpoint, coalesce(origin, seq), contact, kind, created_at, delivered_at, body
         FROM gone JOIN w USING (slot, endpoint, seq)
         ON CONFLICT (number, slot, endpoint, seq) DO NOTHING",
    );
    at_events(step.bind(number), list.iter().map(|d| d.event)).bind(column(&list, |d| d.at_ms))
}

fn at_letters<'a>(step: Step<'a>, number: i64, list: &[&Requeued]) -> Step<'a> {
    at_events(step.bind(number), list.iter().map(|r| r.letter))
        .bind(list.iter().map(|r| r.seq.get()).collect::<Vec<i64>>())
        .bind(list.iter().map(|r| r.at_ms).collect::<Vec<i64>>())
}

pub(super) fn requeued(number: i64, list: &[Requeued]) -> Step<'_> {
    let step = Step::new(
        "WITH w AS MATERIALIZED (
           SELECT w.*, (
             SELECT d.ctid FROM dead_letter d
             WHERE d.number = $1 AND d.slot = w.slot AND d.endpoint = w.endpoint AND d.seq = w.seq) AS letter
           FROM unnest($2::int4[], $3::int4[], $4::int8[], $5::int8[], $6::int8[]) AS w (slot, endpoint, seq, new_seq, made_at)
         ), gone AS (
           DELETE FROM dead_letter WHERE ctid = ANY (ARRAY(SELECT letter FROM w)) RETURNING *
         )
         INSERT INTO callback_event (number, slot, endpoint, seq, origin, contact, kind, created_at, body)
         SELECT $1, slot, endpoint, new_seq, coalesce(origin, seq), contact, kind, made_at, body
         FROM gone JOIN w USING (slot, endpoint, seq)
         ON CONFLICT (number, slot, endpoint, seq) DO NOTHING",
    );
    at_letters(step, number, &last_of_each(list, |r| r.letter))
}

pub(super) fn replayed(number: i64, list: &[Requeued]) -> Step<'_> {
    let step = Step::new(
        "INSERT INTO callback_event (number, slot, endpoint, seq, origin, contact, kind, created_at, body)
         SELECT $1, d.slot, d.endpoint, w.new_seq, d.seq, d.contact, d.kind, w.made_at, d.body
         FROM unnest($2::int4[], $3::int4[], $4::int8[], $5::int8[], $6::int8[]) AS w (slot, endpoint, seq, new_seq, made_at)
         CROSS JOIN LATERAL (
           SELECT d.* FROM callback_delivered d
           WHERE d.number = $1 AND d.slot = w.slot AND d.endpoint = w.endpoint AND d.seq = w.seq LIMIT 1) d
         ON CONFLICT (number, slot, endpoint, seq) DO NOTHING",
    );
    at_letters(step, number, &last_of_each(list, |r| r.letter))
}

pub(super) fn dropped(number: i64, list: &[EventRef]) -> Step<'_> {
    let step = Step::new(
        "DELETE FROM dead_letter WHERE ctid = ANY (ARRAY(
           SELECT (SELECT d.ctid FROM dead_letter d
             WHERE d.number = $1 AND d.slot = w.slot AND d.endpoint = w.endpoint AND d.seq = w.seq)
           FROM unnest($2::int4[], $3::int4[], $4::int8[]) AS w (slot, endpoint, seq)))",
    );
    at_events(step.bind(number), list.iter().copied())
}

pub(super) async fn forget_delivered(connections: &Connections, number: WaId, before_ms: i64, limit: u32) -> Result<u64> {
    let step = Step::new(
        "WITH gone AS (
           DELETE FROM callback_delivered WHERE ctid = ANY (ARRAY(
             SELECT ctid FROM callback_delivered WHERE number = $1 AND delivered_at < $2
             ORDER BY number, delivered_at LIMIT $3)) RETURNING 1
         ) SELECT count(*) FROM gone",
    );
    let rows = connections.query(step.bind(number.as_i64()).bind(before_ms).bind(i64::from(limit))).await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}

macro_rules! of_removed {
    ($table:literal) => {
        concat!(
            "WITH gone AS (DELETE FROM ",
            $table,
            " WHERE ctid = ANY (ARRAY(SELECT ctid FROM ",
            $table,
            " WHERE number = $1 AND slot BETWEEN $2 AND $3 AND endpoint <= $4 AND endpoint <> ALL ($5::int4[]) LIMIT $6))
               RETURNING 1) SELECT count(*) FROM gone"
        )
    };
}

pub(super) async fn drop_receivers(
    connections: &Connections,
    number: WaId,
    slots: RangeInclusive<Slot>,
    kept: &[EndpointId],
    last: EndpointId,
    limit: u32,
) -> Result<u64> {
    let mut count = 0;
    for sql in [of_removed!("callback_event"), of_removed!("dead_letter"), of_removed!("callback_delivered")] {
        let step = Step::new(sql)
            .bind(number.as_i64())
            .bind(slot(*slots.start()))
            .bind(slot(*slots.end()))
            .bind(i32::from(last.get()))
            .bind(column(kept, |endpoint| i32::from(endpoint.get())))
            .bind(i64::from(limit));
        let rows = connections.query(step).await?;
        count += rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
    }
    Ok(count)
}
