//! Fenced writes: one transaction for each batch, one statement for each list (of up to [`ROWS`]).
//!
//! The texts never change: rows come as one JSON array, bytes and text as one blob (see [`crate::packed`]).
//! `STRAIGHT_JOIN` reads the list first, so that each row is a look-up by key whatever the optimizer believes
//! about the size of a queue. An absent number travels as one that no row has, because the servers do not
//! agree on what a JSON null becomes.

use std::collections::HashSet;

use estafet_model::{IdKey, Seq, Slot};
use sqlx::{Connection, MySqlConnection};

use super::{
    callbacks,
    connections::{Connections, Db, answered, is_taken},
    garbage, keys,
};
use crate::{
    Batch, Committed, DeadLetter, EventRef, Fence, NewEvent, NewInbound, NewMessage, Result, SessionRow, StatusRow,
    decode::storable,
    packed::{Packed, json},
};

/// A list of rows, named `w`, from one parameter.
macro_rules! rows {
    ($columns:literal) => {
        concat!("JSON_TABLE(?, '$[*]' COLUMNS (", $columns, ")) AS w")
    };
}

/// A list of positions, named `w`.
macro_rules! places {
    () => {
        rows!("slot INT PATH '$[0]', seq BIGINT PATH '$[1]'")
    };
}

/// A list of positions of events, named `w`, from one parameter.
macro_rules! event_rows {
    () => {
        rows!("slot INT PATH '$[0]', endpoint INT PATH '$[1]', seq BIGINT PATH '$[2]'")
    };
}

/// The bytes that [`rows`] point into, named `p`, then the rows: two parameters. The cast keeps a server from
/// taking bytes for text.
macro_rules! packed_rows {
    ($columns:literal) => {
        concat!("(SELECT CAST(? AS BINARY) AS packed) AS p STRAIGHT_JOIN ", rows!($columns))
    };
}

pub(super) use {event_rows, packed_rows, places, rows};

// Before ON DUPLICATE KEY a list needs a WHERE, or the ON is taken for that of a join.

/// Rows in one statement. Servers end a statement that takes too long (see `SESSION`), so a large batch must not
/// become a long one, however slow the machine.
pub(super) const ROWS: usize = 1_000;

/// No error has this code.
const NO_ERROR: i32 = -1;
/// Nothing happened at this time.
const NO_TIME: i64 = 0;
/// No contact has this number.
const NO_CONTACT: i64 = 0;

pub(super) async fn commit(writer: &Connections, fence: &Fence, batch: &Batch) -> Result<Committed> {
    let mut session = writer.session().await?;
    let committed = answered(transaction(&mut session, fence, batch)).await?;
    session.keep();
    committed.ok_or_else(|| fence.refused())
}

/// `None` if the epoch is not the owner's.
async fn transaction(session: &mut MySqlConnection, fence: &Fence, batch: &Batch) -> Db<Option<Committed>> {
    let mut tx = session.begin().await?;
    if !owns(&mut tx, fence).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    let committed = write(&mut tx, fence, batch).await?;
    tx.commit().await?;
    Ok(Some(committed))
}

/// The lock conflicts with the update of a takeover, so an epoch that is current here stays current until the
/// commit (I2). `FOR SHARE` would say the same to MySQL, but not to MariaDB.
async fn owns(tx: &mut MySqlConnection, fence: &Fence) -> Db<bool> {
    let sql = "SELECT epoch FROM shard_owner WHERE number = ? AND shard_count = ? AND shard = ? LOCK IN SHARE MODE";
    let stored: Option<i64> = sqlx::query_scalar(sql)
        .bind(fence.number.as_i64())
        .bind(fence.count.get())
        .bind(fence.shard.get())
        .fetch_optional(tx)
        .await?;
    Ok(stored == Some(i64::from(fence.epoch.get())))
}

