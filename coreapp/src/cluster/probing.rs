//! Probes of what an owner needs, each again and again, for the reports ([`crate::core::needs`] decides what they mean).
//!
//! Every node makes them, also one that owns nothing: masters move shards only to where they would do better.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use estafet_proto::v1;
use estafet_runtime::Tasks;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Node,
    core::needs::{Need, Reach},
};

/// Pause between two probes, and how long one may take. A read of the database takes a millisecond; a handshake with
/// the network some more, and has several addresses to try.
const DATABASE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(600));
const NETWORK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// What the probes say.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes(Arc<Mutex<Needs>>);

#[derive(Debug, Default)]
struct Needs {
    network: Need,
    database: Need,
}

impl Probes {
    /// Probes until the tasks end.
    pub(super) fn start(node: &Node, tasks: &Tasks) -> Self {
        let probes = Self::default();
        let (mine, of, shutdown) = (probes.clone(), node.clone(), tasks.shutdown().clone());
        tasks.spawn("probes", async move {
            tokio::select! {
                () = mine.of_network(&of) => {}
                () = mine.of_database(&of) => {}
                () = shutdown.cancelled() => {}
            }
        });
        probes
    }

    /// As the reports say it: the network, the database.
    pub(super) fn wire(&self) -> (v1::Reach, v1::Reach) {
        let (now, needs) = (Instant::now().into_std(), self.needs());
        (wire(needs.network.reach(now)), wire(needs.database.reach(now)))
    }

    fn needs(&self) -> MutexGuard<'_, Needs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never ends; without a network to be connected to there is nothing to probe.
    async fn of_network(&self, node: &Node) {
        while node.wants_network() {
            let began = Instant::now().into_std();
            let probed = timeout(NETWORK.1, node.probe_network()).await;
            let (now, connected) = (Instant::now().into_std(), node.state().is_connected());
            self.needs().network.probed_network(began, now, matches!(probed, Ok(Ok(()))), connected);
            sleep(NETWORK.0).await;
        }
        std::future::pending().await
    }

    async fn of_database(&self, node: &Node) {
        loop {
            let began = Instant::now().into_std();
            let probed = timeout(DATABASE.1, node.probe_database()).await;
            let (now, writes) = (Instant::now().into_std(), node.state().writes());
            self.needs().database.probed_database(began, now, matches!(probed, Ok(Ok(()))), &writes);
            sleep(DATABASE.0).await;
        }
    }
}

fn wire(reach: Reach) -> v1::Reach {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let state = match reach {
        Reach::Unknown => None,
        Reach::Well(time) => Some(v1::reach::State::WellMs(ms(time))),
        Reach::Lost(time) => Some(v1::reach::State::LostMs(ms(time))),
    };
    v1::Reach { state }
}
