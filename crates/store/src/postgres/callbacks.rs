//! Callbacks that wait or were given up, as an operator sees and moves them.

use estafet_model::WaId;

use super::{
    commit::{column, last_of_each, slot},
    connections::{Connections, Step},
};
use crate::{EventRef, KeptCallback, Page, Queue, Requeued, Result, decode};

macro_rules! page {
    ($columns:literal, $table:literal) => {
        concat!(
            "SELECT slot, seq, contact, kind, created_at, body, ",
            $columns,
            " FROM ",
            $table,
            " WHERE number = $1 AND slot BETWEEN $2 AND $3 AND (slot, seq) > ($4, $5) AND created_at >= $6 AND created_at < $7
               AND ($8::int8 IS NULL OR contact = $8) ORDER BY number, slot, seq LIMIT $9"
        )
    };
}

pub(super) async fn page(reader: &Connections, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>> {
    let step = Step::new(match queue {
        Queue::Waiting => page!("''::text, NULL::int8", "callback_event"),
        Queue::Dead => page!("reason, given_up_at", "dead_letter"),
    });
    let step = step
        .bind(number.as_i64())
        .bind(slot(*page.slots.start()))
        .bind(slot(*page.slots.end()))
        .bind(slot(page.after.0))
        .bind(page.after.1.get())
        .bind(page.created_ms.start)
        .bind(page.created_ms.end)
        .bind(page.contact.map(|contact| contact.as_i64()))
        .bind(i64::from(page.limit));
    let decoded = reader.query(step).await?;
    let decoded = decoded.iter().filter_map(|row| {
        let at = (i64::from(row.get::<_, i32>(0)), row.get(1));
        decode::callback(decode::event(at, row.get(2), row.get(3), row.get(4), row.get(5)), row.get(6), row.get(7))
    });
    Ok(decoded.collect())
}

pub(super) fn requeued(number: i64, list: &[Requeued]) -> Step<'_> {
    let list = last_of_each(list, |r| r.letter);
    Step::new(
        "WITH w AS MATERIALIZED (
           SELECT w.*, (
             SELECT d.ctid FROM dead_letter d WHERE d.number = $1 AND d.slot = w.slot AND d.seq = w.seq) AS letter
           FROM unnest($2::int4[], $3::int8[], $4::int8[], $5::int8[]) AS w (slot, seq, new_seq, requeued_at)
         ), gone AS (
           DELETE FROM dead_letter WHERE ctid = ANY (ARRAY(SELECT letter FROM w)) RETURNING *
         )
         INSERT INTO callback_event (number, slot, seq, contact, kind, created_at, body)
         SELECT $1, slot, new_seq, contact, kind, requeued_at, body FROM gone JOIN w USING (slot, seq)
         ON CONFLICT (number, slot, seq) DO NOTHING",
    )
    .bind(number)
    .bind(column(&list, |r| slot(r.letter.slot)))
    .bind(column(&list, |r| r.letter.seq.get()))
    .bind(column(&list, |r| r.seq.get()))
    .bind(column(&list, |r| r.at_ms))
}

pub(super) fn dropped(number: i64, list: &[EventRef]) -> Step<'_> {
    Step::new(
        "DELETE FROM dead_letter WHERE ctid = ANY (ARRAY(
           SELECT (SELECT d.ctid FROM dead_letter d WHERE d.number = $1 AND d.slot = w.slot AND d.seq = w.seq)
           FROM unnest($2::int4[], $3::int8[]) AS w (slot, seq)))",
    )
    .bind(number)
    .bind(column(list, |e| slot(e.slot)))
    .bind(column(list, |e| e.seq.get()))
}
