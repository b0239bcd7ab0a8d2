//! Fenced writes: one immediate transaction for each batch.

use std::collections::HashSet;

use estafet_model::{IdKey, Seq, Slot};
use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};

use super::{callbacks, error, garbage, keys};
use crate::{
    Batch, Committed, DeadLetter, EventRef, Fence, NewEvent, NewInbound, NewMessage, Result, SessionRow, StatusRow,
    decode::storable,
    packed::{Packed, json},
};

type Db<T> = Result<T, sqlx::Error>;

/// The lock is taken at the start, so what the fence reads stays true until the commit.
pub(super) async fn begin(writer: &SqlitePool) -> Db<Transaction<'static, Sqlite>> {
    writer.begin_with("BEGIN IMMEDIATE").await
}

pub(super) async fn commit(writer: &SqlitePool, fence: &Fence, batch: &Batch) -> Result<Committed> {
    let mut tx = begin(writer).await.map_err(error)?;
    if !owns(&mut tx, fence).await.map_err(error)? {
        return Err(fence.refused());
    }
    let committed = write(&mut tx, fence, batch).await.map_err(error)?;
    tx.commit().await.map_err(error)?;
    Ok(committed)
}

async fn owns(tx: &mut SqliteConnection, fence: &Fence) -> Db<bool> {
    let stored: Option<i64> =
        sqlx::query_scalar("SELECT epoch FROM shard_owner WHERE number = ?1 AND shard_count = ?2 AND shard = ?3")
            .bind(fence.number.as_i64())
            .bind(i64::from(fence.count.get()))
            .bind(i64::from(fence.shard.get()))
            .fetch_optional(tx)
            .await?;
    Ok(stored == Some(i64::from(fence.epoch.get())))
}

async fn write(tx: &mut SqliteConnection, fence: &Fence, batch: &Batch) -> Db<Committed> {
    let number = fence.number.as_i64();
    let duplicate_messages = messages(tx, fence, &batch.messages).await?;
    statuses(tx, number, &batch.statuses).await?;
    outbox_cursors(tx, number, &batch.outbox_cursors).await?;
    sessions(tx, number, &batch.sessions).await?;
    inbound(tx, number, &batch.inbound).await?;
    inbound_read(tx, number, &batch.inbound_read).await?;
    events(tx, number, &batch.events).await?;
    events_done(tx, number, &batch.events_done).await?;
    callbacks::kept(tx, number, &batch.events_kept).await?;
    dead_letters(tx, number, &batch.dead_letters).await?;
    keys::used(tx, number, &batch.keys).await?;
    callbacks::requeued(tx, number, &batch.requeued).await?;
    callbacks::replayed(tx, number, &batch.replayed).await?;
    callbacks::dropped(tx, number, &batch.letters_dropped).await?;
    forgotten_messages(tx, number, &batch.forgotten_messages).await?;
    garbage::forgotten_inbound(tx, number, &batch.forgotten_inbound).await?;
    Ok(Committed { duplicate_messages })
}

async fn messages(tx: &mut SqliteConnection, fence: &Fence, list: &[NewMessage]) -> Db<Vec<usize>> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|m| {
        let (start, _) = packed.push(&m.id_key.0);
        let (_, length) = packed.push(&m.body);
        (m.slot.get(), m.seq.get(), m.recipient.as_i64(), m.accepted_at_ms, start, start + IdKey::LEN, length)
    }));
    let stored: Vec<(i64, i64)> = sqlx::query_as(
        "INSERT INTO message_out (number, slot, seq, id_key, recipient, accepted_at, epoch, body)
         SELECT ?1, value->>0, value->>1, substr(?4, value->>4, 9), value->>2, value->>3, ?2, substr(?4, value->>5, value->>6)
         FROM json_each(?3) WHERE true
         ON CONFLICT (id_key) DO NOTHING RETURNING slot, seq",
    )
    .bind(fence.number.as_i64())
    .bind(i64::from(fence.epoch.get()))
    .bind(rows)
    .bind(packed.into_bytes())
    .fetch_all(tx)
    .await?;
    if stored.len() == list.len() {
        return Ok(Vec::new());
    }
    let stored: HashSet<(i64, i64)> = stored.into_iter().collect();
    Ok((0..list.len()).filter(|&i| !stored.contains(&(i64::from(list[i].slot.get()), list[i].seq.get()))).collect())
}

async fn statuses(tx: &mut SqliteConnection, number: i64, list: &[StatusRow]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let row = |s: &StatusRow| (s.slot.get(), s.seq.get(), s.statuses.bits(), s.error_code, s.changed_at_ms, s.times.columns());
    let sql = "INSERT INTO message_state
           (number, slot, seq, statuses, error_code, changed_at, left_at, sent_at, delivered_at, seen_at, failed_at)
         SELECT ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>'$[5][0]', value->>'$[5][1]',
           value->>'$[5][2]', value->>'$[5][3]', value->>'$[5][4]' FROM json_each(?2) WHERE true
         ON CONFLICT (number, slot, seq) DO UPDATE
         SET statuses = excluded.statuses, error_code = excluded.error_code, changed_at = excluded.changed_at,
           left_at = coalesce(left_at, excluded.left_at), sent_at = coalesce(sent_at, excluded.sent_at),
           delivered_at = coalesce(delivered_at, excluded.delivered_at), seen_at = coalesce(seen_at, excluded.seen_at),
           failed_at = coalesce(failed_at, excluded.failed_at)";
    let rows = json(list.iter().map(row));
    sqlx::query(sql).bind(number).bind(rows).execute(tx).await.map(drop)
}

