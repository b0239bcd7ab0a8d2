//! Taking a shard: epoch + 1 and a line in the audit, one transaction.
//!
//! A claim waits for commits in progress, which hold a share lock on the row, but not longer than
//! `innodb_lock_wait_timeout`; then it is unavailable, and the caller comes back.

use sqlx::{Connection, MySqlConnection};

use super::{
    connections::{Connections, Db, answered, is_taken},
    numbers,
};
use crate::{
    Claim, Error, Fence, Result,
    decode::{self, storable},
};

pub(super) async fn claim(writer: &Connections, claim: &Claim<'_>) -> Result<Option<Fence>> {
    let mut session = writer.session().await?;
    let taken = answered(transaction(&mut session, claim)).await?;
    session.keep();
    let Some(stored) = taken else { return Ok(None) };
    let epoch = decode::epoch(stored).ok_or_else(|| Error::Failed(format!("epoch {stored} out of range")))?;
    Ok(Some(claim.granted(epoch)))
}

/// The new epoch.
async fn transaction(session: &mut MySqlConnection, claim: &Claim<'_>) -> Db<Option<i64>> {
    let mut tx = session.begin().await?;
    let taken = match claim.seen {
        Some(seen) => next(&mut tx, claim, i64::from(seen.get())).await?,
        None => first(&mut tx, claim).await?,
    };
    let Some(epoch) = taken else {
        tx.rollback().await?;
        return Ok(None);
    };
    let sql =
        "INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at) VALUES (?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(claim.number.as_i64())
        .bind(claim.count.get())
        .bind(claim.shard.get())
        .bind(epoch)
        .bind(storable(claim.owner).into_owned())
        .bind(claim.boot.0.to_vec())
        .bind(claim.now_ms)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(epoch))
}

async fn first(tx: &mut MySqlConnection, claim: &Claim<'_>) -> Db<Option<i64>> {
    let sql = "INSERT INTO shard_owner
           (number, shard_count, shard, epoch, owner_id, owner_boot, state, master_term, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, 'claimed', ?, ?)";
    let (before, owned) = numbers::overlapping(&mut *tx, claim.number, claim.count, claim.shard).await?;
    if owned {
        return Ok(None);
    }
    let epoch = before + 1;
    let inserted = sqlx::query(sql)
        .bind(claim.number.as_i64())
        .bind(claim.count.get())
        .bind(claim.shard.get())
        .bind(epoch)
        .bind(storable(claim.owner).into_owned())
        .bind(claim.boot.0.to_vec())
        .bind(claim.master_term)
        .bind(claim.now_ms)
        .execute(tx)
        .await;
    Ok(is_taken(inserted)?.map(|_| epoch))
}

async fn next(tx: &mut MySqlConnection, claim: &Claim<'_>, seen: i64) -> Db<Option<i64>> {
    let sql = "UPDATE shard_owner
         SET epoch = epoch + 1, owner_id = ?, owner_boot = ?, state = 'claimed', master_term = ?, updated_at = ?
         WHERE number = ? AND shard_count = ? AND shard = ? AND epoch = ? AND master_term <= ?
           AND state <> 'retired'";
    let updated = sqlx::query(sql)
        .bind(storable(claim.owner).into_owned())
        .bind(claim.boot.0.to_vec())
        .bind(claim.master_term)
        .bind(claim.now_ms)
        .bind(claim.number.as_i64())
        .bind(claim.count.get())
        .bind(claim.shard.get())
        .bind(seen)
        .bind(claim.master_term)
        .execute(tx)
        .await?;
    Ok((updated.rows_affected() == 1).then_some(seen + 1))
}
