//! What the roles share beside the shards: secrets, users, tokens, settings, contacts.
//!
//! Changes of users and settings bump their counter in the same statement, so a webapp that sees an
//! unchanged counter may keep its cache. These run on the reading connections: a slow commit must not
//! hold up a login.

use estafet_model::WaId;

use super::connections::{Connections, Step};
use crate::{
    ContactRow, Error, Result, RevokedToken, Role, UserRow, Versions,
    decode::{self, role_text, storable},
};

/// A write that returns a row for a change, which then bumps the counter of `$1`.
macro_rules! bumping {
    ($topic:literal, $write:literal) => {
        concat!(
            "WITH done AS (",
            $write,
            "), bumped AS (INSERT INTO change_counter (number, topic, version) SELECT $1, '",
            $topic,
            "', 1 FROM done ON CONFLICT (number, topic) DO UPDATE SET version = change_counter.version + 1)
            SELECT * FROM done"
        )
    };
}

pub(super) async fn secret(connections: &Connections, name: &str, fresh: &[u8]) -> Result<Vec<u8>> {
    let store = Step::new("INSERT INTO secret (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
    let read = Step::new("SELECT value FROM secret WHERE name = $1");
    let rows = connections.transaction(&[store.bind(name).bind(fresh), read.bind(name)]).await?;
    rows[1].first().map(|row| row.get(0)).ok_or_else(|| Error::Unavailable(format!("secret {name} was removed meanwhile")))
}

pub(super) async fn next_tag(connections: &Connections) -> Result<u16> {
    let rows = connections.query(Step::new("UPDATE tag_counter SET value = (value + 1) % 65536 RETURNING value")).await?;
    let value: i32 = rows.first().map(|row| row.get(0)).ok_or_else(|| Error::Failed("no tag counter".to_owned()))?;
    Ok(value as u16)
}

pub(super) async fn versions(connections: &Connections, number: WaId) -> Result<Versions> {
    let step = Step::new("SELECT topic, version FROM change_counter WHERE number = $1").bind(number.as_i64());
    let rows = connections.query(step).await?;
    let of = |topic| rows.iter().find(|row| row.get::<_, &str>(0) == topic).map_or(0, |row| row.get::<_, i64>(1).unsigned_abs());
    Ok(Versions { users: of("users"), settings: of("settings") })
}

pub(super) async fn users(connections: &Connections, number: WaId) -> Result<Vec<UserRow>> {
    let step = Step::new(
        "SELECT username, password_hash, must_change, tokens_valid_after, generation, role
         FROM app_user WHERE number = $1 ORDER BY username COLLATE \"C\"",
    );
    let rows = connections.query(step.bind(number.as_i64())).await?;
    let decoded = rows.iter().map(|row| {
        let user = UserRow {
            username: row.get(0),
            role: Role::User,
            password_hash: row.get(1),
            must_change: row.get(2),
            tokens_valid_after_ms: row.get(3),
            generation: row.get(4),
        };
        decode::user(user, row.get(5))
    });
    Ok(decoded.collect())
}

/// `false` if the name is taken.
pub(super) async fn create_user(connections: &Connections, number: WaId, user: &UserRow) -> Result<bool> {
    let step = Step::new(bumping!(
        "users",
        "INSERT INTO app_user (number, username, role, password_hash, must_change, tokens_valid_after, generation)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (number, username) DO NOTHING RETURNING 1"
    ));
    change_user(connections, step, number, user).await
}

pub(super) async fn update_user(connections: &Connections, number: WaId, user: &UserRow) -> Result<bool> {
    let step = Step::new(bumping!(
        "users",
        "UPDATE app_user SET role = $3, password_hash = $4, must_change = $5, tokens_valid_after = $6, generation = $7
         WHERE number = $1 AND username = $2 RETURNING 1"
    ));
    change_user(connections, step, number, user).await
}

async fn change_user<'a>(connections: &Connections, step: Step<'a>, number: WaId, user: &'a UserRow) -> Result<bool> {
    let step = step
        .bind(number.as_i64())
        .bind(storable(&user.username))
        .bind(role_text(user.role))
        .bind(&user.password_hash)
        .bind(user.must_change)
        .bind(user.tokens_valid_after_ms)
        .bind(user.generation);
    Ok(!connections.query(step).await?.is_empty())
}

