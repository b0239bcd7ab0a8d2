//! Runs simulations of the election: many seeds, each in a process of its own, or one. Ends with status 1 when a rule is
//! broken.
#![allow(clippy::print_stdout, reason = "the output is what the program is for")]

use std::{
    process::{Command, Output},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};
use estafet_sim_etcd::{Mutation, Summary, run};

#[derive(Parser)]
#[command(about = "Simulates the election over etcd under faults and checks its rules")]
struct Arguments {
    /// The first seed, or the only one.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Take a rule out.
    #[arg(long)]
    mutate: Option<Mutation>,
    /// Print what happens.
    #[arg(long, conflicts_with = "count")]
    trace: bool,
    /// Print what the processes log, too, on standard error.
    #[arg(long, requires = "trace")]
    log: bool,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.log {
        let levels = "off,estafet_etcd=debug,estafet_master=debug,estafet_sim_etcd=debug";
        tracing_subscriber::fmt().with_env_filter(levels).without_time().with_writer(std::io::stderr).init();
    }
    if arguments.count == 1 { one(&arguments) } else { many(&arguments) }
}

fn one(Arguments { seed, mutate, trace, .. }: &Arguments) -> anyhow::Result<()> {
    let ran = run(*seed, *mutate);
    if *trace {
        let lines = ran.as_ref().map_or_else(|violation| &violation.trace, |summary| &summary.trace);
        lines.iter().for_each(|line| println!("{line}"));
    }
    match ran {
        Ok(Summary { terms, claims, writes, .. }) => {
            println!("{terms} terms, {claims} claims, {writes} writes of leaders to etcd")
        }
        Err(violation) => anyhow::bail!("{}", violation.report()),
    }
    Ok(())
}

/// Each seed in a process of its own, so that it is the run that its replay is.
fn many(arguments: &Arguments) -> anyhow::Result<()> {
    let end = arguments.seed + arguments.count;
    let (next, failed) = (AtomicU64::new(arguments.seed), Mutex::new(None));
    let sum = Mutex::new([0u64; 3]);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match child(seed, arguments.mutate) {
                        Ok(figures) => {
                            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                            sum.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
                        }
                        Err(error) => {
                            next.store(end, Ordering::Relaxed);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let [terms, claims, writes] = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} seeds, {terms} terms, {claims} claims, {writes} writes of leaders to etcd: no rule broken", arguments.count);
    Ok(())
}

/// One seed: its terms, claims and writes.
fn child(seed: u64, mutate: Option<Mutation>) -> anyhow::Result<[u64; 3]> {
    let mut command = Command::new(std::env::current_exe().context("the path of this program is unknown")?);
    command.args(["--seed", &seed.to_string()]);
    if let Some(mutate) = mutate.and_then(|mutate| mutate.to_possible_value()) {
        command.args(["--mutate", mutate.get_name()]);
    }
    let Output { status, stdout, stderr } = command.output().context("a run could not be started")?;
    anyhow::ensure!(status.success(), "{}", String::from_utf8_lossy(&stderr).trim_start_matches("Error: "));
    let text = String::from_utf8_lossy(&stdout);
    let figures = text.split_whitespace().filter_map(|word| word.parse().ok());
    figures.collect::<Vec<u64>>().try_into().map_err(|_| anyhow::anyhow!("no figures in {text}"))
}
