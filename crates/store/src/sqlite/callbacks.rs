//! Callbacks that wait, were given up or are kept, as an operator sees and moves them.

use std::ops::RangeInclusive;

use estafet_model::{EndpointId, Slot, WaId};
use sqlx::{SqliteConnection, SqlitePool};

use super::commit::{event_positions, events_done};
use crate::{Delivered, EventRef, KeptCallback, Page, Queue, Requeued, columns, decode, packed::json};

type Db<T> = Result<T, sqlx::Error>;

macro_rules! page {
    ($columns:literal, $table:literal) => {
        concat!(
            "SELECT slot, endpoint, seq, contact, kind, created_at, body, ",
            $columns,
            " FROM ",
            $table,
            " WHERE number = ?1 AND slot BETWEEN ?2 AND ?3 AND (slot, endpoint, seq) > (?4, ?5, ?6)
               AND created_at >= ?7 AND created_at < ?8 AND (?9 IS NULL OR contact = ?9) AND (?10 IS NULL OR endpoint = ?10)
             ORDER BY number, slot, endpoint, seq LIMIT ?11"
        )
    };
}

pub(super) async fn page(reader: &SqlitePool, number: WaId, queue: Queue, page: &Page) -> Db<Vec<KeptCallback>> {
    let sql = match queue {
        Queue::Waiting => page!("origin, '' AS reason, 0 AS ended_at", "callback_event"),
        Queue::Dead => page!("origin, reason, given_up_at AS ended_at", "dead_letter"),
        Queue::Delivered => page!("NULL AS origin, '' AS reason, delivered_at AS ended_at", "callback_delivered"),
    };
    let rows: Vec<columns::Callback> = sqlx::query_as(sql)
        .bind(number.as_i64())
        .bind(i64::from(page.slots.start().get()))
        .bind(i64::from(page.slots.end().get()))
        .bind(i64::from(page.after.slot.get()))
        .bind(i64::from(page.after.endpoint.get()))
        .bind(page.after.seq.get())
        .bind(page.created_ms.start)
        .bind(page.created_ms.end)
        .bind(page.contact.map(|contact| contact.as_i64()))
        .bind(page.endpoint.map(|endpoint| i64::from(endpoint.get())))
        .bind(i64::from(page.limit))
        .fetch_all(reader)
        .await?;
    let decoded =
        rows.into_iter().filter_map(|row| decode::callback(queue, decode::event(row.event.into()), row.reason, row.ended_at));
    Ok(decoded.collect())
}

/// Moves events to the delivered ones. One that was posted again is there already, or takes its first place.
pub(super) async fn kept(tx: &mut SqliteConnection, number: i64, list: &[Delivered]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let rows = json(list.iter().map(|d| (d.event.slot.get(), d.event.endpoint.get(), d.event.seq.get(), d.at_ms)));
    let sql = "INSERT INTO callback_delivered (number, slot, endpoint, seq, contact, kind, created_at, delivered_at, body)
         SELECT e.number, e.slot, e.endpoint, coalesce(e.origin, e.seq), e.contact, e.kind, e.created_at, w.value->>3, e.body
         FROM json_each(?2) w CROSS JOIN callback_event e
           ON e.number = ?1 AND e.slot = w.value->>0 AND e.endpoint = w.value->>1 AND e.seq = w.value->>2
         WHERE true ON CONFLICT (number, slot, endpoint, seq) DO NOTHING";
    sqlx::query(sql).bind(number).bind(rows).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|d| d.event).collect();
    events_done(tx, number, &gone).await
}

/// The new events of these, from a table and its column for what they were at first.
macro_rules! anew {
    ($origin:literal, $table:literal) => {
        concat!(
            "INSERT INTO callback_event (number, slot, endpoint, seq, origin, contact, kind, created_at, body)
             SELECT d.number, d.slot, d.endpoint, w.value->>3, ",
            $origin,
            ", d.contact, d.kind, w.value->>4, d.body FROM json_each(?2) w CROSS JOIN ",
            $table,
            " d ON d.number = ?1 AND d.slot = w.value->>0 AND d.endpoint = w.value->>1 AND d.seq = w.value->>2
             WHERE true ON CONFLICT (number, slot, endpoint, seq) DO NOTHING"
        )
    };
}

fn places(list: &[Requeued]) -> String {
    let place = |r: &Requeued| (r.letter.slot.get(), r.letter.endpoint.get(), r.letter.seq.get(), r.seq.get(), r.at_ms);
    json(list.iter().map(place))
}

pub(super) async fn requeued(tx: &mut SqliteConnection, number: i64, list: &[Requeued]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let sql = anew!("coalesce(d.origin, d.seq)", "dead_letter");
    sqlx::query(sql).bind(number).bind(places(list)).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|r| r.letter).collect();
    dropped(tx, number, &gone).await
}

pub(super) async fn replayed(tx: &mut SqliteConnection, number: i64, list: &[Requeued]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let sql = anew!("d.seq", "callback_delivered");
    sqlx::query(sql).bind(number).bind(places(list)).execute(tx).await.map(drop)
}

pub(super) async fn dropped(tx: &mut SqliteConnection, number: i64, list: &[EventRef]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM dead_letter WHERE number = ?1
           AND (slot, endpoint, seq) IN (SELECT value->>0, value->>1, value->>2 FROM json_each(?2))";
    sqlx::query(sql).bind(number).bind(event_positions(list.iter().copied())).execute(tx).await.map(drop)
}

pub(super) async fn forget_delivered(writer: &SqlitePool, number: WaId, before_ms: i64, limit: u32) -> Db<u64> {
    let sql = "DELETE FROM callback_delivered WHERE rowid IN (
           SELECT rowid FROM callback_delivered WHERE number = ?1 AND delivered_at < ?2 ORDER BY delivered_at LIMIT ?3)";
    let query = sqlx::query(sql).bind(number.as_i64()).bind(before_ms).bind(limit);
    Ok(query.execute(writer).await?.rows_affected())
}

macro_rules! of_removed {
    ($table:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE rowid IN (SELECT rowid FROM ",
            $table,
            " WHERE number = ?1 AND slot BETWEEN ?2 AND ?3 AND endpoint <= ?4
               AND endpoint NOT IN (SELECT value FROM json_each(?5)) LIMIT ?6)"
        )
    };
}

pub(super) async fn drop_receivers(
    writer: &SqlitePool,
    number: WaId,
    slots: RangeInclusive<Slot>,
    kept: &[EndpointId],
    last: EndpointId,
    limit: u32,
) -> Db<u64> {
    let mut count = 0;
    for sql in [of_removed!("callback_event"), of_removed!("dead_letter"), of_removed!("callback_delivered")] {
        let query = sqlx::query(sql)
            .bind(number.as_i64())
            .bind(i64::from(slots.start().get()))
            .bind(i64::from(slots.end().get()))
            .bind(i64::from(last.get()))
            .bind(json(kept.iter().map(|endpoint| endpoint.get())))
            .bind(limit);
        count += query.execute(writer).await?.rows_affected();
    }
    Ok(count)
}
