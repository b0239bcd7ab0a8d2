//! The numbers of the cluster, and the steps by which a shard count changes.
//!
//! The switch is a function of the schema: it looks at everything before it changes anything, in one round trip.

use estafet_model::{Layout, ShardCount, WaId};

use super::{
    claim::raise_term,
    connections::{Connections, Step},
};
use crate::{
    Error, Fence, NumberRow, Result, Switch,
    decode::{self, storable},
};

pub(super) async fn all(reader: &Connections) -> Result<Vec<NumberRow>> {
    let step =
        Step::new("SELECT number, host, created_at, wanted, phase, shard_count, next_count FROM business_number ORDER BY number");
    let rows = reader.query(step).await?;
    let decoded = rows.iter().filter_map(|row| {
        decode::number(decode::Number {
            number: row.get(0),
            host: row.get(1),
            created_at_ms: row.get(2),
            wanted: row.get::<_, i32>(3).into(),
            phase: row.get(4),
            count: row.get::<_, i32>(5).into(),
            next: row.get::<_, Option<i32>>(6).map(i64::from),
        })
    });
    Ok(decoded.collect())
}

fn count(count: ShardCount) -> i32 {
    i32::from(count.get())
}

/// Whether the statement returned a row.
async fn did(connections: &Connections, step: Step<'_>) -> Result<bool> {
    Ok(!connections.query(step).await?.is_empty())
}

pub(super) async fn add(connections: &Connections, row: &NumberRow) -> Result<bool> {
    let step = Step::new(
        "INSERT INTO business_number (number, host, created_at, wanted, phase, shard_count, next_count, master_term)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0) ON CONFLICT DO NOTHING RETURNING number",
    );
    let step = step
        .bind(row.number.as_i64())
        .bind(row.host.as_deref().map(storable))
        .bind(row.created_at_ms)
        .bind(count(row.wanted))
        .bind(row.layout.phase())
        .bind(count(row.layout.count()))
        .bind(row.layout.next().map(count));
    did(connections, step).await
}

pub(super) async fn remove(connections: &Connections, number: WaId) -> Result<bool> {
    let sql = "DELETE FROM business_number WHERE number = $1 AND phase = 'stable' AND wanted = shard_count RETURNING number";
    did(connections, Step::new(sql).bind(number.as_i64())).await
}

pub(super) async fn want(connections: &Connections, number: WaId, wanted: ShardCount) -> Result<bool> {
    let sql = "UPDATE business_number SET wanted = $2
         WHERE number = $1 AND phase <> 'switch' AND ((phase = 'stable' AND wanted = shard_count) OR shard_count = $2)
         RETURNING number";
    did(connections, Step::new(sql).bind(number.as_i64()).bind(count(wanted))).await
}

pub(super) async fn set_layout(connections: &Connections, number: WaId, from: Layout, to: Layout, term: i64) -> Result<bool> {
    raise_term(connections, term).await?;
    let sql = "WITH term AS (SELECT 1 FROM cluster WHERE id = 1 AND master_term <= $8 FOR SHARE)
         UPDATE business_number SET phase = $5, shard_count = $6, next_count = $7, master_term = $8
         WHERE number = $1 AND phase = $2 AND shard_count = $3 AND next_count IS NOT DISTINCT FROM $4 AND master_term <= $8
           AND EXISTS (SELECT 1 FROM term)
         RETURNING number";
    let step = Step::new(sql)
        .bind(number.as_i64())
        .bind(from.phase())
        .bind(count(from.count()))
        .bind(from.next().map(count))
        .bind(to.phase())
        .bind(count(to.count()))
        .bind(to.next().map(count))
        .bind(term);
    did(connections, step).await
}

pub(super) async fn forget_retired(connections: &Connections, before_ms: i64) -> Result<u64> {
    let sql = "DELETE FROM shard_owner WHERE state = 'retired' AND updated_at < $1 RETURNING shard";
    Ok(connections.query(Step::new(sql).bind(before_ms)).await?.len() as u64)
}

pub(super) async fn switch(writer: &Connections, switch: &Switch) -> Result<Option<Vec<Fence>>> {
    let impatient = Step::new("SELECT set_config('lock_timeout', '300ms', true)");
    raise_term(writer, switch.master_term).await?;
    let step = Step::new(
        "WITH term AS MATERIALIZED (SELECT 1 FROM cluster WHERE id = 1 AND master_term <= $10 FOR SHARE)
         SELECT estafet.switch_shards($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) FROM term",
    );
    let step = step
        .bind(switch.number.as_i64())
        .bind(count(switch.from))
        .bind(count(switch.to))
        .bind(switch.retire.iter().map(|(shard, _)| i32::from(shard.get())).collect::<Vec<_>>())
        .bind(switch.retire.iter().map(|(_, seen)| i64::from(seen.get())).collect::<Vec<_>>())
        .bind(switch.claim.iter().map(|(shard, ..)| i32::from(shard.get())).collect::<Vec<_>>())
        .bind(switch.claim.iter().map(|(_, node, _)| storable(node)).collect::<Vec<_>>())
        .bind(switch.claim.iter().map(|(.., boot)| boot.0.as_slice()).collect::<Vec<_>>())
        .bind(i64::from(switch.above.get()))
        .bind(switch.master_term)
        .bind(switch.now_ms);
    let rows = writer.transaction(&[impatient, step]).await?;
    let Some(stored) = rows[1].first().and_then(|row| row.get::<_, Option<i64>>(0)) else { return Ok(None) };
    let epoch = decode::epoch(stored).ok_or_else(|| Error::Failed(format!("epoch {stored} out of range")))?;
    Ok(Some(switch.granted(epoch)))
}
