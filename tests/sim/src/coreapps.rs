//! A coreapp around its real parts: [`Duties`] for its masters' orders and a real [`Shard`] for each ownership,
//! whose orders are carried out here as its task does: one input after the other as long as there is room.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use estafet_coreapp::{
    Config,
    callbacks::{Failure, Posted},
    core::{
        duties::{Duties, outdated},
        life::Reason,
    },
    media::Collected,
    request::{Reply, ShardRequest, not_owner, parse},
    settings::Versioned,
    shard::{Input, NumberKeys, Order as ShardOrder, Shard},
};
use estafet_master::core::{Ending, Holding, Needs, Report};
use estafet_model::{BootId, Epoch, settings::Settings};
use estafet_proto::{
    chat::{RefusedReason, client_frame, server_frame},
    v1,
};
use estafet_store::{Batch, Error, EventRef, Fence};
use estafet_upstream::{ConnectError, Event, Login, StaticKey, chat::wire, e2e::Account};
use rand::RngExt as _;
use tokio::sync::mpsc;

use crate::{
    masters::{boot_of, name},
    messages::{Body, Order, Read, Rows},
    moves::Raising,
    world::{MASTERS, MS, Place, SECOND, Time, Timer, What, World},
};

const HEARTBEAT: Time = 100 * MS;
/// How long one try of a commit or a reading may take, and when the shard is told that it is unknown.
const DATABASE: Time = 2 * SECOND;
const PATIENCE: Duration = Duration::from_millis(500);
const LOGIN: Time = 3 * SECOND;
const POST: Time = 2 * SECOND;
/// Outcomes that wait for one webapp; it has credits for fewer.
const OUTCOMES: usize = 16_384;

#[derive(Default)]
pub(crate) struct Coreapp {
    pub(crate) duties: Duties,
    pub(crate) tasks: BTreeMap<u64, Task>,
    masters: [Option<u64>; MASTERS],
    webapps: BTreeMap<u64, (mpsc::Sender<v1::Outcome>, mpsc::Receiver<v1::Outcome>)>,
    pub(crate) calls: BTreeMap<u64, Asked>,
}

pub(crate) struct Task {
    pub(crate) shard: Shard,
    line: Line,
    failures: u32,
    events: VecDeque<Event>,
    requests: VecDeque<ShardRequest>,
    told_to_drain: bool,
}

/// The connection of a shard.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Down,
    LoggingIn(u64),
    Up(u64),
}

pub(crate) enum Asked {
    Acquire(Fence),
    Prepare(Fence),
    Raise(Raising),
    RaisedRow(Raising),
    Commit { task: u64, batch: Arc<Batch>, retried: bool, since: Duration },
    Read { task: u64, read: Read },
    Find { task: u64, message_id: String, reply: Reply },
    Post { task: u64, event: EventRef },
    Login { task: u64, stream: u64 },
}

impl Coreapp {
    fn running(&self) -> Vec<Fence> {
        self.tasks.values().map(|task| *task.shard.fence()).collect()
    }
}

/// The keys of the number: made once, since they decide nothing.
fn keys() -> NumberKeys {
    static KEYS: OnceLock<(Vec<u8>, [u8; 32])> = OnceLock::new();
    let (account, secret) = KEYS.get_or_init(|| (Account::new().to_bytes(), *StaticKey::generate().to_bytes()));
    let account = Account::from_bytes(account).expect("written above");
    NumberKeys { public: account.public_keys(), account, static_key: StaticKey::from_bytes(*secret) }
}

/// The settings of the number: the defaults and somewhere to post to.
fn settings() -> Versioned {
    let mut settings = Settings::default();
    settings.webhooks.url = Some("http://receiver".to_owned());
    settings.webhooks.message.sent = true;
    settings.webhooks.message.delivered = true;
    settings.webhooks.message.read = true;
    settings.callback_backoff_delay_ms = 300;
    settings.max_callback_backoff_delay_ms = 1_500;
    Versioned { version: 1, settings }
}

/// The node at an address of the map.
pub(crate) fn place(address: &str) -> Option<Place> {
    address.strip_prefix("coreapp-")?.strip_suffix(":1")?.parse().ok().map(Place::Coreapp)
}

