//! `estafet drill`: failovers done on purpose, under load, with a measured result.
//!
//! A drill runs traffic against a cluster ([`traffic`]), does a fault again and again ([`script`]), and then compares
//! what callers were told with what phones, the receiver of callbacks and the network's audit saw. Its verdict is
//! that of [`core`], which is pure: bounds on how long accepting paused, and nothing lost, doubled or reordered.
//!
//! * [`options`]: the command line and what each drill promises. `world`: a cluster of its own, or a running one
//!   through hooks. `roads`: proxies that cut a node off. `callbacks`: their receiver. `balancer`: which webapps callers are
//!   sent to. [`report`]: table and JSON.

mod balancer;
mod callbacks;
pub mod core;
mod options;
mod report;
mod roads;
mod run;
mod script;
mod traffic;
mod world;

pub use options::{Args, Choice, Command, Drill, Hook, Options};
pub use report::Outcome;

use anyhow::{Context as _, ensure};

/// What a run of drills ended with.
#[derive(Debug)]
pub struct Finished {
    /// The table for people.
    pub table: String,
    /// Each drill.
    pub outcomes: Vec<Outcome>,
}

/// Lists the drills.
pub fn list() -> String {
    let lines = Drill::ALL.iter().map(|drill| format!("{:<17} {}", drill.name(), drill.describe()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Runs the drills one after the other and writes the report, if one is wanted.
pub async fn run(options: &Options) -> anyhow::Result<Finished> {
    estafet_runtime::install_crypto();
    let mut outcomes = Vec::new();
    for drill in options.chosen() {
        outcomes.push(run::run(drill, options).await.with_context(|| format!("drill {}", drill.name()))?);
        if let Some(path) = &options.report {
            // After each drill, so that a later failure does not cost the earlier figures.
            let json = serde_json::to_string_pretty(&report::json(&outcomes, options))?;
            std::fs::write(path, json).with_context(|| format!("--report {}", path.display()))?;
        }
    }
    ensure!(!outcomes.is_empty(), "no drill was chosen");
    Ok(Finished { table: report::table(&outcomes), outcomes })
}

/// Tells a person what goes on; stdout is for the result.
#[allow(clippy::print_stderr, reason = "progress of a command that runs for minutes")]
pub(crate) fn progress(line: &str) {
    eprintln!("drill: {line}");
}
