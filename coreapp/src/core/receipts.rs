//! Which statuses are news, and which of them the business wants to hear (spec/webhooks.md §2, §6).
//!
//! Remembers the statuses of recent messages, so that the common case reads nothing; what is not
//! remembered is read from the database before a receipt is decided.

use std::num::NonZeroUsize;

use estafet_model::{Seq, Slot, Status, StatusSet, settings::Settings};
use lru::LruCache;

/// Messages whose statuses are remembered: about 1 MiB for a shard.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// The statuses of recent messages of one shard.
#[derive(Debug)]
pub struct Receipts {
    recent: LruCache<(Slot, Seq), StatusSet>,
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
            self.recent.put(at, statuses);
        }
    }

    /// Decides a status: the new set if it is news, `None` if nothing changes.
    pub fn advance(&mut self, at: (Slot, Seq), status: Status) -> Option<StatusSet> {
        let statuses = self.recent.get_or_insert_mut(at, || StatusSet::EMPTY);
        statuses.advance(status).then_some(*statuses)
    }
}

/// Whether a status is reported to the business. `failed` cannot be switched off.
pub fn is_reported(status: Status, settings: &Settings) -> bool {
    let switches = &settings.webhooks.message;
    match status {
        Status::Sent => switches.sent,
        Status::Delivered => switches.delivered,
        Status::Read => switches.read && !settings.pass_through,
        Status::Failed => true,
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
    fn pass_through_silences_read_and_nothing_silences_failed() {
        let mut settings = Settings::default();
        assert!(!is_reported(Status::Sent, &settings) && is_reported(Status::Read, &settings));
        settings.pass_through = true;
        assert!(!is_reported(Status::Read, &settings) && is_reported(Status::Delivered, &settings));
        settings.webhooks.message = estafet_model::settings::MessageSwitches { sent: false, delivered: false, read: false };
        assert!(is_reported(Status::Failed, &settings));
    }
}
