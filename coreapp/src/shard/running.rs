//! The task of a shard: turns what arrives into inputs, carries out what is ordered, and decides nothing.
//!
//! Reads are repeated until the database answers; a commit is told as unknown after a while. The end of the task
//! drops whatever is under way.

use std::{sync::Arc, time::Duration};

use estafet_model::BootId;
use estafet_runtime::{Backoff, Clock, Tasks};
use estafet_store::{Batch, Error, Fence, MessageRow, SharedStore};
use estafet_upstream::{ConnectError, Event, Link, Login, Standby, Upstream};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Input, LOAD_ROWS, NumberKeys, Order, Shard, handing::raise};
use crate::{
    Config,
    callbacks::Posted,
    core::{handoff::Target, lanes::Post, life::Reason},
    media::Courier,
    node::{Moved, NodeState},
    request::ShardRequest,
    settings::Versioned,
    stats::Registry,
};

/// What the shards of one node share.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) store: SharedStore,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) courier: Courier,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) boot: BootId,
    pub(crate) holder: String,
    pub(crate) stats: Registry,
    pub(crate) started: Instant,
    pub(crate) state: NodeState,
    pub(crate) moved: Moved,
    /// How many statements may read at once what waits in shards.
    pub(crate) loads: Arc<Semaphore>,
}

/// The channels a shard hears and speaks through.
pub(crate) struct Channels {
    pub(crate) requests: mpsc::Receiver<ShardRequest>,
    pub(crate) posts: mpsc::Sender<Post>,
    pub(crate) posted: mpsc::Receiver<Posted>,
    pub(crate) settings: watch::Receiver<Versioned>,
    /// Conditions of the number to report (spec/webhooks.md §7), as their details.
    pub(crate) conditions: mpsc::Receiver<String>,
    /// To whom the shard is to be handed.
    pub(crate) targets: mpsc::Receiver<Target>,
    pub(crate) drain: CancellationToken,
}

/// Posts whose ends are taken at once.
const POSTED: usize = 64;
/// How long one commit tries before the shard is told that the database is lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// Something that was waited for.
enum Done {
    Heard(Input),
    Connected(Result<Link, ConnectError>),
}

/// A shard and what its orders are carried out with.
pub(crate) struct Runner {
    context: Context,
    shard: Shard,
    login: Login,
    /// A connection that lacks nothing but the login, for the first try.
    standby: Option<Box<dyn Standby>>,
    channels: Channels,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The connection that is up.
    link: Option<Link>,
    backoff: Backoff,
}

impl Runner {
    pub(crate) fn new(
        context: Context,
        fence: Fence,
        keys: NumberKeys,
        standby: Option<Box<dyn Standby>>,
        mut channels: Channels,
    ) -> Self {
        let login = Login {
            number: fence.number,
            shard: fence.shard,
            count: fence.count,
            epoch: fence.epoch,
            boot: context.boot,
            holder: context.holder.clone(),
            keys: keys.public.clone(),
            static_key: keys.static_key.clone(),
        };
        let settings = channels.settings.borrow_and_update().clone();
        let (now, now_ms) = (Instant::now().into_std(), context.clock.now_ms());
        let shard = Shard::new(context.config.clone(), fence, keys, settings, now, now_ms);
        let shard = shard.counting(context.stats.of(fence.number));
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        Self { context, shard, login, standby, channels, jobs: FuturesUnordered::new(), link: None, backoff }
    }

