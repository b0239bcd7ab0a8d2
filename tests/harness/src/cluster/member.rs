//! One process of a role: its flags, its ready line, and what can be done to it.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Api,
    process::{Announces, Process, end_of},
};

const READY: Duration = Duration::from_secs(60);
/// How long one that was asked to end may take: a coreapp hands its shards over first.
const END: Duration = Duration::from_secs(40);

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The network with its phones.
    Chatd,
    /// Gives shards to coreapps.
    Master,
    /// Owns shards.
    Coreapp,
    /// The API.
    Webapp,
}

impl Role {
    /// Its sub-command of the binary.
    pub fn command(self) -> &'static str {
        match self {
            Self::Chatd => "chatd",
            Self::Master => "master",
            Self::Coreapp => "coreapp",
            Self::Webapp => "webapp",
        }
    }
}

/// How a process is started, again and again.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) listen: SocketAddr,
    pub(super) binary: PathBuf,
    pub(super) flags: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) log: PathBuf,
    pub(super) own_group: bool,
}

impl Recipe {
    async fn spawn(&self) -> anyhow::Result<(Process, Value)> {
        let mut command = Command::new(&self.binary);
        command.arg(self.role.command()).arg("--listen").arg(self.listen.to_string());
        command.args(["--ops-listen", "127.0.0.1:0"]).args(&self.flags);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.own_group {
            command.process_group(0);
        }
        let ready = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["ready"] == true);
        Process::start(&self.name, command, &self.log, Announces::OnStdout, ready, READY).await
    }
}

/// A process of a role. It keeps its address through restarts.
#[derive(Debug)]
pub struct Member {
    process: Process,
    ready: Value,
    recipe: Recipe,
}

impl Member {
    pub(super) async fn start(recipe: Recipe) -> anyhow::Result<Self> {
        let (process, ready) = recipe.spawn().await?;
        Ok(Self { process, ready, recipe })
    }

    /// Its name: `coreapp-0` and so on, `chatd`.
    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    /// What it does.
    pub fn role(&self) -> Role {
        self.recipe.role
    }

    /// Where it listens for its peers.
    pub fn address(&self) -> SocketAddr {
        self.recipe.listen
    }

    /// A text of its ready line.
    pub fn text(&self, key: &str) -> anyhow::Result<&str> {
        self.ready[key].as_str().with_context(|| format!("no {key} in {}", self.ready))
    }

    /// Where its HTTP interface answers: the API of a webapp, the phones of chatd.
    pub fn base_url(&self) -> anyhow::Result<&str> {
        self.text("base_url")
    }

    /// Where `/livez`, `/readyz` and `/metrics` answer; another place after a restart.
    pub fn ops(&self) -> anyhow::Result<Api> {
        Api::anonymous(&format!("http://{}", self.text("ops")?))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it still runs; a hanging one does.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Stops it in the middle of what it does (SIGSTOP).
    pub fn hang(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Member::hang`] (SIGCONT).
    pub fn wake(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.wait(END).await
    }

    /// Waits until it ends by itself, and kills it when that takes too long.
    pub(super) async fn wait_or_kill(&mut self, patience: Duration) {
        // An error says that it was killed or had ended before.
        let _ = self.process.wait(patience).await;
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.wait().await
    }

    /// Starts this binary from now on.
    pub fn use_binary(&mut self, binary: &Path) {
        self.recipe.binary = binary.to_owned();
    }

    /// Starts it again with the same flags and address, after it ended.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "{} still runs", self.recipe.name);
        (self.process, self.ready) = self.recipe.spawn().await?;
        Ok(())
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.recipe.log
    }

    /// The last lines of its log.
    pub fn end_of_log(&self) -> String {
        end_of(&self.recipe.log)
    }
}
