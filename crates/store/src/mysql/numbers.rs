//! The numbers of the cluster, and the steps by which a shard count changes.

use estafet_model::{Layout, Shard, ShardCount, WaId};
use sqlx::{Connection, MySqlConnection};

use super::{
    claim::{is_newest_term, raise_term},
    connections::{Connections, Db, answered, is_taken},
    read::text,
};
use crate::{
    Error, Fence, NumberRow, Result, Switch,
    decode::{self, storable},
};

/// A row, in the order of the columns.
type Stored = (i64, Option<Vec<u8>>, i64, i64, String, i64, Option<i64>);

pub(super) async fn all(reader: &Connections) -> Result<Vec<NumberRow>> {
    let sql = "SELECT number, host, created_at, wanted, phase, shard_count, next_count FROM business_number ORDER BY number";
    let rows: Vec<Stored> = reader.rows(sqlx::query_as(sql)).await?;
    let decoded = rows.into_iter().filter_map(|(number, host, created_at_ms, wanted, phase, count, next)| {
        let host = host.map(text);
        decode::number(decode::Number { number, host, created_at_ms, wanted, phase: &phase, count, next })
    });
    Ok(decoded.collect())
}

fn next(layout: Layout) -> Option<u16> {
    layout.next().map(ShardCount::get)
}

pub(super) async fn add(connections: &Connections, row: &NumberRow) -> Result<bool> {
    let sql = "INSERT INTO business_number (number, host, created_at, wanted, phase, shard_count, next_count, master_term)
         VALUES (?, ?, ?, ?, ?, ?, ?, 0)";
    let insert = sqlx::query(sql)
        .bind(row.number.as_i64())
        .bind(row.host.as_deref().map(|host| storable(host).into_owned().into_bytes()))
        .bind(row.created_at_ms)
        .bind(row.wanted.get())
        .bind(row.layout.phase())
        .bind(row.layout.count().get())
        .bind(next(row.layout));
    let mut session = connections.session().await?;
    let added = answered(async { Ok(is_taken(insert.execute(&mut *session).await)?.is_some()) }).await?;
    session.keep();
    Ok(added)
}

pub(super) async fn remove(connections: &Connections, number: WaId) -> Result<bool> {
    let sql = "DELETE FROM business_number WHERE number = ? AND phase = 'stable' AND wanted = shard_count";
    Ok(connections.run(sqlx::query(sql).bind(number.as_i64())).await?.rows_affected() == 1)
}

pub(super) async fn want(connections: &Connections, number: WaId, count: ShardCount) -> Result<bool> {
    let sql = "UPDATE business_number SET wanted = ?
         WHERE number = ? AND phase <> 'switch' AND ((phase = 'stable' AND wanted = shard_count) OR shard_count = ?)";
    let query = sqlx::query(sql).bind(count.get()).bind(number.as_i64()).bind(count.get());
    Ok(connections.run(query).await?.rows_affected() == 1)
}

pub(super) async fn set_layout(connections: &Connections, number: WaId, from: Layout, to: Layout, term: i64) -> Result<bool> {
    raise_term(connections, term).await?;
    // Assignments take effect from left to right, conditions see the row as it was.
    let sql = "UPDATE business_number SET phase = ?, shard_count = ?, next_count = ?, master_term = ?
         WHERE number = ? AND phase = ? AND shard_count = ? AND next_count <=> ? AND master_term <= ?
           AND EXISTS (SELECT 1 FROM cluster WHERE id = 1 AND cluster.master_term <= ?)";
    let query = sqlx::query(sql)
        .bind(to.phase())
        .bind(to.count().get())
        .bind(next(to))
        .bind(term)
        .bind(number.as_i64())
        .bind(from.phase())
        .bind(from.count().get())
        .bind(next(from))
        .bind(term)
        .bind(term);
    Ok(connections.run(query).await?.rows_affected() == 1)
}

pub(super) async fn forget_retired(connections: &Connections, before_ms: i64) -> Result<u64> {
    let sql = "DELETE FROM shard_owner WHERE state = 'retired' AND updated_at < ?";
    Ok(connections.run(sqlx::query(sql).bind(before_ms)).await?.rows_affected())
}

