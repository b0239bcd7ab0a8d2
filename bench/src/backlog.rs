//! `estafet bench backlog`: callbacks that gathered while the receiver was down (B5).
//!
//! The backlog is written straight into the message database, then a sandbox is started on it. The receiver
//! first refuses everything, so that each lane is met failing, then takes everything. Every event is counted
//! once and its place among those of its contact is checked (**I6**); the sandbox's peak of memory is read from
//! the system and must stay within the cap (**I8**).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use estafet_harness::Sandbox;
use estafet_model::{EndpointId, SeqAllocator, ShardCount, Slot, WaId, settings::Settings};
use estafet_runtime::Clock;
use estafet_store::{Batch, Fence, NewEvent, SharedStore};
use hyper::StatusCode;
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use crate::{
    cost::Cost,
    options::Database,
    progress,
    receiver::{Receiver, Take},
    report::{as_json, publish},
    rig::{self, Server},
};

/// Number of the business, as sandboxes have it.
const NUMBER: u64 = 15_550_000_001;
/// First contact of the backlog.
const FIRST_CONTACT: u64 = 15_551_000_000;
/// Events written with one transaction.
const LOADED_TOGETHER: usize = 4096;
/// Callbacks refused before the receiver comes up, or as many as there are contacts if those are fewer.
const REFUSALS: u64 = 100;
/// How long nothing may arrive before the bench gives up.
const STALLED: Duration = Duration::from_secs(60);

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Callbacks that wait.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub events: u64,
    /// Contacts they are about, in turn.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=9_000_000))]
    pub contacts: u64,
    /// Message database: a PostgreSQL started for this, with fsync on, or SQLite.
    #[arg(long, value_enum, default_value_t = Database::Postgres)]
    pub db: Database,
    /// Shards of the number.
    #[arg(long, default_value_t = 1)]
    pub shards: u32,
    /// Memory the sandbox may take, MiB; more fails the bench.
    #[arg(long, default_value_t = 256)]
    pub max_rss_mib: u64,
    /// Keep databases below this directory. Default: the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// What a drained backlog showed.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    command: String,
    machine: String,
    events: u64,
    contacts: u64,
    drained: u64,
    seconds: f64,
    events_per_second: f64,
    peak_rss_mib: f64,
    refused_before: u64,
    /// First arrivals that came before an earlier event of their contact.
    inverted: u64,
    /// Events that arrived and were taken again.
    repeated: u64,
    sandbox_cpu_us_per_event: f64,
    database_cpu_us_per_event: f64,
    commits_per_event: Option<f64>,
}

/// Measures, prints the report, and fails if an event was lost or out of order, or memory grew past its cap.
pub(crate) async fn run(binary: &Path, options: &Options) -> anyhow::Result<()> {
    let server = Server::start(options.db, options.dir.as_deref()).await?;
    let mut directory = tempfile::Builder::new();
    directory.prefix("estafet-bench-");
    let data = match &options.dir {
        Some(within) => directory.tempdir_in(within)?,
        None => directory.tempdir()?,
    };
    let url = match &server {
        Server::Postgres(postgres) => postgres.create_database("backlog").await?,
        Server::Sqlite => format!("sqlite:{}", data.path().join("estafet.db").display()),
    };
    let receiver = Receiver::start(Ledger::default()).await?;
    progress(&format!("writing {} callbacks of {} contacts", options.events, options.contacts));
    fill(&url, options, &receiver.url()).await?;

    let flags = Sandbox::options().binary(binary).data_dir(data.path()).phones(0).shards(options.shards);
    let flags = if let Server::Postgres(_) = server { flags.database(&url) } else { flags };
    let mut sandbox = flags.switch("--hold-upstream").start().await?;
    let api = sandbox.login().await?;
    let ledger = receiver.taker();
    ledger.wait_for(|state| state.refused >= REFUSALS.min(options.contacts)).await.context("no callback was tried")?;

    progress("the receiver comes up");
    let postgres = if let Server::Postgres(postgres) = &server { Some(&**postgres) } else { None };
    let (before, started) = (Cost::read(sandbox.pid(), &api, postgres).await, Instant::now());
    ledger.open();
    let drained = ledger.wait_for(|state| state.arrived >= options.events).await;
    let seconds = started.elapsed().as_secs_f64();
    let cost = Cost::read(sandbox.pid(), &api, postgres).await - before;
    let peak_rss_mib = peak_rss_mib(sandbox.pid()).context("the sandbox is gone")?;
    sandbox.terminate().await?;

    let report = report(options, &ledger.state(), seconds, peak_rss_mib, &cost);
    publish(&report, options.report.as_deref(), as_json(&report)?)?;
    drained.with_context(|| format!("{} of {} callbacks arrived", report.drained, options.events))?;
    ensure!(report.inverted == 0, "{} callbacks came before an earlier one of their contact", report.inverted);
    ensure!(peak_rss_mib <= options.max_rss_mib as f64, "{peak_rss_mib:.0} MiB of memory, {} allowed", options.max_rss_mib);
    Ok(())
}

