//! The way of a request to the owner of its slot, through handoffs (design.md §6, steps 2 and 3).
//!
//! * [`plan`]: what to do after each try (pure). [`flight`]: correlations and credits (pure).
//! * [`link`]: the stream to one coreapp. [`states`]: what coreapps said about the number. [`roster`]: all processes.
//!
//! This file picks the owner from the map, tries, and holds. Bounded: requests held, bytes under
//! way, requests in line for one coreapp; past any of them the answer is 503 at once.

pub mod flight;
mod link;
pub mod plan;
mod pressure;
pub(crate) mod roster;
pub(crate) mod states;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use estafet_model::{ApiError, Code, IdKey, Owner, ShardMap, Slot, WaId};
use estafet_proto::v1::{self, outcome, request::Action};
use estafet_runtime::Tasks;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{Connect, config::Config, metrics::Metrics};
use link::{Link, Surroundings};
use plan::{Missed, Plan, Step};
use roster::NodeState;

/// How often the router looks for coreapps that came and own nothing yet.
const LOOK: Duration = Duration::from_secs(1);
/// How long a link lives that no map mentions (a hint made it).
const UNMAPPED_LINK: Duration = Duration::from_secs(30);
/// Time for a coreapp to tell its statistics.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for a coreapp to reload settings.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a coreapp did.
#[derive(Debug)]
pub(crate) enum Reply {
    /// What was asked; the id, if the message was stored under another one than was asked for.
    Done(Option<IdKey>),
    /// It looked contacts up.
    Contacts(Vec<v1::ContactState>),
    /// It knows this identity.
    Identity(v1::Identity),
}

/// Routes requests to the owners of slots.
pub(crate) struct Router {
    around: Surroundings,
    links: RwLock<HashMap<String, Arc<Link>>>,
    held: Semaphore,
    bytes: AtomicUsize,
    bytes_limit: usize,
    hold: Duration,
    answer: Duration,
    naive: bool,
    metrics: Arc<Metrics>,
}

impl Router {
    /// A router that keeps a stream to every owner.
    pub(crate) fn start(
        config: &Config,
        connect: Arc<dyn Connect>,
        map: watch::Receiver<ShardMap>,
        tasks: &Tasks,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let limits = &config.limits;
        let router = Arc::new(Self {
            around: Surroundings {
                tasks: tasks.clone(),
                map,
                states: Arc::default(),
                came_up: Arc::new(watch::channel(0).0),
                queued_requests: limits.queued_requests,
                connect,
            },
            links: RwLock::default(),
            held: Semaphore::new(limits.held_requests),
            bytes: AtomicUsize::new(0),
            bytes_limit: limits.held_bytes,
            hold: Duration::from_millis(limits.hold_ms),
            answer: Duration::from_millis(limits.answer_ms),
            naive: config.naive,
            metrics,
        });
        tasks.spawn("webapp-links", follow_map(router.clone(), tasks.clone()));
        router
    }

    /// Sends `action` to the owner of `slot` and waits for the answer, through a handoff if need be.
    pub(crate) async fn call(&self, number: WaId, slot: Slot, action: Action) -> Result<Reply, ApiError> {
        let request = v1::Request { correlation: 0, number: number.as_u64(), slot: u32::from(slot.get()), action: Some(action) };
        let _under_way = self.take_room(flight::weight(&request))?;
        let deadline = Instant::now() + self.answer;
        let mut plan = Plan::new(self.hold);
        let mut held = None;
        let mut at: Option<String> = None;
        loop {
            let seen = self.news();
            let missed = match self.attempt(at.take(), (number, slot), &request, deadline).await {
                Ok(outcome::Result::NotOwner(v1::NotOwner { hint, .. })) => {
                    Missed::NotOwner { hint: (!hint.is_empty()).then_some(hint) }
                }
                Ok(outcome) => return reply(outcome),
                Err(missed) => missed,
            };
            match plan.next(missed, Instant::now()) {
                Step::RetryAt(address) => at = Some(address),
                Step::GiveUp(error) => {
                    self.metrics.unserved(&error);
                    return Err(error);
                }
                Step::Hold(nap) => {
                    if held.is_none() {
                        held = Some(
                            Held::new(self)
                                .ok_or_else(|| plan.too_many_held())
                                .inspect_err(|error| self.metrics.unserved(error))?,
                        );
                    }
                    self.wait_for_news(seen, nap).await;
                }
            }
        }
    }

