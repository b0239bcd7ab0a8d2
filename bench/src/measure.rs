//! One run: a fresh sandbox, a warm-up, the load, and what came of it.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    cost::Cost,
    load::{self, Accepted, Outcome, Plan},
    options::Command,
    progress,
    receiver::Received,
    rig::{self, Rig, Server},
    search::Search,
};

/// Length of the load before a measured run.
const WARM_UP: Duration = Duration::from_secs(3);
/// Length of a trial of the search.
const TRIAL: Duration = Duration::from_secs(5);
/// Share of the offered messages that must be accepted for a rate to count as sustained.
const ACCEPTED_SHARE: f64 = 0.995;
/// How long callbacks may lag behind the end of the load for a rate to count as sustained.
const LAG: Duration = Duration::from_secs(2);
/// How long callbacks are waited for before they count as lost.
const DRAIN: Duration = Duration::from_secs(120);
/// Lowering of a searched rate that a fresh sandbox does not sustain.
const STEP_DOWN: f64 = 0.9;

/// How the sandbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// As shipped.
    Normal,
    /// A transaction for each message, a request for each.
    Naive,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Naive => "naive",
        })
    }
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let ms = |us: u64| us as f64 / 1000.0;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()) }
    }
}

/// Full cycles.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cycles {
    /// Messages whose three callbacks arrived.
    pub(crate) completed: u64,
    /// Of these, a second, from the start of the load until the last one.
    pub(crate) rate: f64,
    /// From due to the third callback.
    pub(crate) latency_ms: Percentiles,
    /// From the end of the load to the last callback, seconds.
    pub(crate) lag_s: f64,
    /// POSTs of callbacks.
    pub(crate) posts: u64,
    /// Statuses that arrived again.
    pub(crate) repeated: u64,
    /// Statuses other than sent, delivered, read.
    pub(crate) failed: u64,
    /// Accepted messages that a phone does not show, shows twice, or that nobody accepted.
    pub(crate) wrong_on_phones: u64,
}

/// Cost of one message.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PerMessage {
    pub(crate) sandbox_cpu_us: f64,
    pub(crate) database_cpu_us: f64,
    pub(crate) generator_cpu_us: f64,
    pub(crate) commits: Option<f64>,
    pub(crate) wal_syncs: Option<f64>,
    pub(crate) wal_bytes: Option<f64>,
}

/// What one run showed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    pub(crate) variant: Variant,
    pub(crate) offered_rate: u32,
    pub(crate) seconds: f64,
    pub(crate) accepted: u64,
    pub(crate) accepted_rate: f64,
    pub(crate) latency_ms: Percentiles,
    /// Answers other than 201, by status; 0 is a broken connection.
    pub(crate) refused: BTreeMap<u16, u64>,
    pub(crate) missed: u64,
    /// Ids that were returned more than once.
    pub(crate) doubled_ids: u64,
    pub(crate) cycles: Option<Cycles>,
    pub(crate) per_message: PerMessage,
}

impl Measurement {
    /// Whether every accepted message is accounted for, once.
    pub(crate) fn balances(&self) -> bool {
        let cycles = self.cycles.is_none_or(|cycles| cycles.completed == self.accepted && cycles.wrong_on_phones == 0);
        self.doubled_ids == 0 && cycles
    }

    fn is_sustained(&self, p99_ms: u32) -> bool {
        let offered = f64::from(self.offered_rate) * self.seconds;
        let in_time = self.cycles.is_none_or(|cycles| cycles.lag_s <= LAG.as_secs_f64());
        self.accepted as f64 >= offered * ACCEPTED_SHARE && self.latency_ms.p99 <= f64::from(p99_ms) && in_time
    }
}

/// What all runs share.
#[derive(Debug)]
pub(crate) struct Bench {
    binary: PathBuf,
    command: Command,
    server: Server,
    rigs: AtomicUsize,
}

impl Bench {
    pub(crate) async fn prepare(binary: PathBuf, command: Command) -> anyhow::Result<Self> {
        let options = command.options();
        let server = Server::start(options.db, options.dir.as_deref()).await?;
        Ok(Self { binary, command, server, rigs: AtomicUsize::new(0) })
    }