fn report(options: &Options, state: &State, seconds: f64, peak_rss_mib: f64, cost: &Cost) -> Report {
    let each = |total: u64| total as f64 / options.events as f64;
    let Options { events, contacts, db, shards, .. } = options;
    Report {
        bench: "backlog",
        command: format!("estafet bench backlog --db {db} --events {events} --contacts {contacts} --shards {shards}"),
        machine: rig::machine(options.dir.as_ref()),
        events: *events,
        contacts: *contacts,
        drained: state.arrived,
        seconds,
        events_per_second: state.arrived as f64 / seconds,
        peak_rss_mib,
        refused_before: state.refused,
        inverted: state.inverted,
        repeated: state.repeated,
        sandbox_cpu_us_per_event: each(cost.sandbox_us),
        database_cpu_us_per_event: each(cost.database_us),
        commits_per_event: cost.commits.map(each),
    }
}

/// Writes settings and backlog as an owner that died left them.
async fn fill(url: &str, options: &Options, webhook: &str) -> anyhow::Result<()> {
    let store = estafet_store::open(url, "estafet-bench").await?;
    store.migrate().await?;
    let number = WaId::from_u64(NUMBER)?;
    let mut settings = Settings { callback_backoff_delay_ms: 100, max_callback_backoff_delay_ms: 100, ..Settings::default() };
    settings.webhooks.url = Some(webhook.to_owned());
    settings.webhooks.max_concurrent_requests = 24;
    let written = store.put_settings(number, 0, &serde_json::to_string(&settings)?).await?;
    ensure!(written.is_some(), "the database is not empty");
    let count =
        ShardCount::new(options.shards).with_context(|| format!("--shards {}: a power of two, 1 to 256", options.shards))?;
    let (boot, now_ms) = (estafet_runtime::boot_id(), Clock::system().now_ms());
    for shard in count.shards() {
        let fence = store.claim(number, shard, count, None, "bench", boot, 0, now_ms).await?.context("the shard is taken")?;
        fill_shard(&store, &fence, options, now_ms).await?;
    }
    Ok(())
}

async fn fill_shard(store: &SharedStore, fence: &Fence, options: &Options, now_ms: i64) -> anyhow::Result<()> {
    let mut seqs = SeqAllocator::new(fence.epoch);
    let mut batch = Batch::default();
    for n in 0..options.events {
        let contact = WaId::from_u64(FIRST_CONTACT + n % options.contacts)?;
        let slot = Slot::of(contact);
        if !fence.slots().contains(&slot) {
            continue;
        }
        let seq = seqs.allocate().context("an epoch has no more positions")?;
        let body = body(contact, n);
        let (endpoint, kind) = (EndpointId::MAIN, "inbound_message");
        batch.events.push(NewEvent { slot, endpoint, seq, contact: Some(contact), kind, created_at_ms: now_ms, body });
        if batch.events.len() >= LOADED_TOGETHER {
            store.commit(fence, &std::mem::take(&mut batch)).await?;
        }
    }
    store.commit(fence, &batch).await.map(drop).map_err(Into::into)
}

