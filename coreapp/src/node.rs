//! The shards of this process: acquired and released at the master's word, found by slot.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use estafet_model::{BootId, Slot, WaId};
use estafet_proto::v1::NumberState;
use estafet_runtime::{Clock, Tasks};
use estafet_store::{Fence, SharedStore};
use estafet_upstream::Upstream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    callbacks::{Clients, Poster},
    core::life::Reason,
    request::{Action, Reply, ShardRequest, not_owner, overloaded},
    settings::LiveSettings,
    shard::{Channels, Context, KeyRing, KeysError, Runner},
};

/// Requests waiting for one shard. Webapps hold credits for fewer.
const REQUESTS: usize = 16_384;
/// Posts and their results on the way between a shard and its poster; more than may be open.
const POSTS: usize = 64;

/// What a coreapp works with.
pub struct Deps {
    /// The message database.
    pub store: SharedStore,
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
#[derive(Clone, Copy, Debug)]
pub struct ShardEnded {
    /// The ownership that ended.
    pub fence: Fence,
    /// Why.
    pub reason: Reason,
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
}

/// A handle to the coreapp of this process.
#[derive(Clone)]
pub struct Node {
    context: Context,
    shards: Arc<RwLock<HashMap<WaId, Vec<Route>>>>,
    settings: Arc<Mutex<HashMap<WaId, Arc<LiveSettings>>>>,
    keys: KeyRing,
    clients: Clients,
    ended: mpsc::Sender<ShardEnded>,
    /// Changes when an ownership has ended.
    left: Arc<watch::Sender<u64>>,
}

#[derive(Clone)]
struct Route {
    fence: Fence,
    requests: mpsc::Sender<ShardRequest>,
    conditions: mpsc::Sender<String>,
    drain: CancellationToken,
}

impl Node {
    /// A coreapp that owns nothing yet, and the word of shards that end by themselves.
    pub fn new(config: Config, deps: Deps) -> (Self, mpsc::Receiver<ShardEnded>) {
        let (ended, endings) = mpsc::channel(REQUESTS);
        let context = Context {
            config: Arc::new(config),
            store: deps.store,
            upstream: deps.upstream,
            clock: deps.clock,
            tasks: deps.tasks,
            boot: deps.boot,
            holder: deps.holder,
            state: NodeState::default(),
        };
        let node = Self {
            context,
            shards: Arc::default(),
            settings: Arc::default(),
            keys: KeyRing::default(),
            clients: Clients::default(),
            ended,
            left: Arc::default(),
        };
        (node, endings)
    }

    /// Starts the shard of an ownership just claimed.
    pub async fn acquire(&self, fence: Fence) -> Result<(), Error> {
        let settings = self.live_settings(fence.number);
        settings.reload(&self.context.store, 0).await.map_err(Error::Settings)?;
        let keys = self.keys.of(&self.context.store, fence.number).await?;
        let (request_sender, requests) = mpsc::channel(REQUESTS);
        let (post_sender, posts) = mpsc::channel(POSTS);
        let (posted_sender, posted) = mpsc::channel(POSTS);
        let (condition_sender, conditions) = mpsc::channel(8);
        let drain = CancellationToken::new();
        let receiver = settings.subscribe();
        let poster = Poster::new(fence.number, &self.context.config, self.context.clock.clone(), self.clients.clone());
        self.context.tasks.spawn("callback poster", poster.run(posts, posted_sender, receiver.clone()));
        let channels = Channels { requests, posts: post_sender, posted, settings: receiver, conditions, drain: drain.clone() };
        let runner = Runner::new(self.context.clone(), fence, keys, channels);
        let route = Route { fence, requests: request_sender, conditions: condition_sender, drain };
        self.routes().entry(fence.number).or_default().push(route);
        let node = self.clone();
        self.context.tasks.spawn("shard", async move {
            let reason = runner.run().await;
            node.forget(&fence);
            // The master's side may be gone at shutdown.
            let _ = node.ended.send(ShardEnded { fence, reason }).await;
        });
        Ok(())
    }

    /// Lets every shard finish what runs; each reports its end.
    pub fn drain(&self) {
        self.routes().values().flatten().for_each(|route| route.drain.cancel());
    }

    /// Lets one ownership finish what runs; its end is reported. Harmless if it is over already.
    pub fn release(&self, fence: &Fence) {
        if let Some(routes) = self.routes().get(&fence.number) {
            routes.iter().filter(|route| route.fence == *fence).for_each(|route| route.drain.cancel());
        }
    }

    /// Like [`Self::release`]; returns when the ownership has ended.
    pub async fn let_go(&self, fence: &Fence) {
        let mut left = self.left.subscribe();
        self.release(fence);
        while self.owned().contains(fence) {
            // The sender lives in `self`.
            let _ = left.changed().await;
        }
    }

    /// The ownerships of this node.
    pub fn owned(&self) -> Vec<Fence> {
        self.routes().values().flatten().map(|route| route.fence).collect()
    }

    /// Number of shards owned.
    pub fn shard_count(&self) -> usize {
        self.routes().values().map(Vec::len).sum()
    }

    /// Hands a request to the owner of its slot.
    pub fn dispatch(&self, number: WaId, slot: Slot, action: Action, reply: Reply) {
        let route = {
            let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
            let covering = shards.get(&number).into_iter().flatten().filter(|route| route.fence.slots().contains(&slot));
            // While an older ownership still ends, the newer one counts.
            covering.max_by_key(|route| route.fence.epoch).cloned()
        };
        let Some(route) = route else { return reply.send(not_owner()) };
        match route.requests.try_send(ShardRequest { slot, action, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(request)) => request.reply.send(not_owner()),
            Err(mpsc::error::TrySendError::Full(request)) => request.reply.send(overloaded()),
        }
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

    fn routes(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<WaId, Vec<Route>>> {
        self.shards.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number, shard count and shard.
type Place = (u64, u32, u32);

/// The states of the shards of this node.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    states: Arc<Mutex<BTreeMap<Place, NumberState>>>,
    changed: Arc<watch::Sender<u64>>,
}

impl NodeState {
    pub(crate) fn publish(&self, state: NumberState) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let known = states.insert((state.number, state.shard_count, state.shard), state);
        // The counters move all the time and are read, not pushed.
        if known.is_none_or(|known| (known.gateway_status, known.epoch) != (state.gateway_status, state.epoch)) {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Forgets an ownership that ended; a newer one of the same shard stays.
    pub(crate) fn remove(&self, fence: &Fence) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (fence.number.as_u64(), fence.count.get().into(), fence.shard.get().into());
        if states.get(&key).is_some_and(|state| state.epoch == u64::from(fence.epoch.get())) {
            states.remove(&key);
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// The states now.
    pub fn snapshot(&self) -> Vec<NumberState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    /// Word of changed connections and epochs.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
