//! One task per owned shard. It owns the shard's state; every input becomes a decision of
//! [`crate::core`], the decision becomes rows, and only when those are committed does anything leave.
//!
//!     requests ─┐                                    ┌─> answers, frames, acknowledgements
//!     upstream ─┼─> decide ─> pending ─> one commit ─┤
//!     posts ────┘             (collects meanwhile)   └─> lanes ─> posts
//!
//! While one commit runs the next transaction collects; there is no linger when idle. Inputs are taken
//! only while the transaction in the making has room, so a slow database holds everybody back.
//!
//! * [`committing`]: the pipeline. [`sending`]: outbox to upstream. [`receiving`]: upstream to database.
//! * [`requests`]: what webapps ask. [`reporting`]: callbacks, health.

mod committing;
mod keys;
mod metrics;
mod receiving;
mod reporting;
mod requests;
mod sending;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use estafet_model::{BootId, SeqAllocator, WaId};
use estafet_runtime::{Backoff, Clock, Tasks};
use estafet_store::{Fence, InboundRow, MessageRow, SessionRow, SharedStore, StoredEvent};
use estafet_upstream::{Command, ConnectError, Delivery, Event, Link, Upstream, e2e::Ratchet};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lru::LruCache;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use keys::{Error as KeysError, NumberKeys};
pub use sending::CONFLICT;

use crate::{
    Config,
    callbacks::Posted,
    core::{
        lanes::{Lanes, Post, Rules},
        life::{Life, Reason},
        outbox::Outbox,
        pending::Pending,
        receipts::Receipts,
    },
    node::NodeState,
    request::{Action, Reply, ShardRequest, not_owner},
    settings::Versioned,
};
use committing::{Answered, Committed};
use receiving::Facts;
use sending::Preparation;

/// What the shards of one node share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) store: SharedStore,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) boot: BootId,
    pub(crate) holder: String,
    pub(crate) state: NodeState,
}

/// The channels a shard hears and speaks through.
pub(crate) struct Channels {
    pub(crate) requests: mpsc::Receiver<ShardRequest>,
    pub(crate) posted: mpsc::Receiver<Posted>,
    pub(crate) settings: watch::Receiver<Versioned>,
    /// Conditions of the number to report (spec/webhooks.md §7), as their details.
    pub(crate) conditions: mpsc::Receiver<String>,
    pub(crate) drain: CancellationToken,
}

/// Sessions kept unpickled. More than one transaction can touch, so a session that is evicted has
/// been committed and can be loaded again.
const RATCHETS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Slots loaded with one statement, and rows of each.
const LOAD_SLOTS: usize = 256;
const LOAD_ROWS: u32 = 64;

/// Something that was waited for.
enum Done {
    Committed(Box<Committed>),
    OutboxLoaded(Vec<(estafet_model::Slot, estafet_model::Seq)>, Vec<MessageRow>),
    EventsLoaded(Vec<(estafet_model::Slot, estafet_model::Seq)>, Vec<StoredEvent>),
    /// For the preparation of this connection.
    SessionsLoaded(u64, Vec<SessionRow>),
    FactsLoaded(Vec<Delivery>, Box<Facts>),
    InboundFound(Reply, Option<InboundRow>),
    Connected(Result<Link, ConnectError>),
}

/// The connection to the upstream.
enum Upline {
    /// Not wanted (`connect_upstream = false`).
    Off,
    /// Being made, or waiting to be tried again.
    Connecting,
    /// Up.
    Up { commands: mpsc::Sender<Command>, events: mpsc::Receiver<Event> },
}

pub(crate) struct Shard {
    context: Context,
    fence: Fence,
    life: Life,
    seqs: SeqAllocator,
    keys: NumberKeys,
    settings: Versioned,
    outbox: Outbox,
    lanes: Lanes,
    receipts: Receipts,
    ratchets: LruCache<WaId, Ratchet>,
    /// Peers that could not decrypt: a new session is opened before anything else is sent to them.
    stale_sessions: HashSet<WaId>,
    pending: Pending<Answered>,
    committing: bool,
    /// Messages accepted in this epoch that the upstream has not taken.
    unsettled: u64,
    /// When the database stopped answering; while set, new messages are refused.
    database_lost_since: Option<Instant>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    upline: Upline,
    /// Counts connections; frames prepared for one are never sent over another.
    generation: u64,
    backoff: Backoff,
    /// Commands waiting for room in the connection.
    outgoing: VecDeque<Command>,
    preparation: Option<Preparation>,
    /// Deliveries of the upstream waiting to be decided, in order.
    arrived: VecDeque<Delivery>,
    deciding: bool,
    queries: HashMap<u64, Reply>,
    next_query: u64,
    posts: mpsc::Sender<Post>,
    reported: HashMap<String, i64>,
    metrics: metrics::Metrics,
}

