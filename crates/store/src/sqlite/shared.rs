//! What the roles share beside the shards: secrets, users, tokens, settings, contacts.
//!
//! Changes of users and settings bump their counter in the same transaction, so a webapp that sees
//! an unchanged counter may keep its cache.

use estafet_model::WaId;
use sqlx::{FromRow, SqliteConnection, SqlitePool};

use super::commit::begin;
use crate::{
    ContactRow, RevokedToken, Role, UserRow, Versions,
    decode::{self, role_text, storable},
    packed::json,
};

type Db<T> = Result<T, sqlx::Error>;

pub(super) async fn secret(writer: &SqlitePool, name: &str, fresh: &[u8]) -> Db<Vec<u8>> {
    let mut tx = begin(writer).await?;
    sqlx::query("INSERT INTO secret (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(fresh)
        .execute(&mut *tx)
        .await?;
    let value = sqlx::query_scalar("SELECT value FROM secret WHERE name = ?1").bind(name).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(value)
}

pub(super) async fn next_tag(writer: &SqlitePool) -> Db<u16> {
    let value: i64 =
        sqlx::query_scalar("UPDATE tag_counter SET value = (value + 1) % 65536 RETURNING value").fetch_one(writer).await?;
    Ok(value as u16)
}

async fn bump(tx: &mut SqliteConnection, number: WaId, topic: &'static str) -> Db<()> {
    let sql = "INSERT INTO change_counter (number, topic, version) VALUES (?1, ?2, 1)
         ON CONFLICT (number, topic) DO UPDATE SET version = version + 1";
    sqlx::query(sql).bind(number.as_i64()).bind(topic).execute(tx).await.map(drop)
}

pub(super) async fn versions(reader: &SqlitePool, number: WaId) -> Db<Versions> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT topic, version FROM change_counter WHERE number = ?1")
        .bind(number.as_i64())
        .fetch_all(reader)
        .await?;
    let of = |topic| rows.iter().find(|(t, _)| t == topic).map_or(0, |(_, version)| version.unsigned_abs());
    Ok(Versions { users: of("users"), settings: of("settings") })
}

#[derive(FromRow)]
struct User {
    username: String,
    role: String,
    password_hash: String,
    must_change: bool,
    tokens_valid_after: i64,
    generation: i64,
}

pub(super) async fn users(reader: &SqlitePool, number: WaId) -> Db<Vec<UserRow>> {
    let rows: Vec<User> = sqlx::query_as(
        "SELECT username, role, password_hash, must_change, tokens_valid_after, generation
         FROM app_user WHERE number = ?1 ORDER BY username",
    )
    .bind(number.as_i64())
    .fetch_all(reader)
    .await?;
    let decoded = rows.into_iter().map(|row| {
        let user = UserRow {
            username: row.username,
            role: Role::User,
            password_hash: row.password_hash,
            must_change: row.must_change,
            tokens_valid_after_ms: row.tokens_valid_after,
            generation: row.generation,
        };
        decode::user(user, &row.role)
    });
    Ok(decoded.collect())
}

/// `false` if the name is taken.
pub(super) async fn create_user(writer: &SqlitePool, number: WaId, user: &UserRow) -> Db<bool> {
    let sql = "INSERT INTO app_user (number, username, role, password_hash, must_change, tokens_valid_after, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (number, username) DO NOTHING";
    change_user(writer, sql, number, user).await
}

pub(super) async fn update_user(writer: &SqlitePool, number: WaId, user: &UserRow) -> Db<bool> {
    let sql = "UPDATE app_user
         SET role = ?3, password_hash = ?4, must_change = ?5, tokens_valid_after = ?6, generation = ?7
         WHERE number = ?1 AND username = ?2";
    change_user(writer, sql, number, user).await
}

