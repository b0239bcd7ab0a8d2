//! The listener for operators, and what each role needs to be ready (docs/operations.md).
//!
//! A role is ready when it can do its own work now. What it does without for a while (etcd for an owner, the
//! masters for a webapp that has a map) does not count, so that one outage does not become another.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use estafet_coreapp::cluster::Cluster;
use estafet_master::Standing;
use estafet_model::{ShardMap, WaId};
use estafet_runtime::{Ops, Tasks};
use estafet_store::SharedStore;
use serde_json::Value;
use tokio::{sync::watch, time::timeout};

use super::{args::OpsArgs, bind};

/// How long the database may take: probes wait a second, if nobody says otherwise.
const DATABASE: Duration = Duration::from_millis(800);

/// `/livez`, `/readyz`, `/metrics` and `/configuration` of this process.
pub(super) struct Listener {
    ops: Ops,
    address: SocketAddr,
}

impl Listener {
    /// Listens; the process is live, and not ready.
    pub(super) async fn open(args: &OpsArgs, role: &'static str, configuration: &Value, tasks: &Tasks) -> anyhow::Result<Self> {
        let (listener, address) = bind(args.ops_listen).await.context("--ops-listen")?;
        let ops = Ops::serve(listener, role, tasks);
        ops.show_configuration(configuration);
        Ok(Self { ops, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leader or standby, with a database.
    pub(super) fn of_master(&self, standing: Standing, store: SharedStore) {
        self.ops.ready_unless(move || {
            let election = (!standing.takes_part()).then_some("a place in the election (etcd)");
            let store = store.clone();
            async move { election.into_iter().chain(database(&store).await).collect() }
        });
    }

    /// Can be given shards and keep them.
    pub(super) fn of_coreapp(&self, cluster: Cluster, store: SharedStore) {
        self.ops.ready_unless(move || {
            let draining = cluster.is_draining().then_some("a future: it hands its shards over and ends");
            let masters = (cluster.attached() == 0).then_some("a master");
            let store = store.clone();
            async move { draining.into_iter().chain(masters).chain(database(&store).await).collect() }
        });
    }

    /// Knows an owner of a number that it serves.
    pub(super) fn of_webapp(&self, map: watch::Receiver<ShardMap>, only: Option<WaId>) {
        self.ops.ready_unless(move || {
            let unknown = !map.borrow().iter().any(|(number, _)| only.is_none_or(|only| only == number));
            std::future::ready(unknown.then_some("the shard map").into_iter().collect())
        });
    }

    /// Listens.
    pub(super) fn of_chatd(&self) {
        self.ops.ready_unless(async || Vec::new());
    }
}

async fn database(store: &SharedStore) -> Option<&'static str> {
    let failed = match timeout(DATABASE, store.numbers()).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::debug!(error = failed, "not ready: the message database");
    Some("the message database")
}
