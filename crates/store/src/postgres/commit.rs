//! Fenced writes: one transaction for each batch, one statement for each list.
//!
//! Deletes find their rows by sub-select and `ctid`, so that each is a look-up by key whatever the planner
//! believes about the size of a queue (see [`super::read`]).

use std::{collections::HashSet, hash::Hash};

use estafet_model::{Seq, Slot};

use super::{
    callbacks,
    connections::{Connections, Failure, Step},
    garbage, keys,
};
use crate::{
    Batch, Committed, DeadLetter, EventRef, Fence, NewEvent, NewInbound, NewMessage, Result, SessionRow, StatusRow,
    decode::storable,
};

pub(super) async fn commit(writer: &Connections, fence: &Fence, batch: &Batch) -> Result<Committed> {
    let rows = match writer.transaction(&steps(fence, batch)).await {
        Ok(rows) => rows,
        Err(Failure::Fenced) => return Err(fence.refused()),
        Err(Failure::Locked(error) | Failure::Other(error)) => return Err(error),
    };
    // The messages, if there are any, come right after the fence.
    let stored = if batch.messages.is_empty() { &[] } else { rows[1].as_slice() };
    if stored.len() == batch.messages.len() {
        return Ok(Committed::default());
    }
    let stored: HashSet<(i32, i64)> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
    let duplicate = |m: &NewMessage| !stored.contains(&(slot(m.slot), m.seq.get()));
    let duplicate_messages = (0..batch.messages.len()).filter(|&i| duplicate(&batch.messages[i])).collect();
    Ok(Committed { duplicate_messages })
}

fn steps<'a>(fence: &Fence, batch: &'a Batch) -> Vec<Step<'a>> {
    let number = fence.number.as_i64();
    let mut steps = vec![owns(fence)];
    fn add<'a, T>(steps: &mut Vec<Step<'a>>, list: &'a [T], step: impl FnOnce(&'a [T]) -> Step<'a>) {
        if !list.is_empty() {
            steps.push(step(list));
        }
    }
    add(&mut steps, &batch.messages, |list| messages(number, i64::from(fence.epoch.get()), list));
    add(&mut steps, &batch.statuses, |list| statuses(number, list));
    add(&mut steps, &batch.outbox_cursors, |list| outbox_cursors(number, list));
    add(&mut steps, &batch.sessions, |list| sessions(number, list));
    add(&mut steps, &batch.inbound, |list| inbound(number, list));
    add(&mut steps, &batch.inbound_read, |list| inbound_read(number, list));
    add(&mut steps, &batch.events, |list| events(number, list));
    add(&mut steps, &batch.events_done, |list| events_done(number, list));
    add(&mut steps, &batch.events_kept, |list| callbacks::kept(number, list));
    add(&mut steps, &batch.dead_letters, |list| dead_letters(number, list));
    add(&mut steps, &batch.keys, |list| keys::used(number, list));
    add(&mut steps, &batch.keys, |list| keys::forgotten(number, list));
    add(&mut steps, &batch.requeued, |list| callbacks::requeued(number, list));
    add(&mut steps, &batch.replayed, |list| callbacks::replayed(number, list));
    add(&mut steps, &batch.letters_dropped, |list| callbacks::dropped(number, list));
    add(&mut steps, &batch.forgotten_messages, |list| forgotten_messages(number, list));
    add(&mut steps, &batch.forgotten_inbound, |list| garbage::forgotten_inbound(number, list));
    steps
}

/// What commits say most, about nothing: no number is 0, and the epoch of a shard that is not there is NULL.
pub(super) fn rehearsal() -> Vec<Step<'static>> {
    let owns = Step::new(FENCE).bind(0_i64).bind(0_i32).bind(0_i32).bind(None::<i64>);
    vec![
        owns,
        messages(0, 0, &[]),
        statuses(0, &[]),
        outbox_cursors(0, &[]),
        sessions(0, &[]),
        inbound(0, &[]),
        events(0, &[]),
        events_done(0, &[]),
    ]
}

const FENCE: &str = "SELECT estafet.fence($1, $2, $3, $4)";

fn owns<'a>(fence: &Fence) -> Step<'a> {
    Step::new(FENCE)
        .bind(fence.number.as_i64())
        .bind(i32::from(fence.shard.get()))
        .bind(i32::from(fence.count.get()))
        .bind(i64::from(fence.epoch.get()))
}

