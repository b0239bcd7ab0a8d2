//! `estafet bench overload`: many times what can be carried (B9).
//!
//! The database is put at a distance, so that the sandbox carries a rate that the generator can exceed many times on the
//! same machine. First callers that only ever wait find out that rate. Then half of it is offered, then many times as
//! much, then half again. What counts are the answers: how much of the rate is still accepted, how late the accepted
//! ones are against ordinary times, and how soon the others are told.

use std::{collections::HashSet, fmt::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use estafet_harness::{Postgres, Proxy, Sandbox, proxy::Faults};
use serde::Serialize;

use crate::{
    load::{self, Outcome, Plan},
    measure::Percentiles,
    progress,
    report::{as_json, publish},
    rig,
};

/// Callers that wait for each answer before they ask again: enough to fill every batch.
const WAITING_CALLERS: u32 = 1024;
/// More tickets than can be used up: the callers decide the rate.
const WITHOUT_PAUSE: u32 = 100_000;

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many times the rate that is carried is offered.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub x: u32,
    /// Milliseconds to the database, one way: what makes the sandbox slow.
    #[arg(long, default_value_t = 100)]
    pub distance_ms: u64,
    /// Keep-alive connections of the overload; a webapp takes 4,096.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub conns: u32,
    /// Seconds of each load.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub secs: u32,
    /// Keep databases below this directory. Default: the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the report as a section of docs/benchmarks.md.
    #[arg(long)]
    pub markdown: bool,
}

/// What came of one load.
#[derive(Debug, Serialize)]
struct Load {
    name: &'static str,
    offered_per_second: u32,
    accepted_per_second: f64,
    accepted_ms: Percentiles,
    refused: std::collections::BTreeMap<u16, u64>,
    refused_ms: Option<Percentiles>,
    missed: u64,
}

impl Load {
    fn of(name: &'static str, rate: u32, outcome: &Outcome) -> Self {
        let seconds = outcome.ended.saturating_duration_since(outcome.started).as_secs_f64().max(0.001);
        Self {
            name,
            offered_per_second: rate,
            accepted_per_second: outcome.accepted.len() as f64 / seconds,
            accepted_ms: Percentiles::of(&outcome.latency),
            refused: outcome.refused.clone(),
            refused_ms: (!outcome.refusals.is_empty()).then(|| Percentiles::of(&outcome.refusals)),
            missed: outcome.missed,
        }
    }
}

/// The whole measurement.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    command: String,
    machine: String,
    /// What is carried when callers wait for each answer, messages a second.
    carried_per_second: f64,
    loads: Vec<Load>,
}

/// Measures and reports; fails if an id was given twice, or an answer was none of those that clients retry.
pub(crate) async fn run(binary: &std::path::Path, options: &Options) -> anyhow::Result<()> {
    let directory = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    progress("starting PostgreSQL with fsync on, at a distance");
    let postgres = Postgres::options().fsync(true).within(directory.clone()).start().await?;
    let direct = postgres.create_database("overload").await?;
    let port = direct.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()?.parse().ok()).context("no port")?;
    let distant = Proxy::start(Some(SocketAddr::from(([127, 0, 0, 1], port))), 1).await?;
    let url = direct.replace(&format!(":{port}/"), &format!(":{}/", distant.address().port()));
    let data = tempfile::Builder::new().prefix("estafet-bench-").tempdir_in(&directory)?;
    let flags = Sandbox::options().binary(binary).data_dir(data.path()).phones(256).shards(1);
    let mut sandbox = flags.database(&url).switch("--hold-upstream").start().await?;
    let api = sandbox.login().await?;
    distant.set(Faults::delay(Duration::from_millis(options.distance_ms), Duration::ZERO)).await;

    let mut ids = HashSet::new();
    let (address, token) = (api.address()?, api.token().unwrap_or_default().to_owned());
    let mut measured = async |name, rate: u32, conns, secs: u32| {
        progress(&format!("{name}: {rate} messages/s for {secs} s"));
        let length = Duration::from_secs(secs.into());
        let phones = (0..256u64).map(|n| (rig::FIRST_PHONE + n).to_string()).collect();
        let outcome = load::generate(Plan { address, token: token.clone(), phones, rate, conns, body: 300, length }).await?;
        for accepted in &outcome.accepted {
            ensure!(ids.insert(accepted.id.clone()), "the id {} was given twice", accepted.id);
        }
        let strange: Vec<&u16> = outcome.refused.keys().filter(|status| ![429, 503].contains(*status)).collect();
        ensure!(strange.is_empty(), "{name}: answers with {strange:?}");
        Ok(Load::of(name, rate, &outcome))
    };
    let carried = measured("waiting callers", WITHOUT_PAUSE, WAITING_CALLERS, 5).await?.accepted_per_second;
    let ordinary = (carried / 2.0).max(1.0) as u32;
    let overload = (carried * f64::from(options.x)) as u32;
    let loads = vec![
        measured("half of it", ordinary, WAITING_CALLERS, options.secs).await?,
        measured("overload", overload, options.conns, options.secs).await?,
        measured("half of it again", ordinary, WAITING_CALLERS, options.secs).await?,
    ];
    sandbox.terminate().await?;
    let command =
        format!("estafet bench overload --x {} --distance-ms {} --conns {}", options.x, options.distance_ms, options.conns);
    let machine = rig::machine(options.dir.as_ref());
    Report { bench: "overload", command, machine, carried_per_second: carried, loads }.publish(options)
}

impl Report {
    fn publish(&self, options: &Options) -> anyhow::Result<()> {
        let text = if options.markdown { self.markdown() } else { as_json(self)? };
        publish(self, options.report.as_deref(), text)
    }

    fn markdown(&self) -> String {
        let Self { machine, command, carried_per_second, .. } = self;
        let mut text = format!("### overload\n\n{machine}\n\n    {command}\n\n");
        text += &format!("Carried when callers wait for each answer: {carried_per_second:.0} messages/s.\n\n");
        text += "| | offered/s | accepted/s | accepted p50, ms | accepted p99, ms | refused | refused p50, ms | refused p99, ms | never sent |\n";
        text += "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |\n";
        for load in &self.loads {
            let refused: Vec<String> = load.refused.iter().map(|(status, count)| format!("{count} with {status}")).collect();
            let late =
                |of: fn(&Percentiles) -> f64| load.refused_ms.as_ref().map_or("-".to_owned(), |ms| format!("{:.1}", of(ms)));
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {:.1} | {:.1} | {} | {} | {} | {} |",
                load.name,
                load.offered_per_second,
                load.accepted_per_second,
                load.accepted_ms.p50,
                load.accepted_ms.p99,
                if refused.is_empty() { "0".to_owned() } else { refused.join(", ") },
                late(|ms| ms.p50),
                late(|ms| ms.p99),
                load.missed,
            );
        }
        text
    }
}
