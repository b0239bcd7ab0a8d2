//! What a collector looks through, page by page, and how large the tables are.

use estafet_model::{Seq, Slot, WaId};
use sqlx::{SqliteConnection, SqlitePool};

use crate::{
    StatusRow, TableSize, columns,
    decode::{self, storable},
    packed::json,
};

type Db<T> = Result<T, sqlx::Error>;

pub(super) async fn states(reader: &SqlitePool, number: WaId, after: (Slot, Seq), last: Slot, limit: u32) -> Db<Vec<StatusRow>> {
    let rows: Vec<columns::State> = sqlx::query_as(
        "SELECT slot, seq, statuses, error_code, changed_at, left_at, sent_at, delivered_at, seen_at, failed_at FROM message_state
         WHERE number = ?1 AND (slot, seq) > (?2, ?3) AND slot <= ?4 ORDER BY number, slot, seq LIMIT ?5",
    )
    .bind(number.as_i64())
    .bind(i64::from(after.0.get()))
    .bind(after.1.get())
    .bind(i64::from(last.get()))
    .bind(i64::from(limit))
    .fetch_all(reader)
    .await?;
    Ok(rows.into_iter().filter_map(|row| decode::status(row.into())).collect())
}

pub(super) async fn inbound_ids(reader: &SqlitePool, number: WaId, after: &str, limit: u32) -> Db<Vec<(String, i64)>> {
    sqlx::query_as(
        "SELECT id, coalesce(stored_at, sent_at) FROM message_in WHERE number = ?1 AND id > ?2 ORDER BY number, id LIMIT ?3",
    )
    .bind(number.as_i64())
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(reader)
    .await
}

pub(super) async fn forgotten_inbound(tx: &mut SqliteConnection, number: i64, ids: &[String]) -> Db<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM message_in WHERE number = ?1 AND id IN (SELECT value FROM json_each(?2))";
    sqlx::query(sql).bind(number).bind(json(ids.iter().map(|id| storable(id)))).execute(tx).await.map(drop)
}

/// The file is one; its tables are only counted.
pub(super) async fn sizes(reader: &SqlitePool) -> Db<Vec<TableSize>> {
    const COUNTED: [(&str, &str); 7] = [
        ("callback_delivered", "SELECT count(*) FROM callback_delivered"),
        ("callback_event", "SELECT count(*) FROM callback_event"),
        ("contact", "SELECT count(*) FROM contact"),
        ("dead_letter", "SELECT count(*) FROM dead_letter"),
        ("message_in", "SELECT count(*) FROM message_in"),
        ("message_out", "SELECT count(*) FROM message_out"),
        ("message_state", "SELECT count(*) FROM message_state"),
    ];
    let pages = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";
    let bytes: i64 = sqlx::query_scalar(pages).fetch_one(reader).await?;
    let mut sizes = vec![TableSize { table: "all".to_owned(), rows: None, bytes: Some(bytes.unsigned_abs()) }];
    for (table, sql) in COUNTED {
        let rows: i64 = sqlx::query_scalar(sql).fetch_one(reader).await?;
        sizes.push(TableSize { table: table.to_owned(), rows: Some(rows.unsigned_abs()), bytes: None });
    }
    Ok(sizes)
}