/// The highest epoch the slots of a shard ever had, and whether a shard of any count owns some of them now.
pub(super) async fn overlapping(tx: &mut MySqlConnection, number: WaId, count: ShardCount, shard: Shard) -> Db<(i64, bool)> {
    let sql = "SELECT epoch, state FROM shard_owner
         WHERE number = ? AND shard * ? < (? + 1) * shard_count AND ? * shard_count < (shard + 1) * ?";
    let rows: Vec<(i64, String)> = sqlx::query_as(sql)
        .bind(number.as_i64())
        .bind(count.get())
        .bind(shard.get())
        .bind(shard.get())
        .bind(count.get())
        .fetch_all(tx)
        .await?;
    let highest = rows.iter().map(|(epoch, _)| *epoch).max().unwrap_or(0);
    Ok((highest, rows.iter().any(|(_, state)| state != "retired")))
}

pub(super) async fn switch(writer: &Connections, switch: &Switch) -> Result<Option<Vec<Fence>>> {
    raise_term(writer, switch.master_term).await?;
    let mut session = writer.session().await?;
    let taken = answered(async {
        let mut tx = session.begin().await?;
        let taken = replace(&mut tx, switch).await?;
        match taken {
            Some(_) => tx.commit().await?,
            None => tx.rollback().await?,
        }
        Ok(taken)
    })
    .await?;
    session.keep();
    let Some(stored) = taken else { return Ok(None) };
    let epoch = decode::epoch(stored).ok_or_else(|| Error::Failed(format!("epoch {stored} out of range")))?;
    Ok(Some(switch.granted(epoch)))
}

/// The new epoch; `None` if anything is not as the switch says.
async fn replace(tx: &mut MySqlConnection, switch: &Switch) -> Db<Option<i64>> {
    if !is_newest_term(tx, switch.master_term).await? {
        return Ok(None);
    }
    let lead = "UPDATE business_number SET master_term = ?
         WHERE number = ? AND phase = 'switch' AND shard_count = ? AND next_count = ? AND master_term <= ?";
    let led = sqlx::query(lead)
        .bind(switch.master_term)
        .bind(switch.number.as_i64())
        .bind(switch.from.get())
        .bind(switch.to.get())
        .bind(switch.master_term)
        .execute(&mut *tx)
        .await?;
    if led.rows_affected() == 0 || !retire(tx, switch).await? {
        return Ok(None);
    }
    let mut epoch = i64::from(switch.above.get());
    for (shard, ..) in &switch.claim {
        let (highest, owned) = overlapping(tx, switch.number, switch.to, *shard).await?;
        if owned {
            return Ok(None);
        }
        epoch = epoch.max(highest);
    }
    epoch += 1;
    for claim in &switch.claim {
        take(tx, switch, claim, epoch).await?;
    }
    Ok(Some(epoch))
}

/// Whether every shard was as it should be.
async fn retire(tx: &mut MySqlConnection, switch: &Switch) -> Db<bool> {
    let sql = "UPDATE shard_owner SET epoch = epoch + 1, state = 'retired', master_term = ?, updated_at = ?
         WHERE number = ? AND shard_count = ? AND shard = ? AND epoch = ? AND state <> 'retired' AND master_term <= ?";
    for (shard, seen) in &switch.retire {
        let done = sqlx::query(sql)
            .bind(switch.master_term)
            .bind(switch.now_ms)
            .bind(switch.number.as_i64())
            .bind(switch.from.get())
            .bind(shard.get())
            .bind(i64::from(seen.get()))
            .bind(switch.master_term)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn take(
    tx: &mut MySqlConnection,
    switch: &Switch,
    (shard, node, boot): &(Shard, String, estafet_model::BootId),
    epoch: i64,
) -> Db<()> {
    let owner = "REPLACE INTO shard_owner
           (number, shard_count, shard, epoch, owner_id, owner_boot, updated_at, state, master_term)
         VALUES (?, ?, ?, ?, ?, ?, ?, 'claimed', ?)";
    let audit = "INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
         VALUES (?, ?, ?, ?, ?, ?, ?)";
    for sql in [owner, audit] {
        let mut query = sqlx::query(sql)
            .bind(switch.number.as_i64())
            .bind(switch.to.get())
            .bind(shard.get())
            .bind(epoch)
            .bind(storable(node).into_owned())
            .bind(boot.0.to_vec())
            .bind(switch.now_ms);
        if sql == owner {
            query = query.bind(switch.master_term);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}