    pub(crate) fn machine(&self) -> String {
        rig::machine(self.command.options().dir.as_ref())
    }

    async fn rig(&self, variant: Variant) -> anyhow::Result<Rig> {
        let n = self.rigs.fetch_add(1, Ordering::Relaxed);
        Rig::start(&self.server, &self.binary, &self.command, variant, n).await
    }

    /// The highest rate a variant sustains, found on one sandbox, then confirmed on a fresh one.
    pub(crate) async fn highest_rate(&self, variant: Variant) -> anyhow::Result<u32> {
        let limit = self.command.options().p99_ms;
        let rig = self.rig(variant).await?;
        let mut search = Search::default();
        while let Some(rate) = search.next() {
            let measured = self.load(&rig, variant, rate, TRIAL).await?;
            let is_sustained = measured.is_sustained(limit);
            let p99 = measured.latency_ms.p99;
            progress(&format!("{variant}: {rate}/s: p99 {p99:.1} ms, {}", if is_sustained { "sustained" } else { "too much" }));
            search.tried(is_sustained);
        }
        rig.stop().await?;
        let mut rate = search.best().unwrap_or(1);
        for _ in 0..3 {
            if self.measure_for(variant, rate, TRIAL).await?.is_sustained(limit) {
                break;
            }
            rate = ((f64::from(rate) * STEP_DOWN) as u32).max(1);
        }
        Ok(rate)
    }

    /// A measured run on a fresh sandbox.
    pub(crate) async fn measure(&self, variant: Variant, rate: u32) -> anyhow::Result<Measurement> {
        self.measure_for(variant, rate, Duration::from_secs(u64::from(self.command.options().secs))).await
    }

    async fn measure_for(&self, variant: Variant, rate: u32, length: Duration) -> anyhow::Result<Measurement> {
        let rig = self.rig(variant).await?;
        self.load(&rig, variant, (rate / 2).max(1), WARM_UP).await?;
        let mut measured = self.load(&rig, variant, rate, length).await?;
        if let Some(cycles) = &mut measured.cycles {
            cycles.wrong_on_phones = wrong_on_phones(&rig).await?;
        }
        rig.stop().await?;
        Ok(measured)
    }

    async fn load(&self, rig: &Rig, variant: Variant, rate: u32, length: Duration) -> anyhow::Result<Measurement> {
        let options = self.command.options();
        let plan = Plan {
            address: rig.api.address()?,
            token: rig.api.token().unwrap_or_default().to_owned(),
            phones: rig.phones.clone(),
            rate,
            conns: options.conns,
            body: options.body,
            length,
        };
        let postgres = match &self.server {
            Server::Postgres(postgres) => Some(postgres.as_ref()),
            Server::Sqlite => None,
        };
        let completed_before = rig.receiver.as_ref().map_or(0, |receiver| receiver.completed());
        let before = Cost::read(rig.sandbox.pid(), &rig.api, postgres).await;
        let outcome = load::generate(plan).await?;
        let mut cycles = None;
        if let Some(receiver) = &rig.receiver {
            receiver.wait_for(completed_before + outcome.accepted.len(), DRAIN).await;
            cycles = Some(count_cycles(&outcome, &receiver.received()));
        }
        let cost = Cost::read(rig.sandbox.pid(), &rig.api, postgres).await - before;
        Ok(summarise(variant, rate, length, &outcome, cycles, cost))
    }
}

fn summarise(
    variant: Variant,
    rate: u32,
    length: Duration,
    outcome: &Outcome,
    cycles: Option<Cycles>,
    cost: Cost,
) -> Measurement {
    let accepted = outcome.accepted.len() as u64;
    let unique: HashSet<&str> = outcome.accepted.iter().map(|accepted| &*accepted.id).collect();
    let each = |total: u64| total as f64 / accepted.max(1) as f64;
    let took = (outcome.ended - outcome.started).as_secs_f64().max(length.as_secs_f64());
    Measurement {
        variant,
        offered_rate: rate,
        seconds: length.as_secs_f64(),
        accepted,
        accepted_rate: accepted as f64 / took,
        latency_ms: Percentiles::of(&outcome.latency),
        refused: outcome.refused.clone(),
        missed: outcome.missed,
        doubled_ids: accepted - unique.len() as u64,
        cycles,
        per_message: PerMessage {
            sandbox_cpu_us: each(cost.sandbox_us),
            database_cpu_us: each(cost.database_us),
            generator_cpu_us: each(cost.generator_us),
            commits: cost.commits.map(each),
            wal_syncs: cost.wal_syncs.map(each),
            wal_bytes: cost.wal_bytes.map(each),
        },
    }
}

