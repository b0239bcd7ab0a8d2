//! The cluster service: reports in, orders out; the map; the status.
//!
//! What cannot be read as a report ends the stream; nothing a peer sends can do more. Every master answers,
//! leader or not, so that the map does not depend on an election.

use std::{collections::HashMap, pin::Pin, sync::Arc, time::Duration};

use estafet_model::{BootId, Epoch, protocol};
use estafet_proto::v1::{
    self, ClusterStatus, MapUpdate, MasterOrder, NodeReport, ReachAnswer, ReachReport, StatusRequest, WatchMapRequest,
    cluster_server::{Cluster, ClusterServer},
};
use estafet_runtime::Tasks;
use estafet_tls::{Identity, Peer, Role};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    core::{Ending, Event, Holding, MapEntry, Needs, Reach, Record, Report, placement::ShardKey},
    driver::{Handle, Input, ORDERS, Word, wire_entry},
};

/// Longest report: every shard of some hundred numbers.
const MAX_REPORT_BYTES: usize = 4 << 20;

/// Addresses that a webapp may miss at once.
const MAX_ADDRESSES: usize = 256;

pub(crate) fn service(handle: Handle, tasks: Tasks) -> ClusterServer<Service> {
    ClusterServer::new(Service { handle, tasks }).max_decoding_message_size(MAX_REPORT_BYTES)
}