impl Shard {
    pub(crate) fn new(context: Context, fence: Fence, keys: NumberKeys, posts: mpsc::Sender<Post>, settings: Versioned) -> Self {
        let slots = || {
            let (first, last) = fence.slots().into_inner();
            (first.get()..=last.get()).filter_map(|slot| estafet_model::Slot::new(slot.into()))
        };
        let rules = Rules::new(&settings.settings, context.config.callback_max_age(), context.config.strict_global_order);
        Self {
            fence,
            life: Life::Acquiring,
            seqs: SeqAllocator::new(fence.epoch),
            keys,
            settings,
            outbox: Outbox::recovering(slots()),
            lanes: Lanes::recovering(slots(), rules),
            receipts: Receipts::default(),
            ratchets: LruCache::new(RATCHETS),
            stale_sessions: HashSet::new(),
            pending: Pending::default(),
            committing: false,
            unsettled: 0,
            database_lost_since: None,
            jobs: FuturesUnordered::new(),
            upline: if context.config.connect_upstream { Upline::Connecting } else { Upline::Off },
            generation: 0,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(10)),
            outgoing: VecDeque::new(),
            preparation: None,
            arrived: VecDeque::new(),
            deciding: false,
            queries: HashMap::new(),
            next_query: 0,
            posts,
            reported: HashMap::new(),
            metrics: metrics::Metrics::new(),
            context,
        }
    }

    /// Lives until the shard is released; says why.
    pub(crate) async fn run(mut self, mut channels: Channels) -> Reason {
        self.life.loaded();
        if self.context.config.connect_upstream {
            self.connect(Duration::ZERO);
        }
        let mut requests = Vec::new();
        let mut posted = Vec::new();
        loop {
            self.advance();
            self.publish();
            if let Some(reason) = self.life.released() {
                self.abandon(&mut channels);
                return reason;
            }
            let room = self.room();
            let wake = self.lanes.next_due().map_or_else(far_away, Instant::from_std);
            tokio::select! {
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.job_done(done),
                count = channels.requests.recv_many(&mut requests, room), if room > 0 && self.life.accepts() => {
                    if count == 0 { self.life.drain(); }
                    requests.drain(..).for_each(|request| self.request(request));
                }
                stirred = self.upline.stirred(self.arrived.is_empty() && room > 0, !self.outgoing.is_empty()) => {
                    if let Stirred::Event(event) = stirred { self.heard(event) }
                }
                _ = channels.posted.recv_many(&mut posted, 64), if room > 0 => {
                    posted.drain(..).for_each(|result| self.posted(result));
                }
                Ok(()) = channels.settings.changed() => {
                    let settings = channels.settings.borrow_and_update().clone();
                    self.settings_changed(settings);
                }
                Some(details) = channels.conditions.recv() => self.report(estafet_model::Code::Generic, &details),
                () = tokio::time::sleep_until(wake) => {}
                () = channels.drain.cancelled(), if self.life.accepts() => self.life.drain(),
            }
        }
    }

    /// Starts everything that can be started.
    fn advance(&mut self) {
        if self.life.accepts() {
            self.prepare_sending();
            self.decide_arrived();
            self.open_posts();
            self.load();
        }
        self.start_commit();
        self.flush();
        if self.life == Life::Draining && !self.committing && self.pending.is_empty() && self.lanes.posting() == 0 {
            self.life.idle();
        }
    }

    /// How many requests may be taken now: what is left of the transaction in the making.
    fn room(&self) -> usize {
        let most = self.context.config.group_commit_rows;
        let (rows, bytes) = self.pending.size();
        match most {
            // Group commit off: one request, one transaction.
            1 => usize::from(rows == 0 && !self.committing),
            _ if bytes >= MAX_TRANSACTION_BYTES || rows >= MAX_TRANSACTION_ROWS => 0,
            _ => most.saturating_sub(self.pending.batch.messages.len()),
        }
    }

    fn job_done(&mut self, done: Done) {
        match done {
            Done::Committed(committed) => self.committed(*committed),
            Done::OutboxLoaded(asked, rows) => self.outbox.loaded(&asked, rows, LOAD_ROWS as usize),
            Done::EventsLoaded(asked, rows) => self.lanes.loaded(&asked, rows, LOAD_ROWS as usize),
            Done::SessionsLoaded(generation, rows) => self.sessions_loaded(generation, rows),
            Done::FactsLoaded(deliveries, facts) => self.facts_loaded(deliveries, *facts),
            Done::InboundFound(reply, row) => self.inbound_found(reply, row),
            Done::Connected(result) => self.connected(result),
        }
    }

    /// Loads what the windows lack.
    fn load(&mut self) {
        let number = self.fence.number;
        let asked = self.outbox.take_loads(LOAD_SLOTS);
        if !asked.is_empty() {
            let store = self.context.store.clone();
            self.jobs.push(Box::pin(async move {
                let rows = read("outbox", || store.outbox(number, &asked, LOAD_ROWS)).await;
                Done::OutboxLoaded(asked, rows)
            }));
        }
        let asked = self.lanes.take_loads(LOAD_SLOTS);
        if !asked.is_empty() {
            let store = self.context.store.clone();
            self.jobs.push(Box::pin(async move {
                let rows = read("events", || store.events(number, &asked, LOAD_ROWS)).await;
                Done::EventsLoaded(asked, rows)
            }));
        }
    }

    /// The next sequence number. A shard that used up its epoch's numbers ends, so that it is claimed
    /// again under a new one.
    fn next_seq(&mut self) -> Option<estafet_model::Seq> {
        let seq = self.seqs.allocate();
        if seq.is_none() {
            self.life.superseded(Reason::Exhausted);
        }
        seq
    }

    fn now_ms(&self) -> i64 {
        self.context.clock.now_ms()
    }

    /// Nobody waits for ever for a shard that is gone.
    fn abandon(mut self, channels: &mut Channels) {
        channels.requests.close();
        while let Ok(request) = channels.requests.try_recv() {
            request.reply.send(not_owner());
        }
        for (_, reply) in self.queries.drain() {
            reply.send(not_owner());
        }
        self.unanswered().for_each(|reply| reply.send(not_owner()));
        self.context.state.remove(&self.fence);
    }

    fn request(&mut self, request: ShardRequest) {
        let ShardRequest { slot, action, reply } = request;
        if !self.fence.slots().contains(&slot) {
            return reply.send(not_owner());
        }
        match action {
            Action::Submit { recipient, id_key, body } => self.submit(slot, recipient, id_key, body, reply),
            Action::MarkRead { message_id } => self.mark_read(message_id, reply),
            Action::CheckContacts { wa_ids } => self.check_contacts(wa_ids, reply),
        }
    }
}

/// Bytes of bodies in one transaction.
const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;
/// Rows of every kind in one transaction; accepted messages are capped on their own.
const MAX_TRANSACTION_ROWS: usize = 2048;

/// Reads until the database answers; the shard's end drops the future.
async fn read<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = estafet_store::Result<T>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    loop {
        match attempt().await {
            Ok(rows) => return rows,
            Err(error) => {
                tracing::warn!(what, %error, "read failed, trying again");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// What a connection woke the shard for.
enum Stirred {
    /// Something arrived; `None`: the connection's task ended.
    Event(Option<Event>),
    /// There is room for a command.
    Room,
}

impl Upline {
    /// Waits for an event, or for room for a command, whichever is wanted.
    async fn stirred(&mut self, want_event: bool, want_room: bool) -> Stirred {
        match self {
            Self::Up { commands, events } => tokio::select! {
                event = events.recv(), if want_event => Stirred::Event(event),
                Ok(_) = commands.reserve(), if want_room => Stirred::Room,
                else => std::future::pending().await,
            },
            Self::Off | Self::Connecting => std::future::pending().await,
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