pub(super) async fn delete_user(connections: &Connections, number: WaId, username: &str) -> Result<bool> {
    let step = Step::new(bumping!("users", "DELETE FROM app_user WHERE number = $1 AND username = $2 RETURNING 1"));
    Ok(!connections.query(step.bind(number.as_i64()).bind(storable(username))).await?.is_empty())
}

pub(super) async fn revoke_token(connections: &Connections, number: WaId, token: &RevokedToken, now_ms: i64) -> Result<()> {
    let forget = Step::new("DELETE FROM revoked_token WHERE number = $1 AND expires_at < $2");
    let revoke = Step::new(bumping!(
        "users",
        "INSERT INTO revoked_token (number, id, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (number, id) DO UPDATE SET expires_at = excluded.expires_at RETURNING 1"
    ));
    let revoke = revoke.bind(number.as_i64()).bind(storable(&token.id)).bind(token.expires_at_ms);
    connections.transaction(&[forget.bind(number.as_i64()).bind(now_ms), revoke]).await?;
    Ok(())
}

pub(super) async fn revoked_tokens(connections: &Connections, number: WaId) -> Result<Vec<RevokedToken>> {
    let step = Step::new("SELECT id, expires_at FROM revoked_token WHERE number = $1 ORDER BY id COLLATE \"C\"");
    let rows = connections.query(step.bind(number.as_i64())).await?;
    Ok(rows.iter().map(|row| RevokedToken { id: row.get(0), expires_at_ms: row.get(1) }).collect())
}

pub(super) async fn settings(connections: &Connections, number: WaId) -> Result<Option<(u64, String)>> {
    let step = Step::new("SELECT version, body FROM application_settings WHERE number = $1").bind(number.as_i64());
    let rows = connections.query(step).await?;
    Ok(rows.first().map(|row| (row.get::<_, i64>(0).unsigned_abs(), row.get(1))))
}

pub(super) async fn put_settings(connections: &Connections, number: WaId, expected: u64, body: &str) -> Result<Option<u64>> {
    let step = Step::new(match expected {
        0 => bumping!(
            "settings",
            "INSERT INTO application_settings (number, version, body) VALUES ($1, $2::int8 + 1, $3)
             ON CONFLICT (number) DO NOTHING RETURNING version"
        ),
        _ => bumping!(
            "settings",
            "UPDATE application_settings SET version = version + 1, body = $3
             WHERE number = $1 AND version = $2 RETURNING version"
        ),
    });
    let rows = connections.query(step.bind(number.as_i64()).bind(expected as i64).bind(storable(body))).await?;
    Ok(rows.first().map(|row| row.get::<_, i64>(0).unsigned_abs()))
}

pub(super) async fn contacts(connections: &Connections, number: WaId, wa_ids: &[WaId]) -> Result<Vec<ContactRow>> {
    if wa_ids.is_empty() {
        return Ok(Vec::new());
    }
    let step = Step::new("SELECT wa_id, on_network, checked_at FROM contact WHERE number = $1 AND wa_id = ANY($2::int8[])")
        .bind(number.as_i64())
        .bind(wa_ids.iter().map(|wa_id| wa_id.as_i64()).collect::<Vec<_>>());
    let rows = connections.query(step).await?;
    Ok(rows.iter().filter_map(|row| decode::contact(row.get(0), row.get(1), row.get(2))).collect())
}

pub(super) async fn put_contact_checks(connections: &Connections, number: WaId, contacts: &[ContactRow]) -> Result<()> {
    if contacts.is_empty() {
        return Ok(());
    }
    // Of several results for one contact the latest counts; sorted, so that two callers cannot deadlock.
    let step = Step::new(
        "INSERT INTO contact (number, wa_id, on_network, checked_at)
         SELECT DISTINCT ON (wa_id) $1, wa_id, on_network, checked_at
         FROM unnest($2::int8[], $3::bool[], $4::int8[]) WITH ORDINALITY AS w (wa_id, on_network, checked_at, i)
         ORDER BY wa_id, i DESC
         ON CONFLICT (number, wa_id) DO UPDATE SET on_network = excluded.on_network, checked_at = excluded.checked_at",
    )
    .bind(number.as_i64())
    .bind(contacts.iter().map(|c| c.wa_id.as_i64()).collect::<Vec<_>>())
    .bind(contacts.iter().map(|c| c.on_network).collect::<Vec<_>>())
    .bind(contacts.iter().map(|c| c.checked_at_ms).collect::<Vec<_>>());
    connections.query(step).await.map(drop)
}
