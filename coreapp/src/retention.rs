//! Removes what no settings want any more: delivered callbacks that were kept for `webhooks.keep_delivered` (all of them
//! while nothing is kept), and whatever is stored for receivers that were removed. The owner of a number's first shard
//! does it, each minute and when the settings change, a few rows at a time.
//!
//! It needs no fence: it goes by age, and by ids of receivers that are never given again. So two owners that do it at
//! the same time, or one with old settings, do no harm that the settings did not allow.

use std::time::Duration;

use estafet_model::{Slot, WaId, settings::Settings};
use estafet_runtime::Clock;
use estafet_store::SharedStore;
use opentelemetry::metrics::Counter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::settings::Versioned;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(60);
/// Rows removed with one statement: short, because owners write to the same tables.
const AT_ONCE: u32 = 500;
/// Slots looked at with one statement.
const SLOTS_AT_ONCE: usize = 64;

/// Keeps the delivered callbacks of one number within their age.
pub(crate) struct Retention {
    number: WaId,
    store: SharedStore,
    clock: Clock,
    removed: Counter<u64>,
    dropped: Counter<u64>,
    /// The version of the settings by which nothing was left of removed receivers, and how often.
    quiet: (u64, u32),
}

/// Looks that must find nothing of removed receivers: a shard that has not heard yet may still store for one.
const LOOKS: u32 = 2;

impl Retention {
    pub(crate) fn new(number: WaId, store: SharedStore, clock: Clock) -> Self {
        let meter = estafet_runtime::metrics::meter("coreapp");
        let counter = |name: &'static str, what: &'static str| meter.u64_counter(name).with_description(what).build();
        Self {
            number,
            store,
            clock,
            removed: counter("callbacks_kept_removed", "Delivered callbacks no longer kept"),
            dropped: counter("callbacks_of_removed_receivers", "Rows dropped because their receiver was removed"),
            quiet: (0, 0),
        }
    }

    /// Looks until the shard is over.
    pub(crate) async fn run(mut self, mut settings: watch::Receiver<Versioned>, over: CancellationToken) {
        loop {
            tokio::select! {
                () = over.cancelled() => return,
                Ok(()) = settings.changed() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
            let current = settings.borrow_and_update().clone();
            tokio::select! {
                () = over.cancelled() => return,
                result = self.look(&current) => if let Err(error) = result {
                    tracing::warn!(number = %self.number, %error, "callbacks that are not kept could not be removed");
                }
            }
        }
    }

    async fn look(&mut self, current: &Versioned) -> estafet_store::Result<()> {
        self.forget(forgotten_before(&current.settings, self.clock.now_ms())).await?;
        if self.quiet.0 != current.version {
            self.quiet = (current.version, 0);
        }
        if self.quiet.1 < LOOKS {
            let found = self.drop_removed(&current.settings).await?;
            self.quiet.1 = if found { 0 } else { self.quiet.1 + 1 };
        }
        Ok(())
    }

    /// Drops what is stored for receivers that were removed; whether there was anything.
    async fn drop_removed(&self, settings: &Settings) -> estafet_store::Result<bool> {
        let kept: Vec<_> = settings.webhooks.all_receivers().collect();
        let last = settings.webhooks.last_endpoint;
        let mut found = false;
        if usize::from(last.get()) + 1 == kept.len() {
            return Ok(found);
        }
        // Some slots at a time: a statement reads past what waits for the others.
        for first in (0..=u32::from(Slot::LAST.get())).step_by(SLOTS_AT_ONCE) {
            let slot = |at| Slot::new(at).unwrap_or(Slot::LAST);
            let slots = slot(first)..=slot(first + SLOTS_AT_ONCE as u32 - 1);
            loop {
                let count = self.store.drop_receivers(self.number, slots.clone(), &kept, last, AT_ONCE).await?;
                self.dropped.add(count, &[]);
                if count == 0 {
                    break;
                }
                found = true;
            }
        }
        Ok(found)
    }

    async fn forget(&self, before_ms: i64) -> estafet_store::Result<()> {
        loop {
            let count = self.store.forget_delivered(self.number, before_ms, AT_ONCE).await?;
            self.removed.add(count, &[]);
            if count < u64::from(AT_ONCE) {
                return Ok(());
            }
        }
    }
}

/// Callbacks that were delivered before this moment are not kept.
fn forgotten_before(settings: &Settings, now_ms: i64) -> i64 {
    match settings.webhooks.keep_delivered {
        Some(seconds) => now_ms.saturating_sub(i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)),
        None => i64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use estafet_model::{BootId, EndpointId, Seq, Shard, ShardCount, Slot};
    use estafet_store::{Batch, Delivered, EventRef, NewEvent, Page, Queue, SqliteStore, Store as _};

    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn place(seq: i64) -> EventRef {
        EventRef { slot: Slot::FIRST, endpoint: EndpointId::MAIN, seq: Seq::new(seq) }
    }

    /// A number with callbacks delivered at these moments.
    async fn with_delivered(moments: impl Iterator<Item = i64>) -> (SharedStore, WaId) {
        let (store, number) = (Arc::new(SqliteStore::memory().await.unwrap()), "15550000001".parse().unwrap());
        store.migrate().await.unwrap();
        let fence = store.claim(number, Shard::ZERO, ShardCount::ONE, None, "a", BootId([1; 16]), 0, 0).await.unwrap();
        let mut batch = Batch::default();
        for (seq, at_ms) in (1..).zip(moments) {
            let EventRef { slot, endpoint, seq } = place(seq);
            let (contact, kind, body) = (None, "error", Bytes::new());
            batch.events.push(NewEvent { slot, endpoint, seq, contact, kind, created_at_ms: at_ms, body });
            batch.events_kept.push(Delivered { event: place(seq.get()), at_ms });
        }
        store.commit(&fence.unwrap(), &batch).await.unwrap();
        (store, number)
    }

    async fn left(store: &SharedStore, number: WaId) -> usize {
        let slots = Slot::FIRST..=Slot::LAST;
        let page = Page { slots, after: place(0), created_ms: 0..i64::MAX, contact: None, endpoint: None, limit: 9999 };
        store.callbacks(number, Queue::Delivered, &page).await.unwrap().len()
    }

    #[tokio::test]
    async fn callbacks_are_kept_as_long_as_the_settings_say_and_not_at_all_without() {
        let hour = |keep_delivered| {
            let mut settings = Settings::default();
            settings.webhooks.keep_delivered = keep_delivered;
            settings
        };
        let (store, number) = with_delivered((0..1200).map(|n| NOW - 3_601_000 + i64::from(n % 2) * 2_000)).await;
        let retention = Retention::new(number, store.clone(), Clock::manual(NOW));
        retention.forget(forgotten_before(&hour(Some(7200)), NOW)).await.unwrap();
        assert_eq!(left(&store, number).await, 1200);
        retention.forget(forgotten_before(&hour(Some(3600)), NOW)).await.unwrap();
        assert_eq!(left(&store, number).await, 600, "more than one statement removes");
        retention.forget(forgotten_before(&hour(None), NOW)).await.unwrap();
        assert_eq!(left(&store, number).await, 0);
    }
}
