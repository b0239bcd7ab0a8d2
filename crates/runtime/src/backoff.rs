//! Exponential back-off with full jitter, for reconnects.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Doubles from `first` to `longest`; each delay is drawn evenly between zero and that bound, so
/// that many clients that lost the same server do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    /// What decides instead of the process's own chance.
    chance: Option<Box<SmallRng>>,
}

impl Backoff {
    /// A back-off that has seen no failure.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0, chance: None }
    }

    /// The same with delays that follow from `seed`, so that a simulation can be repeated. Those who must not return
    /// together need seeds that differ.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { chance: Some(Box::new(SmallRng::seed_from_u64(seed))), ..self }
    }

    /// The delay before the next try.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let share = self.chance.as_mut().map_or_else(rand::random::<f64>, |chance| chance.random::<f64>());
        bound.mul_f64(share)
    }

    /// Forgets the failures after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_below_a_bound_that_doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        for failure in 0..40u32 {
            let bound = Duration::from_millis(50 << failure.min(8)).min(Duration::from_secs(10));
            assert!(backoff.next_delay() <= bound, "failure {failure}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(50));
    }

    #[test]
    fn delays_of_a_seed_are_always_the_same() {
        let delays = |seed| {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1)).seeded(seed);
            std::iter::repeat_with(|| backoff.next_delay()).take(8).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
