//! A coreapp in a cluster: reports to every master, takes orders from the one that leads.
//!
//! A report goes out each 100 ms and with every change. Which orders are obeyed is decided by
//! [`crate::core::duties`]. When no master is left, nothing here changes: shards go on under their epochs. What ends by
//! itself (fenced, refused by the network) is told, and the master decides what follows.

mod handoff;
mod probing;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use estafet_model::{BootId, protocol};
use estafet_proto::v1::{self, MasterOrder, NodeReport, Ownership, cluster_client::ClusterClient, master_order::Order};
use estafet_runtime::{Backoff, Tasks};
use estafet_store::Fence;
use estafet_tls::{Role, Transport};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use probing::Probes;

use crate::{
    Node, ShardEnded,
    core::{
        duties::{Duties, outdated},
        life::Reason,
    },
};

/// Distance of two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// How long a master may take to answer a dial, and to show that it lives.
const DIAL: Duration = Duration::from_millis(500);
/// A node without shards stays so long: masters hear whom it handed the last ones to, and webapps that ask here are
/// told. A process that ended at once would look like one that died.
const LINGER: Duration = Duration::from_millis(500);
/// Reports that wait for one stream: a master that takes none is dialled again.
const REPORTS: usize = 4;

/// Who this node is in the cluster, and who its masters are.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Name of the node, unique in the cluster.
    pub node: String,
    /// Start of this process.
    pub boot: BootId,
    /// Where webapps reach its data service, `host:port`.
    pub address: String,
    /// The masters, `host:port`.
    pub masters: Vec<String>,
    /// How to reach them.
    pub transport: Transport,
}

/// A node that reports to masters.
#[derive(Clone)]
pub struct Cluster {
    membership: Arc<Membership>,
    node: Node,
    tasks: Tasks,
    duties: Arc<Mutex<Duties>>,
    changed: Arc<watch::Sender<u64>>,
    probes: Probes,
    /// Masters that listen.
    attached: Arc<AtomicUsize>,
}

/// A stream to a master, counted while it lasts.
struct Attached(Arc<AtomicUsize>);

