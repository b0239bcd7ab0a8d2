//! `estafet bench`: load on a sandbox of its own, and a report that can be believed.
//!
//! The load is open: messages are due at fixed times whatever the server does, and latency counts from the
//! time a message was due, so a server that stalls cannot hide it. Every id is checked against the ledger.
//! The same binary is measured with and without batching, alternating, on the same machine in the same run,
//! because only ratios survive a shared machine; CPU time of all processes is counted.
//!
//! * [`options`]: the command line. [`rig`]: database, sandbox, account. [`load`]: the generator.
//! * [`receiver`]: callbacks. [`cost`]: CPU, commits, log bytes. [`measure`]: one run. [`search`]: the highest rate.
//! * [`report`]: table, JSON, Markdown. [`backlog`]: callbacks that waited. [`media`]: files side by side.
//! * [`overload`]: many times what can be carried.

mod backlog;
mod cost;
mod load;
mod measure;
mod media;
mod options;
mod overload;
mod receiver;
mod report;
mod rig;
mod search;

pub use options::{Args, Command, Database, Options, Task};

use anyhow::{Context as _, ensure};
use measure::Measurement;
use report::Report;

/// Measures, prints the report, and fails if something was lost, doubled or out of order.
pub async fn run(args: Args) -> anyhow::Result<()> {
    estafet_runtime::install_crypto();
    let binary = std::env::current_exe().context("the path of this binary is unknown")?;
    match args.task {
        Task::Load(command) => load(binary, command).await,
        Task::Backlog(options) => backlog::run(&binary, &options).await,
        Task::Overload(options) => overload::run(&binary, &options).await,
        Task::Media(options) => media::run(&binary, &options).await,
    }
}

async fn load(binary: std::path::PathBuf, command: Command) -> anyhow::Result<()> {
    let options = command.options().clone();
    let bench = measure::Bench::prepare(binary, command.clone()).await?;
    let mut runs = Vec::new();
    let mut rates = Vec::new();
    for variant in options.variants() {
        let rate = match options.rate {
            Some(rate) => rate,
            None => bench.highest_rate(variant).await?,
        };
        rates.push((variant, rate));
    }
    for round in 1..=options.rounds {
        for (variant, rate) in &rates {
            progress(&format!("round {round} of {}: {variant} at {rate} messages/s for {} s", options.rounds, options.secs));
            runs.push(bench.measure(*variant, *rate).await?);
        }
    }
    let report = Report::new(&command, bench.machine(), runs);
    report.publish(&options)?;
    let wrong: Vec<&Measurement> = report.runs.iter().filter(|run| !run.balances()).collect();
    ensure!(wrong.is_empty(), "{} runs lost or doubled messages; the report says which", wrong.len());
    Ok(())
}

/// Tells a person what goes on; stdout is for the report.
#[allow(clippy::print_stderr, reason = "progress of a command that runs for minutes")]
pub(crate) fn progress(line: &str) {
    eprintln!("bench: {line}");
}
