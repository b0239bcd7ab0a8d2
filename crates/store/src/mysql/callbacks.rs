//! Callbacks that wait, were given up or are kept, as an operator sees and moves them.

use std::ops::RangeInclusive;

use estafet_model::{EndpointId, Slot, WaId};
use sqlx::MySqlConnection;

use super::{
    commit::{event_positions, event_rows, events_done, rows},
    connections::{Connections, Db, answered},
};
use crate::{Delivered, EventRef, KeptCallback, Page, Queue, Requeued, Result, columns, decode, packed::json};

/// A contact that stands for every one.
const ANY_CONTACT: i64 = 0;
/// An endpoint that stands for every one.
const ANY_ENDPOINT: i32 = -1;

macro_rules! page {
    ($columns:literal, $table:literal) => {
        concat!(
            "SELECT slot, endpoint, seq, contact, kind, created_at, body, ",
            $columns,
            " FROM ",
            $table,
            " WHERE number = ? AND slot BETWEEN ? AND ? AND slot >= ? AND (slot > ? OR endpoint > ? OR endpoint = ? AND seq > ?)
               AND created_at >= ? AND created_at < ? AND ? IN (contact, 0) AND ? IN (endpoint, -1)
             ORDER BY number, slot, endpoint, seq LIMIT ?"
        )
    };
}

pub(super) async fn page(reader: &Connections, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>> {
    let sql = match queue {
        Queue::Waiting => page!("origin, '' AS reason, CAST(0 AS SIGNED) AS ended_at", "callback_event"),
        Queue::Dead => page!("origin, reason, given_up_at AS ended_at", "dead_letter"),
        Queue::Delivered => {
            page!("CAST(NULL AS SIGNED) AS origin, '' AS reason, delivered_at AS ended_at", "callback_delivered")
        }
    };
    let query = sqlx::query_as(sql)
        .bind(number.as_i64())
        .bind(page.slots.start().get())
        .bind(page.slots.end().get())
        .bind(page.after.slot.get())
        .bind(page.after.slot.get())
        .bind(page.after.endpoint.get())
        .bind(page.after.endpoint.get())
        .bind(page.after.seq.get())
        .bind(page.created_ms.start)
        .bind(page.created_ms.end)
        .bind(page.contact.map_or(ANY_CONTACT, |contact| contact.as_i64()))
        .bind(page.endpoint.map_or(ANY_ENDPOINT, |endpoint| i32::from(endpoint.get())))
        .bind(i64::from(page.limit));
    let rows: Vec<columns::Callback> = reader.rows(query).await?;
    let decoded =
        rows.into_iter().filter_map(|row| decode::callback(queue, decode::event(row.event.into()), row.reason, row.ended_at));
    Ok(decoded.collect())
}

/// Moves events to the delivered ones. One that was posted again is there already, or takes its first place.
pub(super) async fn kept(tx: &mut MySqlConnection, number: i64, list: &[Delivered]) -> Db<()> {
    let places = json(list.iter().map(|d| (d.event.slot.get(), d.event.endpoint.get(), d.event.seq.get(), d.at_ms)));
    let sql = concat!(
        "INSERT INTO callback_delivered (number, slot, endpoint, seq, contact, kind, created_at, delivered_at, body)
         SELECT e.number, e.slot, e.endpoint, COALESCE(e.origin, e.seq), e.contact, e.kind, e.created_at, w.ended_at, e.body FROM ",
        rows!("slot INT PATH '$[0]', endpoint INT PATH '$[1]', seq BIGINT PATH '$[2]', ended_at BIGINT PATH '$[3]'"),
        " STRAIGHT_JOIN callback_event e ON e.number = ? AND e.slot = w.slot AND e.endpoint = w.endpoint AND e.seq = w.seq
         WHERE TRUE ON DUPLICATE KEY UPDATE slot = callback_delivered.slot"
    );
    sqlx::query(sql).bind(places).bind(number).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|d| d.event).collect();
    events_done(tx, number, &gone).await
}