async fn write(tx: &mut MySqlConnection, fence: &Fence, batch: &Batch) -> Db<Committed> {
    let number = fence.number.as_i64();
    let mut duplicate_messages = Vec::new();
    for (i, part) in batch.messages.chunks(ROWS).enumerate() {
        duplicate_messages.extend(messages(tx, fence, part).await?.into_iter().map(|at| i * ROWS + at));
    }
    for part in batch.statuses.chunks(ROWS) {
        statuses(tx, number, part).await?;
    }
    for part in batch.outbox_cursors.chunks(ROWS) {
        outbox_cursors(tx, number, part).await?;
    }
    for part in batch.sessions.chunks(ROWS) {
        sessions(tx, number, part).await?;
    }
    for part in batch.inbound.chunks(ROWS) {
        inbound(tx, number, part).await?;
    }
    for part in batch.inbound_read.chunks(ROWS) {
        inbound_read(tx, number, part).await?;
    }
    for part in batch.events.chunks(ROWS) {
        events(tx, number, part).await?;
    }
    for part in batch.events_done.chunks(ROWS) {
        events_done(tx, number, part).await?;
    }
    for part in batch.events_kept.chunks(ROWS) {
        callbacks::kept(tx, number, part).await?;
    }
    for part in batch.dead_letters.chunks(ROWS) {
        dead_letters(tx, number, part).await?;
    }
    for part in batch.keys.chunks(ROWS) {
        keys::used(tx, number, part).await?;
    }
    for part in batch.requeued.chunks(ROWS) {
        callbacks::requeued(tx, number, part).await?;
    }
    for part in batch.replayed.chunks(ROWS) {
        callbacks::replayed(tx, number, part).await?;
    }
    for part in batch.letters_dropped.chunks(ROWS) {
        callbacks::dropped(tx, number, part).await?;
    }
    for part in batch.forgotten_messages.chunks(ROWS) {
        forgotten_messages(tx, number, part).await?;
    }
    for part in batch.forgotten_inbound.chunks(ROWS) {
        garbage::forgotten_inbound(tx, number, part).await?;
    }
    Ok(Committed { duplicate_messages })
}

/// There is no RETURNING on both servers, and ignoring what is there would also ignore a position taken by
/// another message. So the list goes in whole, and only if that is refused it is looked up what is there.
async fn messages(tx: &mut MySqlConnection, fence: &Fence, list: &[NewMessage]) -> Db<Vec<usize>> {
    if is_taken(insert_messages(tx, fence, list).await)?.is_some() {
        return Ok(Vec::new());
    }
    let mut known = stored_keys(tx, list).await?;
    let (mut fresh, mut duplicates) = (Vec::new(), Vec::new());
    for (i, message) in list.iter().enumerate() {
        if known.insert(message.id_key.0.to_vec()) { fresh.push(message.clone()) } else { duplicates.push(i) }
    }
    if !fresh.is_empty() {
        insert_messages(tx, fence, &fresh).await?;
    }
    Ok(duplicates)
}

async fn insert_messages(tx: &mut MySqlConnection, fence: &Fence, list: &[NewMessage]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|m| {
        let (start, _) = packed.push(&m.id_key.0);
        let (_, length) = packed.push(&m.body);
        (m.slot.get(), m.seq.get(), m.recipient.as_i64(), m.accepted_at_ms, start, start + IdKey::LEN, length)
    }));
    let sql = concat!(
        "INSERT INTO message_out (number, slot, seq, id_key, recipient, accepted_at, epoch, body)
         SELECT ?, w.slot, w.seq, SUBSTRING(p.packed, w.id_key, 9), w.recipient, w.accepted_at, ?,
           SUBSTRING(p.packed, w.start, w.length) FROM ",
        packed_rows!(
            "slot INT PATH '$[0]', seq BIGINT PATH '$[1]', recipient BIGINT PATH '$[2]', accepted_at BIGINT PATH '$[3]',
             id_key BIGINT PATH '$[4]', start BIGINT PATH '$[5]', length BIGINT PATH '$[6]'"
        )
    );
    sqlx::query(sql)
        .bind(fence.number.as_i64())
        .bind(i64::from(fence.epoch.get()))
        .bind(packed.into_bytes())
        .bind(rows)
        .execute(tx)
        .await
        .map(drop)
}

async fn stored_keys(tx: &mut MySqlConnection, list: &[NewMessage]) -> Db<HashSet<Vec<u8>>> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|m| [packed.push(&m.id_key.0).0]));
    let sql = concat!(
        "SELECT m.id_key FROM ",
        packed_rows!("start BIGINT PATH '$[0]'"),
        " STRAIGHT_JOIN message_out m ON m.id_key = SUBSTRING(p.packed, w.start, 9)"
    );
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(sql).bind(packed.into_bytes()).bind(rows).fetch_all(tx).await?;
    Ok(keys.into_iter().collect())
}