    /// Lives until the shard is released; says why, and to whom it was handed.
    pub(crate) async fn run(mut self) -> (Reason, Option<Target>) {
        self.shard.begin();
        let mut requests = Vec::new();
        let mut posted = Vec::new();
        loop {
            self.advance();
            self.context.state.publish(self.shard.state(), self.shard.writes(), self.shard.backlogs());
            if let Some(reason) = self.shard.released() {
                let handed = self.shard.handed().map(|(target, epoch)| (target.clone(), epoch));
                if let Some((target, epoch)) = &handed {
                    self.context.moved.to(&Fence { epoch: *epoch, ..*self.shard.fence() }, &target.address);
                }
                self.abandon();
                return (reason, handed.map(|(target, _)| target));
            }
            let (room, accepts) = (self.shard.room(), self.shard.accepts());
            let wake = self.shard.next_due().map_or_else(far_away, Instant::from_std);
            let (want_event, want_room) = (self.shard.wants_events(), !self.shard.commands().is_empty());
            tokio::select! {
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.done(done),
                count = self.channels.requests.recv_many(&mut requests, room), if room > 0 && accepts => {
                    if count == 0 { self.take(Input::ToldToDrain); }
                    // Who was told that settings are in force sends by them.
                    if self.channels.settings.has_changed().unwrap_or(false) { self.take_settings(); }
                    requests.drain(..).for_each(|request| self.take(Input::Request(request)));
                }
                stirred = stirred(&mut self.link, want_event, want_room) => {
                    if let Stirred::Event(event) = stirred { self.take(Input::Upstream(event)) }
                }
                _ = self.channels.posted.recv_many(&mut posted, POSTED), if room > 0 => {
                    posted.drain(..).for_each(|result| self.take(Input::Posted(result)));
                }
                Ok(()) = self.channels.settings.changed() => self.take_settings(),
                Some(details) = self.channels.conditions.recv() => self.take(Input::Condition(details)),
                Some(target) = self.channels.targets.recv() => self.take(Input::ToldToHandOff(target)),
                () = tokio::time::sleep_until(wake) => self.take(Input::Ticked),
                () = self.channels.drain.cancelled(), if accepts => self.take(Input::ToldToDrain),
            }
        }
    }

    fn take(&mut self, input: Input) {
        self.shard.take(Instant::now().into_std(), self.context.clock.now_ms(), input);
    }

