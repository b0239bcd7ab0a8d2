//! A master around its real core: ticks, streams of nodes and webapps, the database's answers, a candidacy.
//!
//! What the driver does with effects is done here with happenings. The candidacy follows the rules of
//! `election.rs`: a lease renewed each 500 ms, given up when it can no longer be believed in, the fast path when
//! the leader's process is gone.

use std::collections::BTreeMap;

use estafet_coreapp::Target;
use estafet_etcd::Timing;
use estafet_master::core::{Core, Effect, Event, MapEntry, Record, Redial, placement::ShardKey};
use estafet_model::{BootId, Layout};
use estafet_proto::v1;
use estafet_store::{Fence, Switch};

use crate::{
    layouts::{LOOK, switched},
    messages::{Body, Order},
    world::{MS, Place, SECOND, Time, Timer, What, World, micros},
};

const TICK: Time = 50 * MS;
const RENEW: Time = micros(Timing::REAL.renew);
const DEADLINE: Time = micros(Timing::REAL.deadline);
/// How long a candidate believes in a lease.
const TTL: Time = micros(Timing::REAL.ttl);
/// How long the database may take.
const DATABASE: Time = 2 * SECOND;
/// How long a broken stream may take to come back.
const GRACE: Time = 100 * MS;

pub(crate) struct Master {
    core: Core,
    /// Streams of nodes that have reported over them.
    nodes: BTreeMap<String, (BootId, u64)>,
    webapps: Vec<u64>,
    calls: BTreeMap<u64, Asked>,
    lease: Option<Lease>,
    /// Whether a question about the candidacy is open.
    asking: bool,
    dials: BTreeMap<Place, (String, BootId)>,
    /// Who leads, as etcd said last, and its lease.
    leader: Option<(usize, u64)>,
}

struct Lease {
    id: u64,
    term: i64,
    /// When the last renewal that succeeded was sent, in the true time.
    renewed: Time,
    asked: Time,
    leads: bool,
}

pub(crate) enum Asked {
    Owners { term: i64 },
    Number { term: i64 },
    Layout { term: i64, to: Layout },
    Switch(Switch),
    Claim { term: i64, key: ShardKey, node: String, boot: BootId },
    Etcd { sent: Time },
}

impl Default for Master {
    fn default() -> Self {
        Self {
            core: Core::new(BTreeMap::new()),
            nodes: BTreeMap::new(),
            webapps: Vec::new(),
            calls: BTreeMap::new(),
            lease: None,
            asking: false,
            dials: BTreeMap::new(),
            leader: None,
        }
    }
}

impl Master {
    /// The owners it has heard of.
    pub(crate) fn map(&self) -> impl Iterator<Item = &MapEntry> {
        self.core.map()
    }

    /// Remembers what a call was made for.
    pub(crate) fn ask(&mut self, call: u64, asked: Asked) {
        self.calls.insert(call, asked);
    }

    pub(crate) fn term(&self) -> Option<i64> {
        self.core.term()
    }
}

/// A map entry as it travels.
fn wire(entry: &MapEntry) -> v1::MapEntry {
    let (number, count, shard) = entry.key;
    let ownership = v1::Ownership {
        number: number.as_u64(),
        shard: shard.get().into(),
        shard_count: count.get().into(),
        epoch: entry.epoch.get().into(),
    };
    v1::MapEntry { ownership: Some(ownership), address: entry.address.clone() }
}

impl World {
    pub(crate) fn start_master(&mut self, i: usize) {
        let (tick, campaign) = (self.between(0, TICK), self.between(0, RENEW));
        self.wake(Place::Master(i), tick, Timer::Beat);
        self.wake(Place::Master(i), campaign, Timer::Campaign);
        self.wake(Place::Master(i), LOOK, Timer::Look);
    }

    pub(crate) fn at_master(&mut self, i: usize, what: What) {
        match what {
            What::Woken(Timer::Beat) => {
                self.wake(Place::Master(i), TICK, Timer::Beat);
                self.master_step(i, Event::Ticked);
            }
            What::Woken(Timer::Campaign) => self.campaign(i),
            What::Woken(Timer::Look) => self.look_at_number(i),
            What::Woken(Timer::Late(call)) => self.master_answered(i, call, Body::Unavailable),
            What::Woken(Timer::Redial { node, boot }) => {
                let event = Event::Redialled { node: name(node), boot: boot_of(node, boot), outcome: Redial::TimedOut };
                self.master_step(i, event);
            }
            What::Answered { call, body } => self.master_answered(i, call, body),
            What::Accepted { from: Place::Webapp(_), stream } => {
                self.masters[i].webapps.push(stream);
                self.push_map(i);
            }
            What::Arrived { stream, body: Body::Report(report) } => {
                if self.is_open(stream) {
                    self.masters[i].nodes.insert(report.node.clone(), (report.boot, stream));
                }
                self.master_step(i, Event::Heard(report));
            }
            What::Called { body: Body::Unreached { webapp, unreachable }, .. } => self.unreached(i, webapp, unreachable),
            What::Broke { stream } => self.master_lost(i, stream),
            What::Dialled { to, stream, refused, .. } => self.master_dialled(i, to, stream, refused),
            _ => {}
        }
    }

