//! The `estafet` binary: the sandbox, the network, the operator's commands.

mod api;
mod args;
mod callbacks;
mod certs;
mod cluster;
mod database;
mod drill;
mod local_cluster;
mod media;
mod number;
mod output;
mod phone;
mod sandbox;
mod status;
mod template;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

/// Exit status when settings are at fault (sysexits.h).
const EX_USAGE: u8 = 64;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    estafet_runtime::install_crypto();
    estafet_runtime::telemetry::init(cli.log_json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("the async runtime could not be started")),
    };
    let result = runtime.block_on(run(cli.command));
    // What still runs now was given its time; nothing may keep the process from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Sandbox(args) => sandbox::run(*args).await,
        Command::Master(args) => cluster::master(*args).await,
        Command::Coreapp(args) => cluster::coreapp(*args).await,
        Command::Webapp(args) => cluster::webapp(*args).await,
        Command::Chatd(args) => cluster::chatd(*args).await,
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
