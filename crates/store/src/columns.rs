//! Rows by the names of their columns, as the back ends over sqlx read them; [`crate::decode`] makes them values.

use sqlx::FromRow;

use crate::decode;

/// A row of `message_state`.
#[derive(FromRow)]
pub(crate) struct State {
    slot: i64,
    seq: i64,
    statuses: i64,
    error_code: Option<i64>,
    changed_at: i64,
    left_at: Option<i64>,
    sent_at: Option<i64>,
    delivered_at: Option<i64>,
    seen_at: Option<i64>,
    failed_at: Option<i64>,
}

impl From<State> for decode::Status {
    fn from(row: State) -> Self {
        Self {
            at: (row.slot, row.seq),
            statuses: row.statuses,
            error_code: row.error_code,
            changed_at_ms: row.changed_at,
            times: [row.left_at, row.sent_at, row.delivered_at, row.seen_at, row.failed_at],
        }
    }
}

/// A row of `callback_event`.
#[derive(FromRow)]
pub(crate) struct Event {
    slot: i64,
    endpoint: i64,
    seq: i64,
    origin: Option<i64>,
    contact: Option<i64>,
    kind: String,
    created_at: i64,
    body: Vec<u8>,
}

impl From<Event> for decode::Event {
    fn from(row: Event) -> Self {
        let Event { slot, endpoint, seq, origin, contact, kind, created_at, body } = row;
        Self { at: (slot, endpoint, seq), origin, contact, kind, created_at_ms: created_at, body }
    }
}

/// A callback with how it ended.
#[derive(FromRow)]
pub(crate) struct Callback {
    #[sqlx(flatten)]
    pub(crate) event: Event,
    pub(crate) reason: String,
    pub(crate) ended_at: i64,
}
