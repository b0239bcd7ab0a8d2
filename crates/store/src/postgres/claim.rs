//! Taking shards: epoch + 1 and a line in the audit, one statement (see [`crate::claim`]).

use std::collections::HashMap;

use async_trait::async_trait;

use super::connections::{Connections, Failure, Step};
use crate::{
    Claim, Error, Result,
    claim::{self, Answer, Tried},
    decode::storable,
};

/// A paused owner that sits in a transaction keeps its row locked: better to say so at once (R9).
const IMPATIENT: &str = "SELECT set_config('lock_timeout', '300ms', true)";

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
        match self.writer.transaction(&[Step::new(IMPATIENT), take(claim)]).await {
            Ok(rows) => Ok(Tried::Answered(rows[1].first().map(|row| row.get(0)))),
            Err(Failure::Locked(error)) => Ok(Tried::Held(error)),
            Err(failure) => Err(failure.into()),
        }
    }

    /// An error if one of them has to be waited for.
    async fn take_together(&self, claims: &[Claim<'_>]) -> Result<Vec<Option<Answer>>> {
        let impatient = Step::new("SELECT set_config('lock_timeout', '50ms', true)");
        let rows = self.writer.transaction(&[impatient, take_all(claims)]).await?;
        let epochs: HashMap<(i64, i32, i32), i64> =
            rows[1].iter().map(|row| ((row.get(0), row.get(1), row.get(2)), row.get(3))).collect();
        let answer = |claim: &Claim<'_>| {
            let key = (claim.number.as_i64(), i32::from(claim.count.get()), i32::from(claim.shard.get()));
            Some(epochs.get(&key).copied())
        };
        Ok(claims.iter().map(answer).collect())
    }

    async fn owner(&self, claim: &Claim<'_>) -> Result<Option<(String, Vec<u8>)>> {
        let owner =
            Step::new("SELECT owner_id, owner_boot FROM shard_owner WHERE number = $1 AND shard_count = $2 AND shard = $3")
                .bind(claim.number.as_i64())
                .bind(i32::from(claim.count.get()))
                .bind(i32::from(claim.shard.get()));
        let rows = self.reader.query(owner).await?;
        Ok(rows.first().map(|row| (row.get(0), row.get(1))))
    }

    async fn end_sessions(&self, name: &str) -> Result<u64> {
        let end = Step::new(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = $1 AND datname = current_database() AND usename = current_user",
        );
        let rows = self.reader.query(end.bind(name)).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }
}

fn take_all<'a>(claims: &[Claim<'a>]) -> Step<'a> {
    fn column<T>(claims: &[Claim<'_>], of: impl Fn(&Claim<'_>) -> T) -> Vec<T> {
        claims.iter().map(of).collect()
    }
    let sql = "WITH term AS (SELECT 1 FROM cluster WHERE id = 1 AND master_term <= $1 FOR SHARE), taken AS (
          UPDATE shard_owner o SET epoch = o.epoch + 1, owner_id = w.owner, owner_boot = w.boot, state = 'claimed',
            master_term = $1, updated_at = $2
          FROM unnest($3::int8[], $4::int4[], $5::int4[], $6::text[], $7::bytea[], $8::int8[])
            AS w (number, shard_count, shard, owner, boot, seen)
          WHERE o.number = w.number AND o.shard_count = w.shard_count AND o.shard = w.shard AND o.epoch = w.seen
            AND o.master_term <= $1 AND o.state <> 'retired' AND EXISTS (SELECT 1 FROM term)
          RETURNING o.number, o.shard_count, o.shard, o.epoch, o.owner_id, o.owner_boot)
        INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
        SELECT number, shard_count, shard, epoch, owner_id, owner_boot, $2 FROM taken RETURNING number, shard_count, shard, epoch";
    Step::new(sql)
        .bind(claims.first().map_or(0, |claim| claim.master_term))
        .bind(claims.first().map_or(0, |claim| claim.now_ms))
        .bind(column(claims, |claim| claim.number.as_i64()))
        .bind(column(claims, |claim| i32::from(claim.count.get())))
        .bind(column(claims, |claim| i32::from(claim.shard.get())))
        .bind(column(claims, |claim| storable(claim.owner).into_owned()))
        .bind(column(claims, |claim| claim.boot.0.to_vec()))
        .bind(column(claims, |claim| claim.seen.map_or(0, |seen| i64::from(seen.get()))))
}

