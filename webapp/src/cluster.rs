//! A webapp in a cluster: the shard map as the masters push it, and connections to coreapps over TCP.
//!
//! Every master serves the map, and each entry carries its epoch, so the streams of all masters are merged by
//! the higher epoch of each slot: in whatever order they arrive, all webapps end with the same map (**I12**), also
//! while a number changes its shard count. Nothing is ever
//! forgotten: without any master the last map stays, and an outdated entry costs a `NOT_OWNER`, not a message.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use estafet_model::{BootId, Owner, ShardMap, WaId, protocol};
use estafet_proto::v1::{self, WatchMapRequest, cluster_client::ClusterClient};
use estafet_runtime::{Backoff, Tasks};
use estafet_tls::{Role, Transport};
use tokio::{sync::watch, time::Instant};
use tonic::transport::{Channel, Endpoint};

use crate::{Connect, Roster};

/// How long a dial may take, and how long a peer may be silent on HTTP/2.
const DIAL: Duration = Duration::from_millis(500);

/// How often masters are told which coreapps are not reached.
const REPORT: Duration = Duration::from_millis(150);
/// How often masters are asked who is there.
const ROLL_CALL: Duration = Duration::from_secs(1);
/// How long a stream may take to come back before it is told.
const GRACE: Duration = Duration::from_millis(100);

/// Follows the maps of all masters.
pub fn follow(masters: &[String], transport: &Transport, tasks: &Tasks) -> watch::Receiver<ShardMap> {
    let (sender, map) = watch::channel(ShardMap::default());
    for master in masters {
        tasks.spawn("map", follow_one(master.clone(), transport.clone(), sender.clone(), tasks.clone()));
    }
    map
}

async fn follow_one(master: String, transport: Transport, map: watch::Sender<ShardMap>, tasks: Tasks) {
    let following = async {
        let mut backoff = Backoff::new(Duration::from_millis(20), DIAL);
        let mut refusal = String::new();
        loop {
            match watch_map(&master, &transport, &map).await {
                Ok(()) => backoff.reset(),
                // Told once, not with every try.
                Err(status) if status.code() == tonic::Code::FailedPrecondition && status.message() != refusal => {
                    tracing::error!(master, why = status.message(), "a master does not go together with this release");
                    status.message().clone_into(&mut refusal);
                }
                Err(status) => tracing::debug!(master, %status, "no map from this master"),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = tasks.shutdown().cancelled() => {}
    }
}

async fn watch_map(master: &str, transport: &Transport, map: &watch::Sender<ShardMap>) -> Result<(), tonic::Status> {
    let endpoint = endpoint(master).map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
    let connecting = transport.connect(&endpoint, Role::Master).await;
    let channel = connecting.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let mut updates = ClusterClient::new(channel).watch_map(WatchMapRequest { protocol: protocol::PROTOCOL }).await?.into_inner();
    while let Some(update) = updates.message().await? {
        protocol::agree("master", update.protocol).map_err(|error| tonic::Status::failed_precondition(error.to_string()))?;
        map.send_if_modified(|map| merge(map, update.entries));
    }
    Ok(())
}

/// Takes what is newer than what is known; says whether anything was.
pub fn merge(map: &mut ShardMap, entries: Vec<v1::MapEntry>) -> bool {
    let mut changed = false;
    for (number, owner) in entries.into_iter().filter_map(read) {
        changed |= map.learn(number, owner);
    }
    changed
}

fn read(entry: v1::MapEntry) -> Option<(WaId, Owner)> {
    let ((number, count, shard), epoch) = entry.ownership?.read()?;
    Some((number, Owner { address: entry.address, shard, count, epoch }))
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint
        .connect_timeout(DIAL)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(DIAL)
        .keep_alive_timeout(DIAL)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20))
}

/// Reaches coreapps at the addresses of the map, and tells the masters which it does not reach.
#[derive(Clone, Debug)]
pub struct Tcp {
    transport: Transport,
    /// Coreapps that are not reached, and since when.
    down: Down,
    /// Who is there.
    roster: Roster,
}

