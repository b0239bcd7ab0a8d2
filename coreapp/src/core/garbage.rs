//! Of which messages nothing is awaited any more (docs/operations.md): what the collector may remove. Pure.
//!
//! Never: what the network has not taken, callbacks that wait, dead letters. A message that was read or that failed goes
//! after the age that is configured. One that was only sent or delivered may still be delivered, read, or asked for once
//! more by a phone, so it stays for as long as a network keeps messages on top of that.

use estafet_model::Status;
use estafet_store::StatusRow;

/// How long a network keeps what it cannot deliver: 30 days, milliseconds.
pub const NETWORK_KEEPS_MS: i64 = 30 * 24 * 3600 * 1000;

/// Whether a message with these statuses may be removed, if finished ones stay for `keep_ms`.
pub fn is_over(row: &StatusRow, keep_ms: i64, now_ms: i64) -> bool {
    let age_ms = now_ms.saturating_sub(row.changed_at_ms);
    if row.statuses.contains(Status::Read) || row.statuses.contains(Status::Failed) {
        return age_ms > keep_ms;
    }
    row.statuses.is_settled() && age_ms > keep_ms.saturating_add(NETWORK_KEEPS_MS)
}

#[cfg(test)]
mod tests {
    use estafet_model::{Seq, Slot, StatusSet};
    use estafet_store::Times;

    use super::*;

    const DAY_MS: i64 = 24 * 3600 * 1000;
    const WEEK_MS: i64 = 7 * DAY_MS;

    fn after(statuses: &[Status], days: i64) -> bool {
        let mut reached = StatusSet::EMPTY;
        for status in statuses {
            reached.advance(*status);
        }
        let (slot, seq) = (Slot::FIRST, Seq::new(1));
        let row = StatusRow { slot, seq, statuses: reached, error_code: None, changed_at_ms: 0, times: Times::default() };
        is_over(&row, WEEK_MS, days * DAY_MS)
    }

    #[test]
    fn r157_what_is_finished_goes_after_a_week_what_may_still_be_delivered_after_a_month_more_and_what_waits_never() {
        use Status::{Delivered, Failed, Read, Sent};
        for finished in [&[Sent, Delivered, Read][..], &[Read], &[Failed], &[Sent, Failed]] {
            assert!(!after(finished, 7) && after(finished, 8), "{finished:?}");
        }
        for open in [&[Sent][..], &[Sent, Delivered]] {
            assert!(!after(open, 37) && after(open, 38), "{open:?}");
        }
        assert!(!after(&[], 10_000), "the network has not taken it");
    }
}
