//! A whole cluster as child processes on loopback: etcd, PostgreSQL, chatd, masters, coreapps, webapps.
//!
//! Each process has a name (`etcd-0`, `database`, `chatd`, `master-0`, `coreapp-0`, `webapp-0`) and keeps its address
//! through a restart. Tests, drills and `estafet cluster` start the same thing; [`Roads`] put something between any
//! two of them. All children end with the [`Cluster`], by their ids.

mod member;
mod options;
mod trust;

pub use member::{Member, Role};
pub use options::{Direct, Options, Roads};

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use estafet_proto::v1::ClusterStatus;
use estafet_tls::Transport;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    Api, Etcd, Postgres,
    environment::estafet_binary,
    etcd,
    ports::{free_address, free_port},
};
use member::Recipe;
use trust::Trust;

/// The admin's password.
pub const ADMIN_PASSWORD: &str = crate::sandbox::ADMIN_PASSWORD;
/// How often another port is tried when somebody was faster.
const PORT_TRIES: u32 = 5;
/// How long a coreapp may take to finish what runs when the whole cluster ends; what is stored stays stored.
const LEAVE: Duration = Duration::from_secs(2);
/// Whoever learns an address from a master.
const ANYBODY: &str = "anybody";
const DATABASE: &str = "database";

/// A running cluster.
pub struct Cluster {
    // Dropped in this order: the roles, then what they use, then the directory.
    members: Vec<Member>,
    etcd: Vec<Etcd>,
    postgres: Option<Postgres>,
    database_url: String,
    options: Options,
    binary: PathBuf,
    trust: Option<Trust>,
    directory: PathBuf,
    _temporary: Option<TempDir>,
}

impl Cluster {
    /// Starts 2 masters, 3 coreapps and 2 webapps with 4 shards and 10 phones.
    pub async fn start() -> anyhow::Result<Self> {
        Options::default().start().await
    }

    /// Says how to start one.
    pub fn options() -> Options {
        Options::default()
    }

    async fn begin(options: Options) -> anyhow::Result<Self> {
        let binary = match &options.binary {
            Some(path) => path.clone(),
            None => estafet_binary()?,
        };
        let (directory, temporary) = place(&options)?;
        let trust = options.is_encrypted.then(|| Trust::new(directory.join("certificates"))).transpose()?;
        let (etcd, (postgres, database_url)) = tokio::try_join!(start_etcd(&options), start_database(&options, &directory))?;
        let mut cluster =
            Self { members: Vec::new(), etcd, postgres, database_url, options, binary, trust, directory, _temporary: temporary };
        cluster.add(Role::Chatd).await?;
        for (role, count) in [
            (Role::Master, cluster.options.masters),
            // The webapp writes the first settings, which shards read.
            (Role::Webapp, cluster.options.webapps),
            (Role::Coreapp, cluster.options.coreapps),
        ] {
            for _ in 0..count {
                cluster.add(role).await?;
            }
        }
        Ok(cluster)
    }

