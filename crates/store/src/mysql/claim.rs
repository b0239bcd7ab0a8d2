//! Taking a shard: epoch + 1 and a line in the audit, one transaction.
//!
//! A claim waits for commits in progress, which hold a share lock on the row, but not longer than
//! `innodb_lock_wait_timeout`; then the sessions of the former owner's process are ended, and it is tried again.

use estafet_model::BootId;
use sqlx::{Connection, MySqlConnection};

use super::{
    connections::{Connections, Db, NAMED, answered, error, is_locked, is_taken, session_lock},
    numbers,
};
use crate::{Claim, Error, Fence, Result, decode::storable, session_name};

/// How often a claim ends the former owner's sessions before it is unavailable.
const EVICTIONS: u32 = 2;

/// `ourselves` names the sessions of this process, which are never ended.
pub(super) async fn claim(
    writer: &Connections,
    reader: &Connections,
    ourselves: &str,
    claim: &Claim<'_>,
) -> Result<Option<Fence>> {
    raise_term(reader, claim.master_term).await?;
    let mut evictions = 0;
    loop {
        let mut session = writer.session().await?;
        let taken = answered(async {
            match transaction(&mut session, claim).await {
                Err(error) if is_locked(&error) => Ok(Err(error)),
                other => other.map(Ok),
            }
        });
        match taken.await? {
            Ok(taken) => {
                session.keep();
                return taken.map(|stored| claim.granted(stored)).transpose();
            }
            Err(locked) => {
                evictions += 1;
                if evictions > EVICTIONS || evict(reader, ourselves, claim).await? == 0 {
                    return Err(error(locked));
                }
            }
        }
    }
}

/// Makes a newer term of a master known to the database, which refuses every older one from then on; the newest that
/// was known before. By itself a transaction, and looked at first: a change waits for every claim that shares the row.
pub(super) async fn raise_term(connections: &Connections, term: i64) -> Result<i64> {
    let known = connections.rows(sqlx::query_as::<_, (i64,)>("SELECT master_term FROM cluster WHERE id = 1")).await?;
    let Some((known,)) = known.first() else { return Err(Error::Failed("the row of the cluster is gone".to_owned())) };
    if *known >= term {
        return Ok(*known);
    }
    let raise = sqlx::query("UPDATE cluster SET master_term = ? WHERE id = 1 AND master_term < ?").bind(term).bind(term);
    let raised = connections.run(raise).await?.rows_affected() == 1;
    // Who is not the one that raises it was preceded by another, whatever it saw at first.
    Ok(if raised { *known } else { term })
}

/// Whether no newer term is known; none becomes known before the transaction ends.
pub(super) async fn is_newest_term(tx: &mut MySqlConnection, term: i64) -> Db<bool> {
    let sql = "SELECT master_term FROM cluster WHERE id = 1 LOCK IN SHARE MODE";
    let known: i64 = sqlx::query_scalar(sql).fetch_one(tx).await?;
    Ok(known <= term)
}

/// Ends the writing sessions of the present owner's process, wherever in a transaction they are; how many.
async fn evict(reader: &Connections, ourselves: &str, claim: &Claim<'_>) -> Result<u32> {
    let owner = "SELECT owner_id, owner_boot FROM shard_owner WHERE number = ? AND shard_count = ? AND shard = ?";
    let owner =
        sqlx::query_as::<_, (String, Vec<u8>)>(owner).bind(claim.number.as_i64()).bind(claim.count.get()).bind(claim.shard.get());
    let Some((owner, boot)) = reader.rows(owner).await?.pop() else { return Ok(0) };
    let Some(boot) = BootId::from_slice(&boot) else { return Ok(0) };
    let name = session_name(&owner, boot);
    if name == ourselves {
        return Ok(0);
    }
    tracing::warn!(owner = name, "the former owner holds the row of its shard, ending its sessions");
    let mut ended = 0;
    for at in 0..NAMED {
        let holder = sqlx::query_as::<_, (Option<i64>,)>("SELECT CAST(IS_USED_LOCK(?) AS SIGNED)").bind(session_lock(&name, at));
        if let Some((Some(session),)) = reader.rows(holder).await?.pop() {
            // It may have ended by itself meanwhile.
            ended += u32::from(reader.run(sqlx::query("KILL ?").bind(session)).await.is_ok());
        }
    }
    Ok(ended)
}

/// The new epoch.
async fn transaction(session: &mut MySqlConnection, claim: &Claim<'_>) -> Db<Option<i64>> {
    let mut tx = session.begin().await?;
    if !is_newest_term(&mut tx, claim.master_term).await? {
        tx.rollback().await?;
        return Ok(None);
    }
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