impl World {
    pub(crate) fn start_coreapp(&mut self, i: usize) {
        let first = self.between(0, HEARTBEAT);
        self.wake(Place::Coreapp(i), first, Timer::Beat);
        for master in 0..MASTERS {
            self.dial(Place::Coreapp(i), Place::Master(master), 0);
        }
    }

    pub(crate) fn boot(&self, i: usize) -> BootId {
        boot_of(i, self.life(Place::Coreapp(i)))
    }

    pub(crate) fn at_coreapp(&mut self, i: usize, what: What) {
        match what {
            What::Woken(Timer::Beat) => {
                self.wake(Place::Coreapp(i), HEARTBEAT, Timer::Beat);
                self.report(i);
            }
            What::Woken(Timer::Dial(to)) => self.dial(Place::Coreapp(i), to, 0),
            What::Woken(Timer::Connect(task)) => self.dial(Place::Coreapp(i), Place::Chatd, task),
            What::Woken(Timer::Due(task)) => self.take(i, task, Input::Ticked),
            What::Woken(Timer::Late(call)) => self.coreapp_answered(i, call, Body::Unavailable),
            What::Woken(Timer::Again(call)) => self.ask_again(i, call),
            What::Answered { call, body } => self.coreapp_answered(i, call, body),
            What::Dialled { to: to @ Place::Master(master), stream, .. } => match stream {
                Some(stream) => {
                    self.coreapps[i].masters[master] = Some(stream);
                    self.report(i);
                }
                None => self.dial_again(i, to),
            },
            What::Dialled { to: Place::Chatd, tag, stream, .. } => self.chatd_dialled(i, tag, stream),
            What::Accepted { from: Place::Webapp(_), stream } => {
                self.coreapps[i].webapps.insert(stream, mpsc::channel(OUTCOMES));
            }
            // A dial that only wanted to know whether the process is there.
            What::Accepted { .. } => {}
            What::Arrived { stream, body } => self.coreapp_heard(i, stream, body),
            What::Broke { stream } => self.coreapp_lost(i, stream),
            _ => {}
        }
        self.send_outcomes(i);
    }

    fn dial_again(&mut self, i: usize, to: Place) {
        let pause = self.between(10 * MS, 300 * MS);
        self.wake(Place::Coreapp(i), pause, Timer::Dial(to));
    }

    fn coreapp_heard(&mut self, i: usize, stream: u64, body: Body) {
        match body {
            Body::Order { term, order } => self.obey(i, term, order),
            Body::Request(request) => self.dispatch(i, stream, request),
            Body::Server(frame) => self.network_said(i, stream, frame),
            _ => {}
        }
    }

    fn coreapp_lost(&mut self, i: usize, stream: u64) {
        let node = &mut self.coreapps[i];
        if let Some(master) = node.masters.iter().position(|open| *open == Some(stream)) {
            node.masters[master] = None;
            return self.dial_again(i, Place::Master(master));
        }
        if node.webapps.remove(&stream).is_some() {
            return;
        }
        let task = node.tasks.iter().find(|(_, task)| matches!(task.line, Line::Up(s) | Line::LoggingIn(s) if s == stream));
        let Some(id) = task.map(|(id, _)| *id) else { return };
        let Some(task) = node.tasks.get_mut(&id) else { return };
        if task.line == Line::Up(stream) {
            task.events.push_back(Event::Closed { reason: "broken".to_owned() });
            self.turn(i, id);
        } else {
            task.line = Line::Down;
            self.take(i, id, Input::Connected(Err(ConnectError::Unreachable("broken".to_owned()))));
        }
    }

    // -- the masters --

    pub(crate) fn report(&mut self, i: usize) {
        let (now, boot) = (self.instant(Place::Coreapp(i)), self.boot(i));
        let (warm, handed) = self.moves_of(i, now);
        let node = &self.coreapps[i];
        let key = |fence: &Fence| (fence.number, fence.count, fence.shard);
        let holdings = node.duties.holdings(&node.running());
        let report = Report {
            node: name(i),
            boot,
            address: format!("{}:1", name(i)),
            draining: node.duties.is_draining(),
            holdings: holdings
                .iter()
                .map(|(fence, active)| Holding { key: key(fence), epoch: fence.epoch, active: *active })
                .collect(),
            endings: node
                .duties
                .endings()
                .map(|(fence, above)| Ending {
                    key: key(fence),
                    epoch: fence.epoch,
                    above: Epoch::new(u32::try_from(*above).unwrap_or(u32::MAX - 1)),
                })
                .collect(),
            warm,
            handed,
            // Nobody probes here: what a node says it lacks moves shards in the same ways as draining and death.
            needs: Needs::default(),
        };
        for stream in node.masters.into_iter().flatten() {
            self.send(Place::Coreapp(i), stream, Body::Report(report.clone()));
        }
    }

