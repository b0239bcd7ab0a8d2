//! Keys that callers gave their sends.

use estafet_model::{Slot, WaId};
use sqlx::{SqliteConnection, SqlitePool};

use crate::{
    Digest, SubmissionKey, decode,
    packed::{Packed, json},
    rows::{KEY_LIFE_MS, KEYS_FORGOTTEN},
};

type Db<T> = Result<T, sqlx::Error>;

pub(super) async fn used(tx: &mut SqliteConnection, number: i64, list: &[SubmissionKey]) -> Db<()> {
    let Some(newest) = list.iter().map(|key| key.used_at_ms).max() else { return Ok(()) };
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|key| {
        let (start, _) = packed.push(&[&key.hash[..], &key.fingerprint, &key.id_key.0].concat());
        (key.slot.get(), key.used_at_ms, start)
    }));
    let sql = "INSERT INTO submission_key (number, slot, hash, fingerprint, id_key, used_at)
         SELECT ?1, value->>0, substr(?3, value->>2, 16), substr(?3, (value->>2) + 16, 16), substr(?3, (value->>2) + 32, 9),
           value->>1 FROM json_each(?2) WHERE true
         ON CONFLICT (number, slot, hash) DO UPDATE
         SET fingerprint = excluded.fingerprint, id_key = excluded.id_key, used_at = excluded.used_at";
    sqlx::query(sql).bind(number).bind(&rows).bind(packed.into_bytes()).execute(&mut *tx).await?;
    let sql = "DELETE FROM submission_key WHERE (number, slot, hash) IN (
           SELECT k.number, k.slot, k.hash FROM json_each(?2) w
           CROSS JOIN submission_key k ON k.number = ?1 AND k.slot = w.value->>0 AND k.used_at < ?3 LIMIT ?4)";
    let most = KEYS_FORGOTTEN * list.len() as i64;
    sqlx::query(sql).bind(number).bind(rows).bind(newest - KEY_LIFE_MS).bind(most).execute(tx).await.map(drop)
}

pub(super) async fn read(reader: &SqlitePool, number: WaId, keys: &[(Slot, Digest)]) -> Db<Vec<SubmissionKey>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut packed = Packed::new();
    let rows = json(keys.iter().map(|(slot, hash)| (slot.get(), packed.push(hash).0)));
    let sql = "SELECT k.slot, k.hash, k.fingerprint, k.id_key, k.used_at FROM json_each(?2) w
         CROSS JOIN submission_key k ON k.number = ?1 AND k.slot = w.value->>0 AND k.hash = substr(?3, w.value->>1, 16)";
    let rows: Vec<decode::KeyColumns> =
        sqlx::query_as(sql).bind(number.as_i64()).bind(rows).bind(packed.into_bytes()).fetch_all(reader).await?;
    let decoded = rows.into_iter().filter_map(|(slot, hash, print, id, at)| decode::submission_key(slot, &hash, &print, &id, at));
    Ok(decoded.collect())
}
