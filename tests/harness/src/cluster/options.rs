//! How a cluster is started: how many of each, on what database, and through which roads.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Cluster, Role};

/// Leads connections from one process to another; a fault proxy stands on such a road.
#[async_trait]
pub trait Roads: Send + Sync {
    /// Where `from` is to connect when it wants `to`, which listens on `address`. Names are those of the
    /// processes (`coreapp-0`, `etcd-1`, `database`, `chatd`, ...). Addresses that are announced to everybody (those of
    /// coreapps to webapps, of masters to masters) have `from` = `anybody`.
    async fn road(&self, from: &str, to: &str, address: SocketAddr) -> anyhow::Result<SocketAddr>;
}

/// Everybody connects directly.
#[derive(Clone, Copy, Debug)]
pub struct Direct;

#[async_trait]
impl Roads for Direct {
    async fn road(&self, _: &str, _: &str, address: SocketAddr) -> anyhow::Result<SocketAddr> {
        Ok(address)
    }
}

/// How a cluster is started.
#[derive(Clone)]
pub struct Options {
    pub(super) binary: Option<PathBuf>,
    pub(super) masters: usize,
    pub(super) coreapps: usize,
    pub(super) webapps: usize,
    pub(super) etcd_members: usize,
    pub(super) etcd_timing: Option<(Duration, Duration)>,
    pub(super) fsync: bool,
    pub(super) own_group: bool,
    pub(super) database_url: Option<String>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) numbers: Vec<String>,
    pub(super) shards: u32,
    pub(super) phones: u32,
    pub(super) webhook: Option<String>,
    pub(super) flags: Vec<(Role, String)>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) roads: Arc<dyn Roads>,
    pub(super) is_encrypted: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: None,
            masters: 2,
            coreapps: 3,
            webapps: 2,
            etcd_members: 1,
            etcd_timing: None,
            fsync: false,
            own_group: false,
            database_url: None,
            data_dir: None,
            numbers: vec!["15550000001".to_owned()],
            shards: 4,
            phones: 10,
            webhook: None,
            flags: Vec::new(),
            environment: Vec::new(),
            roads: Arc::new(Direct),
            is_encrypted: false,
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

    /// How many masters, coreapps and webapps there are at first.
    #[must_use]
    pub fn sizes(mut self, masters: usize, coreapps: usize, webapps: usize) -> Self {
        (self.masters, self.coreapps, self.webapps) = (masters, coreapps, webapps);
        self
    }

    /// How many members etcd has; several elect in 500 ms, with heartbeats of 50 ms, unless [`Options::etcd_timing`]
    /// says otherwise.
    #[must_use]
    pub fn etcd_members(mut self, count: usize) -> Self {
        self.etcd_members = count;
        self
    }

    /// etcd's heartbeat interval and election timeout.
    #[must_use]
    pub fn etcd_timing(mut self, heartbeat: Duration, election: Duration) -> Self {
        self.etcd_timing = Some((heartbeat, election));
        self
    }

    /// Whether PostgreSQL and etcd wait for the disk.
    #[must_use]
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// Takes the children out of the terminal's group, so that Ctrl-C reaches the caller alone, who ends them in order.
    #[must_use]
    pub fn own_group(mut self, on: bool) -> Self {
        self.own_group = on;
        self
    }

    /// Keeps messages in this database, which is the caller's, instead of starting a PostgreSQL.
    #[must_use]
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// Keeps database, network and logs in a directory that outlives the cluster. etcd begins empty each time.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// The business numbers.
    #[must_use]
    pub fn numbers(mut self, numbers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.numbers = numbers.into_iter().map(Into::into).collect();
        self
    }

    /// Shards of each number at first.
    #[must_use]
    pub fn shards(mut self, count: u32) -> Self {
        self.shards = count;
        self
    }

    /// Puts this many phones on the network, from 15550001001 on.
    #[must_use]
    pub fn phones(mut self, count: u32) -> Self {
        self.phones = count;
        self
    }

    /// Sends callbacks to this URL.
    #[must_use]
    pub fn webhook(mut self, url: &str) -> Self {
        self.webhook = Some(url.to_owned());
        self
    }

    /// Adds flags to every process of a role.
    #[must_use]
    pub fn flags<'a>(mut self, role: Role, flags: impl IntoIterator<Item = &'a str>) -> Self {
        self.flags.extend(flags.into_iter().map(|flag| (role, flag.to_owned())));
        self
    }

    /// Sets a variable in the environment of every role's processes.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives every role a certificate; they accept nobody without.
    #[must_use]
    pub fn encrypted(mut self) -> Self {
        self.is_encrypted = true;
        self
    }

    /// Leads connections through these roads.
    #[must_use]
    pub fn roads(mut self, roads: Arc<dyn Roads>) -> Self {
        self.roads = roads;
        self
    }

    /// Starts it; every process is ready when this returns, and [`Cluster::is_owned`] soon after.
    pub async fn start(self) -> anyhow::Result<Cluster> {
        Cluster::begin(self).await
    }
}
