//! What one run needs: a database, a sandbox on it, an account, and for full cycles a receiver.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use estafet_harness::{Api, Postgres, Sandbox, environment};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    measure::Variant,
    options::{Command, Database},
    progress,
    receiver::{Receiver, Statuses},
};

/// Number of the first phone of a sandbox.
pub(crate) const FIRST_PHONE: u64 = 15_550_001_001;

/// The database server, kept for all runs.
#[derive(Debug)]
pub(crate) enum Server {
    Postgres(Box<Postgres>),
    Sqlite,
}

impl Server {
    pub(crate) async fn start(database: Database, within: Option<&Path>) -> anyhow::Result<Self> {
        let directory = within.map_or_else(std::env::temp_dir, Path::to_owned);
        if environment::is_in_memory(&directory) {
            progress(&format!("{} is in memory: fsync costs nothing there; choose another with --dir", directory.display()));
        }
        match database {
            Database::Postgres => {
                progress("starting PostgreSQL with fsync on");
                let options = Postgres::options().fsync(true).within(directory);
                Ok(Self::Postgres(Box::new(options.start().await?)))
            }
            Database::Sqlite => Ok(Self::Sqlite),
        }
    }
}

/// A sandbox under load.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) sandbox: Sandbox,
    pub(crate) api: Api,
    pub(crate) receiver: Option<Receiver<Statuses>>,
    pub(crate) phones: Vec<String>,
    // Removed after the sandbox: fields are dropped in this order.
    _data: TempDir,
}

impl Rig {
    /// Starts a sandbox on an empty database.
    pub(crate) async fn start(
        server: &Server,
        binary: &Path,
        command: &Command,
        variant: Variant,
        n: usize,
    ) -> anyhow::Result<Self> {
        let options = command.options();
        let mut directory = tempfile::Builder::new();
        directory.prefix("estafet-bench-");
        let data = match &options.dir {
            Some(within) => directory.tempdir_in(within)?,
            None => directory.tempdir()?,
        };
        let mut flags = Sandbox::options().binary(binary).data_dir(data.path()).phones(options.phones).shards(options.shards);
        if let Server::Postgres(postgres) = server {
            let name = format!("bench_{n}");
            flags = flags.database(&postgres.create_database(&name).await?);
        }
        if variant == Variant::Naive {
            flags = flags.switch("--naive");
        }
        let mut receiver = None;
        if command.is_cycle() {
            let started = Receiver::start(Statuses::default()).await?;
            flags = flags.webhook(&started.url());
            receiver = Some(started);
        } else {
            flags = flags.switch("--hold-upstream");
        }
        let sandbox = flags.start().await?;
        let api = sandbox.login().await?;
        if command.is_cycle() {
            let settings = json!({ "sent_status": true, "webhooks": { "max_concurrent_requests": 24 } });
            api.patch_settings(&settings).await.context("settings")?;
        }
        let phones = (0..u64::from(options.phones)).map(|n| (FIRST_PHONE + n).to_string()).collect();
        Ok(Self { sandbox, api, receiver, phones, _data: data })
    }

    /// Ends the sandbox in order and forgets its data.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.sandbox.terminate().await.map(drop)
    }
}

/// The machine, for the report.
pub(crate) fn machine(directory: Option<&PathBuf>) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown CPU", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let directory = directory.cloned().unwrap_or_else(std::env::temp_dir);
    let file_system = environment::file_system_of(&directory).unwrap_or_else(|| "unknown file system".to_owned());
    let date = chrono::DateTime::from_timestamp_millis(estafet_runtime::Clock::system().now_ms());
    let date = date.map_or_else(String::new, |date| date.format("%Y-%m-%d").to_string());
    format!("{cores} cores, {}, Linux {}, {file_system}, {date}", model.trim(), kernel.trim())
}