    pub(crate) fn drain_node(&mut self, i: usize) {
        self.coreapps[i].duties.drain();
        self.report(i);
    }

    fn obey(&mut self, i: usize, term: i64, order: Order) {
        let node = &mut self.coreapps[i];
        if !node.duties.heeds(term) {
            return;
        }
        match order {
            Order::Acquire(fence) => {
                if node.duties.may_start(fence) {
                    for old in outdated(&node.running(), &fence) {
                        self.release(i, old);
                    }
                    let call = self.fresh();
                    self.coreapps[i].calls.insert(call, Asked::Acquire(fence));
                    self.call(Place::Coreapp(i), Place::Database, call, DATABASE, Body::Read(Read::Keys));
                }
            }
            Order::Release(fence) => self.release(i, &fence),
            Order::Prepare(owned) => self.prepare(i, owned),
            Order::HandOff(fence, target) => self.hand_off(i, &fence, target),
        }
        self.report(i);
    }

    fn release(&mut self, i: usize, fence: &Fence) {
        let of = |task: &Task| task.shard.fence() == fence;
        let found: Vec<u64> = self.coreapps[i].tasks.iter().filter(|(_, task)| of(task)).map(|(id, _)| *id).collect();
        for id in found {
            if let Some(task) = self.coreapps[i].tasks.get_mut(&id) {
                task.told_to_drain = true;
            }
            self.turn(i, id);
        }
    }

    fn acquired(&mut self, i: usize, fence: Fence, loaded: bool) {
        self.coreapps[i].duties.started(&fence);
        if loaded {
            let place = Place::Coreapp(i);
            let config = Arc::new(Config { node: name(i), ..Config::default() });
            let mut shard = Shard::new(config, fence, keys(), settings(), self.instant(place), self.wall_ms(place));
            shard.begin();
            let id = self.fresh();
            let (events, requests) = (VecDeque::new(), VecDeque::new());
            let task = Task { shard, line: Line::Down, failures: 0, events, requests, told_to_drain: false };
            self.coreapps[i].tasks.insert(id, task);
            self.turn(i, id);
        } else {
            self.coreapps[i].duties.ended(fence, 0);
        }
        self.report(i);
    }

    // -- a shard's task --

    pub(crate) fn take(&mut self, i: usize, id: u64, input: Input) {
        let (now, now_ms) = (self.instant(Place::Coreapp(i)), self.wall_ms(Place::Coreapp(i)));
        if let Some(task) = self.coreapps[i].tasks.get_mut(&id) {
            task.shard.take(now, now_ms, input);
            self.turn(i, id);
        }
    }

    /// Goes on until nothing waits that may be taken.
    fn turn(&mut self, i: usize, id: u64) {
        let (now, now_ms) = (self.instant(Place::Coreapp(i)), self.wall_ms(Place::Coreapp(i)));
        loop {
            let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
            task.shard.advance();
            self.carry_out(i, id);
            let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
            if let Some(reason) = task.shard.released() {
                return self.ended(i, id, reason);
            }
            let (room, accepts, wants) = (task.shard.room(), task.shard.accepts(), task.shard.wants_events());
            let input = if room > 0
                && accepts
                && let Some(request) = task.requests.pop_front()
            {
                Input::Request(request)
            } else if wants && let Some(event) = task.events.pop_front() {
                Input::Upstream(Some(event))
            } else if accepts && task.told_to_drain {
                Input::ToldToDrain
            } else {
                break;
            };
            task.shard.take(now, now_ms, input);
        }
        let due = self.coreapps[i].tasks.get(&id).and_then(|task| task.shard.next_due());
        if let Some(due) = due {
            let delay = due.saturating_duration_since(now).max(Duration::from_millis(1));
            self.wake(Place::Coreapp(i), delay.as_micros() as Time, Timer::Due(id));
        }
    }

