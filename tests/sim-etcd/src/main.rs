//! Runs simulations of the election: many seeds, or one with its trace. Ends with status 1 when a rule is broken.
#![allow(clippy::print_stdout, reason = "the output is what the program is for")]

use clap::Parser;
use estafet_sim_etcd::{Mutation, Summary, run, run_many};

#[derive(Parser)]
#[command(about = "Simulates the election over etcd under faults and checks its rules")]
struct Arguments {
    /// The first seed, or the only one with --trace.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Take a rule out.
    #[arg(long)]
    mutate: Option<Mutation>,
    /// Print what happens.
    #[arg(long)]
    trace: bool,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let Arguments { seed, count, mutate, trace, threads } = Arguments::parse();
    if trace {
        let ran = run(seed, mutate);
        let lines = ran.as_ref().map_or_else(|violation| &violation.trace, |summary| &summary.trace);
        lines.iter().for_each(|line| println!("{line}"));
        return ran.map(drop).map_err(|violation| anyhow::anyhow!("seed {seed}: {}", violation.what));
    }
    match run_many(seed..seed + count, threads, mutate) {
        Ok(Summary { terms, claims, writes, .. }) => {
            println!("{count} seeds, {terms} terms, {claims} claims, {writes} writes of leaders to etcd: no rule broken");
            Ok(())
        }
        Err(violation) => anyhow::bail!("{}", violation.report()),
    }
}
