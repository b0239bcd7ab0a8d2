//! The one long-lived stream to one coreapp: a task that owns it, and the handle requests use.
//!
//! The task writes whatever waits into one frame (no linger), as far as credits go, and gives
//! answers to their waiters. When the stream breaks, or a slot moves to another node, it drops the
//! waiters; their requests try again with the same id. It ends when the last handle is gone.
//!
//! How many messages may wait for answers follows how long those take ([`super::pressure`]).

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use estafet_model::{Epoch, ShardMap, protocol};
use estafet_proto::v1::{self, data_client::DataClient, outcome};
use estafet_runtime::{Backoff, Tasks};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Streaming, transport::Channel};

use super::{
    Connect,
    flight::{FRAME_BYTES, FRAME_REQUESTS, Flight, weight},
    plan::Missed,
    pressure::Pressure,
    states::States,
};

/// Frames handed to gRPC and not yet taken; more would only hide that the peer is slow.
const FRAMES_IN_FLIGHT: usize = 2;
/// Time for opening the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Bounds of the reconnect delay; short, because clients are waiting.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A handle to the stream of one coreapp.
pub(crate) struct Link {
    address: String,
    queue: mpsc::Sender<Item>,
    up: Arc<AtomicBool>,
    channel: Channel,
    made_at: Instant,
    /// Messages that wait for an answer, and how many may.
    waiting: AtomicUsize,
    pressure: Mutex<Pressure>,
    /// Ends the task with the last handle; whoever waits for an answer holds one.
    _in_use: DropGuard,
}

struct Item {
    request: v1::Request,
    /// Epoch of the owner that the map named when this way was chosen.
    seen: Option<Epoch>,
    waiter: Waiter,
}

struct Waiter {
    reply: oneshot::Sender<outcome::Result>,
    /// Set when the request leaves this process.
    sent: Arc<AtomicBool>,
}

/// What all links share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) tasks: Tasks,
    pub(crate) map: watch::Receiver<ShardMap>,
    pub(crate) states: Arc<States>,
    /// Counts streams that came up; held requests wait for it.
    pub(crate) came_up: Arc<watch::Sender<u64>>,
    pub(crate) queued_requests: usize,
    /// Hears which coreapps are reached.
    pub(crate) connect: Arc<dyn Connect>,
}

impl Link {
    /// Starts the task that keeps a stream to `address`.
    pub(crate) fn start(address: &str, channel: Channel, around: &Surroundings) -> Self {
        let (queue, waiting) = mpsc::channel(around.queued_requests);
        let up = Arc::new(AtomicBool::new(false));
        let unused = CancellationToken::new();
        let task = LinkTask {
            address: address.to_owned(),
            channel: channel.clone(),
            waiting,
            up: up.clone(),
            unused: unused.clone(),
            around: around.clone(),
            backlog: VecDeque::new(),
        };
        around.tasks.spawn("webapp-link", task.run());
        let pressure = Mutex::new(Pressure::new(around.queued_requests.saturating_mul(2)));
        Self {
            address: address.to_owned(),
            queue,
            up,
            channel,
            made_at: Instant::now(),
            waiting: AtomicUsize::new(0),
            pressure,
            _in_use: unused.drop_guard(),
        }
    }

    /// Where the coreapp is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the stream is up.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// For calls beside the stream.
    pub(crate) fn client(&self) -> DataClient<Channel> {
        DataClient::new(self.channel.clone())
    }

    /// Since when there is this link.
    pub(crate) fn made_at(&self) -> Instant {
        self.made_at
    }

    /// Sends a request over the stream and waits for its outcome. A message is let in only if it can be answered in time.
    /// `seen` is the epoch of the owner that the map named when this way was chosen.
    pub(crate) async fn exchange(
        &self,
        request: v1::Request,
        seen: Option<Epoch>,
        time: Duration,
    ) -> Result<outcome::Result, Missed> {
        if !matches!(request.action, Some(v1::request::Action::Submit(_))) {
            return self.send(request, seen, time).await;
        }
        let found = self.waiting.load(Ordering::Relaxed);
        if !self.pressure().admits(found) {
            return Err(Missed::QueueFull);
        }
        let (_waits, began) = (Waits::count(&self.waiting), Instant::now());
        let outcome = self.send(request, seen, time).await;
        if outcome.is_ok() {
            let now = Instant::now();
            self.pressure().answered(now - began, found, self.waiting.load(Ordering::Relaxed), now);
        }
        outcome
    }

