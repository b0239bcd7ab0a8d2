//! The report: a table for people, JSON for machines, Markdown for `docs/benchmarks.md`.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    measure::{Measurement, Variant},
    options::{Command, Options},
};

/// Writes a report to the file that is asked for, as JSON, and prints `text`.
#[allow(clippy::print_stdout, reason = "the report is what the command is for")]
pub(crate) fn publish(report: &impl Serialize, file: Option<&Path>, text: String) -> anyhow::Result<()> {
    if let Some(path) = file {
        std::fs::write(path, as_json(report)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{text}");
    Ok(())
}

/// A report as it is written, and printed where it has no other form.
pub(crate) fn as_json(report: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(report)?)
}

/// All runs and where they ran.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: &'static str,
    pub(crate) command: String,
    pub(crate) database: String,
    pub(crate) machine: String,
    pub(crate) runs: Vec<Measurement>,
}

/// One line of the report: what it shows, how to get it, and its digits.
type Row = (&'static str, fn(&Measurement) -> Option<f64>, usize);

const ROWS: &[Row] = &[
    ("offered, messages/s", |run| Some(f64::from(run.offered_rate)), 0),
    ("accepted, messages/s", |run| Some(run.accepted_rate), 0),
    ("answer p50, ms", |run| Some(run.latency_ms.p50), 1),
    ("answer p99, ms", |run| Some(run.latency_ms.p99), 1),
    ("answer p99.9, ms", |run| Some(run.latency_ms.p999), 1),
    ("refused or missed", |run| Some((run.refused.values().sum::<u64>() + run.missed) as f64), 0),
    ("full cycles/s", |run| run.cycles.map(|cycles| cycles.rate), 0),
    ("third callback p50, ms", |run| run.cycles.map(|cycles| cycles.latency_ms.p50), 1),
    ("third callback p99, ms", |run| run.cycles.map(|cycles| cycles.latency_ms.p99), 1),
    ("sandbox CPU, us/message", |run| Some(run.per_message.sandbox_cpu_us), 1),
    ("database CPU, us/message", |run| Some(run.per_message.database_cpu_us), 1),
    ("load generator CPU, us/message", |run| Some(run.per_message.generator_cpu_us), 1),
    ("commits/message", |run| run.per_message.commits, 4),
    ("log syncs/message", |run| run.per_message.wal_syncs, 4),
    ("log bytes/message", |run| run.per_message.wal_bytes, 0),
];

impl Report {
    pub(crate) fn new(command: &Command, machine: String, runs: Vec<Measurement>) -> Self {
        let options = command.options();
        Self { bench: command.name(), command: command_line(command), database: options.db.to_string(), machine, runs }
    }

    /// Prints it, and writes it where the options say.
    pub(crate) fn publish(&self, options: &Options) -> anyhow::Result<()> {
        publish(self, options.report.as_deref(), if options.markdown { self.markdown() } else { self.table() })
    }

    fn values(&self, variant: Variant, row: &Row) -> Vec<f64> {
        let mut values: Vec<f64> = self.runs.iter().filter(|run| run.variant == variant).filter_map(row.1).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// Name, normal, naive and their ratio, for each row that has a value.
    fn cells(&self) -> Vec<[String; 4]> {
        let rows = ROWS.iter().filter(|row| self.runs.iter().any(|run| row.1(run).is_some()));
        rows.map(|row| {
            let (normal, naive) = (self.values(Variant::Normal, row), self.values(Variant::Naive, row));
            [row.0.to_owned(), spread(&normal, row.2), spread(&naive, row.2), ratio(&normal, &naive)]
        })
        .collect()
    }

    fn table(&self) -> String {
        let cells = self.cells();
        let width = |column: usize, head: &str| cells.iter().map(|row| row[column].len()).max().unwrap_or(0).max(head.len());
        let heads = ["", "normal", "naive", "ratio"];
        let widths: Vec<usize> = heads.iter().enumerate().map(|(column, head)| width(column, head)).collect();
        let mut text = format!("{} on {}\n{}\n{}\n\n", self.bench, self.database, self.machine, self.command);
        let lines = std::iter::once(heads.map(str::to_owned)).chain(cells);
        for [name, normal, naive, ratio] in lines {
            let (w0, w1, w2, w3) = (widths[0], widths[1], widths[2], widths[3]);
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<w0$}  {normal:>w1$}  {naive:>w2$}  {ratio:>w3$}");
        }
        text + &self.verdict()
    }

    fn markdown(&self) -> String {
        let mut text = format!("### {} on {}\n\n{}\n\n    {}\n\n", self.bench, self.database, self.machine, self.command);
        text.push_str("| | normal | naive | ratio |\n| --- | ---: | ---: | ---: |\n");
        for [name, normal, naive, ratio] in self.cells() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "| {name} | {normal} | {naive} | {ratio} |");
        }
        text + "\nMedian (lowest to highest) of the runs. " + &self.verdict()
    }

    fn verdict(&self) -> String {
        let accepted: u64 = self.runs.iter().map(|run| run.accepted).sum();
        let wrong = self.runs.iter().filter(|run| !run.balances()).count();
        match wrong {
            0 => format!("Ledger: {accepted} accepted, each accounted for once."),
            wrong => format!("LEDGER: {wrong} of {} runs lost or doubled messages.", self.runs.len()),
        }
    }
}

pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// The median, with the lowest and highest value if they differ from it.
pub(crate) fn spread(sorted: &[f64], digits: usize) -> String {
    let show = |value: f64| format!("{value:.digits$}");
    match (median(sorted).map(show), sorted.first(), sorted.last()) {
        (Some(median), Some(low), Some(high)) if sorted.len() > 1 => format!("{median} ({} to {})", show(*low), show(*high)),
        (Some(median), _, _) => median,
        (None, _, _) => "-".to_owned(),
    }
}

fn ratio(normal: &[f64], naive: &[f64]) -> String {
    match (median(normal), median(naive)) {
        (Some(normal), Some(naive)) if naive != 0.0 => format!("{:.2}", normal / naive),
        _ => "-".to_owned(),
    }
}

/// The command that repeats the run.
fn command_line(command: &Command) -> String {
    let options = command.options();
    let mut line = format!("estafet bench {} --db {}", command.name(), options.db);
    if let Some(rate) = options.rate {
        let _ = write!(line, " --rate {rate}");
    }
    let _ = write!(
        line,
        " --conns {} --secs {} --rounds {} --phones {} --body {} --shards {} --p99-ms {}",
        options.conns, options.secs, options.rounds, options.phones, options.body, options.shards, options.p99_ms
    );
    for (flag, is_set) in [(" --naive", options.naive), (" --normal", options.normal)] {
        if is_set {
            line.push_str(flag);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_spread_and_ratio() {
        assert_eq!(spread(&[1.0, 2.0, 9.0], 1), "2.0 (1.0 to 9.0)");
        assert_eq!(spread(&[3.0], 0), "3");
        assert_eq!(spread(&[], 0), "-");
        assert_eq!(ratio(&[6.0], &[2.0]), "3.00");
        assert_eq!(ratio(&[6.0], &[]), "-");
        assert_eq!(ratio(&[6.0], &[0.0]), "-");
    }
}
