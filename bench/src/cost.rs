//! What a run cost: CPU time of every process, transactions, and bytes of the write-ahead log.
//!
//! CPU comes from `/proc/<pid>/stat`, in ticks of 10 ms: runs of some seconds make that exact enough.

use std::{collections::HashMap, ops::Sub};

use estafet_harness::{Api, Postgres};

/// Length of a tick in `/proc/<pid>/stat`; Linux shows 100 a second on every architecture we run on.
const TICK_US: u64 = 10_000;

/// Counters that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// CPU of the sandbox, microseconds.
    pub(crate) sandbox_us: u64,
    /// CPU of the database server and its workers, microseconds.
    pub(crate) database_us: u64,
    /// CPU of the load generator and the receiver, microseconds.
    pub(crate) generator_us: u64,
    /// Transactions committed by the owners of shards.
    pub(crate) commits: Option<u64>,
    /// Times the write-ahead log was synced, as the database counts it.
    pub(crate) wal_syncs: Option<u64>,
    /// Bytes written to the write-ahead log.
    pub(crate) wal_bytes: Option<u64>,
}

impl Cost {
    /// Reads all counters.
    pub(crate) async fn read(sandbox: u32, api: &Api, postgres: Option<&Postgres>) -> Self {
        let metrics = api.metrics().await.unwrap_or_default();
        let mut cost = Self {
            sandbox_us: cpu_us(sandbox),
            generator_us: cpu_us(std::process::id()),
            commits: commits(&metrics),
            ..Self::default()
        };
        if let Some(postgres) = postgres {
            cost.database_us = tree_us(postgres.pid());
            // Absent before PostgreSQL 14: then the report leaves it out.
            let wal = postgres.query("postgres", "SELECT wal_sync, wal_bytes FROM pg_stat_wal").await.unwrap_or_default();
            let mut columns = wal.split('|').map(|column| column.trim().parse().ok());
            cost.wal_syncs = columns.next().flatten();
            cost.wal_bytes = columns.next().flatten();
        }
        cost
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        // A counter shows itself only once it has counted.
        let difference = |after: Option<u64>, before: Option<u64>| Some(after?.saturating_sub(before.unwrap_or(0)));
        Self {
            sandbox_us: self.sandbox_us.saturating_sub(before.sandbox_us),
            database_us: self.database_us.saturating_sub(before.database_us),
            generator_us: self.generator_us.saturating_sub(before.generator_us),
            commits: difference(self.commits, before.commits),
            wal_syncs: difference(self.wal_syncs, before.wal_syncs),
            wal_bytes: difference(self.wal_bytes, before.wal_bytes),
        }
    }
}

/// Fields of `/proc/<pid>/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: u64,
    ended_children: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command name is in brackets and may hold anything, so fields count from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, own: ticks(11)? + ticks(12)?, ended_children: ticks(13)? + ticks(14)? })
}

fn cpu_us(pid: u32) -> u64 {
    stat(pid).map_or(0, |stat| stat.own * TICK_US)
}

/// CPU of a process, its children, and those of its children that have ended.
fn tree_us(root: u32) -> u64 {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stats: HashMap<u32, Stat> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let of_root = stats.get(&root).map_or(0, |stat| stat.own + stat.ended_children);
    let of_children: u64 = stats.values().filter(|stat| stat.parent == root).map(|stat| stat.own).sum();
    (of_root + of_children) * TICK_US
}

/// The sum over all labels of the counter of commits, whatever ending the exporter gives its name.
fn commits(metrics: &str) -> Option<u64> {
    let is_counter = |name: &str| matches!(name, "store_commits" | "store_commits_total" | "estafet_store_commits_total");
    let mut sum = None;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        if let Some(value) = line.rsplit(' ').next().filter(|_| is_counter(name)).and_then(|value| value.parse::<f64>().ok()) {
            sum = Some(sum.unwrap_or(0) + value as u64);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 30 12 5 1 20 0 9 0 100 1 1";
        assert_eq!(parse_stat(text), Some(Stat { parent: 7, own: 42, ended_children: 6 }));
        assert_eq!(parse_stat("42 (short) S 7"), None);
    }

    #[test]
    fn commits_are_summed_over_labels_and_other_counters_are_left_out() {
        let metrics = "# TYPE store_commits_total counter\nstore_commits_total{shard=\"0\"} 3\nstore_commits_total{shard=\"1\"} 4\nstore_commit_rows_total 99\n";
        assert_eq!(commits(metrics), Some(7));
        assert_eq!(commits("up 1\n"), None);
    }

    #[test]
    fn this_process_has_used_some_cpu_and_a_child_belongs_to_its_tree() {
        assert!(stat(std::process::id()).is_some());
        assert_eq!(cpu_us(u32::MAX), 0);
    }
}
