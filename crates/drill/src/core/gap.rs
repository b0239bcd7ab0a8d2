//! How long accepting paused.
//!
//! A gap is the time between two successive answers that accepted a message of a shard. It belongs to a window when
//! its end lies in it, so the pause that a fault causes counts from the last answer before the fault. A pause that has
//! not ended when the window does counts up to the end of the window: a shard that never comes back cannot look good.

use std::time::Duration;

/// The longest gap of one shard within a window. `accepts` are times of answers, in any order.
pub fn longest(accepts: &[Duration], from: Duration, to: Duration) -> Duration {
    let mut times: Vec<Duration> = accepts.iter().copied().filter(|at| *at <= to).collect();
    times.sort_unstable();
    let first_inside = times.partition_point(|at| *at <= from);
    // Without an answer before the window, the pause is as long as is known.
    let mut last = if first_inside == 0 { from } else { times[first_inside - 1] };
    let mut longest = Duration::ZERO;
    for at in times[first_inside..].iter().copied().chain([to]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

/// The shard that paused longest within a window, and how long; `None` without shards.
pub fn worst(accepts: &[Vec<Duration>], from: Duration, to: Duration) -> Option<(usize, Duration)> {
    let gaps = accepts.iter().enumerate().map(|(shard, accepts)| (shard, longest(accepts, from, to)));
    gaps.max_by_key(|(_, gap)| *gap)
}

/// When every shard had accepted again after `since`: the latest of their first answers; `None` while one has none.
pub fn all_back(accepts: &[Vec<Duration>], since: Duration) -> Option<Duration> {
    let first = |accepts: &Vec<Duration>| accepts.iter().copied().filter(|at| *at > since).min();
    accepts.iter().map(first).try_fold(since, |latest, first| Some(latest.max(first?)))
}

/// The longest time from due to accepted among messages that were accepted after `since`, each given as both. What
/// callers feel of a pause: where probes are far apart the gap is mostly their distance, this is not.
pub fn longest_wait(waits: &[(Duration, Duration)], since: Duration) -> Duration {
    let of_window = waits.iter().filter(|(_, accepted)| *accepted > since);
    of_window.map(|(due, accepted)| accepted.saturating_sub(*due)).max().unwrap_or_default()
}

/// The value below which `share` (0 to 1) of the samples lie, nearest rank; zero without samples.
pub fn percentile(samples: &[Duration], share: f64) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|value| Duration::from_millis(*value)).collect()
    }

    fn at(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn a_fabricated_gap_is_found_from_its_last_answer_before_the_fault() {
        let accepts = ms(&[0, 5, 10, 15, 315, 320, 325]);
        assert_eq!(longest(&accepts, at(17), at(330)), at(300));
        assert_eq!(longest(&accepts, at(0), at(15)), at(5));
    }

    #[test]
    fn answers_that_come_out_of_order_make_no_gap() {
        assert_eq!(longest(&ms(&[20, 5, 10, 0, 15, 25]), at(0), at(25)), at(5));
    }

    #[test]
    fn a_shard_that_never_comes_back_pauses_to_the_end_of_the_window() {
        assert_eq!(longest(&ms(&[0, 5]), at(5), at(9000)), at(8995));
        assert_eq!(longest(&[], at(100), at(400)), at(300));
        let (shard, gap) = worst(&[ms(&[100, 105, 110]), ms(&[100])], at(100), at(112)).unwrap();
        assert_eq!((shard, gap), (1, at(12)));
    }

    #[test]
    fn a_gap_before_the_window_does_not_count() {
        assert_eq!(longest(&ms(&[0, 500, 505, 510]), at(505), at(512)), at(5));
    }

    #[test]
    fn all_are_back_only_when_the_last_shard_is() {
        assert_eq!(all_back(&[ms(&[5, 50]), ms(&[5, 80])], at(10)), Some(at(80)));
        assert_eq!(all_back(&[ms(&[5, 50]), ms(&[5])], at(10)), None);
    }

    #[test]
    fn the_longest_wait_is_of_a_message_that_was_accepted_since() {
        let waits = [(at(0), at(90)), (at(95), at(130)), (at(110), at(112))];
        assert_eq!(longest_wait(&waits, at(100)), at(35));
        assert_eq!(longest_wait(&waits, at(130)), at(0));
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let samples: Vec<Duration> = (1..=100).map(at).collect();
        assert_eq!((percentile(&samples, 0.5), percentile(&samples, 0.99), percentile(&samples, 1.0)), (at(50), at(99), at(100)));
        assert_eq!(percentile(&ms(&[7]), 0.5), at(7));
        assert_eq!(percentile(&[], 0.5), at(0));
    }
}
