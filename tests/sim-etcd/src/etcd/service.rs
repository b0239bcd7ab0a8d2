//! etcd's own gRPC services over [`State`]: keys, leases, watches. Each member answers while it agrees with a majority.

use std::{
    pin::Pin,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use estafet_runtime::Tasks;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvServer, PbKvService, PbLeaseGrantRequest,
    PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse,
    PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseServer, PbLeaseService, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest,
    PbTxnResponse, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchServer, PbWatchService,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Etcd, Quorum, State};
use crate::network;

/// How often it is looked which leases have ended.
const LOOK: Duration = Duration::from_millis(500);
/// Answers that wait for a client.
const ANSWERS: usize = 64;

/// How often a request that waits for a leader looks for one, and for how long.
const TRY: Duration = Duration::from_millis(50);
const TRIES: u32 = 140;
/// What a client says that would rather be refused than wait for a leader.
const REQUIRES_LEADER: &str = "hasleader";

/// Serves as this member until the process is killed.
pub(crate) async fn serve(etcd: Arc<Etcd>, member: usize) -> anyhow::Result<()> {
    let service = Service { etcd, member, tasks: Tasks::new() };
    let looking = service.clone();
    service.tasks.spawn("expiry", async move {
        loop {
            sleep(LOOK).await;
            let leads = looking.quorum().leader() == Some(member);
            if leads {
                looking.change(|state| state.expire(network::now()));
            }
        }
    });
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(LOOK))
        .http2_keepalive_timeout(Some(LOOK))
        .add_service(PbKvServer::new(service.clone()))
        .add_service(PbLeaseServer::new(service.clone()))
        .add_service(PbWatchServer::new(service));
    Ok(router.serve_with_incoming(network::incoming(network::ETCD_PORT).await?).await?)
}

#[derive(Clone)]
struct Service {
    etcd: Arc<Etcd>,
    member: usize,
    tasks: Tasks,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.etcd.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quorum(&self) -> MutexGuard<'_, Quorum> {
        self.etcd.quorum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this member can answer. What its client gave up meanwhile takes place nevertheless.
    async fn agreed(&self, requires_leader: bool) -> Result<(), Status> {
        for _ in 0..TRIES {
            {
                let quorum = self.quorum();
                if quorum.serves(self.member) {
                    return Ok(());
                }
                if requires_leader && quorum.is_leaderless(self.member, network::now()) {
                    return Err(no_leader());
                }
            }
            sleep(TRY).await;
        }
        Err(Status::unavailable("etcdserver: request timed out"))
    }

    /// Does something, and wakes the watches if there are news.
    fn change<T>(&self, how: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let before = (state.revision(), state.compacted());
        let done = how(&mut state);
        if before != (state.revision(), state.compacted()) {
            self.etcd.changed.notify_waiters();
        }
        done
    }
}