    fn carry_out(&mut self, i: usize, id: u64) {
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
        let (orders, posts) = (task.shard.take_orders(), task.shard.take_posts());
        let mut commands = Vec::new();
        if let Line::Up(stream) = task.line {
            commands.extend(task.shard.commands().drain(..));
            let epoch = u64::from(task.shard.fence().epoch.get());
            let (frames, _) = wire::frames(epoch, commands);
            for frame in frames.into_iter().filter_map(|frame| frame.frame) {
                self.send(Place::Coreapp(i), stream, Body::Client(frame));
            }
        }
        for order in orders {
            self.shard_order(i, id, order);
        }
        for post in posts {
            let call = self.fresh();
            self.coreapps[i].calls.insert(call, Asked::Post { task: id, event: post.event });
            self.call(Place::Coreapp(i), Place::Receiver, call, POST, Body::Post(post));
        }
    }

    fn shard_order(&mut self, i: usize, task: u64, order: ShardOrder) {
        let read = |read| Asked::Read { task, read };
        let asked = match order {
            ShardOrder::Commit { batch, retried } => {
                let since = self.moment(Place::Coreapp(i));
                Asked::Commit { task, batch, retried, since }
            }
            ShardOrder::LoadOutbox(asked) => read(Read::Outbox(asked)),
            ShardOrder::LoadEvents(endpoint, asked) => read(Read::Events(endpoint, asked)),
            ShardOrder::LoadSessions { generation, peers } => read(Read::Sessions(generation, peers)),
            ShardOrder::LoadPeers(peers) => read(Read::Peers(peers)),
            ShardOrder::LearnFacts(questions) => read(Read::Facts(questions)),
            ShardOrder::FindInbound { message_id, reply } => Asked::Find { task, message_id, reply },
            ShardOrder::Raise { target, deadline } => {
                return self.raise(i, Raising { task, target, deadline });
            }
            ShardOrder::Connect { at_once } => return self.connect(i, task, at_once),
            // Nobody here sends files; if somebody did, the network would have them at once.
            ShardOrder::PrepareFiles(message) => {
                let prepared = Input::FilesPrepared((message.slot, message.seq), Ok(message.body));
                return self.take(i, task, prepared);
            }
            // Nor has anybody files that could be old.
            ShardOrder::CollectMedia => {
                return self.take(i, task, Input::MediaCollected(Collected { removed: 0, is_complete: true }));
            }
        };
        self.ask(i, asked);
    }

    fn ask(&mut self, i: usize, asked: Asked) {
        let body = match &asked {
            Asked::Commit { task, batch, .. } => {
                let Some(fence) = self.coreapps[i].tasks.get(task).map(|task| *task.shard.fence()) else { return };
                Body::Commit { fence, boot: self.boot(i), batch: batch.clone() }
            }
            Asked::Read { read, .. } => Body::Read(read.clone()),
            Asked::Find { message_id, .. } => Body::Read(Read::Inbound(message_id.clone())),
            Asked::Acquire(_) | Asked::Prepare(_) | Asked::Raise(_) | Asked::RaisedRow(_) => return,
            Asked::Post { .. } | Asked::Login { .. } => return,
        };
        let call = self.fresh();
        self.coreapps[i].calls.insert(call, asked);
        self.call(Place::Coreapp(i), Place::Database, call, DATABASE, body);
    }

    fn ask_again(&mut self, i: usize, call: u64) {
        if let Some(asked) = self.coreapps[i].calls.remove(&call) {
            self.ask(i, asked);
        }
    }