#[derive(Clone, Debug, Default)]
struct Down(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Down {
    fn addresses(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was not reached for longer than a stream takes to come back by itself.
    fn missed(&self) -> Vec<String> {
        let now = Instant::now();
        let addresses = self.addresses();
        let missed = addresses.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= GRACE);
        missed.map(|(address, _)| address.clone()).collect()
    }
}

impl Tcp {
    /// Reports to these masters; what it cannot tell one of them is told again.
    pub fn new(masters: &[String], webapp: BootId, transport: Transport, tasks: &Tasks) -> Self {
        let (down, roster) = (Down::default(), Roster::new(masters));
        for master in masters {
            tasks.spawn("roster", ask(master.clone(), transport.clone(), roster.clone(), tasks.clone()));
            tasks.spawn("reach", report_to(master.clone(), webapp, transport.clone(), down.clone(), tasks.clone()));
        }
        Self { transport, down, roster }
    }
}

impl Connect for Tcp {
    fn channel(&self, address: &str) -> Channel {
        let endpoint = endpoint(address).unwrap_or_else(|error| {
            tracing::error!(address, %error, "the map has an address that is none");
            Endpoint::from_static("http://address.invalid")
        });
        self.transport.connect_lazy(&endpoint, Role::Coreapp)
    }

    fn reached(&self, address: &str, is_up: bool) {
        let mut down = self.down.addresses();
        if is_up {
            down.remove(address);
        } else {
            down.entry(address.to_owned()).or_insert_with(Instant::now);
        }
    }

    fn roster(&self) -> Roster {
        self.roster.clone()
    }
}

/// Asks one master again and again who is there.
async fn ask(master: String, transport: Transport, roster: Roster, tasks: Tasks) {
    let asking = async {
        // Where its address is none, whoever reports to it says so.
        let Ok(endpoint) = endpoint(&master) else { return };
        let mut client = ClusterClient::new(transport.connect_lazy(&endpoint.timeout(DIAL), Role::Master));
        loop {
            match client.status(v1::StatusRequest {}).await {
                Ok(status) => roster.heard(&master, status.into_inner(), Instant::now()),
                Err(status) => tracing::debug!(master, %status, "this master does not say who is there"),
            }
            tokio::time::sleep(ROLL_CALL).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = tasks.shutdown().cancelled() => {}
    }
}

/// Tells one master again and again what is not reached, also that nothing is: it counts who is there.
async fn report_to(master: String, webapp: BootId, transport: Transport, down: Down, tasks: Tasks) {
    let reporting = async {
        let endpoint = match endpoint(&master) {
            Ok(endpoint) => endpoint.timeout(DIAL),
            Err(error) => return tracing::error!(master, %error, "no address of a master"),
        };
        let mut client = ClusterClient::new(transport.connect_lazy(&endpoint, Role::Master));
        loop {
            let unreachable = down.missed();
            if !unreachable.is_empty() {
                tracing::debug!(master, ?unreachable, "coreapps are not reached");
            }
            let report = v1::ReachReport { webapp: webapp.0.to_vec().into(), unreachable };
            if let Err(status) = client.report_reach(report).await {
                tracing::debug!(master, %status, "reach not reported");
            }
            tokio::time::sleep(REPORT).await;
        }
    };
    tokio::select! {
        () = reporting => {}
        () = tasks.shutdown().cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::Slot;

    use super::*;

    fn entry(shard: u32, epoch: u64, address: &str) -> v1::MapEntry {
        let ownership = v1::Ownership { number: 15_550_000_001, shard, shard_count: 2, epoch };
        v1::MapEntry { ownership: Some(ownership), address: address.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_coreapp_is_missed_after_the_grace_and_until_it_is_reached() {
        let tcp = Tcp::new(&[], BootId([1; 16]), Transport::plain(), &Tasks::new());
        tcp.reached("a:1", false);
        assert!(tcp.down.missed().is_empty());
        tokio::time::advance(GRACE).await;
        tcp.reached("a:1", false);
        tcp.reached("b:1", false);
        assert_eq!(tcp.down.missed(), ["a:1"]);
        tcp.reached("a:1", true);
        tokio::time::advance(GRACE).await;
        assert_eq!(tcp.down.missed(), ["b:1"]);
    }

    #[test]
    fn maps_of_several_masters_end_equal_in_whatever_order_they_arrive() {
        let news = [entry(0, 1, "a"), entry(1, 1, "b"), entry(0, 2, "c"), entry(1, 3, "a")];
        let (mut forwards, mut backwards) = (ShardMap::default(), ShardMap::default());
        for entry in &news {
            merge(&mut forwards, vec![entry.clone()]);
        }
        for entry in news.iter().rev() {
            merge(&mut backwards, vec![entry.clone()]);
        }
        let number = WaId::from_u64(15_550_000_001).unwrap();
        for slot in [0, 512] {
            let slot = Slot::new(slot).unwrap();
            assert_eq!(forwards.owner(number, slot), backwards.owner(number, slot));
        }
        assert_eq!(forwards.owner(number, Slot::new(0).unwrap()).map(|owner| owner.address.as_str()), Some("c"));
        assert!(!merge(&mut forwards, news.to_vec()), "nothing is new any more");
    }
}
