//! An etcd of its own: members in temporary directories, on ports they keep, gone when dropped.

use std::{collections::BTreeMap, os::unix::process::CommandExt as _, process::Command, time::Duration};

use anyhow::{Context as _, bail, ensure};
use estafet_tls::Files;
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    Api,
    ports::free_port,
    process::{Announces, Process},
};

const DEADLINE: Duration = Duration::from_secs(60);
/// How often other free ports are tried when somebody was faster.
const PORT_TRIES: u32 = 5;

/// How etcd is started.
#[derive(Clone, Debug)]
pub struct Options {
    members: usize,
    fsync: bool,
    own_group: bool,
    heartbeat: Duration,
    election: Duration,
    certificate: Option<Files>,
}

impl Default for Options {
    /// One member that elects itself at once and does not wait for the disk.
    fn default() -> Self {
        Self {
            members: 1,
            fsync: false,
            own_group: false,
            heartbeat: Duration::from_millis(20),
            election: Duration::from_millis(100),
            certificate: None,
        }
    }
}

impl Options {
    /// How many members there are: an odd number.
    #[must_use]
    pub fn members(mut self, count: usize) -> Self {
        self.members = count;
        self
    }

    /// Whether writes reach the disk.
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

    /// etcd's heartbeat interval and election timeout.
    #[must_use]
    pub fn timing(mut self, heartbeat: Duration, election: Duration) -> Self {
        (self.heartbeat, self.election) = (heartbeat, election);
        self
    }

    /// Listens with this certificate for 127.0.0.1, and asks clients for one of the same authority.
    #[must_use]
    pub fn encrypted(mut self, certificate: Files) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// Starts all members; they have a leader when this returns.
    pub async fn start(self) -> anyhow::Result<Vec<Etcd>> {
        let mut last = None;
        for _ in 0..PORT_TRIES {
            match self.try_start().await {
                Ok(members) => return Ok(members),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error.context("etcd (Debian: etcd-server)")),
            None => bail!("etcd was not tried"),
        }
    }

    async fn try_start(&self) -> anyhow::Result<Vec<Etcd>> {
        let places = (0..self.members).map(|n| {
            let (mut client, peer) = (free_url()?, free_url()?);
            if self.certificate.is_some() {
                client = client.replace("http://", "https://");
            }
            anyhow::Ok(Place { name: format!("etcd-{n}"), client, peer })
        });
        let places: Vec<Place> = places.collect::<anyhow::Result<_>>()?;
        let cluster: Vec<String> = places.iter().map(|place| format!("{}={}", place.name, place.peer)).collect();
        let cluster = cluster.join(",");
        // A member is ready when the others are: they start together.
        try_join_all(places.into_iter().map(|place| Etcd::launch(self.clone(), place, cluster.clone()))).await
    }
}

#[derive(Clone, Debug)]
struct Place {
    name: String,
    client: String,
    peer: String,
}

/// A running member of etcd.
#[derive(Debug)]
pub struct Etcd {
    process: Process,
    options: Options,
    place: Place,
    cluster: String,
    // Removed after the process: fields are dropped in this order.
    directory: TempDir,
}

impl Etcd {
    /// Starts one that elects itself at once and does not wait for the disk.
    pub async fn start() -> anyhow::Result<Self> {
        let mut members = Self::options().start().await?;
        members.pop().context("etcd has no member")
    }

    /// Says how to start one.
    pub fn options() -> Options {
        Options::default()
    }

    async fn launch(options: Options, place: Place, cluster: String) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("estafet-etcd-").tempdir()?;
        let process = spawn(&options, &place, &cluster, &directory).await?;
        Ok(Self { process, options, place, cluster, directory })
    }

    /// Its name: `etcd-0` and so on.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// Where clients connect.
    pub fn url(&self) -> &str {
        &self.place.client
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Whether it leads the others.
    pub async fn leads(&self) -> anyhow::Result<bool> {
        let status = Api::anonymous(self.url())?.call(Method::POST, "/v3/maintenance/status", Some(&json!({}))).await?;
        let id = status.text_at("/header/member_id").with_context(|| format!("no member in {}", status.text))?;
        Ok(status.text_at("/leader") == Some(id))
    }

    /// A client of this member.
    pub async fn client(&self) -> anyhow::Result<etcd_client::Client> {
        Ok(etcd_client::Client::connect([self.url()], None).await?)
    }

    /// Keys below a prefix, without it, and their values.
    pub async fn keys(&self, prefix: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let below = etcd_client::GetOptions::new().with_prefix();
        let listed = self.client().await?.get(prefix, Some(below)).await?;
        let pair = |kv: &etcd_client::KeyValue| {
            let key = kv.key_str()?;
            Ok((key.strip_prefix(prefix).unwrap_or(key).to_owned(), kv.value_str()?.to_owned()))
        };
        listed.kvs().iter().map(pair).collect()
    }

    /// Loses its data, after [`Etcd::kill`]: it begins with nothing when it is started again. For one alone.
    pub fn wipe(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "{} still runs", self.place.name);
        Ok(std::fs::remove_dir_all(self.directory.path().join("data"))?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Kills it (SIGKILL); its data stay.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data and ports, after [`Etcd::kill`]; it waits for a quorum.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(!self.process.is_running(), "{} still runs", self.place.name);
        self.process = spawn(&self.options, &self.place, &self.cluster, &self.directory).await?;
        Ok(())
    }
}

async fn spawn(options: &Options, place: &Place, cluster: &str, directory: &TempDir) -> anyhow::Result<Process> {
    let mut command = Command::new("etcd");
    command.args(["--name", &place.name]);
    if options.own_group {
        command.process_group(0);
    }
    if !options.fsync {
        command.arg("--unsafe-no-fsync");
    }
    command.arg(format!("--heartbeat-interval={}", options.heartbeat.as_millis()));
    command.arg(format!("--election-timeout={}", options.election.as_millis()));
    command.arg("--data-dir").arg(directory.path().join("data"));
    command.args(["--listen-client-urls", &place.client, "--advertise-client-urls", &place.client]);
    command.args(["--listen-peer-urls", &place.peer, "--initial-advertise-peer-urls", &place.peer]);
    command.args(["--initial-cluster", cluster]);
    if let Some(Files { ca, cert, key }) = &options.certificate {
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
        command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
    }
    let ready = |line: &str| {
        (line.contains("ready to serve client requests") || line.contains("serving client requests on")).then_some(())
    };
    let log = directory.path().join("log");
    Ok(Process::start(&place.name, command, &log, Announces::OnStderr, ready, DEADLINE).await?.0)
}

fn free_url() -> anyhow::Result<String> {
    Ok(format!("http://127.0.0.1:{}", free_port()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_member_of_three_comes_back_after_a_kill() {
        let timing = (Duration::from_millis(50), Duration::from_millis(500));
        let mut members = Etcd::options().members(3).timing(timing.0, timing.1).start().await.unwrap();
        let leaders = futures::future::try_join_all(members.iter().map(Etcd::leads)).await.unwrap();
        assert_eq!(leaders.iter().filter(|leads| **leads).count(), 1);
        members[1].kill();
        assert!(!members[1].is_running());
        members[1].restart().await.unwrap();
        assert!(members[1].is_running());
    }
}
