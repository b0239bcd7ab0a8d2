//! The shards of this process: acquired and released at the master's word, found by slot.
//!
//! * [`dispatch`]: the way of a request to its shard. [`moved`]: where others went. [`states`]: what shards tell of themselves.

mod dispatch;
mod moved;
mod states;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use estafet_media::{Blobs, guard::Policy};
use estafet_model::{BootId, EndpointId, Seq, Shard as ShardIndex, ShardCount, Slot, WaId, settings::WebhookSettings};
use estafet_proto::v1::{NumberState, ReadStatsResponse};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{Fence, SharedStore};
use estafet_upstream::{ConnectError, Standby, Upstream};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::dispatch::{Route, Routes};
pub(crate) use self::{
    moved::Moved,
    states::{NodeState, States},
};
use crate::{
    Config, backlog,
    callbacks::{Clients, Poster},
    collector::Collector,
    core::{
        handoff::{Key, Target},
        held::Held,
        life::Reason,
    },
    media::Courier,
    request::ShardRequest,
    retention::Retention,
    settings::LiveSettings,
    shard::{Channels, Context, KeyRing, KeysError, NumberKeys, Runner},
    sizes,
    stats::Registry,
};

/// Requests waiting for one shard. Webapps hold credits for fewer.
const REQUESTS: usize = 16_384;
/// Posts and their results on the way between a shard and its poster; more than may be open: 24 to each receiver.
const POSTS: usize = 256;

/// Statements at once that read what waits in the shards of a node. A node that takes over many shards accepts for all of them at
/// once; catching up takes turns.
const LOADS: usize = 2;

/// What a coreapp works with.
pub struct Deps {
    /// The message database.
    pub store: SharedStore,
    /// The object store with the files.
    pub blobs: Blobs,
    /// Where links of messages may lead.
    pub links: Policy,
    /// The network.
    pub upstream: Arc<dyn Upstream>,
    /// Wall clock.
    pub clock: Clock,
    /// Task group of the role.
    pub tasks: Tasks,
    /// Start of this process.
    pub boot: BootId,
    /// Who this is, for people.
    pub holder: String,
}

/// A shard that ended by itself; the master decides what follows.
#[derive(Clone, Debug)]
pub struct ShardEnded {
    /// The ownership that ended.
    pub fence: Fence,
    /// Why.
    pub reason: Reason,
    /// Whom it was handed to, if it was.
    pub target: Option<Target>,
}