    pub(crate) fn master_step(&mut self, i: usize, event: Event) {
        let now = self.moment(Place::Master(i));
        for effect in self.masters[i].core.step(now, event) {
            self.note(|now| format!("{now:>9} Master({i}) orders {effect:?}"));
            self.master_effect(i, effect);
        }
    }

    fn master_effect(&mut self, i: usize, effect: Effect) {
        let place = Place::Master(i);
        let fence = |key: &ShardKey, epoch| Fence { number: key.0, count: key.1, shard: key.2, epoch };
        match effect {
            Effect::ReadOwners { term } => {
                let call = self.fresh();
                self.masters[i].calls.insert(call, Asked::Owners { term });
                self.call(place, Place::Database, call, DATABASE, Body::Number);
            }
            Effect::Claim { term, key, node, boot, seen } => {
                let call = self.fresh();
                self.masters[i].calls.insert(call, Asked::Claim { term, key, node: node.clone(), boot });
                self.call(place, Place::Database, call, DATABASE, Body::Claim { term, key, node, boot, seen });
            }
            Effect::Acquire { term, node, key, epoch } => self.order(i, &node, term, Order::Acquire(fence(&key, epoch))),
            Effect::Release { term, node, key, epoch } => self.order(i, &node, term, Order::Release(fence(&key, epoch))),
            Effect::Prepare { term, node, key, epoch } => self.order(i, &node, term, Order::Prepare(fence(&key, epoch))),
            Effect::HandOff { term, node, key, epoch, to, boot, address } => {
                let target = Target { node: to, boot, address, term };
                self.order(i, &node, term, Order::HandOff(fence(&key, epoch), target));
            }
            Effect::Redial { node, boot, address } => {
                if let Some(to) = crate::coreapps::place(&address) {
                    self.masters[i].dials.insert(to, (node, boot));
                    self.dial(place, to, 0);
                }
            }
            Effect::Publish(_) => {
                self.ledger.map_moved = self.now;
                self.push_map(i);
            }
            Effect::Resign => self.resign(i),
            Effect::SetLayout { term, from, to, .. } => self.set_layout(i, term, from, to),
            Effect::Switch { term, number, from, to, retire, claim, above } => {
                self.order_switch(i, Switch { number, from, to, retire, claim, above, master_term: term, now_ms: 0 });
            }
        }
    }

    fn order(&mut self, i: usize, node: &str, term: i64, order: Order) {
        if let Some((_, stream)) = self.masters[i].nodes.get(node).copied() {
            self.send(Place::Master(i), stream, Body::Order { term, order });
        }
    }

    fn push_map(&mut self, i: usize) {
        let entries: Vec<v1::MapEntry> = self.masters[i].core.map().map(wire).collect();
        for stream in self.masters[i].webapps.clone() {
            self.send(Place::Master(i), stream, Body::Map(entries.clone()));
        }
    }

    fn master_lost(&mut self, i: usize, stream: u64) {
        let master = &mut self.masters[i];
        master.webapps.retain(|open| *open != stream);
        let node = master.nodes.iter().find(|(_, (_, open))| *open == stream).map(|(node, (boot, _))| (node.clone(), *boot));
        if let Some((node, boot)) = node {
            master.nodes.remove(&node);
            self.master_step(i, Event::StreamBroke { node, boot });
        }
    }

    fn master_dialled(&mut self, i: usize, to: Place, stream: Option<u64>, refused: bool) {
        if let Some(stream) = stream {
            self.hang_up(stream);
        }
        match (to, self.masters[i].dials.remove(&to)) {
            (Place::Coreapp(node), Some((name, boot))) => {
                let outcome = match (stream, refused) {
                    (Some(_), _) => Redial::Connected,
                    (None, true) => Redial::Refused,
                    (None, false) => {
                        let boot = u32::from_be_bytes([boot.0[12], boot.0[13], boot.0[14], boot.0[15]]);
                        return self.wake(Place::Master(i), GRACE, Timer::Redial { node, boot });
                    }
                };
                self.master_step(i, Event::Redialled { node: name, boot, outcome });
            }
            // The leader's process is gone: its lease is ended for it.
            (Place::Master(gone), _) if refused => {
                if let Some((_, lease)) = self.masters[i].leader.filter(|(leader, _)| *leader == gone) {
                    self.ask_etcd(i, Body::Revoke { lease });
                }
            }
            _ => {}
        }
    }

