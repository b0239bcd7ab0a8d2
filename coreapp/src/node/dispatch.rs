//! The way of a request to its shard, and the place where it waits if the shard is only about to be here.

use std::{
    collections::HashMap,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use estafet_model::{Slot, WaId};
use estafet_store::Fence;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::{
    core::{
        handoff::{Key, Target},
        held::{Held, Pushed},
    },
    request::{Action, Reply, ShardRequest, overloaded},
    stats::{AppStats, Measure},
};

/// How long a request waits for a shard that is about to be here. Longer than a planned move takes; who asked hears
/// then that the shard is not here, and asks the map.
const HOLD: Duration = Duration::from_millis(250);

/// The way to a shard that runs.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) fence: Fence,
    pub(super) requests: mpsc::Sender<ShardRequest>,
    pub(super) conditions: mpsc::Sender<String>,
    pub(super) targets: mpsc::Sender<Target>,
    pub(super) drain: CancellationToken,
    pub(super) stats: Arc<AppStats>,
}

impl Route {
    fn give(&self, node: &Node, ShardRequest { slot, action, reply }: ShardRequest) {
        let measure = Measure::begin(self.stats.clone(), action.name());
        let reply = Reply::Measured(Box::new((reply, measure)));
        match self.requests.try_send(ShardRequest { slot, action, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(request)) => node.redirect(self.fence.number, request),
            Err(mpsc::error::TrySendError::Full(request)) => request.reply.send(overloaded()),
        }
    }
}

/// The ways to the shards of this node, by number.
pub(super) type Routes = HashMap<WaId, Vec<Route>>;

impl Node {
    /// Hands a request to the owner of its slot. One for a shard that is about to be here waits for it, but not for long.
    pub fn dispatch(&self, number: WaId, slot: Slot, action: Action, reply: Reply) {
        let request = ShardRequest { slot, action, reply };
        match self.route(number, slot) {
            Some(route) => route.give(self, request),
            None => self.hold(number, request),
        }
    }

    fn route(&self, number: WaId, slot: Slot) -> Option<Route> {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        let covering = shards.get(&number).into_iter().flatten().filter(|route| route.fence.slots().contains(&slot));
        // While an older ownership still ends, the newer one counts.
        covering.max_by_key(|route| route.fence.epoch).cloned()
    }

    fn hold(&self, number: WaId, request: ShardRequest) {
        let mut held = self.held();
        // With the lock held no shard begins: one that did meanwhile is seen here.
        if let Some(route) = self.route(number, request.slot) {
            drop(held);
            return route.give(self, request);
        }
        match held.push(number, request.slot, request) {
            Ok(Pushed::First(key)) => {
                let node = self.clone();
                self.context.tasks.spawn("held requests", async move {
                    tokio::time::sleep(HOLD).await;
                    let held = node.held().give_up(&key);
                    node.redirect_all(key.0, held);
                });
            }
            Ok(Pushed::Behind) => {}
            Err(request) => {
                drop(held);
                self.redirect(number, request);
            }
        }
    }

    /// Requests for this shard wait from now on, until it runs here or is not awaited any more.
    pub(super) fn await_shard(&self, key: Key) {
        self.held().open(key);
    }

    /// A shard runs: what waited for it goes first.
    pub(super) fn begin(&self, route: Route) {
        let Fence { number, count, shard, .. } = route.fence;
        let mut held = self.held();
        for request in held.close(&(number, count, shard)) {
            route.give(self, request);
        }
        self.context.moved.returned(&route.fence);
        self.routes().entry(number).or_default().push(route);
        drop(held);
    }

    /// A shard does not begin here after all.
    pub(super) fn forgo(&self, key: &Key) {
        let held = self.held().close(key);
        self.redirect_all(key.0, held);
    }

    fn redirect_all(&self, number: WaId, requests: Vec<ShardRequest>) {
        requests.into_iter().for_each(|request| self.redirect(number, request));
    }

    /// Answers that the slot is not here, and where it is if that is known.
    fn redirect(&self, number: WaId, request: ShardRequest) {
        request.reply.send(self.context.moved.answer(number, request.slot));
    }

    fn held(&self) -> MutexGuard<'_, Held<ShardRequest>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