    fn coreapp_answered(&mut self, i: usize, call: u64, body: Body) {
        if let Body::Locked(transaction) = body {
            let finish = self.fresh();
            return self.call(Place::Coreapp(i), Place::Database, finish, DATABASE, Body::Finish(transaction));
        }
        let Some(asked) = self.coreapps[i].calls.remove(&call) else { return };
        match (asked, body) {
            (Asked::Acquire(fence), body) => self.acquired(i, fence, matches!(body, Body::Rows(_))),
            (Asked::Prepare(owned), body) => self.prepared(i, &owned, matches!(body, Body::Rows(_))),
            (Asked::Raise(raising), body) => self.raised(i, raising, body),
            (Asked::RaisedRow(raising), body) => self.row_of_raised(i, raising, body),
            (Asked::Commit { task, batch, since, retried }, body) => self.committed(i, task, batch, since, retried, body),
            (Asked::Read { task, .. }, Body::Rows(rows)) => {
                if let Some(input) = loaded(rows) {
                    self.take(i, task, input);
                }
            }
            (Asked::Find { task, reply, .. }, Body::Rows(Rows::Inbound(row))) => {
                self.take(i, task, Input::InboundFound(reply, row))
            }
            (asked @ (Asked::Read { .. } | Asked::Find { .. }), _) => self.later(i, asked),
            (Asked::Post { task, event }, body) => {
                let result = match body {
                    Body::Posted(true) => Ok(()),
                    Body::Posted(false) => Err(Failure::Status(500)),
                    _ => Err(Failure::Timeout),
                };
                self.take(i, task, Input::Posted(Posted { event, result }));
            }
            (Asked::Login { task, stream }, _) => {
                let waits = self.coreapps[i].tasks.get(&task).is_some_and(|task| task.line == Line::LoggingIn(stream));
                if waits {
                    self.hang_up(stream);
                    self.failed_to_connect(i, task, ConnectError::Unreachable("no answer to the login".to_owned()));
                }
            }
        }
    }

    fn later(&mut self, i: usize, asked: Asked) {
        let (call, pause) = (self.fresh(), self.between(5 * MS, 100 * MS));
        self.coreapps[i].calls.insert(call, asked);
        self.wake(Place::Coreapp(i), pause, Timer::Again(call));
    }

    fn committed(&mut self, i: usize, task: u64, batch: Arc<Batch>, since: Duration, retried: bool, body: Body) {
        let took = self.moment(Place::Coreapp(i)).saturating_sub(since);
        let Some(fence) = self.coreapps[i].tasks.get(&task).map(|task| *task.shard.fence()) else { return };
        let result = match body {
            Body::Committed(committed) => Ok(committed),
            Body::Fenced => Err(Error::Fenced { number: fence.number, shard: fence.shard, ours: fence.epoch }),
            _ if took < PATIENCE => return self.later(i, Asked::Commit { task, batch, retried: true, since }),
            _ => Err(Error::Unavailable("no answer".to_owned())),
        };
        let retried = retried || matches!(result, Err(Error::Unavailable(_)));
        self.take(i, task, Input::Committed { result, retried, took });
    }

    fn ended(&mut self, i: usize, id: u64, reason: Reason) {
        let Some(task) = self.coreapps[i].tasks.remove(&id) else { return };
        if let Line::Up(stream) | Line::LoggingIn(stream) = task.line {
            self.hang_up(stream);
        }
        task.requests.into_iter().for_each(|request| request.reply.send(not_owner()));
        let fence = *task.shard.fence();
        self.note(|now| {
            format!("{now:>9} Coreapp({i}) {}/{} in epoch {} ended: {reason:?}", fence.shard, fence.count.get(), fence.epoch)
        });
        let handed = task.shard.handed().map(|(target, epoch)| (Fence { epoch, ..fence }, target.clone()));
        task.shard.abandon();
        if let Some((fence, target)) = handed {
            self.coreapps[i].duties.handed_off(fence, target);
            return self.report(i);
        }
        let above = if let Reason::StaleUpstream { highest } = reason { highest } else { 0 };
        self.coreapps[i].duties.ended(fence, above);
        self.report(i);
    }

    // -- webapps --

    fn dispatch(&mut self, i: usize, stream: u64, request: v1::Request) {
        let node = &mut self.coreapps[i];
        let Some((outcomes, _)) = node.webapps.get(&stream) else { return };
        let reply = Reply::Stream { correlation: request.correlation, outcomes: outcomes.clone() };
        let Ok((number, slot, action)) = parse(request) else { return };
        let of = |task: &Task| task.shard.fence().number == number && task.shard.fence().slots().contains(&slot);
        let Some(id) = node.tasks.iter().find(|(_, task)| of(task)).map(|(id, _)| *id) else { return reply.send(not_owner()) };
        if let Some(task) = node.tasks.get_mut(&id) {
            task.requests.push_back(ShardRequest { slot, action, reply });
        }
        self.turn(i, id);
    }

