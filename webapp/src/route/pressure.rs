//! How many requests may wait for one coreapp before newcomers are refused (pure).
//!
//! A line has a length whatever is done about it; what callers feel is how long it takes. When answers come late, the
//! limit falls at once to what the coreapp answers within the patience (Little's law: length = rate x wait), so whoever
//! is let in keeps about that latency and the others are told at once. It rises again slowly while answers are in
//! time. A coreapp that is slow by itself (a distant database) is not taken for one that has too much to do: twice its own
//! shortest answer is always in time. Its own are answers that had few before them; under overload there are none, and
//! what was known stays.

use std::time::Duration;

use tokio::time::Instant;

/// Answers within this are in time, whatever the shortest took.
const PATIENCE: Duration = Duration::from_millis(100);
/// So many may always wait: bursts, and all that gathers while a shard moves at ordinary rates.
const FEWEST: usize = 256;
/// How long the shortest answer is remembered: one to two of these.
const MEMORY: Duration = Duration::from_secs(10);

/// The limit of one line.
#[derive(Debug)]
pub(crate) struct Pressure {
    most: usize,
    limit: usize,
    /// Answers in time since the limit was last raised.
    in_time: usize,
    /// The limit is judged again after this: answers to what was let in before say nothing new.
    judged: Option<Instant>,
    /// Shortest answers of the present and of the last stretch of [`MEMORY`], and when the present one began.
    shortest: (Duration, Duration),
    since: Option<Instant>,
}

impl Pressure {
    /// A line of at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, limit: most, in_time: 0, judged: None, shortest: (Duration::MAX, Duration::MAX), since: None }
    }

    /// Whether one more may wait where `waiting` do.
    pub(crate) fn admits(&self, waiting: usize) -> bool {
        waiting < self.limit
    }

    /// An answer took `waited`, with `found` before it when it was let in; `waiting` others still wait.
    pub(crate) fn answered(&mut self, waited: Duration, found: usize, waiting: usize, now: Instant) {
        if found < FEWEST {
            self.remember(waited, now);
        }
        let shortest = self.shortest.0.min(self.shortest.1);
        let patience = if shortest == Duration::MAX { PATIENCE } else { PATIENCE.max(shortest * 2) };
        if waited <= patience {
            self.in_time += 1;
            if self.in_time >= (self.limit / 8).max(1) {
                (self.limit, self.in_time) = ((self.limit + 1).min(self.most), 0);
            }
            return;
        }
        self.in_time = 0;
        if self.judged.is_some_and(|until| now < until) {
            return;
        }
        self.judged = Some(now + patience);
        let in_time = (waiting as f64 * patience.as_secs_f64() / waited.as_secs_f64()) as usize;
        self.limit = in_time.clamp(FEWEST.min(self.most), self.limit);
    }

    fn remember(&mut self, waited: Duration, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= MEMORY {
            (self.shortest, self.since) = ((Duration::MAX, self.shortest.0), Some(now));
        }
        self.shortest.0 = self.shortest.0.min(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 8192;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// A coreapp that answers `rate` requests a second, each after at least `own`, against `offered` a second for so many
    /// seconds, in steps of a millisecond. What was refused, and the longest wait in the last second.
    fn played(pressure: &mut Pressure, start: Instant, (rate, own): (u64, Duration), offered: u64, secs: u64) -> (u64, Duration) {
        let mut line = std::collections::VecDeque::new();
        let (mut refused, mut longest) = (0, Duration::ZERO);
        for step in 0..secs * 1000 {
            let now = start + ms(step);
            for _ in 0..offered / 1000 {
                if pressure.admits(line.len()) { line.push_back((now, line.len())) } else { refused += 1 }
            }
            for _ in 0..rate / 1000 {
                let Some((came, found)) = line.front().filter(|(came, _)| now - *came >= own).copied() else { break };
                line.pop_front();
                pressure.answered(now - came, found, line.len(), now);
                if step >= (secs - 1) * 1000 {
                    longest = longest.max(now - came);
                }
            }
        }
        (refused, longest)
    }

    #[test]
    fn ten_times_too_much_is_refused_and_what_is_let_in_is_answered_in_time() {
        for rate in [3_000, 10_000] {
            let (mut pressure, start) = (Pressure::new(MOST), Instant::now());
            let (refused, longest) = played(&mut pressure, start, (rate, ms(2)), 10 * rate, 60);
            assert!(longest <= ms(160), "{longest:?} at {rate}/s");
            let share = refused as f64 / (10 * rate * 60) as f64;
            assert!((0.88..0.91).contains(&share), "{share}");
        }
    }

    #[test]
    fn what_can_be_carried_is_never_refused_before_or_after() {
        let (mut pressure, start) = (Pressure::new(MOST), Instant::now());
        assert_eq!(played(&mut pressure, start, (10_000, ms(2)), 9_000, 5).0, 0);
        assert!(played(&mut pressure, start + ms(5_000), (10_000, ms(2)), 100_000, 5).0 > 0);
        assert_eq!(played(&mut pressure, start + ms(10_000), (10_000, ms(2)), 9_000, 5).0, 0);
    }

    #[test]
    fn a_slow_database_is_not_taken_for_too_much_work() {
        let (mut pressure, start) = (Pressure::new(MOST), Instant::now());
        let (refused, longest) = played(&mut pressure, start, (10_000, ms(300)), 9_000, 20);
        assert_eq!((refused, longest), (0, ms(300)));
    }

    #[test]
    fn a_pause_lets_as_many_wait_as_ordinary_rates_bring() {
        let (mut pressure, start) = (Pressure::new(MOST), Instant::now());
        pressure.answered(ms(2), 0, 0, start);
        for late in 0..200 {
            pressure.answered(ms(400), late, 200 - late, start + ms(10 * late as u64));
        }
        assert!(pressure.admits(FEWEST - 1) && !pressure.admits(FEWEST));
    }
}