    /// Starts one more process of a role; returns its name.
    pub async fn add(&mut self, role: Role) -> anyhow::Result<String> {
        let name = match role {
            Role::Chatd => "chatd".to_owned(),
            _ => format!("{}-{}", role.command(), self.members.iter().filter(|member| member.role() == role).count()),
        };
        let mut tries = 0;
        loop {
            let listen = free_address()?;
            let flags = self.flags(role, &name, listen).await?;
            let log = self.directory.join(format!("{name}.log"));
            let (binary, mut environment) = (self.binary.clone(), self.options.environment.clone());
            let media = format!("file://{}", self.directory.join("media").display());
            environment.insert(0, ("ESTAFET_MEDIA_STORE".to_owned(), media));
            let own_group = self.options.own_group;
            let recipe = Recipe { name: name.clone(), role, listen, binary, flags, environment, log, own_group };
            match Member::start(recipe).await {
                Ok(member) => {
                    self.members.push(member);
                    return Ok(name);
                }
                Err(error) if tries < PORT_TRIES && error.to_string().contains("cannot listen") => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn flags(&self, role: Role, name: &str, listen: SocketAddr) -> anyhow::Result<Vec<String>> {
        let mut flags = match role {
            Role::Chatd => {
                let data = self.directory.join("network").display().to_string();
                let control = format!("127.0.0.1:{}", free_port()?);
                pairs([("--data-dir", data), ("--phones", self.options.phones.to_string()), ("--control", control)])
            }
            Role::Master => pairs([
                ("--advertise", self.road(ANYBODY, name, listen).await?),
                ("--etcd", self.etcd_urls(name).await?),
                ("--database-url", self.database_url(name).await?),
                ("--number", self.options.numbers.join(",")),
                ("--shards", self.options.shards.to_string()),
            ]),
            Role::Coreapp => {
                let chatd = self.chatd()?;
                pairs([
                    ("--node", name.to_owned()),
                    ("--advertise", self.road(ANYBODY, name, listen).await?),
                    ("--master", self.masters_for(name).await?),
                    ("--etcd", self.etcd_urls(name).await?),
                    ("--database-url", self.database_url(name).await?),
                    ("--network", self.road(name, "chatd", chatd.address()).await?),
                    ("--network-key", chatd.text("network_key")?.to_owned()),
                ])
            }
            Role::Webapp => self.webapp_flags(name).await?,
        };
        if let Some(trust) = &self.trust {
            flags.extend(trust.flags(role, name)?);
        }
        flags.extend(self.options.flags.iter().filter(|(of, _)| *of == role).map(|(_, flag)| flag.clone()));
        Ok(flags)
    }

    async fn webapp_flags(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let mut flags = pairs([
            ("--master", self.masters_for(name).await?),
            ("--database-url", self.database_url(name).await?),
            ("--admin-password", ADMIN_PASSWORD.to_owned()),
        ]);
        flags.push("--allow-loopback-http".to_owned());
        if let Some(url) = &self.options.webhook {
            flags.extend(["--webhook-url".to_owned(), url.clone()]);
        }
        Ok(flags)
    }

    async fn road(&self, from: &str, to: &str, address: SocketAddr) -> anyhow::Result<String> {
        Ok(self.options.roads.road(from, to, address).await?.to_string())
    }

    async fn masters_for(&self, from: &str) -> anyhow::Result<String> {
        let mut roads = Vec::new();
        for master in self.of(Role::Master) {
            roads.push(self.road(from, master.name(), master.address()).await?);
        }
        Ok(roads.join(","))
    }

    async fn etcd_urls(&self, from: &str) -> anyhow::Result<String> {
        let mut urls = Vec::new();
        for member in &self.etcd {
            let address = member.url().trim_start_matches("http://").parse()?;
            urls.push(format!("http://{}", self.road(from, member.name(), address).await?));
        }
        Ok(urls.join(","))
    }

    async fn database_url(&self, from: &str) -> anyhow::Result<String> {
        let Some(postgres) = &self.postgres else { return Ok(self.database_url.clone()) };
        let road = self.road(from, DATABASE, postgres.address()).await?;
        Ok(self.database_url.replace(&postgres.address().to_string(), &road))
    }

    /// All processes of a role, also those that ended.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role() == role)
    }

    /// A process by its name.
    pub fn member(&mut self, name: &str) -> anyhow::Result<&mut Member> {
        let found = self.members.iter_mut().find(|member| member.name() == name);
        found.with_context(|| format!("there is no {name}"))
    }

    /// All processes of roles, in the order they were started.
    pub fn members(&mut self) -> &mut [Member] {
        &mut self.members
    }

    /// The members of etcd.
    pub fn etcd(&mut self) -> &mut [Etcd] {
        &mut self.etcd
    }

    /// The database, if it is the cluster's own.
    pub fn postgres(&mut self) -> Option<&mut Postgres> {
        self.postgres.as_mut()
    }

    /// Runs one statement in the message database, if it is the cluster's own; rows are lines, columns separated
    /// by `|`.
    pub async fn sql(&self, statement: &str) -> anyhow::Result<String> {
        self.postgres.as_ref().context("the database is not the cluster's")?.query("cluster", statement).await
    }

    /// URL of the message database.
    pub fn database(&self) -> &str {
        &self.database_url
    }

    /// Where logs and the network's data are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn chatd(&self) -> anyhow::Result<&Member> {
        self.of(Role::Chatd).next().context("the cluster has no network")
    }

    /// The phones' control interface.
    pub fn phones(&self) -> anyhow::Result<Api> {
        Api::anonymous(self.chatd()?.base_url()?)
    }

    /// Logs the admin in at each webapp, in their order.
    pub async fn login(&self) -> anyhow::Result<Vec<Api>> {
        self.login_for(self.options.numbers.first().context("the cluster has no number")?).await
    }

    /// Logs the admin of a number in at every webapp.
    pub async fn login_for(&self, number: &str) -> anyhow::Result<Vec<Api>> {
        let mut admins = Vec::new();
        for webapp in self.of(Role::Webapp) {
            let mut api = Api::anonymous(webapp.base_url()?)?;
            // A single number need not be named, and mostly is not.
            if self.options.numbers.len() > 1 {
                api = api.for_number(number);
            }
            admins.push(api.login("admin", ADMIN_PASSWORD).await?);
        }
        Ok(admins)
    }

    /// Logs the admin of each number in at the first webapp.
    pub async fn login_each(&self, numbers: &[String]) -> anyhow::Result<Vec<Api>> {
        let webapp = self.of(Role::Webapp).next().context("the cluster has no webapp")?;
        let mut admins = Vec::new();
        for number in numbers {
            admins.push(Api::anonymous(webapp.base_url()?)?.for_number(number).login("admin", ADMIN_PASSWORD).await?);
        }
        Ok(admins)
    }

    /// A number as `estafet number list --json` shows it.
    pub async fn number(&self, number: &str) -> anyhow::Result<serde_json::Value> {
        let mut command = tokio::process::Command::new(&self.binary);
        command.args(["number", "list", "--json", "--database-url", &self.database_url]);
        let output = command.output().await.context("estafet number")?;
        ensure!(output.status.success(), "estafet number: {}", String::from_utf8_lossy(&output.stderr));
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
        rows.into_iter().find(|row| row["number"] == number).with_context(|| format!("no number {number}"))
    }

    /// Takes a process out of the cluster, to do with it what one wants.
    pub fn take(&mut self, name: &str) -> anyhow::Result<Member> {
        let place = self.members.iter().position(|member| member.name() == name);
        Ok(self.members.remove(place.with_context(|| format!("there is no {name}"))?))
    }

    /// Addresses of the masters, for `estafet status --masters`.
    pub fn master_addresses(&self) -> Vec<String> {
        self.of(Role::Master).map(|master| master.address().to_string()).collect()
    }

    /// A connection as this role and node would make it, with a certificate when the cluster has them.
    pub fn transport(&self, role: estafet_tls::Role, node: &str) -> anyhow::Result<Transport> {
        self.trust.as_ref().map_or_else(|| Ok(Transport::plain()), |trust| trust.transport(role, node))
    }

    fn looker(&self) -> Transport {
        self.trust.as_ref().map_or_else(Transport::plain, Trust::operator)
    }

    /// What the leader knows; if nobody leads, what some master that answers knows.
    pub async fn status(&self) -> anyhow::Result<ClusterStatus> {
        let mut any = None;
        for master in self.of(Role::Master) {
            match estafet_master::status_over(&self.looker(), &master.address().to_string()).await {
                Ok(status) if status.term > 0 => return Ok(status),
                Ok(status) => any = Some(status),
                Err(_) => {}
            }
        }
        any.context("no master answers")
    }

    /// Name of the master that leads.
    pub async fn leader(&self) -> anyhow::Result<String> {
        for master in self.of(Role::Master) {
            let status = estafet_master::status_over(&self.looker(), &master.address().to_string()).await;
            if status.is_ok_and(|status| status.term > 0) {
                return Ok(master.name().to_owned());
            }
        }
        anyhow::bail!("no master leads")
    }

    /// Whether the masters hear this coreapp.
    pub async fn knows(&self, node: &str) -> anyhow::Result<bool> {
        Ok(self.status().await?.nodes.iter().any(|known| known.node == node))
    }

    /// Names of the owners: a pair of shard and node for each shard of each number that has one.
    pub async fn owners(&self) -> anyhow::Result<Vec<(u32, String)>> {
        let status = self.status().await?;
        let name = |address: &str| status.nodes.iter().find(|node| node.address == address).map(|node| node.node.clone());
        let shards = status.shards.iter();
        Ok(shards.filter_map(|entry| Some((entry.ownership.as_ref()?.shard, name(&entry.address)?))).collect())
    }

    /// Whether every shard has an owner that is none of `gone`.
    pub async fn is_owned_without(&self, gone: &[&str]) -> anyhow::Result<bool> {
        let owners = self.owners().await?;
        let shards = usize::try_from(self.options.shards)? * self.options.numbers.len();
        Ok(owners.len() == shards && owners.iter().all(|(_, node)| !gone.contains(&node.as_str())))
    }

    /// Whether every shard has an owner.
    pub async fn is_owned(&self) -> anyhow::Result<bool> {
        self.is_owned_without(&[]).await
    }

    /// The log of logins and frames that the network accepted or refused.
    pub fn audit_path(&self) -> anyhow::Result<PathBuf> {
        Ok(PathBuf::from(self.chatd()?.text("chatd_audit")?))
    }

    /// Checks that log: one owner at a time, nothing from an old one (**I1**, **I2**).
    pub fn audit_is_clean(&self) -> anyhow::Result<()> {
        let checked = estafet_chatd::audit::check(&self.audit_path()?);
        ensure!(checked.is_ok(), "the network's audit log shows violations: {:#?}", checked.err());
        Ok(())
    }

    /// Ends everything in order: webapps, coreapps, masters, the network, the database.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for role in [Role::Webapp, Role::Coreapp, Role::Master, Role::Chatd] {
            let of_role = self.members.iter_mut().filter(|member| member.role() == role);
            let ending: Vec<&mut Member> = of_role.filter_map(|member| member.is_running().then_some(member)).collect();
            for member in &ending {
                // A process that hangs hears nothing else.
                member.wake()?;
                member.signal(Signal::SIGTERM)?;
            }
            for member in ending {
                if role == Role::Coreapp {
                    // All leave at once, so there is nobody to hand over to, which they would wait for.
                    member.wait_or_kill(LEAVE).await;
                    continue;
                }
                let status = member.wait().await?;
                ensure!(status.success(), "{} ended with {status}\n{}", member.name(), member.end_of_log());
            }
        }
        self.etcd.clear();
        match self.postgres.take() {
            Some(postgres) => postgres.stop().await,
            None => Ok(()),
        }
    }
}

