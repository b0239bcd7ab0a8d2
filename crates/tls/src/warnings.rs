//! Keeps the log readable when somebody is refused again and again (S29).
//!
//! What is not said is counted, and the next warning tells how much that was.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Warnings that may be said within [`PERIOD`].
const AT_MOST: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// One kind of warning.
pub(crate) struct Warnings(Mutex<State>);

struct State {
    began: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Warnings {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { began: None, said: 0, left_out: 0 }))
    }

    /// Whether the warning of now may be said; then how many before it were left out.
    pub(crate) fn may_be_said(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.saturating_duration_since(began) >= PERIOD) {
            (state.began, state.said) = (Some(now), 0);
        }
        if state.said == AT_MOST {
            state.left_out += 1;
            return None;
        }
        state.said += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_a_count() {
        let (warnings, start) = (Warnings::new(), Instant::now());
        let said: Vec<_> = (0..1000).filter_map(|_| warnings.may_be_said(start)).collect();
        assert_eq!(said, [0; AT_MOST as usize]);
        assert_eq!(warnings.may_be_said(start + PERIOD - Duration::from_millis(1)), None);
        assert_eq!(warnings.may_be_said(start + PERIOD), Some(996));
        assert_eq!(warnings.may_be_said(start + PERIOD), Some(0));
    }
}
