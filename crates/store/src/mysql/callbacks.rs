//! Callbacks that wait or were given up, as an operator sees and moves them.

use estafet_model::WaId;
use sqlx::{FromRow, MySqlConnection};

use super::{
    commit::{places, rows},
    connections::{Connections, Db},
};
use crate::{EventRef, KeptCallback, Page, Queue, Requeued, Result, decode, packed::json};

#[derive(FromRow)]
struct Row {
    slot: i64,
    seq: i64,
    contact: Option<i64>,
    kind: String,
    created_at: i64,
    body: Vec<u8>,
    reason: String,
    given_up_at: i64,
}

/// A contact that stands for every one.
const ANY: i64 = 0;

macro_rules! page {
    ($columns:literal, $table:literal) => {
        concat!(
            "SELECT slot, seq, contact, kind, created_at, body, ",
            $columns,
            " FROM ",
            $table,
            " WHERE number = ? AND slot BETWEEN ? AND ? AND slot >= ? AND (slot > ? OR seq > ?) AND created_at >= ?
               AND created_at < ? AND ? IN (contact, 0) ORDER BY number, slot, seq LIMIT ?"
        )
    };
}

pub(super) async fn page(reader: &Connections, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>> {
    let sql = match queue {
        Queue::Waiting => page!("'' AS reason, CAST(0 AS SIGNED) AS given_up_at", "callback_event"),
        Queue::Dead => page!("reason, given_up_at", "dead_letter"),
    };
    let query = sqlx::query_as(sql)
        .bind(number.as_i64())
        .bind(page.slots.start().get())
        .bind(page.slots.end().get())
        .bind(page.after.0.get())
        .bind(page.after.0.get())
        .bind(page.after.1.get())
        .bind(page.created_ms.start)
        .bind(page.created_ms.end)
        .bind(page.contact.map_or(ANY, |contact| contact.as_i64()))
        .bind(i64::from(page.limit));
    let rows: Vec<Row> = reader.rows(query).await?;
    let decoded = rows.into_iter().filter_map(|row| {
        let event = decode::event((row.slot, row.seq), row.contact, row.kind, row.created_at, row.body);
        decode::callback(event, row.reason, (queue == Queue::Dead).then_some(row.given_up_at))
    });
    Ok(decoded.collect())
}

pub(super) async fn requeued(tx: &mut MySqlConnection, number: i64, list: &[Requeued]) -> Db<()> {
    let places = json(list.iter().map(|r| (r.letter.slot.get(), r.letter.seq.get(), r.seq.get(), r.at_ms)));
    let sql = concat!(
        "INSERT INTO callback_event (number, slot, seq, contact, kind, created_at, body)
         SELECT d.number, d.slot, w.new_seq, d.contact, d.kind, w.requeued_at, d.body FROM ",
        rows!("slot INT PATH '$[0]', seq BIGINT PATH '$[1]', new_seq BIGINT PATH '$[2]', requeued_at BIGINT PATH '$[3]'"),
        " STRAIGHT_JOIN dead_letter d ON d.number = ? AND d.slot = w.slot AND d.seq = w.seq
         WHERE TRUE ON DUPLICATE KEY UPDATE slot = callback_event.slot"
    );
    sqlx::query(sql).bind(places).bind(number).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|r| r.letter).collect();
    dropped(tx, number, &gone).await
}

pub(super) async fn dropped(tx: &mut MySqlConnection, number: i64, list: &[EventRef]) -> Db<()> {
    let sql = concat!(
        "DELETE d FROM ",
        places!(),
        " STRAIGHT_JOIN dead_letter d ON d.number = ? AND d.slot = w.slot AND d.seq = w.seq"
    );
    let places = json(list.iter().map(|e| (e.slot.get(), e.seq.get())));
    sqlx::query(sql).bind(places).bind(number).execute(tx).await.map(drop)
}
