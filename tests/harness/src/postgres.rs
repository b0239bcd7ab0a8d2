//! A PostgreSQL of its own: initialised in a temporary directory, on a free port, stopped when dropped.
//!
//! PostgreSQL refuses to run as root; then it runs as the user `postgres`, which the package creates.

use std::{
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::Signal,
    unistd::{User, geteuid},
};
use tempfile::TempDir;

use crate::{
    ports::free_port,
    process::{Announces, Process, end_of},
};

/// The line of its log after which PostgreSQL takes connections.
const READY: &str = "database system is ready to accept connections";
const DEADLINE: Duration = Duration::from_secs(60);
/// How often another free port is tried when somebody was faster.
const PORT_TRIES: u32 = 5;

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    options: Options,
    directory: PathBuf,
    // Removed after the process: fields are dropped in this order.
    _temporary: Option<TempDir>,
}

/// How PostgreSQL is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    fsync: bool,
    own_group: bool,
    within: Option<PathBuf>,
    directory: Option<PathBuf>,
}

impl Options {
    /// Whether commits reach the disk. Off in tests: they kill Estafet, not the machine.
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// Takes it out of the terminal's group, so that Ctrl-C does not reach it.
    #[must_use]
    pub fn own_group(mut self, on: bool) -> Self {
        self.own_group = on;
        self
    }

    /// Makes the data directory below `directory` and not in the system's temporary one.
    #[must_use]
    pub fn within(mut self, directory: impl Into<PathBuf>) -> Self {
        self.within = Some(directory.into());
        self
    }

    /// Keeps the data in this directory, which outlives the server; data that are there are used.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Initialises and starts it.
    pub async fn start(self) -> anyhow::Result<Postgres> {
        let binaries = binaries()?;
        let user = unprivileged_user()?;
        let (directory, temporary) = self.place()?;
        if let Some((uid, gid)) = user {
            chown(&directory, Some(uid), Some(gid)).context("cannot give the data directory to the user postgres")?;
        }
        if !directory.join("data/PG_VERSION").is_file() {
            initialise(&binaries, user, &directory).await?;
        }
        for _ in 0..PORT_TRIES {
            let port = free_port()?;
            match self.launch(&binaries, user, &directory, port).await {
                Ok(process) => {
                    return Ok(Postgres { process, port, binaries, user, options: self, directory, _temporary: temporary });
                }
                Err(error) if error.to_string().contains("could not bind") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("no port was free for PostgreSQL in {PORT_TRIES} tries")
    }

    fn place(&self) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
        if let Some(directory) = &self.directory {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
            return Ok((directory.canonicalize()?, None));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix("estafet-postgres-");
        let directory = match &self.within {
            Some(within) => builder.tempdir_in(within)?,
            None => builder.tempdir()?,
        };
        Ok((directory.path().to_owned(), Some(directory)))
    }

    async fn launch(&self, binaries: &Path, user: Option<(u32, u32)>, directory: &Path, port: u16) -> anyhow::Result<Process> {
        let command = self.server(binaries, user, directory, port);
        let ready = |line: &str| line.contains(READY).then_some(());
        let log = directory.join("log");
        Ok(Process::start("postgres", command, &log, Announces::OnStderr, ready, DEADLINE).await?.0)
    }

    fn server(&self, binaries: &Path, user: Option<(u32, u32)>, directory: &Path, port: u16) -> Command {
        let on_off = |on| if on { "on" } else { "off" };
        let mut command = as_user(Command::new(binaries.join("postgres")), user, directory);
        command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
        if self.own_group {
            command.process_group(0);
        }
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        for setting in [
            format!("fsync={}", on_off(self.fsync)),
            format!("full_page_writes={}", on_off(self.fsync)),
            format!("synchronous_commit={}", on_off(self.fsync)),
            format!("shared_buffers={}", if self.fsync { "256MB" } else { "64MB" }),
            format!("max_wal_size={}", if self.fsync { "4GB" } else { "1GB" }),
        ] {
            command.arg("-c").arg(setting);
        }
        command
    }
}

impl Postgres {
    /// Starts one whose commits do not reach the disk, for tests.
    pub async fn start() -> anyhow::Result<Self> {
        Options::default().start().await
    }

    /// Says how to start one.
    pub fn options() -> Options {
        Options::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://estafet@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database and returns its URL.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        ensure!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "not a plain database name: {name}");
        self.query("postgres", &format!("CREATE DATABASE {name}")).await?;
        Ok(self.url(name))
    }

    /// Runs one statement with psql and returns its rows, columns separated by `|`.
    pub async fn query(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let mut command = as_user(Command::new(self.binaries.join("psql")), self.user, &self.directory);
        command.args(["-X", "-v", "ON_ERROR_STOP=1", "-Atc", sql, &self.url(database)]);
        run("psql", command).await
    }

    /// Stops it as an administrator does: `SIGINT` throws everybody out, `SIGQUIT` lets it recover afterwards.
    /// Its data stay for [`Postgres::restart`].
    pub async fn halt(&mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)?;
        self.process.wait(DEADLINE).await.map(drop)
    }

    /// Starts it again on the same port and the same data, after [`Postgres::halt`]; it takes connections
    /// when this returns.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "PostgreSQL still runs");
        self.process = self.options.launch(&self.binaries, self.user, &self.directory, self.port).await?;
        Ok(())
    }