async fn outbox_cursors(tx: &mut SqliteConnection, number: i64, list: &[(Slot, Seq)]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outbox_cursor (number, slot, seq)
         SELECT ?1, value->>0, value->>1 FROM json_each(?2) WHERE true
         ON CONFLICT (number, slot) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > outbox_cursor.seq";
    sqlx::query(sql).bind(number).bind(positions(list)).execute(tx).await.map(drop)
}

async fn sessions(tx: &mut SqliteConnection, number: i64, list: &[SessionRow]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|s| (s.slot.get(), s.peer.as_i64(), packed.push(&s.state))));
    let sql = "INSERT INTO e2e_session (number, slot, peer, state)
         SELECT ?1, value->>0, value->>1, substr(?3, value->>'$[2][0]', value->>'$[2][1]') FROM json_each(?2) WHERE true
         ON CONFLICT (number, peer) DO UPDATE SET slot = excluded.slot, state = excluded.state";
    sqlx::query(sql).bind(number).bind(rows).bind(packed.into_bytes()).execute(tx).await.map(drop)
}

async fn inbound(tx: &mut SqliteConnection, number: i64, list: &[NewInbound]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|m| {
        let (start, length) = packed.push(&m.body);
        (storable(&m.id), m.slot.get(), m.sender.as_i64(), storable(&m.profile_name), m.sent_at_ms, start, length, m.stored_at_ms)
    }));
    let sql = "INSERT INTO message_in (number, id, slot, sender, profile_name, sent_at, body, stored_at)
         SELECT ?1, value->>0, value->>1, value->>2, value->>3, value->>4, substr(?3, value->>5, value->>6), value->>7
         FROM json_each(?2) WHERE true ON CONFLICT (number, id) DO NOTHING";
    sqlx::query(sql).bind(number).bind(rows).bind(packed.into_bytes()).execute(tx).await.map(drop)
}

async fn inbound_read(tx: &mut SqliteConnection, number: i64, ids: &[String]) -> Db<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let sql = "UPDATE message_in SET read_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
         WHERE number = ?1 AND id IN (SELECT value FROM json_each(?2)) AND read_at IS NULL";
    sqlx::query(sql).bind(number).bind(json(ids.iter().map(|id| storable(id)))).execute(tx).await.map(drop)
}

async fn events(tx: &mut SqliteConnection, number: i64, list: &[NewEvent]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|e| {
        let (start, length) = packed.push(&e.body);
        let contact = e.contact.map(|c| c.as_i64());
        (e.slot.get(), e.endpoint.get(), e.seq.get(), contact, e.kind, e.created_at_ms, start, length)
    }));
    let sql = "INSERT INTO callback_event (number, slot, endpoint, seq, contact, kind, created_at, body)
         SELECT ?1, value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, substr(?3, value->>6, value->>7)
         FROM json_each(?2) WHERE true ON CONFLICT (number, slot, endpoint, seq) DO NOTHING";
    sqlx::query(sql).bind(number).bind(rows).bind(packed.into_bytes()).execute(tx).await.map(drop)
}

pub(super) async fn events_done(tx: &mut SqliteConnection, number: i64, list: &[EventRef]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let sql = "DELETE FROM callback_event WHERE number = ?1
           AND (slot, endpoint, seq) IN (SELECT value->>0, value->>1, value->>2 FROM json_each(?2))";
    sqlx::query(sql).bind(number).bind(event_positions(list.iter().copied())).execute(tx).await.map(drop)
}

async fn dead_letters(tx: &mut SqliteConnection, number: i64, list: &[DeadLetter]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    let place = |e: EventRef| (e.slot.get(), e.endpoint.get(), e.seq.get());
    let rows = json(list.iter().map(|d| (place(d.event), storable(&d.reason), d.at_ms)));
    let sql =
        "INSERT INTO dead_letter (number, slot, endpoint, seq, origin, contact, kind, created_at, reason, given_up_at, body)
         SELECT e.number, e.slot, e.endpoint, e.seq, e.origin, e.contact, e.kind, e.created_at, w.value->>1, w.value->>2, e.body
         FROM json_each(?2) w CROSS JOIN callback_event e
           ON e.number = ?1 AND e.slot = w.value->>'$[0][0]' AND e.endpoint = w.value->>'$[0][1]' AND e.seq = w.value->>'$[0][2]'
         WHERE true ON CONFLICT (number, slot, endpoint, seq) DO NOTHING";
    sqlx::query(sql).bind(number).bind(rows).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|d| d.event).collect();
    events_done(tx, number, &gone).await
}

async fn forgotten_messages(tx: &mut SqliteConnection, number: i64, list: &[(Slot, Seq)]) -> Db<()> {
    if list.is_empty() {
        return Ok(());
    }
    for sql in [
        "DELETE FROM message_out WHERE number = ?1 AND (slot, seq) IN (SELECT value->>0, value->>1 FROM json_each(?2))",
        "DELETE FROM message_state WHERE number = ?1 AND (slot, seq) IN (SELECT value->>0, value->>1 FROM json_each(?2))",
    ] {
        sqlx::query(sql).bind(number).bind(positions(list)).execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) fn positions(list: &[(Slot, Seq)]) -> String {
    json(list.iter().map(|(slot, seq)| (slot.get(), seq.get())))
}

pub(super) fn event_positions(list: impl Iterator<Item = EventRef>) -> String {
    json(list.map(|e| (e.slot.get(), e.endpoint.get(), e.seq.get())))
}