fn messages(number: i64, epoch: i64, list: &[NewMessage]) -> Step<'_> {
    Step::new(
        "INSERT INTO message_out (number, slot, seq, id_key, recipient, accepted_at, epoch, body)
         SELECT $1, slot, seq, id_key, recipient, accepted_at, $2, body
         FROM unnest($3::int4[], $4::int8[], $5::bytea[], $6::int8[], $7::int8[], $8::bytea[])
           AS w (slot, seq, id_key, recipient, accepted_at, body)
         ON CONFLICT (id_key) DO NOTHING RETURNING slot, seq",
    )
    .bind(number)
    .bind(epoch)
    .bind(column(list, |m| slot(m.slot)))
    .bind(column(list, |m| m.seq.get()))
    .bind(column(list, |m| m.id_key.0.as_slice()))
    .bind(column(list, |m| m.recipient.as_i64()))
    .bind(column(list, |m| m.accepted_at_ms))
    .bind(column(list, |m| &*m.body))
}

fn statuses(number: i64, list: &[StatusRow]) -> Step<'_> {
    let list = last_of_each(list, |s| (s.slot, s.seq));
    Step::new(
        "INSERT INTO message_state AS s
           (number, slot, seq, statuses, error_code, changed_at, left_at, sent_at, delivered_at, seen_at, failed_at)
         SELECT $1, * FROM unnest($2::int4[], $3::int8[], $4::int2[], $5::int4[], $6::int8[],
           $7::int8[], $8::int8[], $9::int8[], $10::int8[], $11::int8[])
         ON CONFLICT (number, slot, seq) DO UPDATE
         SET statuses = excluded.statuses, error_code = excluded.error_code, changed_at = excluded.changed_at,
           left_at = coalesce(s.left_at, excluded.left_at), sent_at = coalesce(s.sent_at, excluded.sent_at),
           delivered_at = coalesce(s.delivered_at, excluded.delivered_at), seen_at = coalesce(s.seen_at, excluded.seen_at),
           failed_at = coalesce(s.failed_at, excluded.failed_at)",
    )
    .bind(number)
    .bind(column(&list, |s| slot(s.slot)))
    .bind(column(&list, |s| s.seq.get()))
    .bind(column(&list, |s| i16::from(s.statuses.bits())))
    .bind(column(&list, |s| s.error_code.map(i32::from)))
    .bind(column(&list, |s| s.changed_at_ms))
    .bind(column(&list, |s| s.times.left))
    .bind(column(&list, |s| s.times.sent))
    .bind(column(&list, |s| s.times.delivered))
    .bind(column(&list, |s| s.times.seen))
    .bind(column(&list, |s| s.times.failed))
}

fn outbox_cursors(number: i64, list: &[(Slot, Seq)]) -> Step<'_> {
    let step = Step::new(
        "INSERT INTO outbox_cursor (number, slot, seq)
         SELECT $1, slot, max(seq) FROM unnest($2::int4[], $3::int8[]) AS w (slot, seq) GROUP BY slot ORDER BY slot
         ON CONFLICT (number, slot) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > outbox_cursor.seq",
    );
    at(step.bind(number), list)
}

fn sessions(number: i64, list: &[SessionRow]) -> Step<'_> {
    let list = last_of_each(list, |s| s.peer);
    Step::new(
        "INSERT INTO e2e_session (number, peer, slot, state)
         SELECT $1, * FROM unnest($2::int8[], $3::int4[], $4::bytea[])
         ON CONFLICT (number, peer) DO UPDATE SET slot = excluded.slot, state = excluded.state",
    )
    .bind(number)
    .bind(column(&list, |s| s.peer.as_i64()))
    .bind(column(&list, |s| slot(s.slot)))
    .bind(list.iter().map(|s| &*s.state).collect::<Vec<&[u8]>>())
}

fn inbound(number: i64, list: &[NewInbound]) -> Step<'_> {
    Step::new(
        "INSERT INTO message_in (number, id, slot, sender, profile_name, sent_at, body, stored_at)
         SELECT $1, * FROM unnest($2::text[], $3::int4[], $4::int8[], $5::text[], $6::int8[], $7::bytea[], $8::int8[])
         ON CONFLICT (number, id) DO NOTHING",
    )
    .bind(number)
    .bind(column(list, |m| storable(&m.id)))
    .bind(column(list, |m| slot(m.slot)))
    .bind(column(list, |m| m.sender.as_i64()))
    .bind(column(list, |m| storable(&m.profile_name)))
    .bind(column(list, |m| m.sent_at_ms))
    .bind(column(list, |m| &*m.body))
    .bind(column(list, |m| m.stored_at_ms))
}

fn inbound_read(number: i64, ids: &[String]) -> Step<'_> {
    Step::new(
        "UPDATE message_in SET read_at = (extract(epoch FROM clock_timestamp()) * 1000)::int8
         WHERE number = $1 AND id = ANY($2::text[]) AND read_at IS NULL",
    )
    .bind(number)
    .bind(column(ids, |id| storable(id)))
}