#[tonic::async_trait]
impl PbKvService for Service {
    type RangeStreamStream = Answers<PbRangeStreamResponse>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Answer<PbRangeResponse> {
        self.agreed(requires_leader(&request)).await?;
        Ok(Response::new(self.state().range(request.get_ref())))
    }

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Answer<Self::RangeStreamStream> {
        Err(Status::unimplemented("not simulated"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Answer<PbPutResponse> {
        self.agreed(requires_leader(&request)).await?;
        self.change(|state| state.put(request.get_ref())).map(Response::new)
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Answer<PbDeleteResponse> {
        self.agreed(requires_leader(&request)).await?;
        Ok(Response::new(self.change(|state| state.delete(request.get_ref()))))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Answer<PbTxnResponse> {
        self.agreed(requires_leader(&request)).await?;
        self.change(|state| state.txn(request.get_ref())).map(Response::new)
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Answer<PbCompactionResponse> {
        self.agreed(requires_leader(&request)).await?;
        self.change(|state| state.compact(request.get_ref().revision));
        Ok(Response::new(PbCompactionResponse { header: self.state().header() }))
    }
}

#[tonic::async_trait]
impl PbLeaseService for Service {
    type LeaseKeepAliveStream = Answers<PbLeaseKeepAliveResponse>;

    async fn lease_grant(&self, request: Request<PbLeaseGrantRequest>) -> Answer<PbLeaseGrantResponse> {
        self.agreed(requires_leader(&request)).await?;
        let ttl = request.get_ref().ttl;
        let id = self.change(|state| state.grant(network::now(), ttl));
        Ok(Response::new(PbLeaseGrantResponse { header: self.state().header(), id, ttl, error: String::new() }))
    }

    async fn lease_revoke(&self, request: Request<PbLeaseRevokeRequest>) -> Answer<PbLeaseRevokeResponse> {
        self.agreed(requires_leader(&request)).await?;
        self.change(|state| state.revoke(request.get_ref().id))?;
        Ok(Response::new(PbLeaseRevokeResponse { header: self.state().header() }))
    }

    async fn lease_keep_alive(&self, request: Request<Streaming<PbLeaseKeepAliveRequest>>) -> Answer<Self::LeaseKeepAliveStream> {
        let (service, requires_leader) = (self.clone(), requires_leader(&request));
        let answers = request.into_inner().then(move |asked| {
            let service = service.clone();
            async move {
                let id = asked?.id;
                service.agreed(requires_leader).await?;
                let ttl = service.change(|state| state.renew(network::now(), id));
                Ok(PbLeaseKeepAliveResponse { header: service.state().header(), id, ttl })
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(&self, _: Request<PbLeaseTimeToLiveRequest>) -> Answer<PbLeaseTimeToLiveResponse> {
        Err(Status::unimplemented("not simulated"))
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> Answer<PbLeaseLeasesResponse> {
        Err(Status::unimplemented("not simulated"))
    }
}

#[tonic::async_trait]
impl PbWatchService for Service {
    type WatchStream = Answers<PbWatchResponse>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Answer<Self::WatchStream> {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let requires_leader = requires_leader(&request);
        let client = Client { service: self.clone(), requires_leader, answers: sender, watches: Vec::new() };
        self.tasks.spawn("watches", client.serve(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn requires_leader<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(REQUIRES_LEADER)
}

fn no_leader() -> Status {
    Status::unavailable("etcdserver: no leader")
}

struct Watch {
    id: i64,
    key: Vec<u8>,
    end: Vec<u8>,
    /// The first revision that was not told.
    next: i64,
}

/// The watches of one stream.
struct Client {
    service: Service,
    requires_leader: bool,
    answers: mpsc::Sender<Result<PbWatchResponse, Status>>,
    watches: Vec<Watch>,
}

impl Client {
    async fn serve(mut self, mut requests: Streaming<PbWatchRequest>) {
        let service = self.service.clone();
        loop {
            let changed = service.etcd.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.requires_leader && service.quorum().is_leaderless(service.member, network::now()) {
                // An error: the client has left.
                drop(self.answers.send(Err(no_leader())).await);
                return;
            }
            for answer in self.news() {
                if self.answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            let answers = tokio::select! {
                biased;
                () = self.answers.closed() => return,
                asked = requests.next() => match asked {
                    Some(Ok(PbWatchRequest { request_union: Some(asked) })) => self.take(asked),
                    Some(Ok(_)) => Vec::new(),
                    Some(Err(_)) | None => return,
                },
                () = changed => Vec::new(),
            };
            for answer in answers {
                if self.answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        }
    }

    fn take(&mut self, asked: PbWatchRequestUnion) -> Vec<PbWatchResponse> {
        let (header, newest) = {
            let state = self.service.state();
            (state.header(), state.revision())
        };
        match asked {
            PbWatchRequestUnion::CreateRequest(wanted) => {
                let id = self.watches.len() as i64;
                let next = if wanted.start_revision > 0 { wanted.start_revision } else { newest + 1 };
                self.watches.push(Watch { id, key: wanted.key, end: wanted.range_end, next });
                vec![PbWatchResponse { header, watch_id: id, created: true, ..PbWatchResponse::default() }]
            }
            PbWatchRequestUnion::CancelRequest(cancelled) => {
                self.watches.retain(|watch| watch.id != cancelled.watch_id);
                Vec::new()
            }
            PbWatchRequestUnion::ProgressRequest(_) => {
                vec![PbWatchResponse { header, watch_id: -1, ..PbWatchResponse::default() }]
            }
        }
    }

    /// What the watches were not told yet. One that is behind the compaction ends.
    fn news(&mut self) -> Vec<PbWatchResponse> {
        if !self.service.quorum().serves(self.service.member) {
            return Vec::new();
        }
        let state = self.service.state();
        let mut answers = Vec::new();
        self.watches.retain_mut(|watch| {
            let answer = PbWatchResponse { header: state.header(), watch_id: watch.id, ..PbWatchResponse::default() };
            if watch.next <= state.compacted() {
                let cancel_reason = "required revision has been compacted".to_owned();
                answers.push(PbWatchResponse { canceled: true, compact_revision: state.compacted(), cancel_reason, ..answer });
                return false;
            }
            let events = state.since(watch.next, &watch.key, &watch.end);
            watch.next = watch.next.max(state.revision() + 1);
            if !events.is_empty() {
                answers.push(PbWatchResponse { events, ..answer });
            }
            true
        });
        answers
    }
}
