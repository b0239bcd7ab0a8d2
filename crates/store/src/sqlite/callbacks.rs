//! Callbacks that wait or were given up, as an operator sees and moves them.

use estafet_model::WaId;
use sqlx::{FromRow, SqliteConnection, SqlitePool};

use super::commit::event_positions;
use crate::{EventRef, KeptCallback, Page, Queue, Requeued, decode, packed::json};

type Db<T> = Result<T, sqlx::Error>;

#[derive(FromRow)]
struct Row {
    slot: i64,
    seq: i64,
    contact: Option<i64>,
    kind: String,
    created_at: i64,
    body: Vec<u8>,
    reason: String,
    given_up_at: Option<i64>,
}

macro_rules! page {
    ($columns:literal, $table:literal) => {
        concat!(
            "SELECT slot, seq, contact, kind, created_at, body, ",
            $columns,
            " FROM ",
            $table,
            " WHERE number = ?1 AND slot BETWEEN ?2 AND ?3 AND (slot, seq) > (?4, ?5) AND created_at >= ?6 AND created_at < ?7
               AND (?8 IS NULL OR contact = ?8) ORDER BY number, slot, seq LIMIT ?9"
        )
    };
}

pub(super) async fn page(reader: &SqlitePool, number: WaId, queue: Queue, page: &Page) -> Db<Vec<KeptCallback>> {
    let sql = match queue {
        Queue::Waiting => page!("'' AS reason, NULL AS given_up_at", "callback_event"),
        Queue::Dead => page!("reason, given_up_at", "dead_letter"),
    };
    let rows: Vec<Row> = sqlx::query_as(sql)
        .bind(number.as_i64())
        .bind(i64::from(page.slots.start().get()))
        .bind(i64::from(page.slots.end().get()))
        .bind(i64::from(page.after.0.get()))
        .bind(page.after.1.get())
        .bind(page.created_ms.start)
        .bind(page.created_ms.end)
        .bind(page.contact.map(|contact| contact.as_i64()))
        .bind(i64::from(page.limit))
        .fetch_all(reader)
        .await?;
    let decoded = rows.into_iter().filter_map(|row| {
        let event = decode::event((row.slot, row.seq), row.contact, row.kind, row.created_at, row.body);
        decode::callback(event, row.reason, row.given_up_at)
    });
    Ok(decoded.collect())
}

pub(super) async fn requeued(tx: &mut SqliteConnection, number: i64, list: &[Requeued]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let rows = json(list.iter().map(|r| (r.letter.slot.get(), r.letter.seq.get(), r.seq.get(), r.at_ms)));
    let sql = "INSERT INTO callback_event (number, slot, seq, contact, kind, created_at, body)
         SELECT d.number, d.slot, w.value->>2, d.contact, d.kind, w.value->>3, d.body
         FROM json_each(?2) w CROSS JOIN dead_letter d
           ON d.number = ?1 AND d.slot = w.value->>0 AND d.seq = w.value->>1
         ON CONFLICT (number, slot, seq) DO NOTHING";
    sqlx::query(sql).bind(number).bind(rows).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|r| r.letter).collect();
    dropped(tx, number, &gone).await
}

pub(super) async fn dropped(tx: &mut SqliteConnection, number: i64, list: &[EventRef]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM dead_letter
         WHERE number = ?1 AND (slot, seq) IN (SELECT value->>0, value->>1 FROM json_each(?2))";
    sqlx::query(sql).bind(number).bind(event_positions(list.iter().copied())).execute(tx).await.map(drop)
}
