//! Whether a drill held what is promised.
//!
//! Ledgers come first: whatever was lost, doubled, reordered or owned twice fails every drill, however fast it was
//! (**I1**-**I6**). Then the bounds of the drill itself (**I7**). Each breach is a sentence with its figure.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::gap::percentile;

/// By how much a pause may exceed the longest undisturbed one and still count as none: half a heartbeat, the grain
/// of schedulers under load.
pub const NOISE: Duration = Duration::from_millis(50);

/// Probes of a shard that are farther apart make a gap mostly of their distance: [`Sample::wait`] is judged instead.
pub const COARSE: Duration = Duration::from_millis(50);

/// What the ledgers say, in messages; zero is good everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages that were accepted.
    pub accepted: u64,
    /// Accepted, and not on the phone.
    pub lost: u64,
    /// More than once on the phone, or sent to it again.
    pub doubled: u64,
    /// On the phone after one that was sent later.
    pub reordered: u64,
    /// On a phone without having been sent so.
    pub strange: u64,
    /// Statuses that never reached the receiver; `None`: no receiver was there.
    pub callbacks_lost: Option<u64>,
    /// First attempts of callbacks that came after one that must follow them.
    pub callbacks_reordered: Option<u64>,
    /// Violations in the network's audit: two owners, or something accepted from an old one; `None`: not readable.
    pub audit_violations: Option<u64>,
    /// Requests that were not answered with 201, by status; 0 is a broken connection or no answer.
    pub failed: BTreeMap<u16, u64>,
    /// Messages that were due while no sender was free; they were not sent.
    pub skipped: u64,
}

impl Counts {
    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

/// One fault, measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// Longest gap of any shard in a window of the same length right before the fault.
    pub undisturbed: Duration,
    /// Longest gap of any shard through the fault.
    pub gap: Duration,
    /// Longest time that a message waited through the fault, from the moment it was due until it was accepted.
    pub wait: Duration,
    /// Shard of that gap.
    pub shard: usize,
    /// From the fault to a new leader.
    pub leader: Option<Duration>,
    /// From the database taking connections to every shard accepting.
    pub recovered: Option<Duration>,
    /// Shards whose owner or epoch changed.
    pub moves: u64,
    /// What the fault was done to.
    pub victims: String,
}

impl Sample {
    /// How long the fault made callers wait.
    fn pause(&self, probe: Duration) -> Duration {
        if probe > COARSE { self.wait } else { self.gap }
    }
}

/// What a drill promises beside the ledgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Half of the gaps are at most this.
    GapP50(Duration),
    /// 99 of 100 gaps are at most this.
    GapP99(Duration),
    /// No gap is longer than the longest undisturbed one, but for [`NOISE`].
    GapAsUndisturbed,
    /// 99 of 100 times there is a new leader within this.
    Leader(Duration),
    /// 99 of 100 times every shard accepts again within this.
    Recovered(Duration),
    /// No request fails.
    NoFailures,
    /// No shard changes its owner.
    NoMoves,
}

/// What was not held; empty: all was. `probe` is the distance of two probes of a shard.
pub fn breaches(bounds: &[Bound], samples: &[Sample], counts: &Counts, probe: Duration) -> Vec<String> {
    let mut breaches = ledger_breaches(counts);
    if samples.is_empty() {
        breaches.push("nothing was measured".to_owned());
    }
    breaches.extend(bounds.iter().filter_map(|bound| bound.breach(samples, counts, probe)));
    breaches
}

fn ledger_breaches(counts: &Counts) -> Vec<String> {
    let of = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let found = [
        (counts.accepted == 0).then(|| "no message was accepted".to_owned()),
        of(counts.lost, "messages lost (I3)"),
        of(counts.doubled, "messages doubled (I4)"),
        of(counts.reordered, "messages reordered (I5)"),
        of(counts.strange, "messages on a phone that were not sent so (I3)"),
        of(counts.callbacks_lost.unwrap_or(0), "callbacks lost (I6)"),
        of(counts.callbacks_reordered.unwrap_or(0), "callbacks reordered (I6)"),
        of(counts.audit_violations.unwrap_or(0), "violations in the network's audit (I1, I2)"),
    ];
    found.into_iter().flatten().collect()
}