fn count_cycles(outcome: &Outcome, received: &Received) -> Cycles {
    let mut latency = load::histogram();
    let (mut completed, mut last) = (0, outcome.started);
    for Accepted { id, due } in &outcome.accepted {
        if let Some(at) = received.completed.get(id) {
            completed += 1;
            last = last.max(*at);
            let waited = at.saturating_duration_since(*due).as_micros();
            latency.saturating_record(u64::try_from(waited).unwrap_or(u64::MAX).max(1));
        }
    }
    let took = last.saturating_duration_since(outcome.started).as_secs_f64();
    Cycles {
        completed,
        rate: if took > 0.0 { completed as f64 / took } else { 0.0 },
        latency_ms: Percentiles::of(&latency),
        lag_s: lag(last, outcome.ended),
        posts: received.posts,
        repeated: received.repeated,
        failed: received.failed,
        wrong_on_phones: 0,
    }
}

fn lag(last: Instant, ended: Instant) -> f64 {
    last.saturating_duration_since(ended).as_secs_f64()
}

/// Messages that phones show twice, and messages with callbacks that no phone shows, over the whole life of a sandbox.
async fn wrong_on_phones(rig: &Rig) -> anyhow::Result<u64> {
    let Some(receiver) = &rig.receiver else { return Ok(0) };
    let mut missing: HashSet<Box<str>> = receiver.received().completed.into_keys().collect();
    let mut wrong = 0;
    for phone in &rig.phones {
        let inbox = rig.api.inbox(phone).await?;
        wrong += inbox.duplicates;
        // Twice on phones, or on a phone without callbacks.
        wrong += inbox.messages.iter().filter(|message| !missing.remove(message.id.as_str())).count() as u64;
    }
    Ok(wrong + missing.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ids: &[&str]) -> Outcome {
        let now = Instant::now();
        let accepted = ids.iter().map(|id| Accepted { id: (*id).into(), due: now }).collect();
        let mut latency = load::histogram();
        ids.iter().for_each(|_| latency.saturating_record(2000));
        Outcome {
            started: now,
            ended: now + Duration::from_secs(1),
            accepted,
            latency,
            refusals: load::histogram(),
            refused: BTreeMap::new(),
            missed: 0,
        }
    }

    fn received(ids: &[&str]) -> Received {
        let at = Instant::now() + Duration::from_secs(1);
        Received { completed: ids.iter().map(|id| ((*id).into(), at)).collect(), posts: 3, repeated: 0, failed: 0 }
    }

    fn measured(ids: &[&str], completed: &[&str]) -> Measurement {
        let outcome = outcome(ids);
        let cycles = count_cycles(&outcome, &received(completed));
        summarise(Variant::Normal, 2, Duration::from_secs(1), &outcome, Some(cycles), Cost::default())
    }

    #[test]
    fn a_run_balances_when_each_id_is_unique_and_has_its_callbacks() {
        assert!(measured(&["a", "b"], &["a", "b"]).balances());
        assert!(!measured(&["a", "b"], &["a"]).balances());
        assert!(!measured(&["a", "a"], &["a"]).balances());
    }

    #[test]
    fn a_rate_is_sustained_when_it_is_accepted_in_time() {
        assert!(measured(&["a", "b"], &["a", "b"]).is_sustained(40));
        assert!(!measured(&["a"], &["a"]).is_sustained(40), "half was not accepted");
        assert!(!measured(&["a", "b"], &["a", "b"]).is_sustained(1), "too slow");
    }
}
