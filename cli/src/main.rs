//! The `estafet` binary: the sandbox, the network, the operator's commands.

mod api;
mod args;
mod callbacks;
mod certs;
mod cluster;
mod configuration;
mod database;
mod drill;
mod local_cluster;
mod media;
mod number;
mod output;
mod phone;
mod sandbox;
mod status;
mod support;
mod template;
mod trace;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use serde_json::Value;

use args::{Cli, Command};

/// Exit status when settings are at fault (sysexits.h).
const EX_USAGE: u8 = 64;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.format(&mut Cli::command()).exit(),
    };
    let configuration = configuration::of(&Cli::command(), &matches);
    estafet_runtime::install_crypto();
    estafet_runtime::telemetry::init(cli.log_json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("the async runtime could not be started")),
    };
    let result = runtime.block_on(run(cli.command, configuration));
    // What still runs now was given its time; nothing may keep the process from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(command: Command, configuration: Value) -> anyhow::Result<()> {
    match command {
        Command::Sandbox(args) => sandbox::run(*args, configuration).await,
        Command::Master(args) => cluster::master(*args, configuration).await,
        Command::Coreapp(args) => cluster::coreapp(*args, configuration).await,
        Command::Webapp(args) => cluster::webapp(*args, configuration).await,
        Command::Chatd(args) => cluster::chatd(*args, configuration).await,
        Command::Certs(args) => certs::run(args),
        Command::Number(args) => number::run(args).await,
        Command::Callbacks(args) => callbacks::run(args).await,
        Command::Media(args) => media::run(args).await,
        Command::Trace(args) => trace::run(args).await,
        Command::Phone(args) => phone::run(*args).await,
        Command::Template(args) => template::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Cluster(args) => local_cluster::run(*args).await,
        Command::Drill(args) => drill::run(args).await,
        Command::SupportBundle(args) => support::run(*args).await,
        Command::Bench(args) => estafet_bench::run(args).await,
        Command::Completions { shell } => {
            args::completions(shell);
            Ok(())
        }
    }
}

#[allow(clippy::print_stderr, reason = "what went wrong, for the person at the terminal")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("estafet: {error:#}");
    if error.is::<args::Misconfigured>() { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE }
}