    fn send_outcomes(&mut self, i: usize) {
        let streams: Vec<u64> = self.coreapps[i].webapps.keys().copied().collect();
        for stream in streams {
            while let Some(outcome) = self.coreapps[i].webapps.get_mut(&stream).and_then(|(_, waiting)| waiting.try_recv().ok()) {
                self.send(Place::Coreapp(i), stream, Body::Outcome(outcome));
            }
        }
    }

    // -- chatd --

    fn connect(&mut self, i: usize, id: u64, at_once: bool) {
        let bound = |failures: u32| ((50 * MS) << failures.min(8)).min(10 * SECOND);
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
        let (line, bound) = (task.line, bound(task.failures));
        task.line = Line::Down;
        task.failures = if at_once { task.failures } else { task.failures + 1 };
        task.events.clear();
        if let Line::Up(stream) | Line::LoggingIn(stream) = line {
            self.hang_up(stream);
        }
        let pause = if at_once { 0 } else { self.chance.random_range(0..=bound) };
        self.wake(Place::Coreapp(i), pause, Timer::Connect(id));
    }

    fn chatd_dialled(&mut self, i: usize, id: u64, stream: Option<u64>) {
        let boot = self.boot(i);
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else {
            stream.into_iter().for_each(|stream| self.hang_up(stream));
            return;
        };
        let Some(stream) = stream else {
            return self.failed_to_connect(i, id, ConnectError::Unreachable("no answer".to_owned()));
        };
        task.line = Line::LoggingIn(stream);
        let (fence, keys) = (*task.shard.fence(), keys());
        let login = wire::login(&Login {
            number: fence.number,
            shard: fence.shard,
            count: fence.count,
            epoch: fence.epoch,
            boot,
            holder: name(i),
            keys: keys.public,
            static_key: keys.static_key,
        });
        let call = self.fresh();
        self.coreapps[i].calls.insert(call, Asked::Login { task: id, stream });
        self.wake(Place::Coreapp(i), LOGIN, Timer::Late(call));
        self.send(Place::Coreapp(i), stream, Body::Client(client_frame::Frame::Login(login)));
    }

    fn failed_to_connect(&mut self, i: usize, id: u64, error: ConnectError) {
        if let Some(task) = self.coreapps[i].tasks.get_mut(&id) {
            task.line = Line::Down;
        }
        self.take(i, id, Input::Connected(Err(error)));
    }

    fn network_said(&mut self, i: usize, stream: u64, frame: server_frame::Frame) {
        let on = |task: &Task| matches!(task.line, Line::Up(s) | Line::LoggingIn(s) if s == stream);
        let Some(id) = self.coreapps[i].tasks.iter().find(|(_, task)| on(task)).map(|(id, _)| *id) else { return };
        let Some(task) = self.coreapps[i].tasks.get_mut(&id) else { return };
        match (task.line, frame) {
            (Line::LoggingIn(_), server_frame::Frame::LoggedIn(_)) => {
                (task.line, task.failures) = (Line::Up(stream), 0);
                self.take(i, id, Input::Connected(Ok(())));
            }
            (Line::LoggingIn(_), server_frame::Frame::Refused(refused)) => {
                let error = match refused.reason() {
                    RefusedReason::StaleEpoch => ConnectError::StaleEpoch { highest: refused.highest_epoch },
                    RefusedReason::Conflict => ConnectError::Conflict { holder: refused.holder },
                    _ => ConnectError::Refused(refused.details),
                };
                self.hang_up(stream);
                self.failed_to_connect(i, id, error);
            }
            (_, frame) => {
                if let Ok(wire::Heard::Event(event)) = wire::heard(frame) {
                    task.events.push_back(event);
                    self.turn(i, id);
                }
            }
        }
    }
}

fn loaded(rows: Rows) -> Option<Input> {
    Some(match rows {
        Rows::Outbox(asked, rows) => Input::OutboxLoaded(asked, rows),
        Rows::Events(endpoint, asked, rows) => Input::EventsLoaded(endpoint, asked, rows),
        Rows::Sessions(generation, rows) => Input::SessionsLoaded(generation, rows),
        Rows::Peers(asked, rows) => Input::PeersLoaded(asked, rows),
        Rows::Facts(facts) => Input::FactsLoaded(Box::new(Arc::try_unwrap(facts).ok()?)),
        Rows::Keys | Rows::Inbound(_) => return None,
    })
}
