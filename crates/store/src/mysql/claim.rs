//! Taking shards: epoch + 1 and a line in the audit, one transaction (see [`crate::claim`]).
//!
//! A claim waits for a row no longer than `innodb_lock_wait_timeout`, which counts in seconds. So many shards are taken
//! together without waiting at all: rows that somebody holds are left out. Nobody waits for a row while it holds one
//! of another shard, so there are no deadlocks in whatever order claims come.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{Connection, MySqlConnection};

use super::{
    commit::{ROWS, packed_rows, rows},
    connections::{Connections, Db, NAMED, answered, error, is_locked, is_taken, session_lock},
    numbers,
};
use crate::{
    Claim, Error, Result,
    claim::{self, Answer, Tried},
    decode::storable,
    packed::{Packed, json},
};

/// A server that is claimed on: over `writer`, and over `reader` what comes before and after.
pub(super) struct Server<'a> {
    pub(super) writer: &'a Connections,
    pub(super) reader: &'a Connections,
}

#[async_trait]
impl claim::Server for Server<'_> {
    async fn raise_term(&self, term: i64) -> Result<i64> {
        raise_term(self.reader, term).await
    }

    async fn take(&self, claim: &Claim<'_>) -> Result<Tried> {
        let mut session = self.writer.session().await?;
        let taken = answered(async {
            match take(&mut session, claim).await {
                Err(error) if is_locked(&error) => Ok(Err(error)),
                other => other.map(Ok),
            }
        });
        match taken.await? {
            Ok(answer) => {
                session.keep();
                Ok(Tried::Answered(answer))
            }
            Err(locked) => Ok(Tried::Held(error(locked))),
        }
    }

    async fn take_together(&self, claims: &[Claim<'_>]) -> Result<Vec<Option<Answer>>> {
        let mut session = self.writer.session().await?;
        let answers = answered(take_all(&mut session, claims)).await?;
        session.keep();
        Ok(answers)
    }

    async fn owner(&self, claim: &Claim<'_>) -> Result<Option<(String, Vec<u8>)>> {
        let sql = "SELECT owner_id, owner_boot FROM shard_owner WHERE number = ? AND shard_count = ? AND shard = ?";
        let owner = sqlx::query_as(sql).bind(claim.number.as_i64()).bind(claim.count.get()).bind(claim.shard.get());
        Ok(self.reader.rows(owner).await?.pop())
    }

    /// Those that write.
    async fn end_sessions(&self, name: &str) -> Result<u64> {
        let mut ended = 0;
        for at in 0..NAMED {
            let holder =
                sqlx::query_as::<_, (Option<i64>,)>("SELECT CAST(IS_USED_LOCK(?) AS SIGNED)").bind(session_lock(name, at));
            if let Some((Some(session),)) = self.reader.rows(holder).await?.pop() {
                // It may have ended by itself meanwhile.
                ended += u64::from(self.reader.run(sqlx::query("KILL ?").bind(session)).await.is_ok());
            }
        }
        Ok(ended)
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

/// The new epoch.
async fn take(session: &mut MySqlConnection, claim: &Claim<'_>) -> Db<Answer> {
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

/// Number, shard count and shard.
type Key = (i64, i64, i64);

fn key(claim: &Claim<'_>) -> Key {
    (claim.number.as_i64(), claim.count.get().into(), claim.shard.get().into())
}

/// The owner rows of the shards in a list `w`. A small table would be read whole, and rows that somebody holds with it.
macro_rules! shards {
    () => {
        " STRAIGHT_JOIN shard_owner o FORCE INDEX (PRIMARY) ON o.number = w.number AND o.shard_count = w.shard_count AND o.shard = w.shard"
    };
}

/// All of them are of one term.
async fn take_all(session: &mut MySqlConnection, claims: &[Claim<'_>]) -> Db<Vec<Option<Answer>>> {
    let Some(first) = claims.first() else { return Ok(Vec::new()) };
    let mut tx = session.begin().await?;
    if !is_newest_term(&mut tx, first.master_term).await? {
        tx.rollback().await?;
        return Ok(vec![Some(None); claims.len()]);
    }
    let mut answers = Vec::with_capacity(claims.len());
    for part in claims.chunks(ROWS) {
        let found = lock(&mut tx, part).await?;
        let decided = decide(part, found);
        let taken: Vec<&Claim<'_>> =
            part.iter().zip(&decided).filter(|(_, answer)| matches!(answer, Some(Some(_)))).map(|(claim, _)| claim).collect();
        if !taken.is_empty() {
            change_owners(&mut tx, first, &taken).await?;
            note(&mut tx, first, &taken).await?;
        }
        answers.extend(decided);
    }
    tx.commit().await?;
    Ok(answers)
}

/// Locks the rows that nobody holds: epoch, term and state of each.
async fn lock(tx: &mut MySqlConnection, claims: &[Claim<'_>]) -> Db<HashMap<Key, (i64, i64, String)>> {
    let sql = concat!(
        "SELECT o.number, o.shard_count, o.shard, o.epoch, o.master_term, o.state FROM ",
        rows!("number BIGINT PATH '$[0]', shard_count INT PATH '$[1]', shard INT PATH '$[2]'"),
        shards!(),
        " FOR UPDATE SKIP LOCKED"
    );
    let found: Vec<(i64, i64, i64, i64, i64, String)> =
        sqlx::query_as(sql).bind(json(claims.iter().map(key))).fetch_all(tx).await?;
    Ok(found
        .into_iter()
        .map(|(number, count, shard, epoch, term, state)| ((number, count, shard), (epoch, term, state)))
        .collect())
}

/// What becomes of each claim. A row that was not found may be held, or not be there.
fn decide(claims: &[Claim<'_>], mut found: HashMap<Key, (i64, i64, String)>) -> Vec<Option<Answer>> {
    let answer = |claim: &Claim<'_>| {
        let (epoch, term, state) = found.remove(&key(claim))?;
        let is_seen = claim.seen.is_some_and(|seen| i64::from(seen.get()) == epoch);
        Some((is_seen && term <= claim.master_term && state != "retired").then_some(epoch + 1))
    };
    claims.iter().map(answer).collect()
}

async fn change_owners(tx: &mut MySqlConnection, first: &Claim<'_>, taken: &[&Claim<'_>]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(taken.iter().map(|claim| {
        let (owner, length) = packed.push(storable(claim.owner).as_bytes());
        let (boot, _) = packed.push(&claim.boot.0);
        (key(claim), owner, length, boot)
    }));
    let sql = concat!(
        "UPDATE ",
        packed_rows!(
            "number BIGINT PATH '$[0][0]', shard_count INT PATH '$[0][1]', shard INT PATH '$[0][2]', owner BIGINT PATH '$[1]',
             length BIGINT PATH '$[2]', boot BIGINT PATH '$[3]'"
        ),
        shards!(),
        " SET o.epoch = o.epoch + 1, o.owner_id = CONVERT(SUBSTRING(p.packed, w.owner, w.length) USING utf8mb4),
           o.owner_boot = SUBSTRING(p.packed, w.boot, 16), o.state = 'claimed', o.master_term = ?, o.updated_at = ?"
    );
    let update = sqlx::query(sql).bind(packed.into_bytes()).bind(rows).bind(first.master_term).bind(first.now_ms);
    update.execute(tx).await.map(drop)
}

/// Lines of the audit, as the owners are by now.
async fn note(tx: &mut MySqlConnection, first: &Claim<'_>, taken: &[&Claim<'_>]) -> Db<()> {
    let sql = concat!(
        "INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
         SELECT o.number, o.shard_count, o.shard, o.epoch, o.owner_id, o.owner_boot, ? FROM ",
        rows!("number BIGINT PATH '$[0]', shard_count INT PATH '$[1]', shard INT PATH '$[2]'"),
        shards!()
    );
    let rows = json(taken.iter().map(|claim| key(claim)));
    sqlx::query(sql).bind(first.now_ms).bind(rows).execute(tx).await.map(drop)
}
