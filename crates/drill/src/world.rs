//! The cluster a drill is done to: one of its own, or a running one through the operator's hooks.
//!
//! What is asked (who leads, who owns) goes to the masters over the network in both cases; only what is done differs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use estafet_harness::{
    Api, Cluster,
    client::until,
    cluster::{ADMIN_PASSWORD, Role},
};
use estafet_proto::v1::{ClusterStatus, NodeHealth, NodeStatus};
use estafet_runtime::Tasks;
use estafet_tls::Transport;
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::{
    options::{Drill, Hook, Options},
    roads::Proxied,
    traffic::phones_per_shard,
};

/// Phones of a cluster of its own for each that is needed: a hash spreads them.
const SPARE: f64 = 2.5;
/// The first number of a cluster of its own.
const FIRST_NUMBER: u64 = 15_550_000_001;

/// What the API wants with a change of the shard count, in base64; it is not looked into.
const CERTIFICATE: &str = "CmkKJQjX";

/// Something that is done to a part of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Kill,
    Hang,
    Wake,
    Drain,
    Cut,
    Join,
    /// Brings a coreapp or master back, or another in its place.
    Restore,
    KillEtcdLeader,
    StopEtcd,
    StartEtcd,
    /// Returns when the database takes connections again.
    RestartDatabase,
}

impl Verb {
    /// Its name in `--hook`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::Wake => "wake",
            Self::Drain => "drain",
            Self::Cut => "cut",
            Self::Join => "join",
            Self::Restore => "restore",
            Self::KillEtcdLeader => "kill-etcd-leader",
            Self::StopEtcd => "stop-etcd",
            Self::StartEtcd => "start-etcd",
            Self::RestartDatabase => "restart-db",
        }
    }
}

/// A process that is replaced.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// By its address.
    Master(String),
    /// By its name.
    Coreapp(String),
    /// By its place in the list.
    Webapp(usize),
}

/// By which release a process is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The one that the cluster does not begin with.
    Other,
    /// The one that it begins with.
    First,
}

impl Release {
    /// Its name in `--hook`.
    fn verb(self) -> &'static str {
        match self {
            Self::Other => "upgrade",
            Self::First => "downgrade",
        }
    }
}

enum Hands {
    Own {
        cluster: Box<Cluster>,
        roads: Arc<Proxied>,
        /// Binaries of the release it begins with and of the other one.
        releases: (PathBuf, PathBuf),
    },
    Hooks(Vec<Hook>),
}

/// A cluster under drill.
pub(crate) struct World {
    /// Of each number.
    pub(crate) webapps: Vec<Vec<Api>>,
    pub(crate) phones: Api,
    pub(crate) audit: Option<PathBuf>,
    masters: Vec<String>,
    /// How masters are dialled.
    transport: Transport,
    hands: Hands,
    /// They read the certificates of `transport` again.
    _tasks: Tasks,
}

/// Owner and epoch of each shard of each number.
pub(crate) type Owners = BTreeMap<(u64, u32, u32), (String, u64)>;

impl World {
    /// Starts a cluster for a drill.
    pub(crate) async fn start(drill: Drill, options: &Options, webhook: &str) -> anyhow::Result<Self> {
        ensure!(drill != Drill::Reshard || options.numbers == 1, "--numbers: the shard count of one number is changed");
        let roads = Arc::new(Proxied::default());
        let numbers: Vec<String> = (0..options.numbers).map(|n| (FIRST_NUMBER + u64::from(n)).to_string()).collect();
        let phones = f64::from(drill.ranges(options)) * phones_per_shard(options.numbers) as f64 * SPARE;
        let first = options.from.clone().map_or_else(estafet_harness::environment::estafet_binary, Ok)?;
        let other = options.to.clone().unwrap_or_else(|| first.clone());
        let mut start = Cluster::options()
            .binary(&first)
            .fsync(!options.no_fsync)
            .own_group(true)
            .shards(drill.begins_with(options))
            .numbers(numbers.clone())
            .phones(phones as u32)
            .etcd_members(drill.etcd_members())
            .webhook(webhook);
        if drill == Drill::PartitionOwner {
            start = start.roads(roads.clone());
        }
        let cluster = Box::new(start.start().await.context("the cluster could not be started")?);
        let mut webapps = Vec::new();
        for number in &numbers {
            let admins = cluster.login_for(number).await?;
            let first = admins.first().context("there is no webapp")?;
            first.patch_settings(&json!({ "webhooks": { "url": webhook } })).await?;
            webapps.push(admins);
        }
        Ok(Self {
            webapps,
            phones: cluster.phones()?,
            audit: Some(cluster.audit_path()?),
            masters: cluster.master_addresses(),
            transport: Transport::plain(),
            _tasks: Tasks::new(),
            hands: Hands::Own { cluster, roads, releases: (first, other) },
        })
    }

