//! Runs simulations: many seeds, or one with its trace. Ends with status 1 when a rule is broken.
#![allow(clippy::print_stdout, reason = "the output is what the program is for")]

use clap::Parser;
use estafet_sim::{Mutation, Options, run_many, trace};

#[derive(Parser)]
#[command(about = "Simulates a whole cluster under faults and checks its rules")]
struct Arguments {
    /// The first seed, or the only one with --trace.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Happenings after which a run that has not settled fails.
    #[arg(long, default_value_t = Options::default().steps)]
    steps: u64,
    /// Take a rule out.
    #[arg(long)]
    mutate: Option<Mutation>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let Arguments { seed, count, steps, mutate, trace: traced, threads } = Arguments::parse();
    let options = Options { steps, mutation: mutate };
    if traced {
        let (result, lines) = trace(seed, &options);
        lines.iter().for_each(|line| println!("{line}"));
        return result.map_err(|violation| anyhow::anyhow!("seed {seed} breaks {}: {}", violation.rule, violation.what));
    }
    match run_many(seed..seed + count, threads, &options) {
        Ok(sum) => {
            println!(
                "{count} seeds, {} happenings, {} messages answered, {} taken by the network, {} commits, {} logins, {} switches: \
                 no rule broken",
                sum.steps, sum.answered, sum.upstream, sum.commits, sum.logins, sum.switches
            );
            Ok(())
        }
        Err(failure) => anyhow::bail!("{}", failure.report(&options)),
    }
}