    /// Tells every owner of the number that settings have `version` now; returns when all have
    /// answered, or after a second.
    pub(crate) async fn reload_settings(&self, number: WaId, version: u64) {
        let addresses: HashSet<String> = self.around.map.borrow().owners(number).map(|owner| owner.address.clone()).collect();
        let calls = addresses.into_iter().map(|address| async move {
            let mut client = self.link(&address).client();
            let request = v1::ReloadSettingsRequest { number: number.as_u64(), version };
            match tokio::time::timeout(RELOAD_TIMEOUT, client.reload_settings(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => tracing::warn!(coreapp = address, %status, "settings not reloaded"),
                Err(_) => tracing::warn!(coreapp = address, "settings not reloaded in time"),
            }
        });
        futures::future::join_all(calls).await;
    }

    /// What every owner of the number has counted, by address; `None` for one that does not answer.
    pub(crate) async fn stats(&self, number: WaId) -> Vec<(String, Option<v1::ReadStatsResponse>)> {
        let addresses: BTreeSet<String> = self.around.map.borrow().owners(number).map(|owner| owner.address.clone()).collect();
        let calls = addresses.into_iter().map(|address| async move {
            let mut client = self.link(&address).client();
            let request = v1::ReadStatsRequest { number: number.as_u64() };
            let told = tokio::time::timeout(STATS_TIMEOUT, client.read_stats(request)).await;
            let told =
                told.map_err(|_| "no answer in time".to_owned()).and_then(|told| told.map_err(|status| status.to_string()));
            let told = told.inspect_err(|error| tracing::debug!(coreapp = address, error, "no statistics")).ok();
            (address, told.map(tonic::Response::into_inner))
        });
        futures::future::join_all(calls).await
    }

    /// The owner of a slot at the moment, as something to group by.
    pub(crate) fn owner_address(&self, number: WaId, slot: Slot) -> Option<String> {
        self.around.map.borrow().owner(number, slot).map(|owner| owner.address.clone())
    }

    /// Returns when some node owns a part of the number; never, if the map's source has gone.
    pub(crate) async fn until_owned(&self, number: WaId) {
        let mut map = self.around.map.clone();
        if map.wait_for(|map| map.owners(number).next().is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// The gateway status of a number, or `None` while no node is known.
    pub(crate) fn gateway_status(&self, number: WaId) -> Option<v1::GatewayStatus> {
        self.around.states.overall(number, &self.around.map.borrow(), Instant::now())
    }

    /// The processes of the cluster and how each is connected for the number; empty while none is known.
    pub(crate) fn nodes(&self, number: WaId) -> BTreeMap<String, NodeState> {
        let (map, now, states) = (self.around.map.borrow().clone(), Instant::now(), &self.around.states);
        let overall = states.overall(number, &map, now).unwrap_or(v1::GatewayStatus::Disconnected);
        let of_shard = |owner: &Owner| states.of_shard(number, owner, now);
        self.around.connect.roster().by_node((number, &map), of_shard, overall, now)
    }

    async fn attempt(
        &self,
        at: Option<String>,
        (number, slot): (WaId, Slot),
        request: &v1::Request,
        deadline: Instant,
    ) -> Result<outcome::Result, Missed> {
        let owner = self.around.map.borrow().owner(number, slot).cloned();
        let seen = owner.as_ref().map(|owner| owner.epoch);
        let link = self.link(&at.or_else(|| owner.map(|owner| owner.address)).ok_or(Missed::NoOwner)?);
        let began = Instant::now();
        let time = deadline.saturating_duration_since(began);
        let outcome = match self.naive {
            true => single(&link, request.clone(), time).await,
            false => link.exchange(request.clone(), seen, time).await,
        };
        self.metrics.served().coreapp(link.address(), began.elapsed());
        outcome
    }

    fn link(&self, address: &str) -> Arc<Link> {
        if let Some(link) = self.links.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(address) {
            return link.clone();
        }
        let mut links = self.links.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(link) = links.get(address) {
            return link.clone();
        }
        let link = Arc::new(Link::start(address, self.around.connect.channel(address), &self.around));
        links.insert(address.to_owned(), link.clone());
        link
    }

    /// Links to every owner and to every coreapp that may own something soon, and none to nodes that have long left.
    fn follow(&self) {
        let mut wanted = self.around.connect.roster().living(Instant::now());
        {
            let map = self.around.map.borrow();
            self.metrics.map(&map);
            wanted.extend(map.iter().map(|(_, owner)| owner.address.clone()));
        }
        for address in &wanted {
            self.link(address);
        }
        self.links.write().unwrap_or_else(|poisoned| poisoned.into_inner()).retain(|address, link| {
            let stays = wanted.contains(address) || link.made_at().elapsed() < UNMAPPED_LINK;
            if !stays {
                self.around.states.forget(address);
            }
            stays
        });
    }

    fn take_room(&self, bytes: usize) -> Result<Room<'_>, ApiError> {
        let room = Room { used: &self.bytes, bytes };
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes_limit {
            return Err(ApiError::new(Code::Overloaded, "Too many messages are under way"));
        }
        Ok(room)
    }

    /// What a held request waits to see changed: version of the map, streams that came up.
    fn news(&self) -> (u64, u64) {
        (self.around.map.borrow().version, *self.around.came_up.borrow())
    }

    async fn wait_for_news(&self, (version, came_up): (u64, u64), longest: Duration) {
        let (mut map, mut streams) = (self.around.map.clone(), self.around.came_up.subscribe());
        tokio::select! {
            // An error means that the sender has gone with the process; the nap ends the wait.
            Ok(_) = map.wait_for(|map| map.version != version) => {}
            Ok(_) = streams.wait_for(|count| *count != came_up) => {}
            () = tokio::time::sleep(longest) => {}
        }
    }
}

async fn follow_map(router: Arc<Router>, tasks: Tasks) {
    let mut map = router.around.map.clone();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        map.mark_unchanged();
        router.follow();
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            _ = look.tick() => {}
            () = tasks.shutdown().cancelled() => return,
        }
    }
}