/// A callback of the usual size. The place of the event is in its text.
fn body(contact: WaId, n: u64) -> Bytes {
    let text = format!(
        r#"{{"contacts":[{{"profile":{{"name":"Backlog"}},"wa_id":"{contact}"}}],"messages":[{{"from":"{contact}","id":"ABGGFlA5FpafAgo6tHcNmNjXmuSf","text":{{"body":"{n:>100}"}},"timestamp":"1518694235","type":"text"}}]}}"#
    );
    text.into()
}

/// Contact and place of an event.
fn place(body: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(body).ok()?;
    let value = |member: &str| {
        let (_, rest) = text.split_once(member)?;
        rest.split('"').next()?.trim().parse().ok()
    };
    Some((value(r#""from":""#)?, value(r#""body":""#)?))
}

/// What arrived, compared with what was written.
#[derive(Clone, Debug, Default)]
struct State {
    is_open: bool,
    /// The next place of each contact is above this one.
    last: HashMap<u64, u64>,
    arrived: u64,
    refused: u64,
    inverted: u64,
    repeated: u64,
}

impl State {
    fn take(&mut self, body: &[u8]) -> StatusCode {
        let Some((contact, n)) = place(body) else { return StatusCode::BAD_REQUEST };
        if !self.is_open {
            self.refused += 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        match self.last.get(&contact) {
            Some(&last) if n == last => self.repeated += 1,
            Some(&last) if n < last => self.inverted += 1,
            _ => {
                self.last.insert(contact, n);
                self.arrived += 1;
            }
        }
        StatusCode::OK
    }
}

/// The receiver's memory.
#[derive(Debug, Default)]
struct Ledger {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl Take for Ledger {
    fn take(&self, body: &[u8]) -> StatusCode {
        let status = self.lock().take(body);
        self.changed.send_modify(|count| *count += 1);
        status
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) {
        self.lock().is_open = true;
    }

    fn state(&self) -> State {
        self.lock().clone()
    }

    /// Waits for as long as something arrives.
    async fn wait_for(self: &Arc<Self>, holds: impl Fn(&State) -> bool) -> anyhow::Result<()> {
        let mut changed = self.changed.subscribe();
        while !holds(&self.lock()) {
            let arrival = tokio::time::timeout(STALLED, changed.changed()).await;
            arrival.with_context(|| format!("nothing arrived for {} s", STALLED.as_secs()))??;
        }
        Ok(())
    }
}

/// The most memory a process has had, MiB.
fn peak_rss_mib(pid: u32) -> Option<f64> {
    memory_mib(pid, "VmHWM:")
}

/// A line of `/proc/<pid>/status` about memory, MiB.
pub(crate) fn memory_mib(pid: u32, name: &str) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrives(state: &mut State, contact: u64, n: u64) -> StatusCode {
        state.take(&body(WaId::from_u64(contact).unwrap(), n))
    }

    #[test]
    fn each_contact_is_counted_once_and_in_order() {
        let mut state = State { is_open: true, ..State::default() };
        for (contact, n) in [(FIRST_CONTACT, 0), (FIRST_CONTACT + 1, 1), (FIRST_CONTACT, 2), (FIRST_CONTACT + 1, 3)] {
            assert_eq!(arrives(&mut state, contact, n), StatusCode::OK);
        }
        assert_eq!((state.arrived, state.inverted, state.repeated), (4, 0, 0));
        arrives(&mut state, FIRST_CONTACT, 2);
        arrives(&mut state, FIRST_CONTACT, 0);
        assert_eq!((state.arrived, state.inverted, state.repeated), (4, 1, 1));
    }

    #[test]
    fn a_receiver_that_is_down_takes_nothing() {
        let mut state = State::default();
        assert_eq!(arrives(&mut state, FIRST_CONTACT, 0), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!((state.arrived, state.refused), (0, 1));
    }

    #[test]
    fn this_process_has_had_some_memory() {
        assert!(peak_rss_mib(std::process::id()).is_some_and(|mib| mib > 1.0));
    }
}
