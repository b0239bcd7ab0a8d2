//! The `estafet sandbox` process: started with chosen flags, ready when it says so, gone when dropped.
//!
//! A [`Sandbox`] keeps its data directory through [`Sandbox::kill`], [`Sandbox::terminate`] and
//! [`Sandbox::restart`], as a machine does through a crash. A restarted sandbox listens on the same port,
//! so callers of the old one reach the new one.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    client::Api,
    environment::estafet_binary,
    process::{Announces, Process, end_of},
};

/// The admin's password in sandboxes of tests, unless chosen otherwise.
pub const ADMIN_PASSWORD: &str = "Adm1n!pass";
/// The API key of sandboxes of tests, unless chosen otherwise.
pub const API_KEY: &str = "harness-api-key-0001";
const READY_WITHIN: Duration = Duration::from_secs(60);
const END_WITHIN: Duration = Duration::from_secs(30);

/// The line of JSON a sandbox prints when it is ready.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// Always true.
    pub ready: bool,
    /// Where the API answers.
    pub base_url: String,
    /// The number of the business.
    pub business_number: String,
    /// Process id.
    pub pid: u32,
    /// The log of logins and frames that the network accepted or refused.
    pub chatd_audit: Option<PathBuf>,
}

/// How a sandbox is started.
#[derive(Clone, Debug)]
pub struct Options {
    binary: Option<PathBuf>,
    listen: String,
    data_dir: Option<PathBuf>,
    admin_password: Option<String>,
    flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: None,
            listen: "127.0.0.1:0".to_owned(),
            data_dir: None,
            admin_password: Some(ADMIN_PASSWORD.to_owned()),
            flags: vec!["--api-key".to_owned(), API_KEY.to_owned()],
        }
    }
}

impl Options {
    /// Uses this binary instead of the one beside the test.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Uses a data directory that outlives the sandbox.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Keeps the original's rule: `admin` has the password `secret` and must change it at the first login.
    #[must_use]
    pub fn with_initial_password(mut self) -> Self {
        self.admin_password = None;
        self
    }

    /// Keeps messages in this database instead of the embedded one.
    #[must_use]
    pub fn database(self, url: &str) -> Self {
        self.flag("--database-url", url)
    }

    /// Sends callbacks to this URL.
    #[must_use]
    pub fn webhook(self, url: &str) -> Self {
        self.flag("--webhook-url", url)
    }

    /// Puts this many phones on the network, from 15550001001 on.
    #[must_use]
    pub fn phones(self, count: u32) -> Self {
        self.flag("--phones", &count.to_string())
    }

    /// Splits the number into this many shards.
    #[must_use]
    pub fn shards(self, count: u32) -> Self {
        self.flag("--shards", &count.to_string())
    }

    /// Adds a flag with a value.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Adds a flag without a value.
    #[must_use]
    pub fn switch(mut self, name: &str) -> Self {
        self.flags.push(name.to_owned());
        self
    }

    /// Starts it.
    pub async fn start(self) -> anyhow::Result<Sandbox> {
        let directory = tempfile::Builder::new().prefix("estafet-sandbox-").tempdir()?;
        let data_dir = self.data_dir.clone().unwrap_or_else(|| directory.path().join("data"));
        std::fs::create_dir_all(&data_dir)?;
        let log = directory.path().join("log");
        let mut options = self;
        let (process, ready) = options.spawn(&data_dir, &log).await?;
        // A restart takes the same port.
        options.listen = ready.base_url.trim_start_matches("http://").to_owned();
        Ok(Sandbox { process, ready, options, data_dir, log, directory })
    }

    async fn spawn(&self, data_dir: &Path, log: &Path) -> anyhow::Result<(Process, Ready)> {
        let binary = match &self.binary {
            Some(path) => path.clone(),
            None => estafet_binary()?,
        };
        let mut command = Command::new(binary);
        command.arg("sandbox").args(["--listen", &self.listen]).arg("--data-dir").arg(data_dir);
        if let Some(password) = &self.admin_password {
            command.args(["--admin-password", password]);
        }
        command.args(&self.flags);
        let ready = |line: &str| serde_json::from_str::<Ready>(line).ok().filter(|ready| ready.ready);
        Process::start("estafet sandbox", command, log, Announces::OnStdout, ready, READY_WITHIN).await
    }
}

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    process: Process,
    ready: Ready,
    options: Options,
    data_dir: PathBuf,
    log: PathBuf,
    // Removed after the process: fields are dropped in this order.
    directory: TempDir,
}

impl Sandbox {
    /// Starts one on SQLite with the defaults of tests.
    pub async fn start() -> anyhow::Result<Self> {
        Options::default().start().await
    }

    /// Says how to start one.
    pub fn options() -> Options {
        Options::default()
    }

    /// What it said when it was ready.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its data are.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The audit log of its network.
    pub fn chatd_audit(&self) -> anyhow::Result<PathBuf> {
        self.ready.chatd_audit.clone().context("the ready line names no chatd_audit")
    }

    /// A caller without an account.
    pub fn anonymous(&self) -> anyhow::Result<Api> {
        Api::anonymous(&self.ready.base_url)
    }

    /// Logs the admin in.
    pub async fn login(&self) -> anyhow::Result<Api> {
        let password = self.options.admin_password.as_deref().context("this sandbox was started with the initial password")?;
        self.anonymous()?.login("admin", password).await
    }

    /// Kills it (SIGKILL); its data stay.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end (SIGTERM) and waits until it has; its data stay.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(END_WITHIN).await
    }

    /// Starts it again on the same data and the same port, after [`Sandbox::kill`] or [`Sandbox::terminate`].
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "the sandbox still runs");
        (self.process, self.ready) = self.options.spawn(&self.data_dir, &self.log).await?;
        Ok(())
    }

    /// The last lines of its log.
    pub fn end_of_log(&self) -> String {
        end_of(&self.log)
    }

    /// The directory that goes with the sandbox; the log is in it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Sandbox {
    #[allow(clippy::print_stderr, reason = "shown by the test runner with the failure it explains")]
    fn drop(&mut self) {
        // A test that fails with `?` does not panic; in a release build this is a bench, which has no test runner to
        // hide what is of no interest.
        if cfg!(debug_assertions) || std::thread::panicking() {
            eprintln!("--- end of the log of sandbox {} ---\n{}", self.process.pid(), self.end_of_log());
        }
    }
}