impl Bound {
    fn breach(self, samples: &[Sample], counts: &Counts, probe: Duration) -> Option<String> {
        let pauses = || samples.iter().map(|sample| sample.pause(probe)).collect::<Vec<_>>();
        let pause = if probe > COARSE { "wait" } else { "gap" };
        let over = |what: &str, is: Duration, limit: Duration| {
            (is > limit).then(|| format!("{what} {} ms, promised {} ms", is.as_millis(), limit.as_millis()))
        };
        let missing = |what: &str| Some(format!("{what} was not seen in every repeat"));
        match self {
            Self::GapP50(limit) => over(&format!("{pause} p50"), percentile(&pauses(), 0.5), limit),
            Self::GapP99(limit) => over(&format!("{pause} p99"), percentile(&pauses(), 0.99), limit),
            Self::GapAsUndisturbed => {
                let undisturbed = samples.iter().map(|sample| sample.undisturbed).max().unwrap_or_default();
                let gaps: Vec<Duration> = samples.iter().map(|sample| sample.gap).collect();
                over("gap", percentile(&gaps, 1.0), undisturbed + NOISE)
            }
            Self::Leader(limit) => match samples.iter().map(|sample| sample.leader).collect::<Option<Vec<_>>>() {
                Some(times) => over("new leader p99", percentile(&times, 0.99), limit),
                None => missing("a new leader"),
            },
            Self::Recovered(limit) => match samples.iter().map(|sample| sample.recovered).collect::<Option<Vec<_>>>() {
                Some(times) => over("recovery p99", percentile(&times, 0.99), limit),
                None => missing("recovery"),
            },
            Self::NoFailures => {
                let failures = counts.failures();
                (failures > 0).then(|| format!("{failures} requests failed: {:?}", counts.failed))
            }
            Self::NoMoves => {
                let moves: u64 = samples.iter().map(|sample| sample.moves).sum();
                (moves > 0).then(|| format!("{moves} shards moved, promised none"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Duration = Duration::from_millis(5);

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn clean() -> Counts {
        let zero = Some(0);
        Counts { accepted: 9, callbacks_lost: zero, callbacks_reordered: zero, audit_violations: zero, ..Counts::default() }
    }

    fn gaps(values: &[u64]) -> Vec<Sample> {
        values.iter().map(|gap| Sample { gap: ms(*gap), undisturbed: ms(20), ..Sample::default() }).collect()
    }

    #[test]
    fn a_clean_drill_within_its_bounds_has_no_breach() {
        let bounds = [Bound::GapP50(ms(250)), Bound::GapP99(ms(500)), Bound::NoFailures, Bound::NoMoves];
        assert_eq!(breaches(&bounds, &gaps(&[200, 240, 480]), &clean(), FINE), [""; 0]);
    }

    #[test]
    fn each_fabricated_fault_of_the_ledgers_is_a_breach_of_its_own() {
        let wrong = [
            Counts { lost: 1, ..clean() },
            Counts { doubled: 1, ..clean() },
            Counts { reordered: 1, ..clean() },
            Counts { strange: 1, ..clean() },
            Counts { callbacks_lost: Some(1), ..clean() },
            Counts { callbacks_reordered: Some(1), ..clean() },
            Counts { audit_violations: Some(1), ..clean() },
            Counts { accepted: 0, ..clean() },
        ];
        for counts in wrong {
            assert_eq!(breaches(&[], &gaps(&[1]), &counts, FINE).len(), 1, "{counts:?}");
        }
    }

    #[test]
    fn a_gap_above_its_bound_is_told_with_both_figures() {
        let found = breaches(&[Bound::GapP50(ms(250)), Bound::GapP99(ms(500))], &gaps(&[100, 120, 700]), &clean(), FINE);
        assert_eq!(found, ["gap p99 700 ms, promised 500 ms"]);
        assert!(breaches(&[Bound::GapAsUndisturbed], &gaps(&[69]), &clean(), FINE).is_empty());
        assert_eq!(breaches(&[Bound::GapAsUndisturbed], &gaps(&[71]), &clean(), FINE), ["gap 71 ms, promised 70 ms"]);
    }

    #[test]
    fn waits_are_judged_where_probes_are_far_apart() {
        let sample = Sample { gap: ms(700), wait: ms(400), ..Sample::default() };
        let bounds = [Bound::GapP99(ms(500))];
        assert!(breaches(&bounds, std::slice::from_ref(&sample), &clean(), ms(320)).is_empty());
        assert_eq!(breaches(&bounds, &[sample], &clean(), COARSE), ["gap p99 700 ms, promised 500 ms"]);
        let slow = Sample { gap: ms(700), wait: ms(501), ..Sample::default() };
        assert_eq!(breaches(&bounds, &[slow], &clean(), ms(320)), ["wait p99 501 ms, promised 500 ms"]);
    }

    #[test]
    fn what_was_not_measured_is_not_held() {
        assert_eq!(breaches(&[], &[], &clean(), FINE), ["nothing was measured"]);
        assert_eq!(breaches(&[Bound::Leader(ms(1000)), Bound::Recovered(ms(1000))], &gaps(&[1]), &clean(), FINE).len(), 2);
        let late = Sample { leader: Some(ms(1200)), ..Sample::default() };
        assert_eq!(breaches(&[Bound::Leader(ms(1000))], &[late], &clean(), FINE), ["new leader p99 1200 ms, promised 1000 ms"]);
    }

    #[test]
    fn failures_and_moves_are_breaches_only_where_none_is_promised() {
        let counts = Counts { failed: [(503, 2)].into(), ..clean() };
        let moved = vec![Sample { moves: 3, ..Sample::default() }];
        assert!(breaches(&[], &moved, &counts, FINE).is_empty());
        assert_eq!(breaches(&[Bound::NoFailures, Bound::NoMoves], &moved, &counts, FINE).len(), 2);
    }
}