impl Attached {
    fn count(in_all: &Arc<AtomicUsize>) -> Self {
        in_all.fetch_add(1, Ordering::Relaxed);
        Self(in_all.clone())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Cluster {
    /// Starts reporting to every master. `endings` is what [`Node::new`] gave.
    pub fn join(membership: Membership, node: Node, endings: mpsc::Receiver<ShardEnded>, tasks: &Tasks) -> Self {
        let (masters, probes) = (membership.masters.clone(), Probes::start(&node, tasks));
        let cluster = Self {
            membership: Arc::new(membership),
            node,
            tasks: tasks.clone(),
            duties: Arc::default(),
            changed: Arc::new(watch::channel(0).0),
            probes,
            attached: Arc::default(),
        };
        tasks.spawn("endings", cluster.clone().tell_endings(endings));
        for master in masters {
            tasks.spawn("master", cluster.clone().report_to(master));
        }
        cluster
    }

    /// Asks the masters to give every shard to another node; says whether all were gone in time. Without
    /// another node, or without a master, they stay. When all are gone it stays for another [`LINGER`].
    pub async fn leave(&self, budget: Duration) -> bool {
        self.duties().drain();
        self.touch();
        let mut changes = self.changed.subscribe();
        let gone = async {
            while self.node.shard_count() > 0 {
                // The sender lives in `self`.
                let _ = changes.changed().await;
            }
        };
        let are_gone = timeout(budget, gone).await.is_ok();
        if are_gone {
            tokio::time::sleep(LINGER).await;
        }
        are_gone
    }

    /// How many masters listen to this node.
    pub fn attached(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }

    /// Whether this node gives its shards away and takes none.
    pub fn is_draining(&self) -> bool {
        self.duties().is_draining()
    }

    fn duties(&self) -> MutexGuard<'_, Duties> {
        self.duties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    async fn tell_endings(self, mut endings: mpsc::Receiver<ShardEnded>) {
        loop {
            let ended = tokio::select! {
                ended = endings.recv() => ended,
                () = self.tasks.shutdown().cancelled() => None,
            };
            let Some(ShardEnded { fence, reason, target }) = ended else { return };
            tracing::info!(number = %fence.number, shard = %fence.shard, epoch = %fence.epoch, ?reason, "shard ended");
            if let (Reason::HandedOff { epoch }, Some(target)) = (reason, target) {
                self.duties().handed_off(Fence { epoch, ..fence }, target);
                self.touch();
                continue;
            }
            let above = match reason {
                Reason::StaleUpstream { highest } => highest,
                _ => 0,
            };
            self.ended(fence, above);
        }
    }

    fn ended(&self, fence: Fence, above: u64) {
        self.duties().ended(fence, above);
        self.touch();
    }

    /// Keeps a stream to one master.
    async fn report_to(self, master: String) {
        let shutdown = self.tasks.shutdown().clone();
        let reporting = async {
            let mut backoff = Backoff::new(Duration::from_millis(20), DIAL);
            let mut refusal = String::new();
            loop {
                match self.attach(&master).await {
                    Ok(()) => backoff.reset(),
                    // Told once, not with every try.
                    Err(status) if status.code() == tonic::Code::FailedPrecondition && status.message() != refusal => {
                        tracing::error!(master, why = status.message(), "a master does not go together with this release");
                        status.message().clone_into(&mut refusal);
                    }
                    Err(status) => tracing::debug!(master, %status, "not attached to a master"),
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        };
        tokio::select! {
            () = reporting => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// One stream, from dial to break.
    async fn attach(&self, master: &str) -> Result<(), tonic::Status> {
        let endpoint = Endpoint::from_shared(format!("http://{master}"))
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?
            .connect_timeout(DIAL)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(DIAL)
            .keep_alive_timeout(DIAL);
        let connecting = self.membership.transport.connect(&endpoint, Role::Master).await;
        let channel = connecting.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let (reports, stream) = mpsc::channel(REPORTS);
        let mut client = ClusterClient::new(channel);
        let mut changes = self.changed.subscribe();
        // The first report is the greeting; the channel is empty, so there is room.
        let _ = reports.try_send(self.report());
        let mut orders = client.attach(ReceiverStream::new(stream)).await?.into_inner();
        tracing::info!(master, "attached to a master");
        let _attached = Attached::count(&self.attached);
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = next(&mut orders) => match order? {
                    Some(order) => {
                        protocol::agree("master", order.protocol)
                            .map_err(|error| tonic::Status::failed_precondition(error.to_string()))?;
                        self.obey(order);
                    }
                    None => return Ok(()),
                },
                _ = beat.tick() => {}
                // The sender lives in `self`.
                _ = changes.changed() => {}
            }
            match reports.try_send(self.report()) {
                // A full channel holds reports that are a few moments old; the next beat tells the rest.
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
            }
        }
    }

    fn report(&self) -> NodeReport {
        let running = self.node.owned();
        let (network, database) = self.probes.wire();
        let mut duties = self.duties();
        duties.standbys().expire(Instant::now().into_std()).iter().for_each(|key| self.node.unprepare(key));
        let warm = duties.standbys().warm().map(|(key, after)| ownership(&handoff::fence(*key, after))).collect();
        let holding = |(fence, active): (Fence, bool)| v1::Holding { ownership: Some(ownership(&fence)), active };
        let ending = |(fence, above): &(Fence, u64)| v1::Ending { ownership: Some(ownership(fence)), above: *above };
        NodeReport {
            node: self.membership.node.clone(),
            boot: self.membership.boot.0.to_vec().into(),
            address: self.membership.address.clone(),
            draining: duties.is_draining(),
            holdings: duties.holdings(&running).into_iter().map(holding).collect(),
            endings: duties.endings().map(ending).collect(),
            states: self.node.state().snapshot(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            warm,
            handed: duties.handed().map(handoff::wire).collect(),
            network: Some(network),
            database: Some(database),
            protocol: protocol::PROTOCOL,
        }
    }

    fn obey(&self, order: MasterOrder) {
        if !self.duties().heeds(order.term) {
            tracing::warn!(term = order.term, "an order of a former leader");
            return;
        }
        let term = order.term;
        match order.order {
            Some(Order::Acquire(v1::Acquire { ownership: Some(ownership) })) => {
                let Some(fence) = read(&ownership) else { return };
                if self.duties().may_start(fence) {
                    self.tasks.spawn("acquire", self.clone().acquire(fence));
                }
            }
            Some(Order::Prepare(v1::Prepare { ownership: Some(ownership) })) => {
                let Some(fence) = read(&ownership) else { return };
                self.prepare(fence);
            }
            Some(Order::HandOff(order)) => self.hand_off(order, term),
            Some(Order::Release(v1::Release { ownership: Some(ownership), owner })) => {
                let Some(fence) = read(&ownership) else { return };
                if let Some(v1::MapEntry { ownership: Some(owner), address }) = owner
                    && let Some(owner) = read(&owner)
                {
                    self.node.moved(&owner, &address);
                }
                tracing::info!(number = %fence.number, shard = %fence.shard, epoch = %fence.epoch, "told to let go");
                self.node.release(&fence);
            }
            // What a later version says is not understood and not done.
            _ => {}
        }
    }

    async fn acquire(self, fence: Fence) {
        tracing::info!(number = %fence.number, shard = %fence.shard, epoch = %fence.epoch, "taking a shard");
        // An earlier ownership of the same slots is fenced in the database already.
        outdated(&self.node.current(), &fence).for_each(|old| self.node.release(old));
        let acquired = self.node.acquire(fence).await;
        self.duties().started(&fence);
        match acquired {
            Ok(()) => self.touch(),
            Err(error) => {
                tracing::warn!(number = %fence.number, shard = %fence.shard, %error, "the shard could not be started");
                self.ended(fence, 0);
            }
        }
    }
}

async fn next(orders: &mut Streaming<MasterOrder>) -> Result<Option<MasterOrder>, tonic::Status> {
    orders.message().await
}

fn ownership(fence: &Fence) -> Ownership {
    Ownership::new((fence.number, fence.count, fence.shard), fence.epoch)
}

/// What the master wrote; `None` if it is not an ownership.
fn read(ownership: &Ownership) -> Option<Fence> {
    ownership.read().map(|(key, epoch)| handoff::fence(key, epoch))
}