pub(crate) struct Service {
    handle: Handle,
    tasks: Tasks,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Cluster for Service {
    type AttachStream = Answers<MasterOrder>;
    type WatchMapStream = Answers<MapUpdate>;

    async fn attach(&self, request: Request<Streaming<NodeReport>>) -> Result<Response<Self::AttachStream>, Status> {
        let identity = Peer::admit(&request, &[Role::Coreapp])?;
        let (orders, stream) = mpsc::channel(ORDERS);
        let (handle, shutdown) = (self.handle.clone(), self.tasks.shutdown().clone());
        let reports = request.into_inner();
        self.tasks.spawn("reports", async move {
            tokio::select! {
                () = listen(handle, identity, reports, orders) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn watch_map(&self, request: Request<WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        Peer::admit(&request, &[Role::Webapp])?;
        understands("webapp", request.get_ref().protocol)?;
        let (updates, stream) = mpsc::channel(8);
        let (handle, shutdown) = (self.handle.clone(), self.tasks.shutdown().clone());
        self.tasks.spawn("map", async move {
            tokio::select! {
                () = push_map(handle, updates) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn report_reach(&self, request: Request<ReachReport>) -> Result<Response<ReachAnswer>, Status> {
        Peer::admit(&request, &[Role::Webapp])?;
        let report = request.into_inner();
        let webapp = BootId::from_slice(&report.webapp).ok_or_else(|| Status::invalid_argument("webapp: 16 bytes"))?;
        let unreachable = report.unreachable.into_iter().take(MAX_ADDRESSES).filter(|address| address.len() <= 256);
        self.handle.happened(Event::Unreached { webapp, unreachable: unreachable.collect() }).await;
        Ok(Response::new(ReachAnswer {}))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<ClusterStatus>, Status> {
        Peer::admit(&request, &Role::ALL)?;
        let (sender, answer) = oneshot::channel();
        self.handle.tell(Input::Asked(sender)).await;
        answer.await.map(Response::new).map_err(|_| Status::unavailable("the master is stopping"))
    }
}

/// Hears a node until its stream ends. One with a certificate speaks for the node it names only.
async fn listen(
    handle: Handle,
    identity: Option<Arc<Identity>>,
    mut reports: Streaming<NodeReport>,
    orders: mpsc::Sender<Result<MasterOrder, Status>>,
) {
    let mut attached = None;
    while let Ok(Some(mut report)) = reports.message().await {
        let word = Word { version: std::mem::take(&mut report.version), states: std::mem::take(&mut report.states) };
        let report = match read_report(report).and_then(|report| speaks_for_itself(report, identity.as_deref())) {
            Ok(report) => report,
            Err(status) => {
                tracing::warn!(%status, "a report that is refused");
                // The node may have left already.
                let _ = orders.try_send(Err(status));
                break;
            }
        };
        if attached.is_none() {
            let (node, boot) = (report.node.clone(), report.boot);
            handle.tell(Input::Attached { node: node.clone(), boot, orders: orders.clone() }).await;
            attached = Some((node, boot));
        }
        let (node, boot) = (report.node.clone(), report.boot);
        handle.happened(Event::Heard(report)).await;
        handle.tell(Input::Said { node, boot, word }).await;
    }
    if let Some((node, boot)) = attached {
        handle.tell(Input::Detached { node, boot, orders }).await;
    }
}

/// Sends all entries, and then those that changed, until the webapp leaves.
async fn push_map(handle: Handle, updates: mpsc::Sender<Result<MapUpdate, Status>>) {
    let mut map = handle.map();
    let mut told: HashMap<ShardKey, Epoch> = HashMap::new();
    loop {
        let entries = map.borrow_and_update().clone();
        let news: Vec<&MapEntry> = entries.iter().filter(|entry| told.get(&entry.key) != Some(&entry.epoch)).collect();
        told.extend(news.iter().map(|entry| (entry.key, entry.epoch)));
        let update = MapUpdate { entries: news.into_iter().map(wire_entry).collect(), protocol: protocol::PROTOCOL };
        if updates.send(Ok(update)).await.is_err() {
            return;
        }
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = updates.closed() => return,
        }
    }
}

fn speaks_for_itself(report: Report, identity: Option<&Identity>) -> Result<Report, Status> {
    match identity {
        Some(identity) if identity.node() != report.node => {
            Err(Status::permission_denied(format!("the certificate is for the node {}", identity.node())))
        }
        _ => Ok(report),
    }
}

/// Refuses a peer of a release that is too far from this one.
fn understands(peer: &'static str, version: u32) -> Result<(), Status> {
    match protocol::agree(peer, version) {
        Ok(_) => Ok(()),
        Err(error) => Err(Status::failed_precondition(error.to_string())),
    }
}

fn read_report(report: NodeReport) -> Result<Report, Status> {
    understands("coreapp", report.protocol)?;
    let boot = BootId::from_slice(&report.boot).ok_or_else(|| Status::invalid_argument("boot: 16 bytes"))?;
    if report.node.is_empty() || report.node.len() > 128 || report.address.is_empty() || report.address.len() > 256 {
        return Err(Status::invalid_argument("node and address: not empty, not long"));
    }
    let holdings = report.holdings.into_iter().map(|holding| {
        let (key, epoch) = read_ownership(holding.ownership)?;
        Ok(Holding { key, epoch, active: holding.active })
    });
    let endings = report.endings.into_iter().map(|ending| {
        let (key, epoch) = read_ownership(ending.ownership)?;
        Ok(Ending { key, epoch, above: read_epoch(ending.above) })
    });
    let handed = report.handed.into_iter().map(|handed| {
        let (key, epoch) = read_ownership(handed.ownership)?;
        let boot = BootId::from_slice(&handed.boot).ok_or_else(|| Status::invalid_argument("boot: 16 bytes"))?;
        Ok(Record { key, epoch, node: handed.node, boot, retired: false })
    });
    Ok(Report {
        node: report.node,
        boot,
        address: report.address,
        draining: report.draining,
        holdings: holdings.collect::<Result<_, Status>>()?,
        endings: endings.collect::<Result<_, Status>>()?,
        warm: report.warm.into_iter().map(|ownership| read_ownership(Some(ownership))).collect::<Result<_, Status>>()?,
        handed: handed.collect::<Result<_, Status>>()?,
        needs: Needs { network: read_reach(report.network), database: read_reach(report.database) },
    })
}

fn read_ownership(ownership: Option<v1::Ownership>) -> Result<(ShardKey, Epoch), Status> {
    let read = |ownership: v1::Ownership| Some((ownership.key()?, read_epoch(ownership.epoch)));
    ownership.and_then(read).ok_or_else(|| Status::invalid_argument("ownership: number, shard and count"))
}

fn read_reach(reach: Option<v1::Reach>) -> Reach {
    match reach.and_then(|reach| reach.state) {
        None => Reach::Unknown,
        Some(v1::reach::State::WellMs(ms)) => Reach::Well(Duration::from_millis(ms)),
        Some(v1::reach::State::LostMs(ms)) => Reach::Lost(Duration::from_millis(ms)),
    }
}

/// A reach as it travels.
pub(crate) fn wire_reach(reach: Reach) -> v1::Reach {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let state = match reach {
        Reach::Unknown => None,
        Reach::Well(time) => Some(v1::reach::State::WellMs(ms(time))),
        Reach::Lost(time) => Some(v1::reach::State::LostMs(ms(time))),
    };
    v1::Reach { state }
}

/// An epoch of the wire; one that is too large leaves room for the next.
fn read_epoch(epoch: u64) -> Epoch {
    Epoch::new(u32::try_from(epoch).unwrap_or(u32::MAX - 1))
}

#[cfg(test)]
mod tests {
    use estafet_model::protocol::PROTOCOL;

    use super::*;

    #[test]
    fn r190_a_report_of_the_next_release_is_heard_and_one_of_a_later_release_refused() {
        let report = |protocol| NodeReport {
            node: "coreapp-0".to_owned(),
            boot: vec![7; 16].into(),
            address: "127.0.0.1:1".to_owned(),
            protocol,
            ..NodeReport::default()
        };
        for protocol in [0, PROTOCOL, PROTOCOL + 1] {
            assert!(read_report(report(protocol)).is_ok(), "{protocol}");
        }
        let refused = read_report(report(PROTOCOL + 2)).map(drop).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        let versions = [format!("coreapp speaks version {}", PROTOCOL + 2), format!("this process version {PROTOCOL}")];
        assert!(versions.iter().all(|version| refused.message().contains(version)), "{refused}");
    }
}
