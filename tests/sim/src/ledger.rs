//! The rules, checked with every step, by records of their own: none of them asks the code under test.
//!
//! I1 by the network's logins, I2 by every commit and every accepted frame, I3 and I6 when calm has come, I4 and I5
//! by what is accepted and what phones get, I12 by the maps of the webapps.

use std::collections::{BTreeMap, BTreeSet};

use estafet_chatd::audit::{EnvelopeRef, Event, ShardRef};
use estafet_coreapp::core::lanes::Post;
use estafet_master::core::placement::ShardKey;
use estafet_model::{BootId, Code, Epoch, IdKey, MessageId, Shard, ShardCount, WaId};
use estafet_proto::chat::client_frame;
use estafet_store::Fence;
use serde_json::Value;

use crate::{
    Violation,
    database::Owner,
    world::{Place, SECOND, Time, WEBAPPS, World},
};

/// A message, from the client's point of view.
struct Message {
    recipient: WaId,
    asked: Time,
    answered: Option<Time>,
    /// Whether the network has taken it.
    upstream: bool,
}

/// What the receiver saw of one contact.
#[derive(Default)]
struct Lane {
    /// Place of the newest event that was tried at all.
    newest: i64,
    /// How many messages of the contact were tried.
    inbound: usize,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) violation: Option<Violation>,
    messages: BTreeMap<IdKey, Message>,
    /// What each phone wrote, in order.
    written: BTreeMap<WaId, Vec<String>>,
    inboxes: BTreeSet<(WaId, IdKey)>,
    /// Slots of the connections that are active.
    active: BTreeMap<u64, (u16, u16)>,
    /// Epochs that logins and frames of each connection named.
    named: BTreeMap<u64, u64>,
    /// Slots and epoch of every login that was admitted.
    admitted: BTreeMap<(u16, u16), u64>,
    lanes: BTreeMap<WaId, Lane>,
    /// (message, status) and messages of phones that the receiver took.
    taken: BTreeSet<(String, String)>,
    /// When a master last told a change of the map.
    pub(crate) map_moved: Time,
    pub(crate) commits: u64,
    pub(crate) logins: u64,
}

fn slots(shard: &ShardRef) -> (u16, u16) {
    let range = ShardCount::new(shard.count.into())
        .and_then(|count| Shard::new(shard.shard.into(), count).map(|shard| count.slots_of(shard)));
    range.map_or((0, 0), |range| (range.start().get(), range.end().get()))
}

fn overlap(one: (u16, u16), other: (u16, u16)) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

impl Ledger {
    pub(crate) fn broken(&mut self, rule: &'static str, what: String) {
        self.violation.get_or_insert(Violation { rule, what });
    }

    // -- clients --

    pub(crate) fn submitted(&mut self, now: Time, key: IdKey, recipient: WaId) {
        self.messages.insert(key, Message { recipient, asked: now, answered: None, upstream: false });
    }

    pub(crate) fn accepted(&mut self, now: Time, key: IdKey) {
        if let Some(message) = self.messages.get_mut(&key) {
            message.answered = Some(now);
        }
    }

    // -- the database --

    /// A commit takes place; `stored` is the owner in that moment.
    pub(crate) fn commit(&mut self, now: Time, fence: &Fence, boot: BootId, stored: Option<(Epoch, BootId)>) {
        self.commits += 1;
        if stored != Some((fence.epoch, boot)) {
            let what = format!("{now}: {boot} commits in epoch {} of shard {}, which is {stored:?}", fence.epoch, fence.shard);
            self.broken("I2", what);
        }
    }

    // -- the network --

    pub(crate) fn network_started(&mut self) {
        self.active.clear();
    }

    /// A frame as its sender wrote it.
    pub(crate) fn frame(&mut self, conn: u64, frame: &client_frame::Frame) {
        if let client_frame::Frame::Login(login) = frame {
            self.named.insert(conn, login.epoch);
        }
    }

    pub(crate) fn audit(&mut self, now: Time, event: Event) {
        match event {
            Event::Login { shard, conn, .. } => self.login(now, &shard, conn),
            Event::Replaced { conn, .. } | Event::Closed { conn } => drop(self.active.remove(&conn)),
            Event::Accepted(envelope) => self.upstream(now, &envelope, true),
            Event::Duplicate(envelope) | Event::Retried(envelope) => self.upstream(now, &envelope, false),
            Event::Rejected { envelope, code } if code != u32::from(Code::UserNotValid.number()) => {
                self.broken("I5", format!("{now}: the network refuses {envelope:?} with {code}"));
            }
            Event::Start | Event::Refused { .. } | Event::Rejected { .. } | Event::Discarded { .. } => {}
        }
    }