    fn pressure(&self) -> MutexGuard<'_, Pressure> {
        self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, request: v1::Request, seen: Option<Epoch>, time: Duration) -> Result<outcome::Result, Missed> {
        if !self.is_up() {
            return Err(Missed::NoStream);
        }
        let (reply, answer) = oneshot::channel();
        let sent = Arc::new(AtomicBool::new(false));
        let item = Item { request, seen, waiter: Waiter { reply, sent: sent.clone() } };
        self.queue.try_send(item).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Missed::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Missed::NoStream,
        })?;
        match tokio::time::timeout(time, answer).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(Missed::Broken { sent: sent.load(Ordering::Acquire) }),
            Err(_) => Err(Missed::TimedOut { sent: sent.load(Ordering::Acquire) }),
        }
    }
}

/// One that waits, while it does.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn count(in_all: &'a AtomicUsize) -> Self {
        in_all.fetch_add(1, Ordering::Relaxed);
        Self(in_all)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct LinkTask {
    address: String,
    channel: Channel,
    waiting: mpsc::Receiver<Item>,
    up: Arc<AtomicBool>,
    unused: CancellationToken,
    around: Surroundings,
    /// Taken from the line, not sent yet.
    backlog: VecDeque<Item>,
}

/// Why a stream is no longer used.
enum Ended {
    /// It broke: open another.
    Broken,
    /// Nobody holds a handle any more, or the process ends.
    Unused,
}

impl LinkTask {
    async fn run(mut self) {
        self.keep_up().await;
        // Nobody asks for it any more, so nobody misses it.
        self.around.connect.reached(&self.address, true);
    }

    async fn keep_up(&mut self) {
        let mut backoff = Backoff::new(RECONNECT.0, RECONNECT.1);
        loop {
            let open = open(self.channel.clone());
            match self.while_refusing(open).await {
                None => return,
                Some(Ok((outgoing, incoming))) => {
                    backoff.reset();
                    tracing::debug!(coreapp = self.address, "data stream is up");
                    if let Ended::Unused = self.serve(outgoing, incoming).await {
                        return;
                    }
                    tracing::info!(coreapp = self.address, "data stream broke");
                }
                Some(Err(reason)) => {
                    self.around.connect.reached(&self.address, false);
                    tracing::debug!(coreapp = self.address, reason, "data stream not opened");
                }
            }
            if self.while_refusing(tokio::time::sleep(backoff.next_delay())).await.is_none() {
                return;
            }
        }
    }

