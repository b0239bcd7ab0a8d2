//! A coreapp around its real parts: [`Duties`] for its masters' orders, and a real [`Shard`] for each ownership, whose
//! orders are carried out in `tasks`. Here are its streams: masters, webapps, and who gets what arrives.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
};

use estafet_coreapp::{
    Config,
    core::duties::{Duties, outdated},
    request::{Reply, ShardRequest, not_owner, parse},
    settings::Versioned,
    shard::{Input, NumberKeys, Shard},
};
use estafet_master::core::{Ending, Holding, Report};
use estafet_model::{BootId, Epoch, settings::Settings};
use estafet_proto::v1;
use estafet_store::Fence;
use estafet_upstream::{ConnectError, Event, StaticKey, e2e::Account};
use tokio::sync::mpsc;

use crate::{
    lines::Line,
    masters::{boot_of, name},
    messages::{Body, Order, Read},
    reach::{PROBE, Probes},
    tasks::{Asked, Task},
    world::{MASTERS, MS, Place, SECOND, Time, Timer, What, World},
};

const HEARTBEAT: Time = 100 * MS;
/// How long one try at the database may take.
pub(crate) const DATABASE: Time = 2 * SECOND;
/// Outcomes that wait for one webapp; it has credits for fewer.
const OUTCOMES: usize = 16_384;

#[derive(Default)]
pub(crate) struct Coreapp {
    pub(crate) duties: Duties,
    pub(crate) tasks: BTreeMap<u64, Task>,
    masters: [Option<u64>; MASTERS],
    webapps: BTreeMap<u64, (mpsc::Sender<v1::Outcome>, mpsc::Receiver<v1::Outcome>)>,
    pub(crate) calls: BTreeMap<u64, Asked>,
    pub(crate) probes: Probes,
}

impl Coreapp {
    fn running(&self) -> Vec<Fence> {
        self.tasks.values().map(|task| *task.shard.fence()).collect()
    }

    /// What runs, and what is being started.
    fn current(&self) -> Vec<Fence> {
        let starting = self.calls.values().filter_map(|asked| match asked {
            Asked::Acquire(fence) => Some(*fence),
            _ => None,
        });
        self.running().into_iter().chain(starting).collect()
    }
}

/// The keys of the number: made once, since they decide nothing.
pub(crate) fn keys() -> NumberKeys {
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

/// Where a node is reached.
pub(crate) fn address(node: usize) -> String {
    format!("{}:1", name(node))
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
        self.start_probes(i);
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
            What::Woken(Timer::ProbeNetwork) => self.probe_network(i),
            What::Woken(Timer::ProbeDatabase) => self.probe_database(i),
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
            What::Dialled { to: Place::Chatd, tag: PROBE, stream, .. } => self.network_probed(i, stream),
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
            address: address(i),
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
            needs: self.needs(i),
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
                    for old in outdated(&node.current(), &fence) {
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
        let node = &mut self.coreapps[i];
        let before = node.calls.len();
        node.calls.retain(|_, asked| !matches!(asked, Asked::Acquire(starting) if starting == fence));
        if node.calls.len() < before {
            // It never began.
            node.duties.started(fence);
            node.duties.ended(*fence, 0);
        }
        let of = |task: &Task| task.shard.fence() == fence;
        let found: Vec<u64> = self.coreapps[i].tasks.iter().filter(|(_, task)| of(task)).map(|(id, _)| *id).collect();
        for id in found {
            if let Some(task) = self.coreapps[i].tasks.get_mut(&id) {
                task.told_to_drain = true;
            }
            self.turn(i, id);
        }
    }

    pub(crate) fn acquired(&mut self, i: usize, fence: Fence, loaded: bool) {
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

    // -- webapps --

    fn dispatch(&mut self, i: usize, stream: u64, request: v1::Request) {
        let node = &mut self.coreapps[i];
        let Some((outcomes, _)) = node.webapps.get(&stream) else { return };
        let reply = Reply::Stream { correlation: request.correlation, outcomes: outcomes.clone() };
        let Ok((number, slot, action)) = parse(request) else { return };
        let of = |task: &Task| task.shard.fence().number == number && task.shard.fence().slots().contains(&slot);
        // While an older ownership still ends, the newer one counts.
        let covering = node.tasks.iter().filter(|(_, task)| of(task));
        let newest = covering.max_by_key(|(_, task)| task.shard.fence().epoch).map(|(id, _)| *id);
        let Some(id) = newest else { return reply.send(not_owner()) };
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
}