async fn change_user(writer: &SqlitePool, sql: &'static str, number: WaId, user: &UserRow) -> Db<bool> {
    let mut tx = begin(writer).await?;
    let done = sqlx::query(sql)
        .bind(number.as_i64())
        .bind(storable(&user.username).into_owned())
        .bind(role_text(user.role))
        .bind(user.password_hash.clone())
        .bind(user.must_change)
        .bind(user.tokens_valid_after_ms)
        .bind(user.generation)
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    bump(&mut tx, number, "users").await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn delete_user(writer: &SqlitePool, number: WaId, username: &str) -> Db<bool> {
    let mut tx = begin(writer).await?;
    let done = sqlx::query("DELETE FROM app_user WHERE number = ?1 AND username = ?2")
        .bind(number.as_i64())
        .bind(storable(username).into_owned())
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    bump(&mut tx, number, "users").await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn revoke_token(writer: &SqlitePool, number: WaId, token: &RevokedToken, now_ms: i64) -> Db<()> {
    let mut tx = begin(writer).await?;
    sqlx::query("DELETE FROM revoked_token WHERE number = ?1 AND expires_at < ?2")
        .bind(number.as_i64())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO revoked_token (number, id, expires_at) VALUES (?1, ?2, ?3) ON CONFLICT (number, id) DO NOTHING")
        .bind(number.as_i64())
        .bind(storable(&token.id).into_owned())
        .bind(token.expires_at_ms)
        .execute(&mut *tx)
        .await?;
    bump(&mut tx, number, "users").await?;
    tx.commit().await
}

pub(super) async fn revoked_tokens(reader: &SqlitePool, number: WaId) -> Db<Vec<RevokedToken>> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT id, expires_at FROM revoked_token WHERE number = ?1 ORDER BY id")
        .bind(number.as_i64())
        .fetch_all(reader)
        .await?;
    Ok(rows.into_iter().map(|(id, expires_at_ms)| RevokedToken { id, expires_at_ms }).collect())
}

pub(super) async fn settings(reader: &SqlitePool, number: WaId) -> Db<Option<(u64, String)>> {
    let row: Option<(i64, String)> = sqlx::query_as("SELECT version, body FROM application_settings WHERE number = ?1")
        .bind(number.as_i64())
        .fetch_optional(reader)
        .await?;
    Ok(row.map(|(version, body)| (version.unsigned_abs(), body)))
}

pub(super) async fn put_settings(writer: &SqlitePool, number: WaId, expected: u64, body: &str) -> Db<Option<u64>> {
    let sql = match expected {
        0 => {
            "INSERT INTO application_settings (number, version, body) VALUES (?1, ?2 + 1, ?3)
             ON CONFLICT (number) DO NOTHING RETURNING version"
        }
        _ => {
            "UPDATE application_settings SET version = version + 1, body = ?3 WHERE number = ?1 AND version = ?2 RETURNING version"
        }
    };
    let mut tx = begin(writer).await?;
    let version: Option<i64> = sqlx::query_scalar(sql)
        .bind(number.as_i64())
        .bind(expected as i64)
        .bind(storable(body).into_owned())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(version) = version else { return Ok(None) };
    bump(&mut tx, number, "settings").await?;
    tx.commit().await?;
    Ok(Some(version.unsigned_abs()))
}

pub(super) async fn contacts(reader: &SqlitePool, number: WaId, wa_ids: &[WaId]) -> Db<Vec<ContactRow>> {
    if wa_ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(i64, bool, i64)> = sqlx::query_as(
        "SELECT wa_id, on_network, checked_at FROM contact
         WHERE number = ?1 AND wa_id IN (SELECT value FROM json_each(?2))",
    )
    .bind(number.as_i64())
    .bind(json(wa_ids.iter().map(|wa_id| wa_id.as_i64())))
    .fetch_all(reader)
    .await?;
    Ok(rows.into_iter().filter_map(|(wa_id, on_network, at)| decode::contact(wa_id, on_network, at)).collect())
}

pub(super) async fn put_contact_checks(writer: &SqlitePool, number: WaId, contacts: &[ContactRow]) -> Db<()> {
    if contacts.is_empty() {
        return Ok(());
    }
    let rows = json(contacts.iter().map(|c| (c.wa_id.as_i64(), u8::from(c.on_network), c.checked_at_ms)));
    let sql = "INSERT INTO contact (number, wa_id, on_network, checked_at)
         SELECT ?1, value->>0, value->>1, value->>2 FROM json_each(?2) WHERE true
         ON CONFLICT (number, wa_id) DO UPDATE SET on_network = excluded.on_network, checked_at = excluded.checked_at";
    sqlx::query(sql).bind(number.as_i64()).bind(rows).execute(writer).await.map(drop)
}
