//! `estafet drill`: failovers done on purpose.

use anyhow::ensure;
use estafet_drill::{Args, Command, Finished};

use crate::output::line;

/// Lists the drills or runs them. What was not held is an error, so that scripts see it.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let options = match args.command {
        Command::List => return line(&estafet_drill::list()),
        Command::Run(options) => options,
    };
    let Finished { table, outcomes } = tokio::select! {
        finished = estafet_drill::run(&options) => finished?,
        // The cluster of its own ends with the future that is dropped.
        signal = estafet_runtime::tasks::termination() => {
            signal?;
            anyhow::bail!("interrupted");
        }
    };
    line(&table)?;
    let failed = outcomes.iter().filter(|outcome| !outcome.is_held()).count();
    ensure!(failed == 0, "{failed} of {} drills did not hold what is promised", outcomes.len());
    Ok(())
}