    /// The process id of the server; its workers are children of it.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its data are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The last lines of its log.
    pub fn end_of_log(&self) -> String {
        end_of(self.process.log())
    }

    /// Stops it in order: sessions are ended, everything is written.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(DEADLINE).await?;
        ensure!(status.success(), "PostgreSQL ended with {status}");
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT takes the workers down with the server, which a SIGKILL of the server alone would not;
        // there is nothing to keep. `Process` waits for the end.
        if self.process.is_running() {
            let _ = self.process.signal(Signal::SIGQUIT);
            self.process.wait_here();
        }
    }
}

fn binaries() -> anyhow::Result<PathBuf> {
    const MISSING: &str = "PostgreSQL is not installed: install the package `postgresql` (make setup does)";
    let output = Command::new("pg_config").arg("--bindir").output();
    let said = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    said.into_iter()
        .chain(installed_versions())
        .find(|path| path.join("initdb").is_file() && path.join("postgres").is_file())
        .context(MISSING)
}

/// Debian's directories, newest first, for machines without `pg_config`.
fn installed_versions() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn unprivileged_user() -> anyhow::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.context("PostgreSQL does not run as root and there is no user `postgres`")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

fn as_user(mut command: Command, user: Option<(u32, u32)>, directory: &Path) -> Command {
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    // A directory of its own: that of the caller may not be readable for the other user.
    command.current_dir(directory);
    command
}

async fn initialise(binaries: &Path, user: Option<(u32, u32)>, directory: &Path) -> anyhow::Result<()> {
    let mut command = as_user(Command::new(binaries.join("initdb")), user, directory);
    command.arg("-D").arg(directory.join("data"));
    command.args(["-U", "estafet", "--auth=trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"]);
    run("initdb", command).await.map(drop)
}

async fn run(name: &'static str, mut command: Command) -> anyhow::Result<String> {
    let output = tokio::task::spawn_blocking(move || command.output()).await?.with_context(|| format!("cannot run {name}"))?;
    ensure!(output.status.success(), "{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_postgres_of_its_own_answers_and_is_gone_when_dropped() {
        let postgres = Postgres::start().await.unwrap();
        postgres.create_database("one").await.unwrap();
        assert_eq!(postgres.query("one", "SELECT 1 + 1").await.unwrap(), "2");
        assert!(postgres.create_database("o; DROP").await.is_err());
        let directory = postgres.directory().to_owned();
        drop(postgres);
        assert!(!directory.exists());
    }

    #[tokio::test]
    async fn data_survive_a_halt_and_the_directory_outlives_the_server() {
        let directory = tempfile::tempdir().unwrap();
        // The server runs as another user, who must get through.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let place = directory.path().join("postgres");
        let mut postgres = Postgres::options().directory(&place).start().await.unwrap();
        postgres.create_database("kept").await.unwrap();
        let url = postgres.url("kept");
        postgres.halt(Signal::SIGQUIT).await.unwrap();
        postgres.restart().await.unwrap();
        assert_eq!((postgres.query("kept", "SELECT 1").await.unwrap(), postgres.url("kept")), ("1".to_owned(), url));
        postgres.stop().await.unwrap();
        let again = Postgres::options().directory(&place).start().await.unwrap();
        assert_eq!(again.query("kept", "SELECT 1").await.unwrap(), "1");
    }

    #[tokio::test]
    async fn it_stops_in_order() {
        Postgres::options().fsync(true).start().await.unwrap().stop().await.unwrap();
    }
}