    /// Waits for `future` and meanwhile sends requests back to where they came from; `None` when
    /// the link is not needed any more.
    async fn while_refusing<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let shutdown = self.around.tasks.shutdown();
        loop {
            tokio::select! {
                value = &mut future => return Some(value),
                item = self.waiting.recv() => drop(item?),
                () = self.unused.cancelled() => return None,
                () = shutdown.cancelled() => return None,
            }
        }
    }

    async fn serve(&mut self, outgoing: mpsc::Sender<v1::RequestFrame>, incoming: Streaming<v1::OutcomeFrame>) -> Ended {
        self.around.states.connected(&self.address);
        self.up.store(true, Ordering::Release);
        self.around.connect.reached(&self.address, true);
        self.around.came_up.send_modify(|count| *count += 1);
        let ended = self.pump(outgoing, incoming).await;
        self.up.store(false, Ordering::Release);
        self.around.connect.reached(&self.address, false);
        self.around.states.lost(&self.address, Instant::now());
        self.backlog.clear();
        while self.waiting.try_recv().is_ok() {}
        ended
    }

    async fn pump(&mut self, outgoing: mpsc::Sender<v1::RequestFrame>, mut incoming: Streaming<v1::OutcomeFrame>) -> Ended {
        let mut flight: Flight<Waiter> = Flight::default();
        let mut map = self.around.map.clone();
        let mut map_alive = true;
        let mut permit = None;
        let mut batch = Vec::with_capacity(FRAME_REQUESTS);
        loop {
            let may_send = permit.is_some() && flight.has_credit();
            // What cannot go yet stays in the line, where its bound is.
            let most = flight.credits().min(FRAME_REQUESTS);
            tokio::select! {
                biased;
                frame = incoming.message() => match frame {
                    Ok(Some(frame)) => match protocol::agree("coreapp", frame.protocol) {
                        Ok(_) => self.take_in(&mut flight, frame),
                        Err(error) => return self.not_understood(&error.to_string()),
                    },
                    Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                        return self.not_understood(status.message());
                    }
                    Ok(None) | Err(_) => return Ended::Broken,
                },
                changed = map.changed(), if map_alive => match changed {
                    Ok(()) => flight.release_moved(&map.borrow_and_update(), &self.address),
                    Err(_) => map_alive = false,
                },
                reserved = outgoing.reserve(), if permit.is_none() => match reserved {
                    Ok(reserved) => permit = Some(reserved),
                    Err(_) => return Ended::Broken,
                },
                () = std::future::ready(()), if may_send && !self.backlog.is_empty() => {
                    if let Some(frame) = self.next_frame(&mut flight) {
                        permit.take().expect("checked by the branch").send(frame);
                    }
                }
                taken = self.waiting.recv_many(&mut batch, most), if may_send && self.backlog.is_empty() => {
                    if taken == 0 {
                        return Ended::Unused;
                    }
                    self.backlog.extend(batch.drain(..));
                }
                () = self.unused.cancelled() => return Ended::Unused,
            }
        }
    }

    fn not_understood(&self, why: &str) -> Ended {
        tracing::error!(coreapp = self.address, why, "a coreapp does not go together with this release");
        Ended::Broken
    }

    fn take_in(&self, flight: &mut Flight<Waiter>, frame: v1::OutcomeFrame) {
        flight.grant(frame.credits);
        if !frame.states.is_empty() {
            self.around.states.heard(&self.address, &frame.states);
        }
        for outcome in frame.outcomes {
            // A waiter that has gone timed out; its client knows that the message may be stored.
            if let (Some(waiter), Some(result)) = (flight.land(outcome.correlation), outcome.result) {
                let _ = waiter.reply.send(result);
            }
        }
    }

    /// The next frame from the backlog, as far as credits and size allow.
    fn next_frame(&mut self, flight: &mut Flight<Waiter>) -> Option<v1::RequestFrame> {
        let mut requests = Vec::with_capacity(self.backlog.len());
        let mut bytes = 0;
        while flight.has_credit()
            && let Some(next) = self.backlog.front()
        {
            bytes += weight(&next.request);
            if bytes > FRAME_BYTES && !requests.is_empty() {
                break;
            }
            let Some(Item { mut request, seen, waiter }) = self.backlog.pop_front() else { break };
            // Its client has gone or has been answered: sending it now would only store a message nobody knows of.
            if waiter.reply.is_closed() {
                continue;
            }
            waiter.sent.store(true, Ordering::Release);
            flight.depart(&mut request, seen, waiter);
            requests.push(request);
        }
        (!requests.is_empty()).then_some(v1::RequestFrame { requests, protocol: protocol::PROTOCOL })
    }
}

type Opened = (mpsc::Sender<v1::RequestFrame>, Streaming<v1::OutcomeFrame>);

async fn open(channel: Channel) -> Result<Opened, String> {
    let (outgoing, frames) = mpsc::channel(FRAMES_IN_FLIGHT);
    // The channel is empty, so there is room.
    let _ = outgoing.try_send(v1::RequestFrame { requests: Vec::new(), protocol: protocol::PROTOCOL });
    let mut client = DataClient::new(channel);
    match tokio::time::timeout(OPEN_TIMEOUT, client.exchange(ReceiverStream::new(frames))).await {
        Ok(Ok(response)) => Ok((outgoing, response.into_inner())),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}
