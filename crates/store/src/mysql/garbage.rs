//! What a collector looks through, page by page, and how large the tables are.

use estafet_model::{Seq, Slot, WaId};
use sqlx::MySqlConnection;

use super::{
    commit::{packed_rows, rows, texts},
    connections::{Connections, Db},
    read::text,
};
use crate::{Result, StatusRow, TableSize, columns, decode, packed::Packed};

pub(super) async fn states(
    reader: &Connections,
    number: WaId,
    after: (Slot, Seq),
    last: Slot,
    limit: u32,
) -> Result<Vec<StatusRow>> {
    let sql = "SELECT slot, seq, statuses, error_code, changed_at, left_at, sent_at, delivered_at, seen_at, failed_at
         FROM message_state WHERE number = ? AND slot BETWEEN ? AND ? AND (slot > ? OR seq > ?)
         ORDER BY number, slot, seq LIMIT ?";
    let query = sqlx::query_as(sql).bind(number.as_i64()).bind(after.0.get()).bind(last.get());
    let query = query.bind(after.0.get()).bind(after.1.get()).bind(i64::from(limit));
    let rows: Vec<columns::State> = reader.rows(query).await?;
    Ok(rows.into_iter().filter_map(|row| decode::status(row.into())).collect())
}

pub(super) async fn inbound_ids(reader: &Connections, number: WaId, after: &str, limit: u32) -> Result<Vec<(String, i64)>> {
    let sql = "SELECT id, COALESCE(stored_at, sent_at) FROM message_in WHERE number = ? AND id > ? ORDER BY number, id LIMIT ?";
    let query = sqlx::query_as(sql).bind(number.as_i64()).bind(after.as_bytes().to_vec()).bind(i64::from(limit));
    let rows: Vec<(Vec<u8>, i64)> = reader.rows(query).await?;
    Ok(rows.into_iter().map(|(id, came_at_ms)| (text(id), came_at_ms)).collect())
}

pub(super) async fn forgotten_inbound(tx: &mut MySqlConnection, number: i64, ids: &[String]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = texts(&mut packed, ids);
    let sql = concat!(
        "DELETE m FROM ",
        packed_rows!("start BIGINT PATH '$[0]', length BIGINT PATH '$[1]'"),
        " STRAIGHT_JOIN message_in m ON m.number = ? AND m.id = SUBSTRING(p.packed, w.start, w.length)"
    );
    sqlx::query(sql).bind(packed.into_bytes()).bind(rows).bind(number).execute(tx).await.map(drop)
}

pub(super) async fn sizes(reader: &Connections) -> Result<Vec<TableSize>> {
    let sql = "SELECT CAST(table_name AS CHAR), CAST(COALESCE(table_rows, 0) AS SIGNED),
           CAST(COALESCE(data_length, 0) + COALESCE(index_length, 0) AS SIGNED)
         FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'
           AND table_name NOT LIKE '\\\\_%' ORDER BY table_name";
    let rows: Vec<(String, i64, i64)> = reader.rows(sqlx::query_as(sql)).await?;
    let size = |value: i64| Some(value.unsigned_abs());
    Ok(rows.into_iter().map(|(table, rows, bytes)| TableSize { table, rows: size(rows), bytes: size(bytes) }).collect())
}
