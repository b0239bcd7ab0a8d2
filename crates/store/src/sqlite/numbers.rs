//! The numbers of the cluster, and the steps by which a shard count changes.

use estafet_model::{Layout, ShardCount, WaId};
use sqlx::{SqliteConnection, SqlitePool};

use super::{claim::raise_term, commit::begin, error};
use crate::{
    Error, Fence, NumberRow, Result, Switch,
    decode::{self, storable},
};

type Db<T> = Result<T, sqlx::Error>;

/// A row, in the order of the columns.
type Stored = (i64, Option<String>, i64, i64, String, i64, Option<i64>);

pub(super) async fn all(reader: &SqlitePool) -> Db<Vec<NumberRow>> {
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT number, host, created_at, wanted, phase, shard_count, next_count FROM business_number ORDER BY number",
    )
    .fetch_all(reader)
    .await?;
    let decoded = rows.into_iter().filter_map(|(number, host, created_at_ms, wanted, phase, count, next)| {
        decode::number(decode::Number { number, host, created_at_ms, wanted, phase: &phase, count, next })
    });
    Ok(decoded.collect())
}

fn next(layout: Layout) -> Option<i64> {
    layout.next().map(|next| i64::from(next.get()))
}

pub(super) async fn add(writer: &SqlitePool, row: &NumberRow) -> Db<bool> {
    let sql = "INSERT INTO business_number (number, host, created_at, wanted, phase, shard_count, next_count, master_term)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0) ON CONFLICT DO NOTHING";
    let done = sqlx::query(sql)
        .bind(row.number.as_i64())
        .bind(row.host.as_deref().map(|host| storable(host).into_owned()))
        .bind(row.created_at_ms)
        .bind(i64::from(row.wanted.get()))
        .bind(row.layout.phase())
        .bind(i64::from(row.layout.count().get()))
        .bind(next(row.layout))
        .execute(writer)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn remove(writer: &SqlitePool, number: WaId) -> Db<bool> {
    let sql = "DELETE FROM business_number WHERE number = ?1 AND phase = 'stable' AND wanted = shard_count";
    Ok(sqlx::query(sql).bind(number.as_i64()).execute(writer).await?.rows_affected() == 1)
}

pub(super) async fn want(writer: &SqlitePool, number: WaId, count: ShardCount) -> Db<bool> {
    let sql = "UPDATE business_number SET wanted = ?2
         WHERE number = ?1 AND phase <> 'switch' AND ((phase = 'stable' AND wanted = shard_count) OR shard_count = ?2)";
    let done = sqlx::query(sql).bind(number.as_i64()).bind(i64::from(count.get())).execute(writer).await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn set_layout(writer: &SqlitePool, number: WaId, from: Layout, to: Layout, term: i64) -> Db<bool> {
    let sql = "UPDATE business_number SET phase = ?5, shard_count = ?6, next_count = ?7, master_term = ?8
         WHERE number = ?1 AND phase = ?2 AND shard_count = ?3 AND next_count IS ?4 AND master_term <= ?8";
    let mut tx = begin(writer).await?;
    if !raise_term(&mut tx, term).await? {
        return Ok(false);
    }
    let done = sqlx::query(sql)
        .bind(number.as_i64())
        .bind(from.phase())
        .bind(i64::from(from.count().get()))
        .bind(next(from))
        .bind(to.phase())
        .bind(i64::from(to.count().get()))
        .bind(next(to))
        .bind(term)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn forget_retired(writer: &SqlitePool, before_ms: i64) -> Db<u64> {
    let sql = "DELETE FROM shard_owner WHERE state = 'retired' AND updated_at < ?1";
    Ok(sqlx::query(sql).bind(before_ms).execute(writer).await?.rows_affected())
}

pub(super) async fn switch(writer: &SqlitePool, switch: &Switch) -> Result<Option<Vec<Fence>>> {
    let mut tx = begin(writer).await.map_err(error)?;
    // What was changed before something turns out not to be as it should is undone with the transaction.
    let Some(stored) = replace(&mut tx, switch).await.map_err(error)? else { return Ok(None) };
    tx.commit().await.map_err(error)?;
    let epoch = decode::epoch(stored).ok_or_else(|| Error::Failed(format!("epoch {stored} out of range")))?;
    Ok(Some(switch.granted(epoch)))
}

/// The new epoch; `None` if anything is not as the switch says.
async fn replace(tx: &mut SqliteConnection, switch: &Switch) -> Db<Option<i64>> {
    if !raise_term(tx, switch.master_term).await? {
        return Ok(None);
    }
    let lead = "UPDATE business_number SET master_term = ?4
         WHERE number = ?1 AND phase = 'switch' AND shard_count = ?2 AND next_count = ?3 AND master_term <= ?4";
    let led = sqlx::query(lead)
        .bind(switch.number.as_i64())
        .bind(i64::from(switch.from.get()))
        .bind(i64::from(switch.to.get()))
        .bind(switch.master_term)
        .execute(&mut *tx)
        .await?;
    if led.rows_affected() == 0 || !retire(tx, switch).await? {
        return Ok(None);
    }
    let mut epoch = i64::from(switch.above.get());
    for (shard, ..) in &switch.claim {
        let (highest, owned): (i64, bool) = sqlx::query_as(
            "SELECT coalesce(max(epoch), 0), coalesce(max(state <> 'retired'), 0) FROM shard_owner
             WHERE number = ?1 AND shard * ?2 < (?3 + 1) * shard_count AND ?3 * shard_count < (shard + 1) * ?2",
        )
        .bind(switch.number.as_i64())
        .bind(i64::from(switch.to.get()))
        .bind(i64::from(shard.get()))
        .fetch_one(&mut *tx)
        .await?;
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
async fn retire(tx: &mut SqliteConnection, switch: &Switch) -> Db<bool> {
    let sql = "UPDATE shard_owner SET epoch = epoch + 1, state = 'retired', master_term = ?5, updated_at = ?6
         WHERE number = ?1 AND shard_count = ?2 AND shard = ?3 AND epoch = ?4 AND state <> 'retired' AND master_term <= ?5";
    for (shard, seen) in &switch.retire {
        let done = sqlx::query(sql)
            .bind(switch.number.as_i64())
            .bind(i64::from(switch.from.get()))
            .bind(i64::from(shard.get()))
            .bind(i64::from(seen.get()))
            .bind(switch.master_term)
            .bind(switch.now_ms)
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn take(
    tx: &mut SqliteConnection,
    switch: &Switch,
    (shard, node, boot): &(estafet_model::Shard, String, estafet_model::BootId),
    epoch: i64,
) -> Db<()> {
    let owner = "INSERT INTO shard_owner
           (number, shard_count, shard, epoch, owner_id, owner_boot, state, master_term, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'claimed', ?8, ?7)
         ON CONFLICT (number, shard_count, shard) DO UPDATE SET epoch = excluded.epoch, owner_id = excluded.owner_id,
           owner_boot = excluded.owner_boot, state = excluded.state, master_term = excluded.master_term,
           updated_at = excluded.updated_at";
    let audit = "INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    for sql in [owner, audit] {
        let mut query = sqlx::query(sql)
            .bind(switch.number.as_i64())
            .bind(i64::from(switch.to.get()))
            .bind(i64::from(shard.get()))
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
