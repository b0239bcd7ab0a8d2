//! A whole cluster as child processes on loopback: etcd, PostgreSQL, chatd, masters, coreapps, a webapp.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, ensure};
use estafet_harness::{
    Api, Etcd, Postgres,
    environment::estafet_binary,
    process::{Announces, Process, end_of},
};
use serde_json::Value;
use tempfile::TempDir;

const READY: Duration = Duration::from_secs(60);
const PASSWORD: &str = "Adm1n!pass";
pub(crate) const NUMBER: &str = "15550000001";
pub(crate) const SHARDS: u32 = 4;

/// A process of a role, and its ready line.
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) ready: Value,
}

impl Role {
    fn text(&self, key: &str) -> anyhow::Result<String> {
        let text = self.ready[key].as_str().with_context(|| format!("no {key} in {}", self.ready))?;
        Ok(text.to_owned())
    }

    pub(crate) fn address(&self) -> anyhow::Result<String> {
        self.text("address")
    }
}

pub(crate) struct Cluster {
    pub(crate) webapp: Role,
    pub(crate) coreapps: Vec<Role>,
    pub(crate) masters: Vec<Role>,
    pub(crate) chatd: Role,
    _etcd: Etcd,
    _postgres: Postgres,
    /// Flags that all coreapps share.
    coreapp_flags: Vec<String>,
    // Removed after the processes: fields are dropped in this order.
    directory: TempDir,
}

impl Cluster {
    /// Starts two masters, two coreapps and a webapp with everything they need.
    pub(crate) async fn start(phones: u32) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("estafet-cluster-").tempdir()?;
        let (etcd, postgres) = tokio::try_join!(Etcd::start(), Postgres::start())?;
        let database = postgres.create_database("cluster").await?;
        let data = directory.path().join("network").display().to_string();
        let phones = phones.to_string();
        let listen = ["--listen", "127.0.0.1:0"];
        let chatd =
            role(&directory, "chatd", "chatd", &[&listen[..], &["--data-dir", &data, "--phones", &phones]].concat()).await?;
        let mut masters = Vec::new();
        for name in ["master-0", "master-1"] {
            let shards = SHARDS.to_string();
            let flags = ["--etcd", etcd.url(), "--database-url", &database, "--number", NUMBER, "--shards", &shards];
            masters.push(role(&directory, name, "master", &[&listen[..], &flags].concat()).await?);
        }
        let addresses: Vec<String> = masters.iter().map(Role::address).collect::<anyhow::Result<_>>()?;
        let addresses = addresses.join(",");
        let flags = ["--master", &addresses, "--database-url", &database, "--number", NUMBER, "--admin-password", PASSWORD];
        let webapp = role(&directory, "webapp", "webapp", &[&listen[..], &flags].concat()).await?;
        let (network, key) = (chatd.address()?, chatd.text("network_key")?);
        let flags = ["--master", &addresses, "--database-url", &database, "--network", &network, "--network-key", &key];
        let coreapp_flags = listen.iter().chain(&flags).map(|flag| (*flag).to_owned()).collect();
        let mut cluster =
            Self { webapp, coreapps: Vec::new(), masters, chatd, _etcd: etcd, _postgres: postgres, coreapp_flags, directory };
        for name in ["coreapp-0", "coreapp-1"] {
            cluster.add_coreapp(name).await?;
        }
        Ok(cluster)
    }

    /// Starts one more coreapp.
    pub(crate) async fn add_coreapp(&mut self, name: &str) -> anyhow::Result<()> {
        let flags: Vec<&str> = self.coreapp_flags.iter().map(String::as_str).chain(["--node", name]).collect();
        self.coreapps.push(role(&self.directory, name, "coreapp", &flags).await?);
        Ok(())
    }

    pub(crate) async fn login(&self) -> anyhow::Result<Api> {
        Api::anonymous(&self.webapp.text("base_url")?)?.login("admin", PASSWORD).await
    }

    /// The phones' control interface.
    pub(crate) fn phones(&self) -> anyhow::Result<Api> {
        Api::anonymous(&self.chatd.text("base_url")?)
    }

    /// What some master that still runs knows.
    pub(crate) async fn status(&mut self) -> anyhow::Result<estafet_proto::v1::ClusterStatus> {
        let living = self.masters.iter_mut().find_map(|master| master.process.is_running().then(|| master.address()));
        Ok(estafet_master::status(&living.context("no master runs")??).await?)
    }

    /// Place of the master that leads.
    pub(crate) async fn leader(&self) -> anyhow::Result<usize> {
        for (place, master) in self.masters.iter().enumerate() {
            if estafet_master::status(&master.address()?).await?.term > 0 {
                return Ok(place);
            }
        }
        anyhow::bail!("no master leads")
    }

    /// Whether a master hears this coreapp.
    pub(crate) async fn knows(&mut self, node: &str) -> anyhow::Result<bool> {
        Ok(self.status().await?.nodes.iter().any(|known| known.node == node))
    }

    /// Whether every shard has an owner that is not `gone`.
    pub(crate) async fn is_owned_without(&mut self, gone: &[String]) -> anyhow::Result<bool> {
        let shards = self.status().await?.shards;
        Ok(shards.len() == SHARDS as usize && shards.iter().all(|shard| !gone.contains(&shard.address)))
    }

    pub(crate) fn audit_is_clean(&self) -> anyhow::Result<()> {
        let path = PathBuf::from(self.chatd.text("chatd_audit")?);
        let checked = estafet_chatd::audit::check(&path);
        ensure!(checked.is_ok(), "the network's audit log shows violations (I1, I2): {:#?}", checked.err());
        Ok(())
    }
}

impl Drop for Cluster {
    #[allow(clippy::print_stderr, reason = "shown by the test runner with the failure it explains")]
    fn drop(&mut self) {
        for role in self.masters.iter().chain(&self.coreapps).chain([&self.webapp]) {
            let log = self.directory.path().join(&role.name);
            eprintln!("--- end of the log of {} ---\n{}", role.name, end_of(&log));
        }
    }
}

async fn role(directory: &TempDir, name: &str, command: &str, flags: &[&str]) -> anyhow::Result<Role> {
    let mut process = Command::new(estafet_binary()?);
    process.arg(command).args(flags);
    let ready = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|line| line["ready"] == true);
    let log = directory.path().join(name);
    let (process, ready) = Process::start(name, process, &log, Announces::OnStdout, ready, READY).await?;
    Ok(Role { name: name.to_owned(), process, ready })
}