fn events(number: i64, list: &[NewEvent]) -> Step<'_> {
    Step::new(
        "INSERT INTO callback_event (number, slot, endpoint, seq, contact, kind, created_at, body)
         SELECT $1, * FROM unnest($2::int4[], $3::int4[], $4::int8[], $5::int8[], $6::text[], $7::int8[], $8::bytea[])
         ON CONFLICT (number, slot, endpoint, seq) DO NOTHING",
    )
    .bind(number)
    .bind(column(list, |e| slot(e.slot)))
    .bind(column(list, |e| i32::from(e.endpoint.get())))
    .bind(column(list, |e| e.seq.get()))
    .bind(column(list, |e| e.contact.map(|c| c.as_i64())))
    .bind(column(list, |e| e.kind))
    .bind(column(list, |e| e.created_at_ms))
    .bind(column(list, |e| &*e.body))
}

fn events_done(number: i64, list: &[EventRef]) -> Step<'_> {
    let step = Step::new(
        "DELETE FROM callback_event WHERE ctid = ANY (ARRAY(
           SELECT (SELECT e.ctid FROM callback_event e
             WHERE e.number = $1 AND e.slot = w.slot AND e.endpoint = w.endpoint AND e.seq = w.seq)
           FROM unnest($2::int4[], $3::int4[], $4::int8[]) AS w (slot, endpoint, seq)))",
    );
    at_events(step.bind(number), list.iter().copied())
}

fn dead_letters(number: i64, list: &[DeadLetter]) -> Step<'_> {
    let list = last_of_each(list, |d| d.event);
    let step = Step::new(
        "WITH w AS MATERIALIZED (
           SELECT w.*, (
             SELECT e.ctid FROM callback_event e
             WHERE e.number = $1 AND e.slot = w.slot AND e.endpoint = w.endpoint AND e.seq = w.seq) AS event
           FROM unnest($2::int4[], $3::int4[], $4::int8[], $5::text[], $6::int8[]) AS w (slot, endpoint, seq, reason, given_up_at)
         ), gone AS (
           DELETE FROM callback_event WHERE ctid = ANY (ARRAY(SELECT event FROM w)) RETURNING *
         )
         INSERT INTO dead_letter (number, slot, endpoint, seq, origin, contact, kind, created_at, reason, given_up_at, body)
         SELECT $1, slot, endpoint, seq, origin, contact, kind, created_at, reason, given_up_at, body
         FROM gone JOIN w USING (slot, endpoint, seq)
         ON CONFLICT (number, slot, endpoint, seq) DO NOTHING",
    );
    at_events(step.bind(number), list.iter().map(|d| d.event))
        .bind(column(&list, |d| storable(&d.reason)))
        .bind(column(&list, |d| d.at_ms))
}

fn forgotten_messages(number: i64, list: &[(Slot, Seq)]) -> Step<'_> {
    let step = Step::new(
        "WITH w AS MATERIALIZED (SELECT * FROM unnest($2::int4[], $3::int8[]) AS w (slot, seq)), states AS (
           DELETE FROM message_state WHERE ctid = ANY (ARRAY(
             SELECT (SELECT s.ctid FROM message_state s WHERE s.number = $1 AND s.slot = w.slot AND s.seq = w.seq) FROM w))
         )
         DELETE FROM message_out WHERE ctid = ANY (ARRAY(
           SELECT (SELECT m.ctid FROM message_out m WHERE m.number = $1 AND m.slot = w.slot AND m.seq = w.seq) FROM w))",
    );
    at(step.bind(number), list)
}

/// Binds positions as two arrays.
pub(super) fn at<'a>(step: Step<'a>, list: &[(Slot, Seq)]) -> Step<'a> {
    step.bind(column(list, |&(s, _)| slot(s))).bind(column(list, |(_, seq)| seq.get()))
}

/// Binds positions of events as three arrays.
pub(super) fn at_events<'a>(step: Step<'a>, list: impl Iterator<Item = EventRef> + Clone) -> Step<'a> {
    step.bind(list.clone().map(|e| slot(e.slot)).collect::<Vec<i32>>())
        .bind(list.clone().map(|e| i32::from(e.endpoint.get())).collect::<Vec<i32>>())
        .bind(list.map(|e| e.seq.get()).collect::<Vec<i64>>())
}

pub(super) fn slot(slot: Slot) -> i32 {
    i32::from(slot.get())
}

pub(super) fn column<'a, T, U>(list: &'a [T], value: impl Fn(&'a T) -> U) -> Vec<U> {
    list.iter().map(value).collect()
}

/// A statement may replace a row once only: the last value counts, as if each were written by itself.
pub(super) fn last_of_each<T, K: Eq + Hash>(list: &[T], key: impl Fn(&T) -> K) -> Vec<&T> {
    let mut seen = HashSet::with_capacity(list.len());
    let mut kept: Vec<&T> = list.iter().rev().filter(|row| seen.insert(key(row))).collect();
    kept.reverse();
    kept
}
