//! The master role: gives shards to coreapps.
//!
//! What it decides: which node lives and which node should own which shard ([`core`], pure). What it does not:
//! safety. An assignment takes effect only through the epoch in the message database
//! ([`estafet_store::Store::claim`]); a master that is wrong or late makes somebody work in vain (**I2**).
//!
//! * [`core`]: membership, placement, handoff. `driver`: the task that owns it.
//! * [`election`]: who leads, over etcd. [`standing`]: from candidacy to the end of a leadership.
//!   [`assignments`]: what the leader decided, in etcd.
//! * `grpc`: reports in, orders and the map out.
//! * [`local`]: the coordination of a single process, without etcd: the sandbox.
//!
//! Coreapps report to every master, so each knows the cluster, serves the map, and can lead at once. When a
//! master dies, ownership stays in the database and the data path goes on.

pub mod assignments;
mod claims;
pub mod core;
mod driver;
pub mod election;
mod grpc;
mod layouts;
pub mod local;
pub mod standing;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use estafet_etcd::{Members, Network, Node, Timing};
use estafet_model::{ShardCount, WaId};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{NumberRow, SharedStore};
use estafet_tls::{Role, Transport};
use tokio::{net::TcpListener, sync::watch};

use crate::{driver::Driver, election::Identity};

/// How a master works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Members of etcd, and how they are told who asks.
    pub etcd: Members,
    /// Prefix of the cluster's keys.
    pub prefix: String,
    /// Where other masters reach this one, `host:port`.
    pub address: String,
    /// How to listen.
    pub transport: Transport,
    /// The numbers of a database that has none yet, with their shard counts; later the database counts.
    pub numbers: BTreeMap<WaId, ShardCount>,
}

/// Writes these numbers to a database that has none.
pub async fn seed(store: &SharedStore, numbers: &BTreeMap<WaId, ShardCount>, clock: &Clock) -> estafet_store::Result<()> {
    if !store.numbers().await?.is_empty() {
        return Ok(());
    }
    for (number, count) in numbers {
        // `false`: another master was faster.
        store.add_number(&NumberRow::new(*number, *count, None, clock.now_ms())).await?;
    }
    Ok(())
}

/// Whether a master takes part in elections: leads, or waits with a lease for its turn.
#[derive(Clone, Debug)]
pub struct Standing(watch::Receiver<bool>);

impl Standing {
    /// Whether it does now. Without etcd it does until its lease ends.
    pub fn takes_part(&self) -> bool {
        *self.0.borrow()
    }
}

/// Serves on `listener` and stands for election, until the tasks are shut down.
pub fn start(listener: TcpListener, config: Config, store: SharedStore, clock: Clock, tasks: &Tasks) -> Standing {
    let (driver, handle) = Driver::new(config.numbers.clone(), store, clock, tasks.clone());
    tasks.spawn("driver", driver.run());
    let shutdown = tasks.shutdown().clone();
    let server = tonic::transport::Server::builder()
        .add_service(grpc::service(handle.clone(), tasks.clone()))
        .serve_with_incoming_shutdown(config.transport.incoming(listener, tasks), async move { shutdown.cancelled().await });
    tasks.spawn("cluster service", async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "cluster service ended");
        }
    });
    let (stands, standing) = watch::channel(false);
    let network: Arc<dyn Network> = Arc::new(config.etcd);
    let node = Node::new("master", &config.address, estafet_runtime::boot_id());
    let identity = Identity { prefix: config.prefix, node };
    let timing = Timing::default();
    let following = standing::follow_nodes(network.clone(), timing, identity.prefix.clone(), handle.clone(), tasks.clone());
    tasks.spawn("registrations", following);
    tasks.spawn("election", standing::stand(network, timing, identity, handle, stands, tasks.clone()));
    Standing(standing)
}

/// What a master knows, asked over the network without TLS.
pub async fn status(address: &str) -> Result<estafet_proto::v1::ClusterStatus, tonic::Status> {
    status_over(&Transport::plain(), address).await
}

/// What a master knows, asked over the network.
pub async fn status_over(transport: &Transport, address: &str) -> Result<estafet_proto::v1::ClusterStatus, tonic::Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(1)).timeout(Duration::from_secs(2));
    let channel = transport.connect(&endpoint, Role::Master).await;
    let channel = channel.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let mut client = estafet_proto::v1::cluster_client::ClusterClient::new(channel);
    Ok(client.status(estafet_proto::v1::StatusRequest {}).await?.into_inner())
}
