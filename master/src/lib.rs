//! The master role: gives shards to coreapps.
//!
//! What it decides: which node lives and which node should own which shard ([`core`], pure). What it does not:
//! safety. An assignment takes effect only through the epoch in the message database
//! ([`estafet_store::Store::claim`]); a master that is wrong or late makes somebody work in vain (**I2**).
//!
//! * [`core`]: membership, placement, handoff. `driver`: the task that owns it.
//! * [`election`]: who leads, over etcd. `grpc`: reports in, orders and the map out.
//! * [`local`]: the coordination of a single process, without etcd: the sandbox.
//!
//! Coreapps report to every master, so each knows the cluster, serves the map, and can lead at once. When a
//! master dies, ownership stays in the database and the data path goes on.

pub mod core;
mod driver;
pub mod election;
mod grpc;
pub mod local;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use estafet_model::{ShardCount, WaId};
use estafet_runtime::{Backoff, Clock, Tasks};
use estafet_store::{NumberRow, SharedStore};
use estafet_tls::{Role, Transport};
use futures::FutureExt as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use crate::{
    core::Event,
    driver::{Driver, Handle},
    election::{Access, Leadership},
};

/// How a master works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Members of the etcd cluster, `http://host:port`.
    pub etcd: Vec<String>,
    /// How etcd is told who asks.
    pub etcd_access: Access,
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
    let resign = Arc::new(Notify::new());
    let (driver, handle) = Driver::new(config.numbers.clone(), store, clock, tasks.clone(), resign.clone());
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
    tasks.spawn("election", stand(config, handle, resign, stands, tasks.clone()));
    Standing(standing)
}

/// Stands for election again and again.
async fn stand(config: Config, handle: Handle, resign: Arc<Notify>, stands: watch::Sender<bool>, tasks: Tasks) {
    let shutdown = tasks.shutdown().clone();
    let standing = async {
        let connect = || election::candidate(&config.etcd_access, &config.etcd, &config.prefix, &config.address, &tasks);
        let mut candidate = connect().await;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let leading = async {
                let candidacy = candidate.stand().await?;
                stands.send_replace(true);
                lead(candidate.win(candidacy).await?, &handle, &resign).await;
                Ok::<_, election::Error>(())
            };
            let led = leading.await;
            stands.send_replace(false);
            match led {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "campaign ended");
                    tokio::time::sleep(backoff.next_delay()).await;
                    // With the certificates of now.
                    candidate = connect().await;
                }
            }
        }
    };
    tokio::select! {
        () = standing => {}
        () = shutdown.cancelled() => {}
    }
}

/// Leads until the lease is lost or given back. When this future is dropped, the leadership is too.
async fn lead(leadership: Leadership, handle: &Handle, resign: &Notify) {
    let mut renewed = leadership.renewed();
    let sent = *renewed.borrow_and_update();
    let Some(sent) = sent else { return };
    // A word that came after the end of an earlier term is not meant for this one.
    let _ = resign.notified().now_or_never();
    let term = leadership.term();
    tracing::info!(term, "leading");
    handle.happened(Event::Elected { term, renewed: handle.moment(sent) }).await;
    loop {
        tokio::select! {
            changed = renewed.changed() => {
                let sent = *renewed.borrow_and_update();
                match sent {
                    Some(sent) if changed.is_ok() => handle.happened(Event::Renewed { sent: handle.moment(sent) }).await,
                    _ => break,
                }
            }
            () = resign.notified() => break,
        }
    }
    tracing::warn!(term, "not leading any more");
    handle.happened(Event::Deposed).await;
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