    /// Uses a running one.
    pub(crate) async fn attach(options: &Options, webhook: Option<&str>) -> anyhow::Result<Self> {
        let password = options.admin_password.as_deref().unwrap_or(ADMIN_PASSWORD);
        let tasks = Tasks::new();
        let transport = options.tls.transport(estafet_tls::Role::Operator, None, &tasks);
        let transport = transport.context("--tls-ca, --tls-cert, --tls-key")?;
        answers(&transport, &options.masters).await.context("--masters, --tls-ca, --tls-cert, --tls-key")?;
        let authorities = options.webapp_ca.as_ref().map(std::fs::read).transpose().context("--webapp-ca")?;
        let caller = |url: &str| match &authorities {
            Some(authorities) => Api::trusting(url, authorities).context("--webapp-ca"),
            None => Api::anonymous(url),
        };
        let logins = options.webapp.iter().map(async |url| caller(url)?.login("admin", password).await);
        let webapps = try_join_all(logins).await.context("--webapp, --webapp-ca, --admin-password")?;
        if let (Some(webhook), Some(first)) = (webhook, webapps.first()) {
            first.patch_settings(&json!({ "webhooks": { "url": webhook } })).await?;
        }
        Ok(Self {
            webapps: vec![webapps],
            phones: Api::anonymous(options.phones_url.as_deref().context("--phones-url")?)?,
            audit: options.audit.clone(),
            masters: options.masters.clone(),
            transport,
            _tasks: tasks,
            hands: Hands::Hooks(options.hook.clone()),
        })
    }

