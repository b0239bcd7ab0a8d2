//! The result: a table for people, JSON for machines.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    core::{
        gap::percentile,
        verdict::{Counts, Sample},
    },
    options::{Drill, Options},
    run::{commit, line_of},
};

/// A judged drill.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub drill: Drill,
    /// How long traffic ran.
    pub length: Duration,
    /// Each repeat.
    pub samples: Vec<Sample>,
    /// What the ledgers say.
    pub counts: Counts,
    /// What was promised and not held.
    pub breaches: Vec<String>,
}

/// Milliseconds of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(samples: &[Duration]) -> Self {
        let at = |share| (percentile(samples, share).as_secs_f64() * 10_000.0).round() / 10.0;
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

impl Outcome {
    pub(crate) fn new(drill: Drill, length: Duration, samples: Vec<Sample>, counts: Counts, breaches: Vec<String>) -> Self {
        Self { drill, length, samples, counts, breaches }
    }

    /// Whether everything that is promised was held.
    pub fn is_held(&self) -> bool {
        self.breaches.is_empty()
    }

    fn spread(&self, of: impl Fn(&Sample) -> Option<Duration>) -> Option<Spread> {
        let samples: Vec<Duration> = self.samples.iter().filter_map(of).collect();
        (!samples.is_empty()).then(|| Spread::of(&samples))
    }

    fn json(&self) -> Value {
        let millis = |time: Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
        let repeats = self.samples.iter().map(|sample| {
            json!({
                "gap_ms": millis(sample.gap),
                "wait_ms": millis(sample.wait),
                "shard": sample.shard,
                "undisturbed_ms": millis(sample.undisturbed),
                "leader_ms": sample.leader.map(millis),
                "recovered_ms": sample.recovered.map(millis),
                "moves": sample.moves,
                "victims": sample.victims,
            })
        });
        json!({
            "drill": self.drill,
            "promises": self.drill.describe(),
            "seconds": self.length.as_secs_f64().round(),
            "messages_per_second": (self.counts.accepted as f64 / self.length.as_secs_f64().max(0.001)).round(),
            "gap_ms": self.spread(|sample| Some(sample.gap)),
            "wait_ms": self.spread(|sample| Some(sample.wait)),
            "undisturbed_ms": self.spread(|sample| Some(sample.undisturbed)),
            "leader_ms": self.spread(|sample| sample.leader),
            "recovered_ms": self.spread(|sample| sample.recovered),
            "counts": self.counts,
            "held": self.is_held(),
            "breaches": self.breaches,
            "repeats": repeats.collect::<Vec<_>>(),
        })
    }
}

/// All drills of a run, with the machine they ran on.
pub(crate) fn json(outcomes: &[Outcome], options: &Options) -> Value {
    json!({
        "machine": {
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "kernel": line_of("/proc/sys/kernel/osrelease"),
            "commit": commit(),
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        },
        "options": {
            "rate": options.rate,
            "load_per_second": options.load(options.shards),
            "probe_ms": options.probe_ms,
            "numbers": options.numbers,
            "shards": options.shards,
            "repeat": options.repeat,
            "fsync": !options.no_fsync,
            "local": options.webapp.is_empty(),
            "etcd_away_secs": options.etcd_away_secs,
        },
        "drills": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
        "held": outcomes.iter().all(Outcome::is_held),
    })
}

/// The table, and a line for each promise that was not held.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "{:<17} {:>3} {:>5} {:>11} {:>6} {:>6} {:>6} {:>6} {:>7} {:>5} {:>5} {:>5} {:>5} {:>6} {:>6}  {}",
        "DRILL",
        "N",
        "MSG/S",
        "UNDISTURBED",
        "P50",
        "P99",
        "MAX",
        "WAIT",
        "LEADER",
        "LOST",
        "TWICE",
        "ORDER",
        "CALLB",
        "OWNERS",
        "FAILED",
        "VERDICT"
    );
    for outcome in outcomes {
        out.push('\n');
        out += &row(outcome);
    }
    for outcome in outcomes {
        for breach in &outcome.breaches {
            out += &format!("\n{}: {breach}", outcome.drill.name());
        }
    }
    out
}

fn row(outcome: &Outcome) -> String {
    let whole = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let optional = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let counts = &outcome.counts;
    let gap = outcome.spread(|sample| Some(sample.gap));
    let wait = outcome.spread(|sample| Some(sample.wait));
    let undisturbed = outcome.spread(|sample| Some(sample.undisturbed));
    let leader = outcome.spread(|sample| sample.leader);
    let callbacks = counts.callbacks_lost.map(|lost| lost + counts.callbacks_reordered.unwrap_or(0));
    format!(
        "{:<17} {:>3} {:>5.0} {:>11} {:>6} {:>6} {:>6} {:>6} {:>7} {:>5} {:>5} {:>5} {:>5} {:>6} {:>6}  {}",
        outcome.drill.name(),
        outcome.samples.len(),
        counts.accepted as f64 / outcome.length.as_secs_f64().max(0.001),
        whole(undisturbed.map(|spread| spread.max)),
        whole(gap.map(|spread| spread.p50)),
        whole(gap.map(|spread| spread.p99)),
        whole(gap.map(|spread| spread.max)),
        whole(wait.map(|spread| spread.max)),
        whole(leader.map(|spread| spread.max)),
        counts.lost + counts.strange,
        counts.doubled,
        counts.reordered,
        optional(callbacks),
        optional(counts.audit_violations),
        counts.failures(),
        if outcome.is_held() { "held" } else { "NOT HELD" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_figures_and_a_breach_is_told_below() {
        let gap = |ms| Sample {
            gap: Duration::from_millis(ms),
            wait: Duration::from_millis(ms - 5),
            undisturbed: Duration::from_millis(9),
            ..Sample::default()
        };
        let counts = Counts { accepted: 1000, lost: 2, failed: [(503, 4)].into(), ..Counts::default() };
        let breaches = vec!["2 messages lost (I3)".to_owned()];
        let outcome = Outcome::new(Drill::Drain, Duration::from_secs(2), vec![gap(30), gap(40)], counts, breaches);
        let table = table(&[outcome]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["drain", "2", "500", "9", "30", "40", "40", "35", "-", "2", "0", "0", "-", "-", "4", "NOT", "HELD"]);
        assert_eq!(table.lines().last(), Some("drain: 2 messages lost (I3)"));
    }
}
