//! Keys that callers gave their sends.

use estafet_model::{Slot, WaId};

use super::{
    commit::{column, last_of_each, slot},
    connections::{Connections, Step},
};
use crate::{
    Digest, Result, SubmissionKey, decode,
    rows::{KEY_LIFE_MS, KEYS_FORGOTTEN},
};

pub(super) fn used(number: i64, list: &[SubmissionKey]) -> Step<'_> {
    let list = last_of_each(list, |key| (key.slot, key.hash));
    Step::new(
        "INSERT INTO submission_key (number, slot, hash, fingerprint, id_key, used_at)
         SELECT $1, * FROM unnest($2::int4[], $3::bytea[], $4::bytea[], $5::bytea[], $6::int8[])
         ON CONFLICT (number, slot, hash) DO UPDATE
         SET fingerprint = excluded.fingerprint, id_key = excluded.id_key, used_at = excluded.used_at",
    )
    .bind(number)
    .bind(column(&list, |key| slot(key.slot)))
    .bind(list.iter().map(|key| key.hash.as_slice()).collect::<Vec<&[u8]>>())
    .bind(list.iter().map(|key| key.fingerprint.as_slice()).collect::<Vec<&[u8]>>())
    .bind(list.iter().map(|key| key.id_key.0.as_slice()).collect::<Vec<&[u8]>>())
    .bind(column(&list, |key| key.used_at_ms))
}

/// Forgets some keys that are too old, in the slots of the list.
pub(super) fn forgotten(number: i64, list: &[SubmissionKey]) -> Step<'_> {
    let newest = list.iter().map(|key| key.used_at_ms).max().unwrap_or(i64::MIN + KEY_LIFE_MS);
    Step::new(
        "DELETE FROM submission_key WHERE ctid = ANY (ARRAY(
           SELECT k.ctid FROM unnest($2::int4[]) AS w (slot) CROSS JOIN LATERAL (
             SELECT k.ctid FROM submission_key k WHERE k.number = $1 AND k.slot = w.slot AND k.used_at < $3
             ORDER BY k.used_at LIMIT $4) k))",
    )
    .bind(number)
    .bind(column(list, |key| slot(key.slot)))
    .bind(newest - KEY_LIFE_MS)
    .bind(KEYS_FORGOTTEN)
}

pub(super) async fn read(reader: &Connections, number: WaId, keys: &[(Slot, Digest)]) -> Result<Vec<SubmissionKey>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let step = Step::new(
        "SELECT k.slot, k.hash, k.fingerprint, k.id_key, k.used_at FROM unnest($2::int4[], $3::bytea[]) AS w (slot, hash)
         CROSS JOIN LATERAL (
           SELECT * FROM submission_key k WHERE k.number = $1 AND k.slot = w.slot AND k.hash = w.hash LIMIT 1) k",
    );
    let step = step
        .bind(number.as_i64())
        .bind(column(keys, |(at, _)| slot(*at)))
        .bind(keys.iter().map(|(_, hash)| hash.as_slice()).collect::<Vec<&[u8]>>());
    let rows = reader.query(step).await?;
    let decoded = rows.iter().filter_map(|row| {
        decode::submission_key(i64::from(row.get::<_, i32>(0)), row.get(1), row.get(2), row.get(3), row.get(4))
    });
    Ok(decoded.collect())
}
