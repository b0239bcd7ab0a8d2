//! What the roles share beside the shards: secrets, users, tokens, settings, contacts.
//!
//! Changes of users and settings bump their counter in the same transaction, so a webapp that sees an
//! unchanged counter may keep its cache. These run on the reading sessions: a slow commit must not hold up
//! a login.

use estafet_model::WaId;
use sqlx::{Connection, FromRow, MySql, MySqlConnection, mysql::MySqlArguments, query::Query};

use super::{
    commit::rows,
    connections::{Connections, Db, answered, is_taken},
    read::text,
};
use crate::{
    ContactRow, Error, Result, RevokedToken, Role, UserRow, Versions,
    decode::{self, role_text, storable},
    packed::json,
};

type Statement = Query<'static, MySql, MySqlArguments>;

const USERS: &str = "users";
const SETTINGS: &str = "settings";

/// Text as a key: bytes.
fn key(text: &str) -> Vec<u8> {
    storable(text).into_owned().into_bytes()
}

pub(super) async fn secret(connections: &Connections, name: &str, fresh: &[u8]) -> Result<Vec<u8>> {
    let store = "INSERT INTO secret (name, value) VALUES (?, ?) ON DUPLICATE KEY UPDATE name = secret.name";
    connections.run(sqlx::query(store).bind(key(name)).bind(fresh.to_vec())).await?;
    let read = sqlx::query_as("SELECT value FROM secret WHERE name = ?").bind(key(name));
    let rows: Vec<(Vec<u8>,)> = connections.rows(read).await?;
    let stored = rows.into_iter().next().map(|(value,)| value);
    stored.ok_or_else(|| Error::Unavailable(format!("secret {name} was removed meanwhile")))
}

pub(super) async fn next_tag(connections: &Connections) -> Result<u16> {
    let sql = "UPDATE tag_counter SET value = LAST_INSERT_ID((value + 1) % 65536) WHERE id = 1";
    let done = connections.run(sqlx::query(sql)).await?;
    match done.rows_affected() {
        0 => Err(Error::Failed("no tag counter".to_owned())),
        _ => Ok(done.last_insert_id() as u16),
    }
}

/// Runs `before`, then `change`, which bumps the counter if it touches a row; whether it did. Refused rows
/// (a name that is taken) are untouched ones.
async fn change(
    connections: &Connections,
    number: WaId,
    topic: &'static str,
    before: Option<Statement>,
    change: Statement,
) -> Result<bool> {
    let mut session = connections.session().await?;
    let changed = answered(async {
        let mut tx = session.begin().await?;
        if let Some(before) = before {
            before.execute(&mut *tx).await?;
        }
        let done = is_taken(change.execute(&mut *tx).await)?;
        if done.is_none_or(|done| done.rows_affected() == 0) {
            tx.rollback().await?;
            return Ok(false);
        }
        bump(&mut tx, number, topic).await?;
        tx.commit().await?;
        Ok(true)
    })
    .await?;
    session.keep();
    Ok(changed)
}

async fn bump(tx: &mut MySqlConnection, number: WaId, topic: &'static str) -> Db<()> {
    let sql =
        "INSERT INTO change_counter (number, topic, version) VALUES (?, ?, 1) ON DUPLICATE KEY UPDATE version = version + 1";
    sqlx::query(sql).bind(number.as_i64()).bind(topic.as_bytes()).execute(tx).await.map(drop)
}

pub(super) async fn versions(connections: &Connections, number: WaId) -> Result<Versions> {
    let query = sqlx::query_as("SELECT topic, version FROM change_counter WHERE number = ?").bind(number.as_i64());
    let rows: Vec<(Vec<u8>, i64)> = connections.rows(query).await?;
    let of = |topic: &str| rows.iter().find(|(t, _)| t == topic.as_bytes()).map_or(0, |(_, version)| version.unsigned_abs());
    Ok(Versions { users: of(USERS), settings: of(SETTINGS) })
}

#[derive(FromRow)]
struct User {
    username: Vec<u8>,
    role: String,
    password_hash: String,
    must_change: bool,
    tokens_valid_after: i64,
    generation: i64,
}

