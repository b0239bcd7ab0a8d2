//! Time, passed in: the wall clock for what is shown and stored, tokio's clock for every time-out.
//!
//! Time-outs and back-off use [`tokio::time`], which tests pause; wall time comes from [`Clock`],
//! which tests set. Neither ever mixes with the other: a jump of the wall clock moves no timer.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Set by tests; the system clock without it.
    manual: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The clock of the system.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now_ms` until [`Clock::set`] moves it.
    pub fn manual(now_ms: i64) -> Self {
        Self { manual: Some(Arc::new(AtomicI64::new(now_ms))) }
    }

    /// Moves a manual clock; a system clock is not moved.
    pub fn set(&self, now_ms: i64) {
        if let Some(manual) = &self.manual {
            manual.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        match &self.manual {
            Some(manual) => manual.load(Ordering::Relaxed),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
        }
    }
}