/// The new events of these, from a table and its column for what they were at first.
macro_rules! anew {
    ($origin:literal, $table:literal) => {
        concat!(
            "INSERT INTO callback_event (number, slot, endpoint, seq, origin, contact, kind, created_at, body)
             SELECT d.number, d.slot, d.endpoint, w.new_seq, ",
            $origin,
            ", d.contact, d.kind, w.made_at, d.body FROM ",
            rows!(
                "slot INT PATH '$[0]', endpoint INT PATH '$[1]', seq BIGINT PATH '$[2]', new_seq BIGINT PATH '$[3]',
                 made_at BIGINT PATH '$[4]'"
            ),
            " STRAIGHT_JOIN ",
            $table,
            " d ON d.number = ? AND d.slot = w.slot AND d.endpoint = w.endpoint AND d.seq = w.seq
             WHERE TRUE ON DUPLICATE KEY UPDATE slot = callback_event.slot"
        )
    };
}

fn places(list: &[Requeued]) -> String {
    let place = |r: &Requeued| (r.letter.slot.get(), r.letter.endpoint.get(), r.letter.seq.get(), r.seq.get(), r.at_ms);
    json(list.iter().map(place))
}

pub(super) async fn requeued(tx: &mut MySqlConnection, number: i64, list: &[Requeued]) -> Db<()> {
    let sql = anew!("COALESCE(d.origin, d.seq)", "dead_letter");
    sqlx::query(sql).bind(places(list)).bind(number).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|r| r.letter).collect();
    dropped(tx, number, &gone).await
}

pub(super) async fn replayed(tx: &mut MySqlConnection, number: i64, list: &[Requeued]) -> Db<()> {
    let sql = anew!("d.seq", "callback_delivered");
    sqlx::query(sql).bind(places(list)).bind(number).execute(tx).await.map(drop)
}

pub(super) async fn dropped(tx: &mut MySqlConnection, number: i64, list: &[EventRef]) -> Db<()> {
    let sql = concat!(
        "DELETE d FROM ",
        event_rows!(),
        " STRAIGHT_JOIN dead_letter d ON d.number = ? AND d.slot = w.slot AND d.endpoint = w.endpoint AND d.seq = w.seq"
    );
    sqlx::query(sql).bind(event_positions(list)).bind(number).execute(tx).await.map(drop)
}

pub(super) async fn forget_delivered(writer: &Connections, number: WaId, before_ms: i64, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM callback_delivered WHERE number = ? AND delivered_at < ? ORDER BY delivered_at LIMIT ?";
    let mut session = writer.session().await?;
    let query = sqlx::query(sql).bind(number.as_i64()).bind(before_ms).bind(i64::from(limit));
    let removed = answered(query.execute(&mut *session)).await?;
    session.keep();
    Ok(removed.rows_affected())
}

macro_rules! of_removed {
    ($table:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE number = ? AND slot BETWEEN ? AND ? AND endpoint <= ? AND NOT JSON_CONTAINS(?, CAST(endpoint AS CHAR)) LIMIT ?"
        )
    };
}

pub(super) async fn drop_receivers(
    writer: &Connections,
    number: WaId,
    slots: RangeInclusive<Slot>,
    kept: &[EndpointId],
    last: EndpointId,
    limit: u32,
) -> Result<u64> {
    let mut count = 0;
    let mut session = writer.session().await?;
    for sql in [of_removed!("callback_event"), of_removed!("dead_letter"), of_removed!("callback_delivered")] {
        let query = sqlx::query(sql)
            .bind(number.as_i64())
            .bind(slots.start().get())
            .bind(slots.end().get())
            .bind(last.get())
            .bind(json(kept.iter().map(|endpoint| endpoint.get())))
            .bind(i64::from(limit));
        count += answered(query.execute(&mut *session)).await?.rows_affected();
    }
    session.keep();
    Ok(count)
}
