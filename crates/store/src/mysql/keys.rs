//! Keys that callers gave their sends.

use estafet_model::{Slot, WaId};
use sqlx::MySqlConnection;

use super::{
    commit::{packed_rows, rows},
    connections::{Connections, Db},
};
use crate::{
    Digest, Result, SubmissionKey, decode,
    packed::{Packed, json},
    rows::{KEY_LIFE_MS, KEYS_FORGOTTEN},
};

pub(super) async fn used(tx: &mut MySqlConnection, number: i64, list: &[SubmissionKey]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|key| {
        let (start, _) = packed.push(&[&key.hash[..], &key.fingerprint, &key.id_key.0].concat());
        (key.slot.get(), key.used_at_ms, start)
    }));
    let sql = concat!(
        "INSERT INTO submission_key (number, slot, hash, fingerprint, id_key, used_at)
         SELECT ?, w.slot, SUBSTRING(p.packed, w.start, 16), SUBSTRING(p.packed, w.start + 16, 16),
           SUBSTRING(p.packed, w.start + 32, 9), w.used_at FROM ",
        packed_rows!("slot INT PATH '$[0]', used_at BIGINT PATH '$[1]', start BIGINT PATH '$[2]'"),
        " WHERE TRUE ON DUPLICATE KEY UPDATE
           fingerprint = VALUES(fingerprint), id_key = VALUES(id_key), used_at = VALUES(used_at)"
    );
    sqlx::query(sql).bind(number).bind(packed.into_bytes()).bind(rows).execute(&mut *tx).await?;
    forget(tx, number, list).await
}

/// Forgets some keys that are too old, in the slots of the list. They are looked for without locks, so that only
/// rows are locked that go.
async fn forget(tx: &mut MySqlConnection, number: i64, list: &[SubmissionKey]) -> Db<()> {
    let Some(newest) = list.iter().map(|key| key.used_at_ms).max() else { return Ok(()) };
    let sql = concat!(
        "SELECT k.slot, k.hash FROM ",
        rows!("slot INT PATH '$[0]'"),
        " STRAIGHT_JOIN submission_key k ON k.number = ? AND k.slot = w.slot AND k.used_at < ? LIMIT ?"
    );
    let old: Vec<(i64, Vec<u8>)> = sqlx::query_as(sql)
        .bind(json(list.iter().map(|key| [key.slot.get()])))
        .bind(number)
        .bind(newest - KEY_LIFE_MS)
        .bind(KEYS_FORGOTTEN * list.len() as i64)
        .fetch_all(&mut *tx)
        .await?;
    if old.is_empty() {
        return Ok(());
    }
    let mut packed = Packed::new();
    let rows = json(old.iter().map(|(slot, hash)| (*slot, packed.push(hash).0)));
    let sql = concat!(
        "DELETE k FROM ",
        packed_rows!("slot INT PATH '$[0]', start BIGINT PATH '$[1]'"),
        " STRAIGHT_JOIN submission_key k ON k.number = ? AND k.slot = w.slot AND k.hash = SUBSTRING(p.packed, w.start, 16)"
    );
    sqlx::query(sql).bind(packed.into_bytes()).bind(rows).bind(number).execute(tx).await.map(drop)
}

pub(super) async fn read(reader: &Connections, number: WaId, keys: &[(Slot, Digest)]) -> Result<Vec<SubmissionKey>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut packed = Packed::new();
    let rows = json(keys.iter().map(|(slot, hash)| (slot.get(), packed.push(hash).0)));
    let sql = concat!(
        "SELECT k.slot, k.hash, k.fingerprint, k.id_key, k.used_at FROM ",
        packed_rows!("slot INT PATH '$[0]', start BIGINT PATH '$[1]'"),
        " STRAIGHT_JOIN submission_key k ON k.number = ? AND k.slot = w.slot AND k.hash = SUBSTRING(p.packed, w.start, 16)"
    );
    let query = sqlx::query_as(sql).bind(packed.into_bytes()).bind(rows).bind(number.as_i64());
    let rows: Vec<decode::KeyColumns> = reader.rows(query).await?;
    let decoded = rows.into_iter().filter_map(|(slot, hash, print, id, at)| decode::submission_key(slot, &hash, &print, &id, at));
    Ok(decoded.collect())
}
