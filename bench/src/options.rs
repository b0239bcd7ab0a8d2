//! The command line of `estafet bench`.

use std::{fmt, path::PathBuf};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::measure::Variant;

/// Arguments of `estafet bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What is measured.
    #[command(subcommand)]
    pub task: Task,
}

/// What is measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Task {
    /// Messages as a caller sends them.
    #[command(flatten)]
    Load(Command),
    /// Callbacks that waited for a receiver that was down: rate, order and memory while they drain.
    Backlog(crate::backlog::Options),
    /// Files uploaded and downloaded side by side: rate, and memory of a transfer.
    Media(crate::media::Options),
    /// Many times what can be carried: how much is still accepted, how late, and how soon the rest is told.
    Overload(crate::overload::Options),
}

/// What a load is of.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Accepting messages: checked, stored durably, answered. They are not sent on.
    Accept(Options),
    /// Full cycles: accepted, shown on the phone, and three callbacks received.
    Cycle(Options),
}

impl Command {
    /// The options of either.
    pub fn options(&self) -> &Options {
        match self {
            Self::Accept(options) | Self::Cycle(options) => options,
        }
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accept(_) => "accept",
            Self::Cycle(_) => "cycle",
        }
    }

    /// Whether messages are sent on and callbacks received.
    pub(crate) fn is_cycle(&self) -> bool {
        matches!(self, Self::Cycle(_))
    }
}

/// How it is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Message database: a PostgreSQL started for this, with fsync on, or SQLite.
    #[arg(long, value_enum, default_value_t = Database::Postgres)]
    pub db: Database,
    /// Messages per second. Without it the highest rate is searched that keeps the limit of latency.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub conns: u32,
    /// Seconds of each measured run.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub secs: u32,
    /// Measured runs of each variant, alternating.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Phones the messages are spread over.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub phones: u32,
    /// Bytes of text in a message.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(24..=4096))]
    pub body: u32,
    /// Shards of the number.
    #[arg(long, default_value_t = 1)]
    pub shards: u32,
    /// Limit of latency for the search: the 99th percentile of answers, milliseconds.
    #[arg(long, default_value_t = 40)]
    pub p99_ms: u32,
    /// Measure only without group commit and stream batching.
    #[arg(long, conflicts_with = "normal")]
    pub naive: bool,
    /// Measure only with group commit and stream batching. Default: both, alternating.
    #[arg(long)]
    pub normal: bool,
    /// Keep databases below this directory. Default: the system's directory for temporary files.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write the report as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the report as a section of docs/benchmarks.md instead of a table.
    #[arg(long)]
    pub markdown: bool,
}

impl Options {
    pub(crate) fn variants(&self) -> Vec<Variant> {
        match (self.naive, self.normal) {
            (true, _) => vec![Variant::Naive],
            (false, true) => vec![Variant::Normal],
            (false, false) => vec![Variant::Normal, Variant::Naive],
        }
    }
}

/// A message database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Database {
    /// PostgreSQL.
    Postgres,
    /// The embedded one.
    Sqlite,
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn options(line: &str) -> Options {
        let Task::Load(command) = Cli::try_parse_from(line.split(' ')).unwrap().args.task else { panic!("{line}") };
        command.options().clone()
    }

    #[test]
    fn both_variants_are_measured_unless_one_is_chosen() {
        assert_eq!(options("bench accept").variants(), [Variant::Normal, Variant::Naive]);
        assert_eq!(options("bench cycle --naive").variants(), [Variant::Naive]);
        assert_eq!(options("bench accept --normal --db sqlite").variants(), [Variant::Normal]);
        assert!(Cli::try_parse_from(["bench", "accept", "--naive", "--normal"]).is_err());
    }
}