/// Why a shard could not be acquired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The number's settings.
    #[error("settings cannot be read")]
    Settings(#[source] estafet_store::Error),
    /// The head of the shard.
    #[error("the shard cannot be read")]
    Head(#[source] estafet_store::Error),
    /// The client that fetches links.
    #[error("the client for links: {0}")]
    Links(#[source] estafet_media::guard::Error),
}

/// A handle to the coreapp of this process.
#[derive(Clone)]
pub struct Node {
    context: Context,
    shards: Arc<RwLock<Routes>>,
    /// Requests for shards that are about to be here.
    held: Arc<Mutex<Held<ShardRequest>>>,
    settings: Arc<backlog::Names>,
    keys: KeyRing,
    clients: Clients,
    warm: Arc<Mutex<HashMap<Key, Prepared>>>,
    /// Ownerships that are being started, and how each is told to end.
    starting: Arc<Mutex<HashMap<Fence, CancellationToken>>>,
    ended: mpsc::Sender<ShardEnded>,
    /// Changes when an ownership has ended.
    left: Arc<watch::Sender<u64>>,
}

/// What an owner needs besides its epoch.
struct Prepared {
    keys: NumberKeys,
    poster: Poster,
    standby: Option<Box<dyn Standby>>,
}

impl Node {
    /// A coreapp that owns nothing yet, and the word of shards that end by themselves.
    pub fn new(config: Config, deps: Deps) -> Result<(Self, mpsc::Receiver<ShardEnded>), Error> {
        let (ended, endings) = mpsc::channel(REQUESTS);
        let Deps { store, blobs, upstream, clock, links, .. } = &deps;
        let courier =
            Courier::new(store.clone(), blobs.clone(), upstream.clone(), clock.clone(), *links).map_err(Error::Links)?;
        let context = Context {
            courier,
            config: Arc::new(config),
            store: deps.store,
            upstream: deps.upstream,
            clock: deps.clock,
            tasks: deps.tasks,
            boot: deps.boot,
            holder: deps.holder,
            stats: Registry::default(),
            started: Instant::now(),
            state: NodeState::default(),
            moved: Moved::default(),
            loads: Arc::new(Semaphore::new(LOADS)),
        };
        let node = Self {
            context,
            shards: Arc::default(),
            held: Arc::default(),
            settings: Arc::default(),
            keys: KeyRing::default(),
            clients: Clients::default(),
            warm: Arc::default(),
            starting: Arc::default(),
            ended,
            left: Arc::default(),
        };
        sizes::watch(node.context.store.clone(), &node.context.tasks);
        backlog::Gauges::register(&node.context.state, &node.settings, &node.context.clock);
        Ok((node, endings))
    }

    /// Does once, before the first shard comes, what each would wait for: sessions of the database with their statements
    /// prepared, certificates read. What fails is done when it is needed.
    pub async fn warm_up(&self) {
        let settings = WebhookSettings::default();
        let (opened, ()) = tokio::join!(self.context.store.warm_up(), self.clients.ready(&settings));
        if let Err(error) = opened {
            tracing::info!(%error, "the sessions of the database are opened when they are needed");
        }
    }

    /// Gets ready for a shard that another node owns: everything up to the login. [`Self::acquire`] uses it.
    pub async fn prepare(&self, key: Key) -> Result<(), Error> {
        let (number, count, shard) = key;
        let prepared = self.load(number).await?;
        // The head of the shard as it is now cannot be used later, since its owner goes on. Reading it opens the
        // sessions, prepares the statements and brings the pages into memory.
        let head: Vec<_> = slots(count, shard).map(|slot| (slot, Seq::ZERO)).collect();
        let store = &self.context.store;
        let (outbox, events) = tokio::join!(store.outbox(number, &head, 1), store.events(number, EndpointId::MAIN, &head, 1));
        outbox.map(drop).and(events.map(drop)).map_err(Error::Head)?;
        let standby = if self.context.config.connect_upstream {
            let standby = self.context.upstream.warm(&prepared.keys.static_key).await;
            standby.inspect_err(|error| tracing::info!(%number, %shard, %error, "no standby connection")).ok()
        } else {
            None
        };
        self.prepared().insert(key, Prepared { standby, ..prepared });
        self.await_shard(key);
        Ok(())
    }

    /// Drops what [`Self::prepare`] made.
    pub fn unprepare(&self, key: &Key) {
        self.prepared().remove(key);
        self.forgo(key);
    }

    fn prepared(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Prepared>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn load(&self, number: WaId) -> Result<Prepared, Error> {
        let settings = self.live_settings(number);
        // The owner of another shard of the number has heard of every change.
        let are_known = self.routes().get(&number).is_some_and(|routes| !routes.is_empty());
        if !are_known {
            settings.reload(&self.context.store, 0).await.map_err(Error::Settings)?;
        }
        let webhooks = settings.subscribe().borrow().settings.webhooks.clone();
        self.clients.ready(&webhooks).await;
        let keys = self.keys.of(&self.context.store, number).await?;
        let (clock, clients, courier) = (self.context.clock.clone(), self.clients.clone(), self.context.courier.clone());
        let stats = self.context.stats.of(number);
        let poster = Poster::new(number, &self.context.config, clock, clients, courier, stats);
        Ok(Prepared { keys, poster, standby: None })
    }

    /// What was prepared for a shard, or else is loaded now.
    async fn ready(&self, fence: &Fence) -> Result<Prepared, Error> {
        let prepared = self.prepared().remove(&(fence.number, fence.count, fence.shard));
        let Some(prepared) = prepared else { return self.load(fence.number).await };
        // The settings are some seconds old: nobody waits for them here, the shard hears of a change.
        let (settings, store) = (self.live_settings(fence.number), self.context.store.clone());
        self.context.tasks.spawn("settings", async move {
            // If that fails, the watch of the settings tries again.
            let _ = settings.reload(&store, 0).await;
        });
        Ok(prepared)
    }

    /// Starts the shard of an ownership just claimed. One that is released before everything is loaded never runs; its
    /// end is reported as that of any other.
    pub async fn acquire(&self, fence: Fence) -> Result<(), Error> {
        let (drain, key) = (CancellationToken::new(), (fence.number, fence.count, fence.shard));
        self.starting().insert(fence, drain.clone());
        self.await_shard(key);
        let ready = tokio::select! {
            biased;
            () = drain.cancelled() => None,
            ready = self.ready(&fence) => Some(ready),
        };
        let is_released = ready.is_none();
        let started = ready.transpose().map(|prepared| prepared.map_or((), |prepared| self.run(fence, prepared, drain)));
        self.starting().remove(&fence);
        self.forgo(&key);
        self.left.send_modify(|count| *count += 1);
        if is_released {
            // The master's side may be gone at shutdown.
            let _ = self.ended.send(ShardEnded { fence, reason: Reason::Drained, target: None }).await;
        }
        started
    }

    /// Runs a shard whose owner has everything it needs.
    fn run(&self, fence: Fence, prepared: Prepared, drain: CancellationToken) {
        let Prepared { keys, poster, standby } = prepared;
        let settings = self.live_settings(fence.number);
        let (request_sender, requests) = mpsc::channel(REQUESTS);
        let (post_sender, posts) = mpsc::channel(POSTS);
        let (posted_sender, posted) = mpsc::channel(POSTS);
        let (condition_sender, conditions) = mpsc::channel(8);
        let receiver = settings.subscribe();
        self.context.tasks.spawn("callback poster", poster.run(posts, posted_sender, receiver.clone()));
        let over = self.context.tasks.shutdown().child_token();
        if fence.slots().start().get() == 0 {
            let collecting = self.context.courier.clone().collect_now_and_then(fence.number, receiver.clone(), over.clone());
            self.context.tasks.spawn("media collector", collecting);
            let (store, clock) = (self.context.store.clone(), self.context.clock.clone());
            let retention = Retention::new(fence.number, store, clock);
            self.context.tasks.spawn("callback retention", retention.run(receiver.clone(), over.clone()));
        }
        let collecting = self.collector(fence).now_and_then(receiver.clone(), over.clone());
        self.context.tasks.spawn("message collector", collecting);
        let (target_sender, targets) = mpsc::channel(1);
        let channels =
            Channels { requests, posts: post_sender, posted, settings: receiver, conditions, targets, drain: drain.clone() };
        let runner = Runner::new(self.context.clone(), fence, keys, standby, channels);
        let stats = self.context.stats.of(fence.number);
        let (conditions, targets) = (condition_sender, target_sender);
        let route = Route { fence, requests: request_sender, conditions, targets, drain, stats };
        self.begin(route);
        let node = self.clone();
        self.context.tasks.spawn("shard", async move {
            let (reason, target) = runner.run().await;
            over.cancel();
            node.forget(&fence);
            // The master's side may be gone at shutdown.
            let _ = node.ended.send(ShardEnded { fence, reason, target }).await;
        });
    }

    pub(crate) fn collector(&self, fence: Fence) -> Collector {
        Collector::new(self.clone(), fence, self.context.config.keep_messages())
    }

    pub(crate) fn store(&self) -> &SharedStore {
        &self.context.store
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.context.clock.now_ms()
    }

    /// Lets every shard finish what runs; each reports its end.
    pub fn drain(&self) {
        self.routes().values().flatten().for_each(|route| route.drain.cancel());
    }

    /// Lets one ownership finish what runs, or not begin if it is only being started; its end is reported. Harmless if it
    /// is over already.
    pub fn release(&self, fence: &Fence) {
        if let Some(drain) = self.starting().get(fence) {
            drain.cancel();
        }
        if let Some(routes) = self.routes().get(&fence.number) {
            routes.iter().filter(|route| route.fence == *fence).for_each(|route| route.drain.cancel());
        }
    }

    /// Like [`Self::release`]; returns when the ownership has ended.
    pub async fn let_go(&self, fence: &Fence) {
        let mut left = self.left.subscribe();
        self.release(fence);
        while self.current().contains(fence) {
            // The sender lives in `self`.
            let _ = left.changed().await;
        }
    }

    /// Lets one ownership finish what runs and raise the epoch for `target`; its end is reported. If that takes
    /// too long, or something is amiss, the shard stays.
    pub fn hand_off(&self, fence: &Fence, target: Target) {
        if let Some(routes) = self.routes().get(&fence.number) {
            // An order that finds another one waiting comes too early; its master gives up and asks again.
            routes.iter().filter(|route| route.fence == *fence).for_each(|route| drop(route.targets.try_send(target.clone())));
        }
    }

    /// Somebody else owns these slots by now, there.
    pub fn moved(&self, to: &Fence, address: &str) {
        self.context.moved.to(to, address);
    }

    /// The ownerships of this node.
    pub fn owned(&self) -> Vec<Fence> {
        self.routes().values().flatten().map(|route| route.fence).collect()
    }

    /// The ownerships of this node, and those that are being started.
    pub fn current(&self) -> Vec<Fence> {
        // In this order: one that begins meanwhile is seen twice rather than not at all.
        let starting: Vec<Fence> = self.starting().keys().copied().collect();
        let owned = self.owned();
        let starting = starting.into_iter().filter(|fence| !owned.contains(fence)).collect::<Vec<_>>();
        owned.into_iter().chain(starting).collect()
    }

    /// Number of shards owned.
    pub fn shard_count(&self) -> usize {
        self.routes().values().map(Vec::len).sum()
    }

    /// Reports a condition of a number to its business.
    pub fn report(&self, number: WaId, details: &str) {
        if let Some(route) = self.routes().get(&number).and_then(|routes| routes.first()) {
            // A full channel holds the same condition already.
            let _ = route.conditions.try_send(details.to_owned());
        }
    }

    /// Brings the settings of a number up to at least `version`; the version in force.
    pub async fn reload_settings(&self, number: WaId, version: u64) -> estafet_store::Result<u64> {
        self.live_settings(number).reload(&self.context.store, version).await
    }

    /// The state of the shards, for health.
    pub fn state(&self) -> &NodeState {
        &self.context.state
    }

    /// Whether its shards are to be connected to the network.
    pub(crate) fn wants_network(&self) -> bool {
        self.context.config.connect_upstream
    }

    /// Finds out whether the network is reached.
    pub(crate) async fn probe_network(&self) -> Result<(), ConnectError> {
        self.context.upstream.probe().await
    }

    /// Finds out whether the message database is reached.
    pub(crate) async fn probe_database(&self) -> estafet_store::Result<()> {
        self.context.store.numbers().await.map(drop)
    }

    /// What this process has counted for a number, and its name.
    pub fn stats(&self, number: WaId) -> ReadStatsResponse {
        let Context { stats, started, config, boot, .. } = &self.context;
        let shards: Vec<NumberState> =
            self.state().snapshot().into_iter().filter(|state| state.number == number.as_u64()).collect();
        let node = format!("{}:{:.12}", config.node, boot.to_string());
        let backlogs = self.state().states().backlogs().into_iter().filter(|(of, _)| *of == number);
        let named = backlogs.map(|(number, backlog)| (backlog::name(&self.settings, number, backlog), backlog));
        let waiting = backlog::by_name(named, self.context.clock.now_ms());
        ReadStatsResponse { node, stats: stats.of(number).stats(&shards, &waiting, started.elapsed()) }
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.context.tasks
    }

    fn live_settings(&self, number: WaId) -> Arc<LiveSettings> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings
            .entry(number)
            .or_insert_with(|| {
                let live = Arc::new(LiveSettings::new(number));
                let (watched, store, tasks) = (live.clone(), self.context.store.clone(), self.context.tasks.clone());
                self.context.tasks.spawn("settings watch", async move { watched.watch(store, tasks).await });
                live
            })
            .clone()
    }

    fn forget(&self, fence: &Fence) {
        if let Some(routes) = self.routes().get_mut(&fence.number) {
            routes.retain(|route| route.fence != *fence);
        }
        self.left.send_modify(|count| *count += 1);
    }

    fn starting(&self) -> std::sync::MutexGuard<'_, HashMap<Fence, CancellationToken>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn routes(&self) -> std::sync::RwLockWriteGuard<'_, Routes> {
        self.shards.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slots(count: ShardCount, shard: ShardIndex) -> impl Iterator<Item = Slot> {
    let (first, last) = count.slots_of(shard).into_inner();
    (first.get()..=last.get()).filter_map(|slot| Slot::new(slot.into()))
}