async fn statuses(tx: &mut MySqlConnection, number: i64, list: &[StatusRow]) -> Db<()> {
    let code = |s: &StatusRow| s.error_code.map_or(NO_ERROR, i32::from);
    let row = |s: &StatusRow| {
        let times = s.times.columns().map(|time| time.unwrap_or(NO_TIME));
        (s.slot.get(), s.seq.get(), s.statuses.bits(), code(s), s.changed_at_ms, times)
    };
    let sql = concat!(
        "INSERT INTO message_state
           (number, slot, seq, statuses, error_code, changed_at, left_at, sent_at, delivered_at, seen_at, failed_at)
         SELECT ?, w.slot, w.seq, w.statuses, NULLIF(w.error_code, -1), w.changed_at, NULLIF(w.left_at, 0), NULLIF(w.sent_at, 0),
           NULLIF(w.delivered_at, 0), NULLIF(w.seen_at, 0), NULLIF(w.failed_at, 0) FROM ",
        rows!(
            "slot INT PATH '$[0]', seq BIGINT PATH '$[1]', statuses INT PATH '$[2]', error_code INT PATH '$[3]',
             changed_at BIGINT PATH '$[4]', left_at BIGINT PATH '$[5][0]', sent_at BIGINT PATH '$[5][1]',
             delivered_at BIGINT PATH '$[5][2]', seen_at BIGINT PATH '$[5][3]', failed_at BIGINT PATH '$[5][4]'"
        ),
        " WHERE TRUE ON DUPLICATE KEY UPDATE statuses = VALUES(statuses), error_code = VALUES(error_code),
           changed_at = VALUES(changed_at), left_at = COALESCE(message_state.left_at, VALUES(left_at)),
           sent_at = COALESCE(message_state.sent_at, VALUES(sent_at)),
           delivered_at = COALESCE(message_state.delivered_at, VALUES(delivered_at)),
           seen_at = COALESCE(message_state.seen_at, VALUES(seen_at)),
           failed_at = COALESCE(message_state.failed_at, VALUES(failed_at))"
    );
    let rows = json(list.iter().map(row));
    sqlx::query(sql).bind(number).bind(rows).execute(tx).await.map(drop)
}

async fn outbox_cursors(tx: &mut MySqlConnection, number: i64, list: &[(Slot, Seq)]) -> Db<()> {
    let sql = concat!(
        "INSERT INTO outbox_cursor (number, slot, seq) SELECT ?, w.slot, w.seq FROM ",
        places!(),
        " WHERE TRUE ON DUPLICATE KEY UPDATE seq = GREATEST(outbox_cursor.seq, VALUES(seq))"
    );
    sqlx::query(sql).bind(number).bind(positions(list)).execute(tx).await.map(drop)
}

async fn sessions(tx: &mut MySqlConnection, number: i64, list: &[SessionRow]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|s| {
        let (start, length) = packed.push(&s.state);
        (s.slot.get(), s.peer.as_i64(), start, length)
    }));
    let sql = concat!(
        "INSERT INTO e2e_session (number, slot, peer, state)
         SELECT ?, w.slot, w.peer, SUBSTRING(p.packed, w.start, w.length) FROM ",
        packed_rows!("slot INT PATH '$[0]', peer BIGINT PATH '$[1]', start BIGINT PATH '$[2]', length BIGINT PATH '$[3]'"),
        " WHERE TRUE ON DUPLICATE KEY UPDATE slot = VALUES(slot), state = VALUES(state)"
    );
    sqlx::query(sql).bind(number).bind(packed.into_bytes()).bind(rows).execute(tx).await.map(drop)
}

async fn inbound(tx: &mut MySqlConnection, number: i64, list: &[NewInbound]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|m| {
        let parts = [storable(&m.id).as_bytes(), storable(&m.profile_name).as_bytes(), &m.body].map(|part| packed.push(part));
        (m.slot.get(), m.sender.as_i64(), m.sent_at_ms, parts, m.stored_at_ms)
    }));
    let sql = concat!(
        "INSERT INTO message_in (number, id, slot, sender, profile_name, sent_at, body, stored_at)
         SELECT ?, SUBSTRING(p.packed, w.id, w.id_length), w.slot, w.sender,
           CONVERT(SUBSTRING(p.packed, w.name, w.name_length) USING utf8mb4), w.sent_at,
           SUBSTRING(p.packed, w.start, w.length), w.stored_at FROM ",
        packed_rows!(
            "slot INT PATH '$[0]', sender BIGINT PATH '$[1]', sent_at BIGINT PATH '$[2]',
             id BIGINT PATH '$[3][0][0]', id_length BIGINT PATH '$[3][0][1]', name BIGINT PATH '$[3][1][0]',
             name_length BIGINT PATH '$[3][1][1]', start BIGINT PATH '$[3][2][0]', length BIGINT PATH '$[3][2][1]',
             stored_at BIGINT PATH '$[4]'"
        ),
        " WHERE TRUE ON DUPLICATE KEY UPDATE slot = message_in.slot"
    );
    sqlx::query(sql).bind(number).bind(packed.into_bytes()).bind(rows).execute(tx).await.map(drop)
}

async fn inbound_read(tx: &mut MySqlConnection, number: i64, ids: &[String]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = texts(&mut packed, ids);
    let sql = concat!(
        "UPDATE ",
        packed_rows!("start BIGINT PATH '$[0]', length BIGINT PATH '$[1]'"),
        " STRAIGHT_JOIN message_in m ON m.number = ? AND m.id = SUBSTRING(p.packed, w.start, w.length)
         SET m.read_at = CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) WHERE m.read_at IS NULL"
    );
    sqlx::query(sql).bind(packed.into_bytes()).bind(rows).bind(number).execute(tx).await.map(drop)
}

