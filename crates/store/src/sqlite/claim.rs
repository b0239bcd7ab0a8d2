//! Taking shards: epoch + 1 and a line in the audit, one immediate transaction for all that are claimed together.

use std::slice;

use futures::future::join_all;
use sqlx::{SqliteConnection, SqlitePool};

use super::{commit::begin, error};
use crate::{Claim, Fence, Result, decode::storable};

type Db<T> = Result<T, sqlx::Error>;

pub(super) async fn claim(writer: &SqlitePool, claim: &Claim<'_>) -> Result<Option<Fence>> {
    let taken = transaction(writer, slice::from_ref(claim)).await.map_err(error)?;
    granted(claim, taken.into_iter().next().flatten())
}

pub(super) async fn claim_all(writer: &SqlitePool, claims: &[Claim<'_>]) -> Vec<Result<Option<Fence>>> {
    match transaction(writer, claims).await {
        Ok(taken) => claims.iter().zip(taken).map(|(one, stored)| granted(one, stored)).collect(),
        Err(cause) => {
            tracing::info!(claims = claims.len(), error = %error(cause), "not taken together, taking each by itself");
            join_all(claims.iter().map(|one| claim(writer, one))).await
        }
    }
}

fn granted(claim: &Claim<'_>, stored: Option<i64>) -> Result<Option<Fence>> {
    stored.map(|stored| claim.granted(stored)).transpose()
}

/// The new epoch of each that is as its claim says.
async fn transaction(writer: &SqlitePool, claims: &[Claim<'_>]) -> Db<Vec<Option<i64>>> {
    let mut tx = begin(writer).await?;
    let mut taken = Vec::with_capacity(claims.len());
    for claim in claims {
        let stored = match raise_term(&mut tx, claim.master_term).await? {
            true => take(&mut tx, claim).await?,
            false => None,
        };
        if let Some(stored) = stored {
            note(&mut tx, claim, stored).await?;
        }
        taken.push(stored);
    }
    tx.commit().await?;
    Ok(taken)
}

async fn note(tx: &mut SqliteConnection, claim: &Claim<'_>, stored: i64) -> Db<()> {
    let sql = "INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    sqlx::query(sql)
        .bind(claim.number.as_i64())
        .bind(i64::from(claim.count.get()))
        .bind(i64::from(claim.shard.get()))
        .bind(stored)
        .bind(storable(claim.owner).into_owned())
        .bind(claim.boot.0.to_vec())
        .bind(claim.now_ms)
        .execute(tx)
        .await
        .map(drop)
}

/// Makes the term of a master known to the database, which refuses every older one from then on; `false`: this one.
pub(super) async fn raise_term(tx: &mut SqliteConnection, term: i64) -> Db<bool> {
    let sql = "UPDATE cluster SET master_term = ?1 WHERE id = 1 AND master_term <= ?1";
    Ok(sqlx::query(sql).bind(term).execute(tx).await?.rows_affected() == 1)
}

/// The same by itself; the newest term that was known before.
pub(super) async fn begin_term(writer: &SqlitePool, term: i64) -> Db<i64> {
    let mut tx = begin(writer).await?;
    let known = sqlx::query_scalar("SELECT master_term FROM cluster WHERE id = 1").fetch_one(&mut *tx).await?;
    if raise_term(&mut tx, term).await? {
        tx.commit().await?;
    }
    Ok(known)
}

async fn take(tx: &mut SqliteConnection, claim: &Claim<'_>) -> Db<Option<i64>> {
    // Shards of two counts overlap where their fractions of the slots do.
    let first = "INSERT INTO shard_owner
           (number, shard_count, shard, epoch, owner_id, owner_boot, state, master_term, updated_at)
         SELECT ?1, ?2, ?3, 1 + coalesce(max(o.epoch), 0), ?4, ?5, 'claimed', ?6, ?7 FROM shard_owner o
         WHERE o.number = ?1 AND o.shard * ?2 < (?3 + 1) * o.shard_count AND ?3 * o.shard_count < (o.shard + 1) * ?2
         HAVING count(*) = count(CASE WHEN o.state = 'retired' THEN 1 END)
         ON CONFLICT (number, shard_count, shard) DO NOTHING RETURNING epoch";
    let next = "UPDATE shard_owner SET epoch = epoch + 1, owner_id = ?4, owner_boot = ?5, state = 'claimed',
           master_term = ?6, updated_at = ?7
         WHERE number = ?1 AND shard_count = ?2 AND shard = ?3 AND epoch = ?8 AND master_term <= ?6
           AND state <> 'retired' RETURNING epoch";
    let query = sqlx::query_scalar(if claim.seen.is_some() { next } else { first })
        .bind(claim.number.as_i64())
        .bind(i64::from(claim.count.get()))
        .bind(i64::from(claim.shard.get()))
        .bind(storable(claim.owner).into_owned())
        .bind(claim.boot.0.to_vec())
        .bind(claim.master_term)
        .bind(claim.now_ms);
    match claim.seen {
        Some(seen) => query.bind(i64::from(seen.get())).fetch_optional(tx).await,
        None => query.fetch_optional(tx).await,
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::{BootId, Epoch, ShardCount};

    use super::*;
    use crate::{SqliteStore, Store};

    #[tokio::test]
    async fn many_are_taken_in_one_transaction_and_a_stale_one_is_left() {
        let store = SqliteStore::memory().await.unwrap();
        store.migrate().await.unwrap();
        let (number, count) = ("15550000001".parse().unwrap(), ShardCount::new(4).unwrap());
        let claims = |seen: [Option<u32>; 4]| {
            let claim = |(shard, seen): (_, Option<u32>)| Claim {
                number,
                shard,
                count,
                seen: seen.map(Epoch::new),
                owner: "core-1",
                boot: BootId([1; 16]),
                master_term: 1,
                now_ms: 5,
            };
            count.shards().zip(seen).map(claim).collect::<Vec<_>>()
        };
        assert_eq!(transaction(&store.writer, &claims([None; 4])).await.unwrap(), [Some(1); 4]);
        let taken = transaction(&store.writer, &claims([Some(1), Some(7), None, Some(1)])).await.unwrap();
        assert_eq!(taken, [Some(2), None, None, Some(2)]);
        let lines: Vec<(i64, i64, i64)> = sqlx::query_as("SELECT shard, epoch, at FROM epoch_audit ORDER BY shard, epoch")
            .fetch_all(&store.writer)
            .await
            .unwrap();
        assert_eq!(lines, [(0, 1, 5), (0, 2, 5), (1, 1, 5), (2, 1, 5), (3, 1, 5), (3, 2, 5)]);
    }
}
