//! A webapp around its real parts: the merged map, a [`Flight`] for each coreapp, a [`Plan`] for each request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use estafet_model::{IdGenerator, IdKey, Owner, ShardMap, Slot, WaId};
use estafet_proto::v1::{self, outcome, request::Action};
use estafet_webapp::{
    cluster::merge,
    flight::Flight,
    plan::{Missed, Plan, Step},
};
use tokio::time::Instant;

use crate::{
    coreapps,
    messages::Body,
    reach,
    world::{MASTERS, MS, Place, SECOND, Time, Timer, What, World},
};

/// How long a request is held, and how long its client waits (the defaults of the configuration).
const HOLD: Duration = Duration::from_millis(2_000);
const ANSWER: Time = 10 * SECOND;
/// Requests a coreapp takes from one webapp before it has answered any.
const CREDITS: u32 = 1_000;

pub(crate) struct Webapp {
    map: ShardMap,
    links: BTreeMap<String, Link>,
    masters: [Option<u64>; MASTERS],
    requests: BTreeMap<u64, Request>,
    ids: IdGenerator,
    pub(crate) missed: reach::Missed,
}

struct Link {
    stream: Option<u64>,
    flight: Flight<Arc<u64>>,
}

struct Request {
    key: IdKey,
    recipient: WaId,
    plan: Plan,
    /// The answer that is waited for; nothing else keeps it.
    waits: Option<Weak<u64>>,
    held: bool,
    sent: bool,
}

impl Webapp {
    pub(crate) fn new(i: usize) -> Self {
        Self {
            map: ShardMap::default(),
            links: BTreeMap::new(),
            masters: [None; MASTERS],
            requests: BTreeMap::new(),
            ids: IdGenerator::new(u16::try_from(i).unwrap_or(u16::MAX)),
            missed: reach::Missed::default(),
        }
    }

    /// The next start of the process: its ids have another tag.
    pub(crate) fn restarted(i: usize, life: u32) -> Self {
        let tag = u16::try_from(i + 16 * life as usize).unwrap_or(u16::MAX);
        Self { ids: IdGenerator::new(tag), ..Self::new(i) }
    }

    /// Who is thought to own what.
    pub(crate) fn view(&self) -> Vec<(u16, u16, u32, String)> {
        let entry = |owner: &Owner| (owner.shard.get(), owner.count.get(), owner.epoch.get(), owner.address.clone());
        self.map.iter().map(|(_, owner)| entry(owner)).collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }
}

impl World {
    pub(crate) fn start_webapp(&mut self, i: usize) {
        (0..MASTERS).for_each(|master| self.dial(Place::Webapp(i), Place::Master(master), 0));
        self.tell_missed(i);
    }

    pub(crate) fn at_webapp(&mut self, i: usize, what: What) {
        match what {
            What::Dialled { to: to @ Place::Master(master), stream, .. } => match stream {
                Some(stream) => self.webapps[i].masters[master] = Some(stream),
                None => self.webapp_dials_again(i, to),
            },
            What::Dialled { to: to @ Place::Coreapp(node), stream, .. } => match stream {
                Some(stream) => self.link_up(i, node, stream),
                None => {
                    self.reached(i, coreapps::address(node), false);
                    self.webapp_dials_again(i, to);
                }
            },
            What::Woken(Timer::Dial(to)) => self.dial(Place::Webapp(i), to, 0),
            What::Woken(Timer::Beat) => self.tell_missed(i),
            What::Woken(Timer::Try(request)) => self.try_held(i, request),
            What::Woken(Timer::Late(request)) => {
                if let Some(sent) = self.webapps[i].requests.get(&request).map(|request| request.sent) {
                    self.missed(i, request, Missed::TimedOut { sent });
                }
            }
            What::Arrived { body: Body::Map(entries), .. } => self.map_arrived(i, entries),
            What::Arrived { stream, body: Body::Outcome(outcome) } => self.outcome(i, stream, outcome),
            What::Broke { stream } => self.webapp_lost(i, stream),
            _ => {}
        }
    }

    fn webapp_dials_again(&mut self, i: usize, to: Place) {
        let pause = self.between(10 * MS, 300 * MS);
        self.wake(Place::Webapp(i), pause, Timer::Dial(to));
    }

    fn webapp_lost(&mut self, i: usize, stream: u64) {
        let webapp = &mut self.webapps[i];
        if let Some(master) = webapp.masters.iter().position(|open| *open == Some(stream)) {
            webapp.masters[master] = None;
            return self.webapp_dials_again(i, Place::Master(master));
        }
        let Some((address, link)) = webapp.links.iter_mut().find(|(_, link)| link.stream == Some(stream)) else { return };
        (link.stream, link.flight) = (None, Flight::default());
        let address = address.clone();
        coreapps::place(&address).into_iter().for_each(|to| self.webapp_dials_again(i, to));
        self.reached(i, address, false);
        self.let_go(i);
    }

    fn link_up(&mut self, i: usize, node: usize, stream: u64) {
        let address = coreapps::address(node);
        self.reached(i, address.clone(), true);
        let mut flight = Flight::default();
        flight.grant(CREDITS);
        self.webapps[i].links.insert(address, Link { stream: Some(stream), flight });
        self.news(i);
    }

    fn map_arrived(&mut self, i: usize, entries: Vec<v1::MapEntry>) {
        let webapp = &mut self.webapps[i];
        if !merge(&mut webapp.map, entries) {
            return;
        }
        for (address, link) in &mut webapp.links {
            link.flight.release_moved(&webapp.map, address);
        }
        let owners: Vec<String> = webapp.map.iter().map(|(_, owner)| owner.address.clone()).collect();
        owners.iter().for_each(|address| self.link(i, address));
        self.let_go(i);
        self.news(i);
    }

