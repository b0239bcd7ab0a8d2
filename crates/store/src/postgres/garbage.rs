//! What a collector looks through, page by page, and how large the tables are.

use estafet_model::{Seq, Slot, WaId};

use super::{
    commit::{column, slot},
    connections::{Connections, Step},
    read,
};
use crate::{Result, StatusRow, TableSize, decode::storable};

pub(super) async fn states(
    reader: &Connections,
    number: WaId,
    after: (Slot, Seq),
    last: Slot,
    limit: u32,
) -> Result<Vec<StatusRow>> {
    let step = Step::new(
        "SELECT slot, seq, statuses, error_code, changed_at, left_at, sent_at, delivered_at, seen_at, failed_at FROM message_state
         WHERE number = $1 AND (slot, seq) > ($2, $3) AND slot <= $4 ORDER BY number, slot, seq LIMIT $5",
    );
    let step = step.bind(number.as_i64()).bind(slot(after.0)).bind(after.1.get()).bind(slot(last)).bind(i64::from(limit));
    Ok(reader.query(step).await?.iter().filter_map(read::state).collect())
}

pub(super) async fn inbound_ids(reader: &Connections, number: WaId, after: &str, limit: u32) -> Result<Vec<(String, i64)>> {
    let step = Step::new(
        "SELECT id, coalesce(stored_at, sent_at) FROM message_in WHERE number = $1 AND id > $2 ORDER BY number, id LIMIT $3",
    );
    let rows = reader.query(step.bind(number.as_i64()).bind(after).bind(i64::from(limit))).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

pub(super) fn forgotten_inbound(number: i64, ids: &[String]) -> Step<'_> {
    Step::new("DELETE FROM message_in WHERE number = $1 AND id = ANY($2::text[])")
        .bind(number)
        .bind(column(ids, |id| storable(id)))
}

pub(super) async fn sizes(reader: &Connections) -> Result<Vec<TableSize>> {
    let step = Step::new(
        "SELECT relname::text, n_live_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables
         WHERE schemaname = 'estafet' AND relname NOT LIKE '\\_%' ORDER BY relname",
    );
    let rows = reader.query(step).await?;
    let size = |value: i64| Some(value.unsigned_abs());
    Ok(rows.iter().map(|row| TableSize { table: row.get(0), rows: size(row.get(1)), bytes: size(row.get(2)) }).collect())
}