    fn master_answered(&mut self, i: usize, call: u64, body: Body) {
        let Some(asked) = self.masters[i].calls.remove(&call) else { return };
        let event = match (asked, body) {
            // The number is read first, as the driver does, so a switch in between is seen with the owners.
            (Asked::Owners { term }, Body::NumberRead(shape)) => {
                self.master_step(i, Event::NumbersRead { term, numbers: BTreeMap::from([(crate::number(), shape)]) });
                let call = self.fresh();
                self.masters[i].calls.insert(call, Asked::Owners { term });
                return self.call(Place::Master(i), Place::Database, call, DATABASE, Body::Owners);
            }
            (Asked::Owners { term }, Body::OwnersRead(records)) => Event::OwnersRead { term, records },
            (Asked::Owners { term }, _) => Event::OwnersUnread { term },
            (Asked::Number { term }, Body::NumberRead(shape)) => {
                Event::NumbersRead { term, numbers: BTreeMap::from([(crate::number(), shape)]) }
            }
            (Asked::Number { .. }, _) => return,
            (Asked::Layout { term, to }, Body::LayoutSet(true)) => Event::LayoutSet { term, number: crate::number(), layout: to },
            (Asked::Layout { term, .. }, _) => Event::NotSwitched { term, number: crate::number() },
            (Asked::Switch(switch), Body::Switched(epoch)) => switched(switch, epoch),
            (Asked::Switch(switch), _) => switched(switch, None),
            (Asked::Claim { term, key, node, boot }, Body::Claimed(Some(epoch))) => {
                Event::Claimed { term, record: Record { key, epoch, node, boot, retired: false } }
            }
            // Whether it took place is unknown: what is stored is read before the next try.
            (Asked::Claim { term, key, .. }, _) => Event::ClaimFailed { term, key, stale: true },
            (Asked::Etcd { sent }, body) => return self.etcd_said(i, sent, body),
        };
        self.master_step(i, event);
    }

    // -- the candidacy --

    fn ask_etcd(&mut self, i: usize, body: Body) {
        let call = self.fresh();
        let sent = self.now;
        self.masters[i].asking = true;
        self.masters[i].calls.insert(call, Asked::Etcd { sent });
        self.call(Place::Master(i), Place::Etcd, call, DEADLINE, body);
    }

    fn campaign(&mut self, i: usize) {
        self.wake(Place::Master(i), TICK, Timer::Campaign);
        let now = self.now;
        // The clock of the process, not the true one, says how old a renewal is; they differ by 2 % at most.
        if self.masters[i].lease.as_ref().is_some_and(|lease| now - lease.renewed >= TTL) {
            self.depose(i);
        }
        if self.masters[i].asking {
            return;
        }
        let Some(lease) = &mut self.masters[i].lease else { return self.ask_etcd(i, Body::Campaign { master: i }) };
        if now - lease.asked >= RENEW {
            lease.asked = now;
            let lease = lease.id;
            self.ask_etcd(i, Body::Renew { lease });
        } else if !lease.leads {
            self.ask_etcd(i, Body::Leader);
        }
    }

    fn etcd_said(&mut self, i: usize, sent: Time, body: Body) {
        self.masters[i].asking = false;
        let moment =
            |world: &Self| world.moment(Place::Master(i)).saturating_sub(std::time::Duration::from_micros(world.now - sent));
        match body {
            Body::Candidate { lease, term } => {
                self.masters[i].lease = Some(Lease { id: lease, term, renewed: sent, asked: sent, leads: false });
            }
            Body::Renewed(true) => {
                if let Some(lease) = &mut self.masters[i].lease {
                    lease.renewed = sent;
                }
                let sent = moment(self);
                self.master_step(i, Event::Renewed { sent });
            }
            Body::Renewed(false) => self.depose(i),
            Body::Leads(Some((leader, id, _))) => self.hear_of_leader(i, leader, id),
            _ => {}
        }
    }

    fn hear_of_leader(&mut self, i: usize, leader: usize, id: u64) {
        let now = self.now;
        let Some(lease) = &mut self.masters[i].lease else { return };
        if lease.id == id && !lease.leads {
            lease.leads = true;
            let (term, age) = (lease.term, std::time::Duration::from_micros(now - lease.renewed));
            let renewed = self.moment(Place::Master(i)).saturating_sub(age);
            self.master_step(i, Event::Elected { term, renewed });
        } else if leader != i {
            self.masters[i].leader = Some((leader, id));
            self.dial(Place::Master(i), Place::Master(leader), 0);
        }
    }

    fn resign(&mut self, i: usize) {
        if let Some(lease) = self.masters[i].lease.take() {
            self.ask_etcd(i, Body::Revoke { lease: lease.id });
        }
    }

    fn depose(&mut self, i: usize) {
        self.masters[i].lease = None;
        self.master_step(i, Event::Deposed);
    }
}

pub(crate) fn name(node: usize) -> String {
    format!("coreapp-{node}")
}

/// The boot id of a start of a node.
pub(crate) fn boot_of(node: usize, life: u32) -> BootId {
    let mut boot = [0; 16];
    boot[0] = u8::try_from(node).unwrap_or(u8::MAX);
    boot[12..].copy_from_slice(&life.to_be_bytes());
    BootId(boot)
}