    /// Ends a cluster of its own.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        match self.hands {
            Hands::Own { cluster, .. } => cluster.stop().await,
            Hands::Hooks(_) => Ok(()),
        }
    }

    /// Does something; `node` is a coreapp's name, a master's address, or empty.
    pub(crate) async fn act(&mut self, verb: Verb, node: &str) -> anyhow::Result<()> {
        match &mut self.hands {
            Hands::Own { cluster, roads, .. } => act_here(cluster, roads, verb, node).await,
            Hands::Hooks(hooks) => run_hook(hooks, verb.name(), node).await,
        }
        .with_context(|| format!("{} {node}", verb.name()))
    }

    /// Every process that is replaced when a cluster changes to another release, in that order: masters, the leader last,
    /// coreapps, webapps.
    pub(crate) async fn parts(&self) -> anyhow::Result<Vec<Part>> {
        let (leader, status) = self.status().await?;
        let masters = self.masters_but(&leader).into_iter().chain([leader]).map(Part::Master);
        let lives = |node: &&NodeStatus| node.health() == NodeHealth::Alive && !node.draining;
        let coreapps = status.nodes.iter().filter(lives).map(|node| Part::Coreapp(node.node.clone()));
        let webapps = (0..self.webapps.first().map_or(0, Vec::len)).map(Part::Webapp);
        Ok(masters.chain(coreapps).chain(webapps).collect())
    }

    /// Ends a process in order and starts one of the release in its place; returns when that is ready.
    pub(crate) async fn replace(&mut self, part: &Part, release: Release) -> anyhow::Result<()> {
        match (&mut self.hands, part) {
            (Hands::Own { cluster, releases, .. }, part) => {
                let binary = if release == Release::Other { &releases.1 } else { &releases.0 };
                match part {
                    Part::Master(place) | Part::Coreapp(place) => replace_here(cluster, place, binary).await,
                    Part::Webapp(place) => replace_here(cluster, &format!("webapp-{place}"), binary).await,
                }
            }
            (Hands::Hooks(hooks), Part::Master(place) | Part::Coreapp(place)) => run_hook(hooks, release.verb(), place).await,
            (Hands::Hooks(hooks), Part::Webapp(place)) => {
                let webapp = self.webapps.first().and_then(|webapps| webapps.get(*place)).context("there is no such webapp")?;
                run_hook(hooks, release.verb(), webapp.base_url()).await
            }
        }
    }

    /// What the leader knows.
    pub(crate) async fn status(&self) -> anyhow::Result<(String, ClusterStatus)> {
        for master in &self.masters {
            match self.status_of(master).await {
                Ok(status) if status.term > 0 => return Ok((master.clone(), status)),
                _ => {}
            }
        }
        bail!("no master leads")
    }

    /// What a master knows.
    pub(crate) async fn status_of(&self, master: &str) -> Result<ClusterStatus, tonic::Status> {
        estafet_master::status_over(&self.transport, master).await
    }

    /// The masters other than this one.
    pub(crate) fn masters_but(&self, address: &str) -> Vec<String> {
        self.masters.iter().filter(|master| *master != address).cloned().collect()
    }

    /// Owners as the leader knows them.
    pub(crate) async fn owners(&self) -> anyhow::Result<Owners> {
        let (_, status) = self.status().await?;
        let name = |address: &str| status.nodes.iter().find(|node| node.address == address).map(|node| node.node.clone());
        let owner = |entry: &estafet_proto::v1::MapEntry| {
            let shard = entry.ownership.as_ref()?;
            Some(((shard.number, shard.shard_count, shard.shard), (name(&entry.address)?, shard.epoch)))
        };
        Ok(status.shards.iter().filter_map(owner).collect())
    }

    /// The coreapp with the most shards.
    pub(crate) async fn busiest(&self) -> anyhow::Result<String> {
        let mut shards: BTreeMap<String, usize> = BTreeMap::new();
        for (node, _) in self.owners().await?.into_values() {
            *shards.entry(node).or_default() += 1;
        }
        shards.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node).context("no shard has an owner")
    }

    /// Asks for a shard count, and waits until all its shards have owners and no others are left.
    pub(crate) async fn reshard(&self, count: u32) -> anyhow::Result<()> {
        let number = self.owners().await?.keys().next().context("no shard has an owner")?.0.to_string();
        let (cc, phone_number) = number.split_at(1);
        let body = json!({ "cc": cc, "phone_number": phone_number, "shards": count, "cert": CERTIFICATE });
        let webapp = self.webapps.iter().flatten().next().context("there is no webapp")?;
        until("the last change of the shard count is complete", async || {
            let answer = webapp.call(Method::POST, "/v1/account/shards", Some(&body)).await?;
            ensure!(matches!(answer.status, 201 | 409), "{} {}", answer.status, answer.text);
            Ok(answer.status == 201)
        })
        .await?;
        until(&format!("{count} shards have owners"), async || {
            // While nobody leads there is no answer.
            let Ok(owners) = self.owners().await else { return Ok(false) };
            Ok(owners.len() == usize::try_from(count)? && owners.keys().all(|(_, of, _)| *of == count))
        })
        .await
    }

    /// Coreapps that live and may be given shards.
    pub(crate) async fn living(&self) -> anyhow::Result<usize> {
        let (_, status) = self.status().await?;
        let lives = |node: &&NodeStatus| node.health() == NodeHealth::Alive && !node.draining;
        Ok(status.nodes.iter().filter(lives).count())
    }
}

/// Whether some master answers; why not, so that nobody waits for a cluster that is not reached.
async fn answers(transport: &Transport, masters: &[String]) -> anyhow::Result<()> {
    let mut failure = anyhow!("no address was given");
    for master in masters {
        match estafet_master::status_over(transport, master).await {
            Ok(_) => return Ok(()),
            Err(status) => failure = anyhow!("{master}: {}", status.message()),
        }
    }
    Err(failure)
}