    fn login(&mut self, now: Time, shard: &ShardRef, conn: u64) {
        self.logins += 1;
        let range = slots(shard);
        if let Some((other, _)) = self.active.iter().find(|(_, active)| overlap(**active, range)) {
            let what = format!("{now}: connections {other} and {conn} are active for slots {range:?}");
            self.broken("I1", what);
        }
        self.active.insert(conn, range);
        let epoch = self.named.get(&conn).copied().unwrap_or(shard.epoch);
        self.check_epoch(now, range, epoch, "logs in");
        let highest = self.admitted.entry(range).or_default();
        *highest = (*highest).max(epoch);
    }

    fn check_epoch(&mut self, now: Time, range: (u16, u16), epoch: u64, does: &str) {
        let highest = self.admitted.iter().filter(|(admitted, _)| overlap(**admitted, range)).map(|(_, epoch)| *epoch).max();
        if highest.is_some_and(|highest| highest > epoch) {
            self.broken("I2", format!("{now}: epoch {epoch} {does} for slots {range:?} after {highest:?}"));
        }
    }

    fn upstream(&mut self, now: Time, envelope: &EnvelopeRef, first: bool) {
        let epoch = self.named.get(&envelope.conn).copied().unwrap_or(envelope.shard.epoch);
        self.check_epoch(now, (envelope.slot, envelope.slot), epoch, "sends");
        let bytes: Vec<u8> = (0..envelope.id_key.len() / 2)
            .filter_map(|i| u8::from_str_radix(&envelope.id_key[2 * i..2 * i + 2], 16).ok())
            .collect();
        let Some(key) = IdKey::from_slice(&bytes) else { return };
        let Some(message) = self.messages.get_mut(&key) else { return };
        if !first {
            return;
        }
        if message.upstream {
            self.broken("I4", format!("{now}: {key:?} is accepted twice"));
            return;
        }
        message.upstream = true;
        let (recipient, asked) = (message.recipient, message.asked);
        let earlier = |m: &Message| m.recipient == recipient && !m.upstream && m.answered.is_some_and(|at| at < asked);
        if let Some((overtaken, _)) = self.messages.iter().find(|(_, m)| earlier(m)) {
            let what = format!("{now}: {key:?} goes to {recipient} before {overtaken:?}, which was answered before it was asked");
            self.broken("I5", what);
        }
    }

    pub(crate) fn phone_got(&mut self, phone: WaId, key: IdKey) {
        if !self.inboxes.insert((phone, key)) {
            self.broken("I4", format!("{phone} sees {key:?} twice"));
        }
    }

    pub(crate) fn phone_wrote(&mut self, phone: WaId, id: String) {
        self.written.entry(phone).or_default().push(id);
    }

    // -- the receiver --

    pub(crate) fn posted(&mut self, post: &Post, taken: bool) {
        let body: Value = serde_json::from_slice(&post.body).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (status, message) = (&body["statuses"][0], &body["messages"][0]);
        let (contact, id, what) = if status.is_object() {
            (text(&status["recipient_id"]), text(&status["id"]), text(&status["status"]))
        } else {
            (text(&message["from"]), text(&message["id"]), "message".to_owned())
        };
        let Ok(contact) = contact.parse::<WaId>() else { return };
        let lane = self.lanes.entry(contact).or_default();
        if post.event.seq.get() > lane.newest {
            lane.newest = post.event.seq.get();
            if what == "message" {
                let place = self.written.get(&contact).and_then(|written| written.iter().position(|known| *known == id));
                let (expected, lane_inbound) = (lane.inbound, &mut lane.inbound);
                *lane_inbound += 1;
                if place != Some(expected) {
                    self.broken("I6", format!("message {id} of {contact} is told as number {expected} and is {place:?}"));
                }
            }
        } else if !self.taken.contains(&(id.clone(), what.clone())) && post.attempt == 0 && !self.was_tried(&id, &what) {
            self.broken("I6", format!("{what} of {id} is tried for the first time after a later event of {contact}"));
        }
        self.taken.insert((id.clone(), format!("tried {what}")));
        if taken {
            self.taken.insert((id, what));
        }
    }