impl Drop for Cluster {
    #[allow(clippy::print_stderr, reason = "shown by the test runner with the failure it explains")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in &self.members {
                eprintln!("--- end of the log of {} ---\n{}", member.name(), member.end_of_log());
            }
        }
    }
}

fn pairs<const N: usize>(flags: [(&str, String); N]) -> Vec<String> {
    flags.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

fn place(options: &Options) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    match &options.data_dir {
        Some(path) => {
            std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            Ok((path.canonicalize()?, None))
        }
        None => {
            let directory = tempfile::Builder::new().prefix("estafet-cluster-").tempdir()?;
            Ok((directory.path().to_owned(), Some(directory)))
        }
    }
}

async fn start_etcd(options: &Options) -> anyhow::Result<Vec<Etcd>> {
    let mut etcd = etcd::Options::default().members(options.etcd_members).fsync(options.fsync).own_group(options.own_group);
    let calm = (options.etcd_members > 1 || options.fsync).then_some(CALM);
    if let Some((heartbeat, election)) = options.etcd_timing.or(calm) {
        etcd = etcd.timing(heartbeat, election);
    }
    etcd.start().await
}

/// Heartbeat and election of an etcd whose members talk or whose disk is waited for.
const CALM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

async fn start_database(options: &Options, directory: &Path) -> anyhow::Result<(Option<Postgres>, String)> {
    if let Some(url) = &options.database_url {
        return Ok((None, url.clone()));
    }
    let mut postgres = Postgres::options().fsync(options.fsync).own_group(options.own_group);
    if options.data_dir.is_some() {
        postgres = postgres.directory(directory.join("postgres"));
    }
    let postgres = postgres.start().await?;
    let known = postgres.query("postgres", "SELECT 1 FROM pg_database WHERE datname = 'cluster'").await?;
    let url = if known.is_empty() { postgres.create_database("cluster").await? } else { postgres.url("cluster") };
    Ok((Some(postgres), url))
}