    /// Has a link made, if there is none.
    fn link(&mut self, i: usize, address: &str) {
        if !self.webapps[i].links.contains_key(address)
            && let Some(to) = coreapps::place(address)
        {
            self.webapps[i].links.insert(address.to_owned(), Link { stream: None, flight: Flight::default() });
            self.dial(Place::Webapp(i), to, 0);
        }
    }

    /// Requests whose answer nobody will give any more go on.
    fn let_go(&mut self, i: usize) {
        let gone = |request: &Request| request.waits.as_ref().is_some_and(|waits| waits.strong_count() == 0);
        let gone: Vec<u64> = self.webapps[i].requests.iter().filter(|(_, request)| gone(request)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.missed(i, id, Missed::Broken { sent: true }));
    }

    fn news(&mut self, i: usize) {
        let held: Vec<u64> = self.webapps[i].requests.iter().filter(|(_, request)| request.held).map(|(id, _)| *id).collect();
        held.into_iter().for_each(|id| self.try_held(i, id));
    }

    fn try_held(&mut self, i: usize, id: u64) {
        if let Some(request) = self.webapps[i].requests.get_mut(&id).filter(|request| request.held) {
            request.held = false;
            self.attempt(i, id, None);
        }
    }

    /// A client asks for a message to be sent.
    pub(crate) fn submit(&mut self, i: usize, recipient: WaId) {
        let (id, wall_ms) = (self.fresh(), self.wall_ms(Place::Webapp(i)));
        let key = self.webapps[i].ids.generate(wall_ms);
        let request = Request { key, recipient, plan: Plan::new(HOLD), waits: None, held: false, sent: false };
        self.webapps[i].requests.insert(id, request);
        self.ledger.submitted(self.now, key, recipient);
        self.note(|now| format!("{now:>9} a client asks Webapp({i}) for {key:?} to {recipient}"));
        self.wake(Place::Webapp(i), ANSWER, Timer::Late(id));
        self.attempt(i, id, None);
    }

    fn attempt(&mut self, i: usize, id: u64, at: Option<String>) {
        let Some(request) = self.webapps[i].requests.get(&id) else { return };
        let slot = Slot::of(request.recipient);
        let address = at.or_else(|| self.webapps[i].map.owner(crate::number(), slot).map(|owner| owner.address.clone()));
        let Some(address) = address else { return self.missed(i, id, Missed::NoOwner) };
        self.link(i, &address);
        let body = Action::Submit(v1::Submit {
            recipient: request_of(self, i, id).recipient.as_u64(),
            id_key: request_of(self, i, id).key.0.to_vec().into(),
            body: Bytes::from_static(br#"{"type":"text","text":{"body":"hello"}}"#),
            submitted_at_ms: self.wall_ms(Place::Webapp(i)),
            ..v1::Submit::default()
        });
        let mut wire =
            v1::Request { correlation: 0, number: crate::number().as_u64(), slot: slot.get().into(), action: Some(body) };
        let webapp = &mut self.webapps[i];
        let seen = webapp.map.owner(crate::number(), slot).map(|owner| owner.epoch);
        let Some(link) = webapp.links.get_mut(&address) else { return self.missed(i, id, Missed::NoStream) };
        let Some(stream) = link.stream else { return self.missed(i, id, Missed::NoStream) };
        if !link.flight.has_credit() {
            return self.missed(i, id, Missed::QueueFull);
        }
        let waiter = Arc::new(id);
        if let Some(request) = webapp.requests.get_mut(&id) {
            (request.waits, request.sent) = (Some(Arc::downgrade(&waiter)), true);
        }
        link.flight.depart(&mut wire, seen, waiter);
        self.send(Place::Webapp(i), stream, Body::Request(wire));
    }

    fn missed(&mut self, i: usize, id: u64, missed: Missed) {
        let now = Instant::from_std(self.instant(Place::Webapp(i)));
        let Some(request) = self.webapps[i].requests.get_mut(&id) else { return };
        request.waits = None;
        match request.plan.next(missed, now) {
            Step::RetryAt(address) => self.attempt(i, id, Some(address)),
            Step::Hold(pause) => {
                request.held = true;
                // A wait shorter than a microsecond still takes time.
                self.wake(Place::Webapp(i), pause.as_micros() as Time + 1, Timer::Try(id));
            }
            Step::GiveUp(_) => drop(self.webapps[i].requests.remove(&id)),
        }
    }

    fn outcome(&mut self, i: usize, stream: u64, outcome: v1::Outcome) {
        let Some(link) = self.webapps[i].links.values_mut().find(|link| link.stream == Some(stream)) else { return };
        link.flight.grant(1);
        let Some(id) = link.flight.land(outcome.correlation) else { return };
        match outcome.result {
            Some(outcome::Result::Done(_)) => {
                if let Some(request) = self.webapps[i].requests.remove(&id) {
                    self.note(|now| format!("{now:>9} Webapp({i}) answers that {:?} is accepted", request.key));
                    self.ledger.accepted(self.now, request.key);
                }
            }
            Some(outcome::Result::NotOwner(moved)) => {
                let hint = Some(moved.hint).filter(|hint| !hint.is_empty());
                self.missed(i, *id, Missed::NotOwner { hint });
            }
            _ => drop(self.webapps[i].requests.remove(&id)),
        }
    }
}

fn request_of(world: &World, i: usize, id: u64) -> &Request {
    &world.webapps[i].requests[&id]
}