const NEXT: &str = "WITH term AS (SELECT 1 FROM cluster WHERE id = 1 AND master_term <= $6 FOR SHARE), taken AS (
      UPDATE shard_owner SET epoch = epoch + 1, owner_id = $4, owner_boot = $5, state = 'claimed', master_term = $6,
        updated_at = $7
      WHERE number = $1 AND shard_count = $2 AND shard = $3 AND epoch = $8 AND master_term <= $6
        AND state <> 'retired' AND EXISTS (SELECT 1 FROM term) RETURNING epoch)
    INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
    SELECT $1, $2, $3, epoch, $4, $5, $7 FROM taken RETURNING epoch";

/// A takeover of nothing: no number is 0.
pub(super) fn rehearsal() -> [Step<'static>; 2] {
    let take =
        Step::new(NEXT).bind(0_i64).bind(0_i32).bind(0_i32).bind("").bind(Vec::<u8>::new()).bind(0_i64).bind(0_i64).bind(0_i64);
    [Step::new(IMPATIENT), take]
}

/// Makes a newer term of a master known to the database, which refuses every older one from then on; the newest
/// that was known before. By itself a transaction: claims that share the row would wait for one that is blocked by its shard otherwise.
pub(super) async fn raise_term(connections: &Connections, term: i64) -> Result<i64> {
    let rows = connections.query(raise(term)).await?;
    rows.first().map(|row| row.get(0)).ok_or_else(|| Error::Failed("the row of the cluster is gone".to_owned()))
}

pub(super) fn raise(term: i64) -> Step<'static> {
    // Who is not the one that raises it was preceded by another, whatever it saw at first.
    let step = Step::new(
        "WITH known AS (SELECT master_term FROM cluster WHERE id = 1),
           raised AS (UPDATE cluster SET master_term = $1 WHERE id = 1 AND master_term < $1 RETURNING 1)
         SELECT CASE WHEN EXISTS (SELECT 1 FROM raised) THEN master_term ELSE greatest(master_term, $1) END FROM known",
    );
    step.bind(term)
}

fn take<'a>(claim: &Claim<'a>) -> Step<'a> {
    // Shards of two counts overlap where their fractions of the slots do.
    let first = "WITH term AS (SELECT 1 FROM cluster WHERE id = 1 AND master_term <= $6 FOR SHARE), taken AS (
          INSERT INTO shard_owner (number, shard_count, shard, epoch, owner_id, owner_boot, state, master_term, updated_at)
          SELECT $1::int8, $2::int4, $3::int4, 1 + coalesce(max(o.epoch), 0), $4::text, $5::bytea, 'claimed', $6::int8, $7::int8
          FROM shard_owner o
          WHERE o.number = $1 AND o.shard * $2 < ($3 + 1) * o.shard_count AND $3 * o.shard_count < (o.shard + 1) * $2
          HAVING count(*) FILTER (WHERE o.state <> 'retired') = 0 AND EXISTS (SELECT 1 FROM term)
          ON CONFLICT (number, shard_count, shard) DO NOTHING RETURNING epoch)
        INSERT INTO epoch_audit (number, shard_count, shard, epoch, owner_id, owner_boot, at)
        SELECT $1, $2, $3, epoch, $4, $5, $7 FROM taken RETURNING epoch";
    let step = Step::new(if claim.seen.is_some() { NEXT } else { first })
        .bind(claim.number.as_i64())
        .bind(i32::from(claim.count.get()))
        .bind(i32::from(claim.shard.get()))
        .bind(storable(claim.owner))
        .bind(claim.boot.0.to_vec())
        .bind(claim.master_term)
        .bind(claim.now_ms);
    match claim.seen {
        Some(seen) => step.bind(i64::from(seen.get())),
        None => step,
    }
}
