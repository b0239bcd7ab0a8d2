//! What the database holds for a number, counted for `/v1/stats/db`: at most once in half a minute, by one caller,
//! whatever the number of those who ask.

use estafet_model::{ApiError, WaId};
use estafet_runtime::Clock;
use estafet_store::{Counts, SharedStore};
use tokio::sync::Mutex;

use crate::error::store_failure;

/// How long a count is told again.
const FRESH_MS: i64 = 30_000;

/// The counts of one number.
pub(crate) struct Census {
    number: WaId,
    store: SharedStore,
    clock: Clock,
    last: Mutex<Option<(i64, Counts)>>,
}

impl Census {
    pub(crate) fn new(number: WaId, store: SharedStore, clock: Clock) -> Self {
        Self { number, store, clock, last: Mutex::new(None) }
    }

    /// The counts, made now if the last ones are too old.
    pub(crate) async fn read(&self) -> Result<Counts, ApiError> {
        let mut last = self.last.lock().await;
        let now_ms = self.clock.now_ms();
        if let Some((_, counts)) = last.filter(|(at_ms, _)| (0..FRESH_MS).contains(&(now_ms - at_ms))) {
            return Ok(counts);
        }
        let counts = self.store.counts(self.number).await.map_err(|error| store_failure("count", &error))?;
        *last = Some((now_ms, counts));
        Ok(counts)
    }
}