pub(super) async fn users(connections: &Connections, number: WaId) -> Result<Vec<UserRow>> {
    let sql = "SELECT username, role, password_hash, must_change, tokens_valid_after, generation
         FROM app_user WHERE number = ? ORDER BY username";
    let rows: Vec<User> = connections.rows(sqlx::query_as(sql).bind(number.as_i64())).await?;
    let decoded = rows.into_iter().map(|row| {
        let user = UserRow {
            username: text(row.username),
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
pub(super) async fn create_user(connections: &Connections, number: WaId, user: &UserRow) -> Result<bool> {
    let sql = "INSERT INTO app_user (role, password_hash, must_change, tokens_valid_after, generation, number, username)
         VALUES (?, ?, ?, ?, ?, ?, ?)";
    change(connections, number, USERS, None, user_statement(sql, number, user)).await
}

pub(super) async fn update_user(connections: &Connections, number: WaId, user: &UserRow) -> Result<bool> {
    let sql = "UPDATE app_user SET role = ?, password_hash = ?, must_change = ?, tokens_valid_after = ?, generation = ?
         WHERE number = ? AND username = ?";
    change(connections, number, USERS, None, user_statement(sql, number, user)).await
}

fn user_statement(sql: &'static str, number: WaId, user: &UserRow) -> Statement {
    sqlx::query(sql)
        .bind(role_text(user.role))
        .bind(user.password_hash.clone())
        .bind(user.must_change)
        .bind(user.tokens_valid_after_ms)
        .bind(user.generation)
        .bind(number.as_i64())
        .bind(key(&user.username))
}

pub(super) async fn delete_user(connections: &Connections, number: WaId, username: &str) -> Result<bool> {
    let delete = sqlx::query("DELETE FROM app_user WHERE number = ? AND username = ?");
    change(connections, number, USERS, None, delete.bind(number.as_i64()).bind(key(username))).await
}

pub(super) async fn revoke_token(connections: &Connections, number: WaId, token: &RevokedToken, now_ms: i64) -> Result<()> {
    let forget = sqlx::query("DELETE FROM revoked_token WHERE number = ? AND expires_at < ?").bind(number.as_i64()).bind(now_ms);
    let revoke = "INSERT INTO revoked_token (number, id, expires_at) VALUES (?, ?, ?)
         ON DUPLICATE KEY UPDATE expires_at = VALUES(expires_at)";
    let revoke = sqlx::query(revoke).bind(number.as_i64()).bind(key(&token.id)).bind(token.expires_at_ms);
    change(connections, number, USERS, Some(forget), revoke).await.map(drop)
}

pub(super) async fn revoked_tokens(connections: &Connections, number: WaId) -> Result<Vec<RevokedToken>> {
    let query = sqlx::query_as("SELECT id, expires_at FROM revoked_token WHERE number = ? ORDER BY id").bind(number.as_i64());
    let rows: Vec<(Vec<u8>, i64)> = connections.rows(query).await?;
    Ok(rows.into_iter().map(|(id, expires_at_ms)| RevokedToken { id: text(id), expires_at_ms }).collect())
}

pub(super) async fn settings(connections: &Connections, number: WaId) -> Result<Option<(u64, String)>> {
    let query = sqlx::query_as("SELECT version, body FROM application_settings WHERE number = ?").bind(number.as_i64());
    let rows: Vec<(i64, String)> = connections.rows(query).await?;
    Ok(rows.into_iter().next().map(|(version, body)| (version.unsigned_abs(), body)))
}

pub(super) async fn put_settings(connections: &Connections, number: WaId, expected: u64, body: &str) -> Result<Option<u64>> {
    let body = storable(body).into_owned();
    let put = match expected {
        0 => sqlx::query("INSERT INTO application_settings (body, number, version) VALUES (?, ?, ? + 1)"),
        _ => sqlx::query("UPDATE application_settings SET body = ?, version = version + 1 WHERE number = ? AND version = ?"),
    };
    let put = put.bind(body).bind(number.as_i64()).bind(expected as i64);
    Ok(change(connections, number, SETTINGS, None, put).await?.then_some(expected + 1))
}

pub(super) async fn contacts(connections: &Connections, number: WaId, wa_ids: &[WaId]) -> Result<Vec<ContactRow>> {
    if wa_ids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = concat!(
        "SELECT c.wa_id, c.on_network, c.checked_at FROM ",
        rows!("wa_id BIGINT PATH '$[0]'"),
        " STRAIGHT_JOIN contact c ON c.number = ? AND c.wa_id = w.wa_id"
    );
    let wa_ids = json(wa_ids.iter().map(|wa_id| [wa_id.as_i64()]));
    let rows: Vec<(i64, bool, i64)> = connections.rows(sqlx::query_as(sql).bind(wa_ids).bind(number.as_i64())).await?;
    Ok(rows.into_iter().filter_map(|(wa_id, on_network, at)| decode::contact(wa_id, on_network, at)).collect())
}

pub(super) async fn put_contact_checks(connections: &Connections, number: WaId, contacts: &[ContactRow]) -> Result<()> {
    if contacts.is_empty() {
        return Ok(());
    }
    // Sorted, so that two callers cannot deadlock; of several results for one contact the last still comes last.
    let mut contacts: Vec<&ContactRow> = contacts.iter().collect();
    contacts.sort_by_key(|c| c.wa_id);
    let rows = json(contacts.iter().map(|c| (c.wa_id.as_i64(), u8::from(c.on_network), c.checked_at_ms)));
    let sql = concat!(
        "INSERT INTO contact (number, wa_id, on_network, checked_at) SELECT ?, w.wa_id, w.on_network, w.checked_at FROM ",
        rows!("wa_id BIGINT PATH '$[0]', on_network INT PATH '$[1]', checked_at BIGINT PATH '$[2]'"),
        " WHERE TRUE ON DUPLICATE KEY UPDATE on_network = VALUES(on_network), checked_at = VALUES(checked_at)"
    );
    connections.run(sqlx::query(sql).bind(number.as_i64()).bind(rows)).await.map(drop)
}
