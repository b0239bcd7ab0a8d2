//! One owned shard, without I/O, clock or randomness: every [`Input`] becomes a decision of [`crate::core`], the
//! decision becomes rows, and only when those are committed does anything leave. What is to be read, written and
//! dialled is told as [`Order`]s; `running` is the task that carries them out, the simulator another.
//!
//!     requests ─┐                                    ┌─> answers, frames, acknowledgements
//!     upstream ─┼─> decide ─> pending ─> one commit ─┤
//!     posts ────┘             (collects meanwhile)   └─> lanes ─> posts
//!
//! While one commit runs the next transaction collects; there is no linger when idle. Inputs are taken
//! only while the transaction in the making has room, so a slow database holds everybody back.
//!
//! * [`committing`]: the pipeline. [`sending`]: outbox to upstream. [`receiving`]: upstream to database.
//! * [`requests`]: what webapps ask. [`reporting`]: callbacks, health. [`order`]: inputs and orders.
//! * [`handing`]: planned moves. [`identity`]: identities of users. [`parking`]: requests that wait for the database.

mod committing;
pub mod handing;
mod identity;
mod keys;
mod metrics;
pub mod order;
mod parking;
mod receiving;
mod reporting;
mod requests;
mod running;
mod sending;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    time::Instant,
};

use estafet_model::{Seq, SeqAllocator, Slot, WaId};
use estafet_store::{Digest, Fence, SubmissionKey};
use estafet_upstream::{Command, Delivery};
use lru::LruCache;

pub(crate) use keys::KeyRing;
pub use keys::{Error as KeysError, NumberKeys};
pub use order::{Input, Order, Questions};
pub(crate) use running::{Channels, Context, Runner};
pub use sending::CONFLICT;

use crate::{
    Config,
    core::{
        files::Files,
        identical::Identical,
        lanes::{Post, Rules},
        life::{Life, Reason},
        limits::Limits,
        needs::Writes,
        outbox::Outbox,
        outlets::Outlets,
        peer::Peer,
        pending::Pending,
        receipts::Receipts,
    },
    request::{Action, Reply, ShardRequest, not_owner},
    settings::Versioned,
    stats::AppStats,
};
use committing::{Answered, Lost, Transaction};
use handing::Handing;
use sending::Preparation;

/// Users kept with their sessions unpickled. More than one transaction can touch, so one that is evicted has
/// been committed and can be loaded again.
const PEERS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Keys of sends remembered: more than are accepted while a look-up runs.
const KEYS: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Incoming messages remembered: more than one connection delivers before it is acknowledged.
const INBOUND: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Slots loaded with one statement: 4096 rows, so that no statement over a backlog takes long.
const LOAD_SLOTS: usize = 64;
/// Rows of a slot loaded with one statement.
pub const LOAD_ROWS: u32 = 64;

/// The connection to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upline {
    /// Not wanted (`connect_upstream = false`).
    Off,
    /// Being made, or waiting to be tried again.
    Connecting,
    /// Up.
    Up,
}

/// The state of an owned shard.
pub struct Shard {
    config: Arc<Config>,
    now: Instant,
    now_ms: i64,
    orders: Vec<Order>,
    fence: Fence,
    life: Life,
    handing: Option<Handing>,
    seqs: SeqAllocator,
    keys: NumberKeys,
    settings: Versioned,
    outbox: Outbox,
    limits: Limits,
    identical: Identical,
    files: Files,
    outlets: Outlets,
    receipts: Receipts,
    peers: LruCache<WaId, Peer>,
    /// Incoming messages that were put into a transaction lately, committed or not.
    inbound: LruCache<String, ()>,
    /// Requests that wait until the database was asked, in order.
    parked: VecDeque<ShardRequest>,
    /// A look-up for them runs.
    looking_up: bool,
    /// Keys of sends that were used lately.
    keys_used: LruCache<(Slot, Digest), SubmissionKey>,
    /// Peers that could not decrypt: a new session is opened before anything else is sent to them.
    stale_sessions: HashSet<WaId>,
    pending: Pending<Answered>,
    committing: Option<Transaction>,
    /// Messages accepted in this epoch that the upstream has not taken.
    unsettled: u64,
    /// The database stopped answering; while it does not, new messages are refused.
    database_lost: Option<Lost>,
    writes: Writes,
    upline: Upline,
    /// Counts connections; frames prepared for one are never sent over another.
    generation: u64,
    /// Commands waiting for room in the connection.
    outgoing: VecDeque<Command>,
    preparation: Option<Preparation>,
    /// Deliveries of the upstream waiting to be decided, in order.
    arrived: VecDeque<Delivery>,
    /// Those that wait for what must be known about them.
    deciding: Option<Vec<Delivery>>,
    queries: HashMap<u64, Reply>,
    next_query: u64,
    /// Posts to open.
    posts: Vec<Post>,
    reported: HashMap<String, i64>,
    /// Whether files are being collected because somebody asked for it.
    collecting_media: bool,
    metrics: metrics::Metrics,
}

