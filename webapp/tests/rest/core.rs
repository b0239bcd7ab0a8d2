//! A coreapp played by a test: the data service on loopback, answering as it is told.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use estafet_proto::v1::{
    self, OutcomeFrame, ReloadSettingsRequest, ReloadSettingsResponse, RequestFrame,
    data_server::{Data, DataServer},
    outcome,
};
use estafet_runtime::Tasks;
use futures::Stream;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Answer = dyn Fn(&v1::Request) -> Option<outcome::Result> + Send + Sync;

/// A handle to the played coreapp.
#[derive(Clone)]
pub struct Core(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    answer: Mutex<Arc<Answer>>,
    requests: watch::Sender<Vec<v1::Request>>,
    credits: u32,
    states: Mutex<Vec<v1::NumberState>>,
    cut: Notify,
    reloaded: AtomicU64,
    protocol: AtomicU32,
    stats: Mutex<v1::ReadStatsResponse>,
}

pub fn done() -> Option<outcome::Result> {
    Some(outcome::Result::Done(v1::Done::default()))
}

pub fn not_owner(hint: &str) -> Option<outcome::Result> {
    Some(outcome::Result::NotOwner(v1::NotOwner { hint: hint.to_owned(), map_version: 0, epoch: 0 }))
}

pub fn refused(code: u32, retryable: bool) -> Option<outcome::Result> {
    Some(outcome::Result::Refused(v1::Refused { code, details: "as told".to_owned(), retryable, ..v1::Refused::default() }))
}

impl Core {
    /// A coreapp that accepts everything and grants `credits` once, giving each back with its answer.
    pub async fn start(tasks: &Tasks, credits: u32, states: Vec<v1::NumberState>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let core = Self(Arc::new(Inner {
            address: listener.local_addr().unwrap(),
            answer: Mutex::new(Arc::new(|_| done())),
            requests: watch::channel(Vec::new()).0,
            credits,
            states: Mutex::new(states),
            cut: Notify::new(),
            reloaded: AtomicU64::new(0),
            protocol: AtomicU32::new(estafet_model::protocol::PROTOCOL),
            stats: Mutex::default(),
        }));
        let service = DataServer::new(Service { core: core.clone(), tasks: tasks.clone() });
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("played coreapp", async move {
            let incoming = TcpListenerStream::new(listener);
            let serve = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
            tokio::select! {
                served = serve => served.unwrap(),
                () = shutdown.cancelled() => {}
            }
        });
        core
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    pub fn answers(&self, answer: impl Fn(&v1::Request) -> Option<outcome::Result> + Send + Sync + 'static) {
        *self.0.answer.lock().unwrap() = Arc::new(answer);
    }

    /// Ends every open stream.
    pub fn cut_streams(&self) {
        self.0.cut.notify_waiters();
    }

    pub fn says(&self, states: Vec<v1::NumberState>) {
        *self.0.states.lock().unwrap() = states;
    }

    /// What it says that it has counted.
    pub fn tells(&self, stats: v1::ReadStatsResponse) {
        *self.0.stats.lock().unwrap() = stats;
    }

    pub fn requests(&self) -> Vec<v1::Request> {
        self.0.requests.borrow().clone()
    }

    /// The requests, once there are `count`.
    pub async fn received(&self, count: usize) -> Vec<v1::Request> {
        self.0.requests.subscribe().wait_for(|requests| requests.len() >= count).await.unwrap().clone()
    }

    /// Says from now on that it speaks this version.
    pub fn speaks(&self, protocol: u32) {
        self.0.protocol.store(protocol, Ordering::SeqCst);
    }

    pub fn reloaded_version(&self) -> u64 {
        self.0.reloaded.load(Ordering::SeqCst)
    }

    fn answer(&self, request: v1::Request) -> Option<v1::Outcome> {
        let answer = self.0.answer.lock().unwrap().clone();
        let result = answer(&request);
        let correlation = request.correlation;
        self.0.requests.send_modify(|requests| requests.push(request));
        result.map(|result| v1::Outcome { correlation, result: Some(result) })
    }
}

struct Service {
    core: Core,
    tasks: Tasks,
}

#[tonic::async_trait]
impl Data for Service {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<OutcomeFrame, Status>> + Send>>;

    async fn exchange(&self, request: Request<Streaming<RequestFrame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let (sender, frames) = mpsc::channel(64);
        let (core, shutdown) = (self.core.clone(), self.tasks.shutdown().clone());
        let mut incoming = request.into_inner();
        let states = core.0.states.lock().unwrap().clone();
        let protocol = core.0.protocol.load(Ordering::SeqCst);
        let greeting = OutcomeFrame { outcomes: Vec::new(), credits: core.0.credits, states, protocol };
        sender.send(Ok(greeting)).await.unwrap();
        self.tasks.spawn("played stream", async move {
            loop {
                let frame = tokio::select! {
                    frame = incoming.message() => frame,
                    () = core.0.cut.notified() => return,
                    () = shutdown.cancelled() => return,
                };
                let Ok(Some(frame)) = frame else { return };
                let outcomes: Vec<_> = frame.requests.into_iter().filter_map(|request| core.answer(request)).collect();
                let credits = outcomes.len() as u32;
                if sender.send(Ok(OutcomeFrame { outcomes, credits, states: Vec::new(), protocol })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }

    async fn single(&self, request: Request<v1::Request>) -> Result<Response<v1::Outcome>, Status> {
        self.core.answer(request.into_inner()).map(Response::new).ok_or_else(|| Status::unavailable("told not to answer"))
    }

    async fn read_stats(&self, _: Request<v1::ReadStatsRequest>) -> Result<Response<v1::ReadStatsResponse>, Status> {
        Ok(Response::new(self.core.0.stats.lock().unwrap().clone()))
    }

    async fn reload_settings(&self, request: Request<ReloadSettingsRequest>) -> Result<Response<ReloadSettingsResponse>, Status> {
        let version = request.into_inner().version;
        self.core.0.reloaded.store(version, Ordering::SeqCst);
        Ok(Response::new(ReloadSettingsResponse { version }))
    }
}
