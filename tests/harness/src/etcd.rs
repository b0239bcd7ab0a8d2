//! An etcd of its own: one member, in a temporary directory, on free ports, gone when dropped.

use std::{net::TcpListener, process::Command, time::Duration};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::process::{Announces, Process};

const DEADLINE: Duration = Duration::from_secs(60);
/// How often other free ports are tried when somebody was faster.
const PORT_TRIES: u32 = 5;

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    url: String,
    // Removed after the process: fields are dropped in this order.
    _directory: TempDir,
}

impl Etcd {
    /// Starts one that elects itself at once and does not wait for the disk.
    pub async fn start() -> anyhow::Result<Self> {
        let mut last = None;
        for _ in 0..PORT_TRIES {
            match Self::try_start().await {
                Ok(etcd) => return Ok(etcd),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error.context("etcd (Debian: etcd-server)")),
            None => bail!("etcd was not tried"),
        }
    }

    async fn try_start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("estafet-etcd-").tempdir()?;
        let (client, peer) = (free_url()?, free_url()?);
        let mut command = Command::new("etcd");
        command.args(["--name", "t0", "--unsafe-no-fsync", "--heartbeat-interval=20", "--election-timeout=100"]);
        command.arg("--data-dir").arg(directory.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.arg("--initial-cluster").arg(format!("t0={peer}"));
        let ready = |line: &str| line.contains("ready to serve client requests").then_some(());
        let log = directory.path().join("log");
        let (process, ()) = Process::start("etcd", command, &log, Announces::OnStderr, ready, DEADLINE).await?;
        Ok(Self { process, url: client, _directory: directory })
    }

    /// Where clients connect.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn free_url() -> anyhow::Result<String> {
    let port = TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port();
    Ok(format!("http://127.0.0.1:{port}"))
}