/// A request on its own, without stream and batches.
async fn single(link: &Link, request: v1::Request, time: Duration) -> Result<outcome::Result, Missed> {
    match tokio::time::timeout(time, link.client().single(request)).await {
        Ok(Ok(outcome)) => outcome.into_inner().result.ok_or(Missed::Broken { sent: true }),
        Ok(Err(_)) => Err(Missed::Broken { sent: true }),
        Err(_) => Err(Missed::TimedOut { sent: true }),
    }
}

/// Puts an outcome into the words of the API.
fn reply(outcome: outcome::Result) -> Result<Reply, ApiError> {
    match outcome {
        outcome::Result::Done(done) => Ok(Reply::Done(IdKey::from_slice(&done.id_key))),
        outcome::Result::Contacts(states) => Ok(Reply::Contacts(states.contacts)),
        outcome::Result::Identity(identity) => Ok(Reply::Identity(identity)),
        outcome::Result::Refused(refused) => Err(refusal(refused)),
        outcome::Result::NotOwner(_) => Err(ApiError::new(Code::NotPrimaryCoreapp, "The shard is moving, try again")),
    }
}

fn refusal(refused: v1::Refused) -> ApiError {
    let code = u16::try_from(refused.code).ok().and_then(Code::from_number).unwrap_or(Code::Generic);
    let mut error = ApiError::new(code, refused.details);
    if let Some(status) = u16::try_from(refused.http_status).ok().filter(|status| (400..600).contains(status)) {
        error = error.with_status(status);
    }
    error.retry_after_s = Some(refused.retry_after_s).filter(|seconds| *seconds > 0);
    if refused.retryable && !error.is_retryable() { error.with_status(503) } else { error }
}

/// Bytes under way, given back when dropped.
struct Room<'a> {
    used: &'a AtomicUsize,
    bytes: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One of the places for held requests, given back when dropped.
struct Held<'a> {
    _permit: tokio::sync::SemaphorePermit<'a>,
    metrics: &'a Metrics,
}

impl<'a> Held<'a> {
    fn new(router: &'a Router) -> Option<Self> {
        let _permit = router.held.try_acquire().ok()?;
        router.metrics.held(1);
        Some(Self { _permit, metrics: &router.metrics })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.metrics.held(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_code_and_retryable_ones_say_so() {
        let refused = |code, retryable| refusal(v1::Refused { code, details: "why".into(), retryable, ..Default::default() });
        assert_eq!((refused(1006, false).status(), refused(1006, false).code), (404, Code::NotFound));
        assert_eq!((refused(1023, true).status(), refused(1023, true).code), (503, Code::Database));
        assert_eq!((refused(1016, true).status(), refused(471, true).status()), (503, 429));
        assert_eq!((refused(4711, false).status(), refused(4711, false).code), (500, Code::Generic));
        let later = refusal(v1::Refused { code: 1015, retry_after_s: 60, ..v1::Refused::default() });
        assert_eq!((later.retry_after_s, refused(1015, true).retry_after_s), (Some(60), None));
    }
}