impl Shard {
    /// A shard just claimed, at this moment and wall clock. Nothing is ordered before [`Self::begin`].
    pub fn new(config: Arc<Config>, fence: Fence, keys: NumberKeys, settings: Versioned, now: Instant, now_ms: i64) -> Self {
        let (first, last) = fence.slots().into_inner();
        let slots = (first.get()..=last.get()).filter_map(|slot| estafet_model::Slot::new(slot.into()));
        let rules = Rules::new(&settings.settings, config.callback_max_age(), config.strict_global_order);
        let since = Seq::before(fence.epoch);
        let outlets = Outlets::recovering(fence.slots(), &settings.settings.webhooks, rules, since);
        Self {
            fence,
            life: Life::Acquiring,
            handing: None,
            seqs: SeqAllocator::new(fence.epoch),
            keys,
            settings,
            outbox: Outbox::recovering(slots),
            limits: Limits::new(config.allowed(), fence.count),
            identical: Identical::default(),
            files: Files::default(),
            outlets,
            receipts: Receipts::default(),
            peers: LruCache::new(PEERS),
            parked: VecDeque::new(),
            looking_up: false,
            keys_used: LruCache::new(KEYS),
            inbound: LruCache::new(INBOUND),
            stale_sessions: HashSet::new(),
            pending: Pending::default(),
            committing: None,
            unsettled: 0,
            database_lost: None,
            writes: Writes::default(),
            upline: if config.connect_upstream { Upline::Connecting } else { Upline::Off },
            generation: 0,
            outgoing: VecDeque::new(),
            preparation: None,
            arrived: VecDeque::new(),
            deciding: None,
            queries: HashMap::new(),
            next_query: 0,
            posts: Vec::new(),
            reported: HashMap::new(),
            collecting_media: false,
            metrics: metrics::Metrics::new(),
            now,
            now_ms,
            orders: Vec::new(),
            config,
        }
    }

    /// Counts into these from now on.
    #[must_use]
    pub fn counting(mut self, stats: Arc<AppStats>) -> Self {
        self.metrics.stats = stats;
        self
    }

    /// Starts to accept and to connect.
    pub fn begin(&mut self) {
        self.life.loaded();
        if self.config.connect_upstream {
            self.connect(true);
        }
    }

    /// Takes an input at this moment and wall clock. [`Self::advance`] follows, after one or several.
    pub fn take(&mut self, now: Instant, now_ms: i64, input: Input) {
        (self.now, self.now_ms) = (now, now_ms);
        match input {
            Input::Request(request) => self.request(request),
            Input::Upstream(event) => self.heard(event),
            Input::Posted(posted) => self.posted(posted),
            Input::SettingsChanged(settings) => self.settings_changed(*settings),
            Input::Condition(details) => self.report(estafet_model::Code::Generic, &details),
            Input::ToldToDrain => self.life.drain(),
            Input::ToldToHandOff(target) => self.hand_off(target),
            Input::Raised(raised) => self.raised(raised),
            Input::Ticked => {}
            Input::Committed { result, retried, took } => self.committed(result, retried, took),
            Input::OutboxLoaded(asked, rows) => self.outbox.loaded(&asked, rows, LOAD_ROWS as usize),
            Input::EventsLoaded(endpoint, asked, rows) => self.outlets.loaded(endpoint, &asked, rows, LOAD_ROWS as usize),
            Input::SessionsLoaded(generation, rows) => self.sessions_loaded(generation, rows),
            Input::LookedUp(asked, sessions, keys) => self.looked_up(&asked, sessions, keys),
            Input::FactsLoaded(facts) => self.facts_arrived(*facts),
            Input::InboundFound(reply, row) => self.inbound_found(reply, row),
            Input::Connected(result) => self.connected(result),
            Input::FilesPrepared(at, prepared) => self.files_prepared(at, prepared),
            Input::MediaCollected(collected) => self.media_collected(collected),
        }
    }