async fn events(tx: &mut MySqlConnection, number: i64, list: &[NewEvent]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|e| {
        let parts = [e.kind.as_bytes(), &e.body].map(|part| packed.push(part));
        let contact = e.contact.map_or(NO_CONTACT, |c| c.as_i64());
        (e.slot.get(), e.seq.get(), contact, e.created_at_ms, parts, e.endpoint.get())
    }));
    let sql = concat!(
        "INSERT INTO callback_event (number, slot, endpoint, seq, contact, kind, created_at, body)
         SELECT ?, w.slot, w.endpoint, w.seq, NULLIF(w.contact, 0),
           CONVERT(SUBSTRING(p.packed, w.kind, w.kind_length) USING utf8mb4), w.created_at,
           SUBSTRING(p.packed, w.start, w.length) FROM ",
        packed_rows!(
            "slot INT PATH '$[0]', seq BIGINT PATH '$[1]', contact BIGINT PATH '$[2]', created_at BIGINT PATH '$[3]',
             kind BIGINT PATH '$[4][0][0]', kind_length BIGINT PATH '$[4][0][1]', start BIGINT PATH '$[4][1][0]',
             length BIGINT PATH '$[4][1][1]', endpoint INT PATH '$[5]'"
        ),
        " WHERE TRUE ON DUPLICATE KEY UPDATE slot = callback_event.slot"
    );
    sqlx::query(sql).bind(number).bind(packed.into_bytes()).bind(rows).execute(tx).await.map(drop)
}

pub(super) async fn events_done(tx: &mut MySqlConnection, number: i64, list: &[EventRef]) -> Db<()> {
    let sql = concat!(
        "DELETE e FROM ",
        event_rows!(),
        " STRAIGHT_JOIN callback_event e ON e.number = ? AND e.slot = w.slot AND e.endpoint = w.endpoint AND e.seq = w.seq"
    );
    sqlx::query(sql).bind(event_positions(list)).bind(number).execute(tx).await.map(drop)
}

async fn dead_letters(tx: &mut MySqlConnection, number: i64, list: &[DeadLetter]) -> Db<()> {
    let mut packed = Packed::new();
    let rows = json(list.iter().map(|d| {
        let (start, length) = packed.push(storable(&d.reason).as_bytes());
        (d.event.slot.get(), d.event.seq.get(), d.at_ms, start, length, d.event.endpoint.get())
    }));
    let sql = concat!(
        "INSERT INTO dead_letter (number, slot, endpoint, seq, origin, contact, kind, created_at, reason, given_up_at, body)
         SELECT e.number, e.slot, e.endpoint, e.seq, e.origin, e.contact, e.kind, e.created_at,
           CONVERT(SUBSTRING(p.packed, w.start, w.length) USING utf8mb4), w.given_up_at, e.body FROM ",
        packed_rows!(
            "slot INT PATH '$[0]', seq BIGINT PATH '$[1]', given_up_at BIGINT PATH '$[2]', start BIGINT PATH '$[3]',
             length BIGINT PATH '$[4]', endpoint INT PATH '$[5]'"
        ),
        " STRAIGHT_JOIN callback_event e ON e.number = ? AND e.slot = w.slot AND e.endpoint = w.endpoint AND e.seq = w.seq
         WHERE TRUE ON DUPLICATE KEY UPDATE slot = dead_letter.slot"
    );
    sqlx::query(sql).bind(packed.into_bytes()).bind(rows).bind(number).execute(&mut *tx).await?;
    let gone: Vec<EventRef> = list.iter().map(|d| d.event).collect();
    events_done(tx, number, &gone).await
}

async fn forgotten_messages(tx: &mut MySqlConnection, number: i64, list: &[(Slot, Seq)]) -> Db<()> {
    for sql in [
        concat!(
            "DELETE m FROM ",
            places!(),
            " STRAIGHT_JOIN message_out m ON m.number = ? AND m.slot = w.slot AND m.seq = w.seq"
        ),
        concat!(
            "DELETE m FROM ",
            places!(),
            " STRAIGHT_JOIN message_state m ON m.number = ? AND m.slot = w.slot AND m.seq = w.seq"
        ),
    ] {
        sqlx::query(sql).bind(positions(list)).bind(number).execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) fn positions(list: &[(Slot, Seq)]) -> String {
    json(list.iter().map(|(slot, seq)| (slot.get(), seq.get())))
}

pub(super) fn event_positions(list: &[EventRef]) -> String {
    json(list.iter().map(|e| (e.slot.get(), e.endpoint.get(), e.seq.get())))
}

/// Rows of start and length.
pub(super) fn texts(packed: &mut Packed, list: &[String]) -> String {
    json(list.iter().map(|text| packed.push(storable(text).as_bytes())))
}