    fn was_tried(&self, id: &str, what: &str) -> bool {
        self.taken.contains(&(id.to_owned(), format!("tried {what}")))
    }

    // -- at the end --

    /// What is still missing, and by which rule.
    pub(crate) fn missing(&self) -> Option<(&'static str, String)> {
        if let Some((key, message)) = self.messages.iter().find(|(_, m)| m.answered.is_some() && !m.upstream) {
            return Some(("I3", format!("{key:?} to {} was answered and did not reach the network", message.recipient)));
        }
        for (key, message) in self.messages.iter().filter(|(_, message)| message.upstream) {
            let id = MessageId::outgoing(message.recipient, *key).to_string();
            for status in ["sent", "delivered", "read"] {
                if !self.taken.contains(&(id.clone(), status.to_owned())) {
                    return Some(("I6", format!("{status} of {key:?} to {} was never told", message.recipient)));
                }
            }
        }
        let told = |id: &String| self.taken.contains(&(id.clone(), "message".to_owned()));
        let untold = self.written.values().flatten().find(|id| !told(id));
        untold.map(|id| ("I6", format!("message {id} of a phone was never told")))
    }

    /// For a summary: messages answered, messages the network took.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let answered = self.messages.values().filter(|message| message.answered.is_some()).count();
        (answered, self.messages.values().filter(|message| message.upstream).count())
    }
}

impl World {
    /// Whether the faults are over and everything is settled. Looks at the maps too: a second after the last
    /// fault and the last takeover, all webapps must agree (I12).
    pub(crate) fn is_over(&mut self) -> bool {
        let Some(calm) = self.weather.calm_since else { return false };
        let agreed = (1..WEBAPPS).all(|i| self.webapps[i].view() == self.webapps[0].view());
        if !agreed && !self.masters_know() {
            // A takeover is still under way: there is no map yet that could be agreed on.
            self.ledger.map_moved = self.now;
        }
        if !agreed && self.now > calm.max(self.ledger.map_moved) + SECOND {
            let views: Vec<_> = self.webapps.iter().map(crate::webapps::Webapp::view).collect();
            self.ledger.broken("I12", format!("{}: the maps differ: {views:?}", self.now));
            return false;
        }
        if self.now < calm + SECOND || !self.steps.is_multiple_of(32) {
            return false;
        }
        let idle = self.webapps.iter().all(crate::webapps::Webapp::is_idle);
        let settled = agreed
            && idle
            && self.database.number.is_settled()
            && self.masters_know()
            && self.database.tables.backlog() == (0, 0)
            && self.ledger.missing().is_none();
        if !settled && self.now > calm + self.weather.patience {
            let _ = self.not_settled("the time is over".to_owned()).map_err(|violation| self.ledger.violation = Some(violation));
        }
        settled
    }

    /// Whether every master has heard of the owners that the database names.
    fn masters_know(&self) -> bool {
        let owners: BTreeMap<_, _> = self.database.current().collect();
        let knows = |master: &crate::masters::Master| {
            let mut heard = 0;
            let current = master.map().all(|entry| {
                heard += 1;
                owners.get(&entry.key).is_some_and(|owner| owner.epoch == entry.epoch)
            });
            current && heard == owners.len()
        };
        !owners.is_empty() && self.masters.iter().all(knows)
    }

    /// The rule by which something is still missing.
    pub(crate) fn not_settled(&self, why: String) -> Result<(), Violation> {
        let (rule, what) = self.ledger.missing().unwrap_or_else(|| {
            let leaders: Vec<_> = self.masters.iter().map(crate::masters::Master::term).collect();
            let asking: Vec<_> = self.webapps.iter().map(crate::webapps::Webapp::is_idle).collect();
            let (backlog, known) = (self.database.tables.backlog(), self.masters_know());
            let shape = self.database.number.shape;
            (
                "I7",
                format!("{shape:?}, backlog {backlog:?}, leaders {leaders:?}, masters know the owners: {known}, webapps idle: {asking:?}"),
            )
        });
        let name = |(key, owner): (&ShardKey, &Owner)| format!("{}/{}: {} in {}", key.2, key.1.get(), owner.node, owner.epoch);
        let owners = self.database.current().map(name);
        let owners = owners.collect::<Vec<_>>().join(", ");
        let down: Vec<_> = Place::all().filter(|place| !self.runs(*place)).collect();
        Err(Violation { rule, what: format!("{}: {why}: {what}; owners {owners}; not running {down:?}", self.now) })
    }
}
