//! Which statuses are news, and which of them the business wants to hear (spec/webhooks.md §2, §6).
//!
//! Remembers the statuses of recent messages, so that the common case reads nothing; what is not
//! remembered is read from the database before a receipt is decided. It also remembers when the network took a
//! message: what passes before is our time, what passes until it is on the phone is the phone's.

use std::{num::NonZeroUsize, time::Duration};

use estafet_model::{Seq, Slot, Status, StatusSet, settings::Settings};
use lru::LruCache;

/// Messages whose statuses are remembered: about 1 MiB for a shard.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The statuses of recent messages of one shard.
#[derive(Debug)]
pub struct Receipts {
    recent: LruCache<(Slot, Seq), Known>,
}

/// What is known of a message.
#[derive(Clone, Copy, Debug)]
struct Known {
    statuses: StatusSet,
    /// When the network took it, milliseconds since 1970; unknown when that was another owner's time.
    sent_at_ms: Option<i64>,
}

/// How long a step of a message took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Ours: from its acceptance until the network took it.
    ToNetwork(Duration),
    /// The phone's: from then until it was delivered.
    ToPhone(Duration),
}

impl Default for Receipts {
    fn default() -> Self {
        Self { recent: LruCache::new(REMEMBERED) }
    }
}

impl Receipts {
    /// Whether the statuses of a message must be read before a receipt for it can be decided.
    pub fn knows(&self, at: (Slot, Seq)) -> bool {
        self.recent.contains(&at)
    }

    /// Takes what the database says, unless memory knows better.
    pub fn learn(&mut self, at: (Slot, Seq), statuses: StatusSet) {
        if !self.knows(at) {
            self.recent.put(at, Known { statuses, sent_at_ms: None });
        }
    }

    /// Forgets a message that is gone.
    pub fn forget(&mut self, at: (Slot, Seq)) {
        self.recent.pop(&at);
    }

    /// Decides a status: the new set if it is news, `None` if nothing changes.
    pub fn advance(&mut self, at: (Slot, Seq), status: Status) -> Option<StatusSet> {
        let known = self.recent.get_or_insert_mut(at, || Known { statuses: StatusSet::EMPTY, sent_at_ms: None });
        known.statuses.advance(status).then_some(known.statuses)
    }

    /// How long the step took that ended with `status` at `at_ms`, if that can be told. `accepted_at_ms` is when the
    /// message was accepted.
    pub fn latency(&mut self, at: (Slot, Seq), status: Status, at_ms: i64, accepted_at_ms: Option<i64>) -> Option<Latency> {
        let known = self.recent.peek_mut(&at)?;
        // Clocks differ a little between hosts: nothing ends before it began.
        let since = |began_ms: i64| Duration::from_millis(at_ms.saturating_sub(began_ms).max(0).unsigned_abs());
        match status {
            Status::Sent => {
                known.sent_at_ms = Some(at_ms);
                accepted_at_ms.map(since).map(Latency::ToNetwork)
            }
            Status::Delivered => known.sent_at_ms.map(since).map(Latency::ToPhone),
            Status::Read | Status::Failed | Status::Warning => None,
        }
    }
}

/// Whether a status is reported to the business. `failed` and `warning` cannot be switched off.
pub fn is_reported(status: Status, settings: &Settings) -> bool {
    let switches = &settings.webhooks.message;
    match status {
        Status::Sent => switches.sent,
        Status::Delivered => switches.delivered,
        Status::Read => switches.read && !settings.pass_through,
        Status::Failed | Status::Warning => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_receipt_is_no_news_even_after_a_restart() {
        let at = (Slot::new(3).unwrap(), Seq::new(9));
        let mut receipts = Receipts::default();
        assert!(receipts.advance(at, Status::Sent).is_some());
        let stored = receipts.advance(at, Status::Delivered).unwrap();
        let mut restarted = Receipts::default();
        assert!(!restarted.knows(at));
        restarted.learn(at, stored);
        assert_eq!(restarted.advance(at, Status::Delivered), None);
        assert!(restarted.advance(at, Status::Read).is_some());
    }

    #[test]
    fn r121_a_slow_phone_takes_its_own_time_and_none_of_ours() {
        const ACCEPTED_MS: i64 = 1_800_000_000_000;
        let mut receipts = Receipts::default();
        let mut takes = |seq: i64, sent_after_ms: i64, delivered_after_ms: i64| {
            let at = (Slot::new(3).unwrap(), Seq::new(seq));
            let mut reach = |status, after_ms| {
                receipts.advance(at, status).unwrap();
                receipts.latency(at, status, ACCEPTED_MS + after_ms, Some(ACCEPTED_MS))
            };
            [reach(Status::Sent, sent_after_ms), reach(Status::Delivered, delivered_after_ms), reach(Status::Read, 1_000_000)]
        };
        let millis = Duration::from_millis;
        let prompt = takes(1, 20, 25);
        assert_eq!(prompt, [Some(Latency::ToNetwork(millis(20))), Some(Latency::ToPhone(millis(5))), None]);
        let slow = takes(2, 20, 60_000);
        assert_eq!(slow, [prompt[0], Some(Latency::ToPhone(millis(59_980))), None]);
        assert_eq!(takes(3, -3, -4)[1], Some(Latency::ToPhone(Duration::ZERO)), "a clock that is behind");
        let at = (Slot::new(3).unwrap(), Seq::new(9));
        receipts.learn(at, StatusSet::EMPTY);
        assert_eq!(receipts.latency(at, Status::Delivered, ACCEPTED_MS, None), None, "sent by an owner before");
    }

    #[test]
    fn pass_through_silences_read_and_nothing_silences_failed() {
        let mut settings = Settings::default();
        assert!(!is_reported(Status::Sent, &settings) && is_reported(Status::Read, &settings));
        settings.pass_through = true;
        assert!(!is_reported(Status::Read, &settings) && is_reported(Status::Delivered, &settings));
        settings.webhooks.message = estafet_model::settings::MessageSwitches { sent: false, delivered: false, read: false };
        assert!(is_reported(Status::Failed, &settings));
    }
}