    /// Starts everything that can be started.
    pub fn advance(&mut self) {
        if self.life.delivers() {
            self.prepare_sending();
            self.open_posts();
            self.load();
        }
        if self.life.accepts() {
            self.decide_arrived();
        }
        self.look_up();
        self.start_commit();
        self.advance_handoff();
        if self.life == Life::Draining && self.committing.is_none() && self.pending.is_empty() && self.outlets.posting() == 0 {
            self.life.idle();
        }
    }

    /// How many requests may be taken now: what is left of the transaction in the making.
    pub fn room(&self) -> usize {
        let most = self.config.group_commit_rows;
        let (rows, bytes) = self.pending.size();
        match most {
            // Group commit off: one request, one transaction.
            1 => usize::from(rows == 0 && self.committing.is_none() && self.parked.is_empty()),
            _ if bytes >= MAX_TRANSACTION_BYTES || rows >= MAX_TRANSACTION_ROWS => 0,
            _ => most.saturating_sub(self.pending.batch.messages.len() + self.parked.len()),
        }
    }

    /// What is to be carried out; asked for after [`Self::advance`].
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Posts to open.
    pub fn take_posts(&mut self) -> Vec<Post> {
        std::mem::take(&mut self.posts)
    }

    /// Commands that wait for room in the connection, oldest first.
    pub fn commands(&mut self) -> &mut VecDeque<Command> {
        &mut self.outgoing
    }

    /// Whether the next thing from the upstream may be taken.
    pub fn wants_events(&self) -> bool {
        self.arrived.is_empty() && self.room() > 0
    }

    /// Whether requests are taken; [`Self::room`] says how many.
    pub fn accepts(&self) -> bool {
        self.life.accepts()
    }

    /// When something is due though nothing happens.
    pub fn next_due(&self) -> Option<Instant> {
        // A shard that is being handed off opens no posts.
        self.handing_due().or_else(|| self.outlets.next_due())
    }

    /// Why the shard is over, if it is.
    pub fn released(&self) -> Option<Reason> {
        self.life.released()
    }

    /// The ownership.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Loads what the windows lack.
    fn load(&mut self) {
        let asked = self.outbox.take_loads(LOAD_SLOTS, LOAD_ROWS as usize);
        if !asked.is_empty() {
            self.orders.push(Order::LoadOutbox(asked));
        }
        let asked = self.outlets.take_loads(LOAD_SLOTS, LOAD_ROWS as usize);
        self.orders.extend(asked.into_iter().map(|(endpoint, asked)| Order::LoadEvents(endpoint, asked)));
    }

    /// The next sequence number. A shard that used up its epoch's numbers ends, so that it is claimed
    /// again under a new one.
    fn next_seq(&mut self) -> Option<Seq> {
        let seq = self.seqs.allocate();
        if seq.is_none() {
            self.life.superseded(Reason::Exhausted);
        }
        seq
    }

    /// Nobody waits for ever for a shard that is gone. What is being committed stays without an answer: it may
    /// have taken place.
    pub fn abandon(mut self) {
        let elsewhere = self.elsewhere();
        for (_, reply) in self.queries.drain() {
            reply.send(elsewhere.clone());
        }
        self.unanswered().for_each(|reply| reply.send(elsewhere.clone()));
        self.parked.drain(..).for_each(|request| request.reply.send(elsewhere.clone()));
    }

    fn request(&mut self, request: ShardRequest) {
        if !self.fence.slots().contains(&request.slot) {
            return request.reply.send(not_owner());
        }
        if let Some(request) = self.park(request) {
            self.carry_out(request);
        }
    }

    fn carry_out(&mut self, request: ShardRequest) {
        let ShardRequest { slot, action, reply } = request;
        match action {
            Action::Submit { recipient, id_key, body, key } => {
                if let Some(reply) = self.repeated(slot, key, reply) {
                    self.submit(slot, (recipient, id_key), body, key, reply);
                }
            }
            Action::MarkRead { message_id } => self.mark_read(message_id, reply),
            Action::MoveCallbacks { callbacks, how } => self.move_callbacks(callbacks, how, reply),
            Action::CheckContacts { wa_ids } => self.check_contacts(wa_ids, reply),
            Action::ReadIdentity { user } => self.read_identity(user, reply),
            Action::AcknowledgeIdentity { user, hash } => self.acknowledge_identity(user, &hash, reply),
            Action::CollectMedia => self.collect_media(reply),
            Action::Forget { messages, inbound } => self.forget(messages, inbound, reply),
        }
    }
}

/// Bytes of bodies in one transaction.
const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;
/// Rows of every kind in one transaction; accepted messages are capped on their own.
const MAX_TRANSACTION_ROWS: usize = 2048;