async fn act_here(cluster: &mut Cluster, roads: &Proxied, verb: Verb, node: &str) -> anyhow::Result<()> {
    match verb {
        Verb::Kill => by_place(cluster, node)?.signal(Signal::SIGKILL),
        Verb::Hang => by_place(cluster, node)?.hang(),
        Verb::Wake => by_place(cluster, node)?.wake(),
        Verb::Drain => by_place(cluster, node)?.signal(Signal::SIGTERM),
        Verb::Cut => cut(roads, node, true).await,
        Verb::Join => cut(roads, node, false).await,
        Verb::Restore => restore(cluster, node).await,
        Verb::KillEtcdLeader => kill_etcd_leader(cluster).await,
        Verb::StopEtcd => {
            cluster.etcd().iter_mut().for_each(estafet_harness::Etcd::kill);
            Ok(())
        }
        Verb::StartEtcd => {
            let stopped = cluster.etcd().iter_mut().filter_map(|member| (!member.is_running()).then_some(member));
            try_join_all(stopped.map(estafet_harness::Etcd::restart)).await.map(drop)
        }
        Verb::RestartDatabase => {
            let postgres = cluster.postgres().context("the database is not the cluster's own")?;
            postgres.halt(Signal::SIGINT).await?;
            postgres.restart().await
        }
    }
}

async fn cut(roads: &Proxied, node: &str, is_cut: bool) -> anyhow::Result<()> {
    roads.cut(node, is_cut).await;
    Ok(())
}

/// A member by its name, or by its address.
fn by_place<'a>(cluster: &'a mut Cluster, place: &str) -> anyhow::Result<&'a mut estafet_harness::cluster::Member> {
    let found = cluster.members().iter_mut().find(|member| member.name() == place || member.address().to_string() == place);
    found.with_context(|| format!("there is no {place}"))
}

/// A master comes back as it was; in place of a coreapp comes another with a new name, as pods do.
async fn restore(cluster: &mut Cluster, node: &str) -> anyhow::Result<()> {
    let member = by_place(cluster, node)?;
    if member.role() == Role::Coreapp {
        let gone = member.wait().await;
        // However it ended: a killed one does not end well.
        drop(gone);
        return cluster.add(Role::Coreapp).await.map(drop);
    }
    member.kill();
    member.restart().await
}

/// A process comes back under its name and address, as members of a stateful set do.
async fn replace_here(cluster: &mut Cluster, place: &str, binary: &Path) -> anyhow::Result<()> {
    let member = by_place(cluster, place)?;
    let ended = member.terminate().await?;
    ensure!(ended.success(), "{} ended with {ended}\n{}", member.name(), member.end_of_log());
    member.use_binary(binary);
    member.restart().await?;
    let ops = member.ops()?;
    until(&format!("{} is ready", member.name()), async || {
        Ok(ops.call(Method::GET, "/readyz", None).await.is_ok_and(|answer| answer.status == 200))
    })
    .await
}

async fn kill_etcd_leader(cluster: &mut Cluster) -> anyhow::Result<()> {
    for member in cluster.etcd() {
        let api = Api::anonymous(member.url())?;
        let status = api.call(Method::POST, "/v3/maintenance/status", Some(&json!({}))).await?;
        let leads = status.text_at("/leader").is_some_and(|leader| status.text_at("/header/member_id") == Some(leader));
        if leads {
            return member.signal(Signal::SIGKILL);
        }
    }
    bail!("etcd has no leader")
}

async fn run_hook(hooks: &[Hook], verb: &str, node: &str) -> anyhow::Result<()> {
    let hook = hooks.iter().find(|hook| hook.verb == verb);
    let hook = hook.with_context(|| format!("no --hook {verb}=COMMAND was given"))?;
    let command = hook.command.replace("{node}", node);
    let status = tokio::process::Command::new("sh").arg("-c").arg(&command).stdin(Stdio::null()).status().await?;
    ensure!(status.success(), "`{command}` ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hook_gets_the_node_and_its_failure_is_told() {
        let directory = std::env::temp_dir().join(format!("estafet-hook-{}", std::process::id()));
        let hook = |command: String| vec![Hook { verb: "kill".to_owned(), command }];
        run_hook(&hook(format!("echo {{node}} > {}", directory.display())), "kill", "coreapp-7").await.unwrap();
        assert_eq!(std::fs::read_to_string(&directory).unwrap(), "coreapp-7\n");
        std::fs::remove_file(&directory).unwrap();
        let failed = run_hook(&hook("exit 3".to_owned()), "kill", "x").await.unwrap_err().to_string();
        assert!(failed.contains("exit status: 3"), "{failed}");
        assert!(run_hook(&[], "hang", "x").await.unwrap_err().to_string().contains("--hook hang="));
    }
}