    fn take_settings(&mut self) {
        let settings = self.channels.settings.borrow_and_update().clone();
        self.take(Input::SettingsChanged(Box::new(settings)));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Heard(input) => self.take(input),
            Done::Connected(Ok(link)) => {
                self.link = Some(link);
                self.backoff.reset();
                self.take(Input::Connected(Ok(())));
            }
            Done::Connected(Err(error)) => self.take(Input::Connected(Err(error))),
        }
    }

    fn advance(&mut self) {
        self.shard.advance();
        for order in self.shard.take_orders() {
            self.carry_out(order);
        }
        for post in self.shard.take_posts() {
            if let Err(refused) = self.channels.posts.try_send(post) {
                // The poster has room for more posts than may be open, so it is gone: shutting down.
                self.shard.not_opened(&refused.into_inner());
            }
        }
        let Some(link) = &self.link else { return };
        while !self.shard.commands().is_empty() {
            // A closed channel is heard as the end of the events.
            let Ok(permit) = link.commands.try_reserve() else { return };
            permit.send(self.shard.commands().pop_front().expect("not empty"));
        }
    }

    fn carry_out(&mut self, order: Order) {
        let (store, fence) = (self.context.store.clone(), *self.shard.fence());
        let (number, loads) = (fence.number, self.context.loads.clone());
        match order {
            Order::Commit { batch, retried } => self.job(async move { commit(&store, &fence, &batch, retried).await }),
            Order::Raise { target, deadline } => {
                let now_ms = self.context.clock.now_ms();
                self.job(async move { Input::Raised(raise(&store, &fence, &target, now_ms, deadline).await) });
            }
            Order::LoadOutbox(asked) => self.job(async move {
                let _turn = loads.acquire().await;
                let rows = read("outbox", || store.outbox(number, &asked, LOAD_ROWS)).await;
                Input::OutboxLoaded(asked, rows)
            }),
            Order::LoadEvents(endpoint, asked) => self.job(async move {
                let _turn = loads.acquire().await;
                let rows = read("events", || store.events(number, endpoint, &asked, LOAD_ROWS)).await;
                Input::EventsLoaded(endpoint, asked, rows)
            }),
            Order::LoadSessions { generation, peers } => self
                .job(async move { Input::SessionsLoaded(generation, read("sessions", || store.sessions(number, &peers)).await) }),
            Order::LookUp(lookup) => self.job(async move {
                let (sessions, keys) = read("what requests wait for", || lookup.ask(&*store, number)).await;
                Input::LookedUp(lookup, sessions, keys)
            }),
            Order::LearnFacts(questions) => self.job(async move {
                Input::FactsLoaded(Box::new(read("facts of deliveries", || questions.ask(&*store, number)).await))
            }),
            Order::FindInbound { message_id, reply } => self.job(async move {
                let ids = [message_id];
                let rows = read("incoming message", || store.inbound(number, &ids)).await;
                Input::InboundFound(reply, rows.into_iter().next())
            }),
            Order::PrepareFiles(message) => self.prepare_files(message),
            Order::CollectMedia => {
                let courier = self.context.courier.clone();
                self.job(async move { Input::MediaCollected(courier.collect_now(number).await) });
            }
            Order::Connect { at_once } => {
                self.link = None;
                let delay = if at_once { Duration::ZERO } else { self.backoff.next_delay() };
                let (upstream, login) = (self.context.upstream.clone(), self.login.clone());
                let (standby, stats) = (self.standby.take(), self.context.stats.of(number));
                self.jobs.push(Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    let began = Instant::now();
                    let connected = match standby {
                        Some(standby) => standby.activate(login).await,
                        None => upstream.connect(login).await,
                    };
                    stats.connection(connected.is_ok(), began.elapsed());
                    Done::Connected(connected)
                }));
            }
        }
    }

    /// Encryption would hold the shard up, so it has a task of its own, which ends when nobody waits for it any more.
    fn prepare_files(&self, message: MessageRow) {
        let (courier, number, at) = (self.context.courier.clone(), self.shard.fence().number, (message.slot, message.seq));
        let (mut sender, prepared) = oneshot::channel();
        self.context.tasks.spawn("message files", async move {
            tokio::select! {
                prepared = courier.prepare(number, message.body) => drop(sender.send(prepared)),
                () = sender.closed() => {}
            }
        });
        self.job(async move {
            match prepared.await {
                Ok(prepared) => Input::FilesPrepared(at, prepared),
                // The process ends; the next owner begins again.
                Err(_) => std::future::pending().await,
            }
        });
    }

    fn job(&self, work: impl Future<Output = Input> + Send + 'static) {
        self.jobs.push(Box::pin(async move { Done::Heard(work.await) }));
    }

    fn abandon(self) {
        let Self { context, shard, mut channels, .. } = self;
        channels.requests.close();
        while let Ok(request) = channels.requests.try_recv() {
            request.reply.send(context.moved.answer(shard.fence().number, request.slot));
        }
        context.state.remove(shard.fence());
        shard.abandon();
    }
}

/// Tries a commit while the database does not answer, at most for [`PATIENCE`]. Repeating is
/// harmless: every write of a batch is.
async fn commit(store: &SharedStore, fence: &Fence, batch: &Batch, mut retried: bool) -> Input {
    let started = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
    loop {
        let result = store.commit(fence, batch).await;
        if matches!(result, Ok(_) | Err(Error::Fenced { .. })) {
            return Input::Committed { result, retried, took: started.elapsed() };
        }
        retried = true;
        tokio::time::sleep(backoff.next_delay()).await;
        if started.elapsed() >= PATIENCE {
            return Input::Committed { result, retried, took: started.elapsed() };
        }
    }
}

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

/// Waits for an event, or for room for a command, whichever is wanted.
async fn stirred(link: &mut Option<Link>, want_event: bool, want_room: bool) -> Stirred {
    match link {
        Some(Link { commands, events }) => tokio::select! {
            event = events.recv(), if want_event => Stirred::Event(event),
            Ok(_) = commands.reserve(), if want_room => Stirred::Room,
            else => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
