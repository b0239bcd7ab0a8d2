//! Played nodes and a played database around one master's core.
//!
//! Nodes report each 100 ms and at every change; the master ticks each 50 ms; the database answers at once
//! unless it is down. Whatever the core orders is carried out and written to a log.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use estafet_model::{BootId, Epoch, Layout, Shard, ShardCount, WaId};

use super::super::{
    Core, Effect, Ending, Event, Holding, Moment, Needs, Reach, Record, Redial, Report,
    membership::Health,
    placement::{NodeName, ShardKey},
    resharding::Shape,
    step::TAKEOVERS,
};

const TICK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    Hung,
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) boot: BootId,
    pub(super) life: Life,
    pub(super) draining: bool,
    /// It cannot start what it is given.
    pub(super) broken: bool,
    pub(super) holdings: BTreeMap<ShardKey, Holding>,
    pub(super) endings: Vec<Ending>,
    pub(super) warm: BTreeMap<ShardKey, Epoch>,
    pub(super) handed: Vec<Record>,
    /// Highest epoch of each shard that it ever started.
    pub(super) started: BTreeMap<ShardKey, Epoch>,
    /// Never gets ready for a shard.
    pub(super) stays_cold: bool,
    /// Never hands a shard off.
    pub(super) clings: bool,
    /// Dies right after it has raised an epoch for another node.
    pub(super) dies_handing: bool,
    /// Whether it reaches the network, and the database, and since when.
    pub(super) network: (bool, Moment),
    pub(super) database: (bool, Moment),
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) now: Moment,
    pub(super) database: BTreeMap<ShardKey, Record>,
    pub(super) numbers: BTreeMap<WaId, Shape>,
    pub(super) database_up: bool,
    pub(super) processes: BTreeMap<NodeName, Process>,
    pub(super) log: Vec<String>,
    /// Whether the database does what it is told and does not say so.
    pub(super) loses_answers: bool,
    /// Whether the lease is renewed by itself.
    pub(super) renews: bool,
    boots: u8,
}

impl World {
    pub(super) fn new(count: u32) -> Self {
        let (number, count, _) = super::key(0, count);
        Self {
            core: Core::new(BTreeMap::from([(number, count)])),
            now: Moment::ZERO,
            database: BTreeMap::new(),
            numbers: BTreeMap::from([(number, Shape::settled(count))]),
            loses_answers: false,
            database_up: true,
            processes: BTreeMap::new(),
            log: Vec::new(),
            renews: true,
            boots: 0,
        }
    }

    pub(super) fn start(&mut self, node: &str) {
        self.boots = self.boots.wrapping_add(1);
        let process = Process {
            boot: BootId([self.boots; 16]),
            life: Life::Running,
            draining: false,
            broken: false,
            holdings: BTreeMap::new(),
            endings: Vec::new(),
            warm: BTreeMap::new(),
            handed: Vec::new(),
            started: BTreeMap::new(),
            stays_cold: false,
            clings: false,
            dies_handing: false,
            network: (true, self.now),
            database: (true, self.now),
        };
        self.processes.insert(node.to_owned(), process);
        self.report(node);
    }

    pub(super) fn set(&mut self, node: &str, life: Life) {
        let Some(process) = self.processes.get_mut(node) else { return };
        process.life = life;
        let boot = process.boot;
        match life {
            Life::Gone => {
                process.holdings.clear();
                self.feed(Event::StreamBroke { node: node.to_owned(), boot });
            }
            Life::Running => self.report(node),
            Life::Hung => {}
        }
    }

    /// The owner raised the epoch for `node` and let go, and nobody heard of it.
    pub(super) fn raised(&mut self, key: ShardKey, node: &str) {
        let boot = self.process(node).boot;
        let record = self.database.get_mut(&key).expect("the shard was claimed");
        (record.epoch, record.node, record.boot) = (record.epoch.next(), node.to_owned(), boot);
        for process in self.processes.values_mut() {
            process.holdings.remove(&key);
        }
    }

    pub(super) fn process(&mut self, node: &str) -> &mut Process {
        self.processes.get_mut(node).expect("the test started it")
    }

    pub(super) fn drain(&mut self, node: &str) {
        if let Some(process) = self.processes.get_mut(node) {
            process.draining = true;
            self.report(node);
        }
    }

    /// From now on the node reaches, or does not reach, the network or the database.
    pub(super) fn reaches(&mut self, node: &str, what: &str, is_reached: bool) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(node) else { return };
        let need = if what == "network" { &mut process.network } else { &mut process.database };
        if need.0 != is_reached {
            *need = (is_reached, now);
        }
        self.report(node);
    }

    /// Two webapps say for so many seconds that they do not reach the node.
    pub(super) fn cut(&mut self, node: &str, seconds: u64) {
        for _ in 0..seconds * 5 {
            for webapp in [201, 202] {
                let unreachable = [format!("{node}:1")].into();
                self.feed(Event::Unreached { webapp: BootId([webapp; 16]), unreachable });
            }
            self.wait(Duration::from_millis(200));
        }
    }

    pub(super) fn break_down(&mut self, node: &str) {
        self.processes.get_mut(node).unwrap().broken = true;
    }

    /// The shard ends by itself at its owner; somebody saw `above`.
    pub(super) fn lose(&mut self, key: ShardKey, above: u32) {
        let owner = self.processes.iter_mut().find(|(_, process)| process.holdings.contains_key(&key));
        if let Some((node, process)) = owner
            && let Some(holding) = process.holdings.remove(&key)
        {
            process.endings.push(Ending { key, epoch: holding.epoch, above: Epoch::new(above) });
            let node = node.clone();
            self.report(&node);
        }
    }

    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            if self.now.as_millis().is_multiple_of(100) {
                let nodes: Vec<NodeName> = self.processes.keys().cloned().collect();
                nodes.iter().for_each(|node| self.report(node));
            }
            if self.renews && self.core.term().is_some() && self.now.as_millis().is_multiple_of(500) {
                self.feed(Event::Renewed { sent: self.now });
            }
            self.feed(Event::Ticked);
        }
    }

    fn report(&mut self, node: &str) {
        let Some(process) = self.processes.get(node).filter(|process| process.life == Life::Running) else { return };
        self.feed(Event::Heard(word_of(node, process, self.now)));
    }

    /// Gives the core an event, carries out what it orders, and so on until nothing is left.
    pub(super) fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.core.step(self.now, event);
            self.check();
            for effect in effects {
                self.log.push(format!("{:>6} {}", self.now.as_millis(), line(&effect)));
                if let Effect::ReadOwners { term } = effect
                    && self.database_up
                {
                    events.push_back(Event::NumbersRead { term, numbers: self.numbers.clone() });
                }
                events.extend(self.carry_out(effect));
            }
        }
        assert_eq!(self.core.step(self.now, Event::Ticked), [], "a step without news orders nothing");
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::ReadOwners { term } if self.database_up => {
                Some(Event::OwnersRead { term, records: self.database.values().cloned().collect() })
            }
            Effect::ReadOwners { term } => Some(Event::OwnersUnread { term }),
            Effect::SetLayout { term, number, from, to } => Some(self.set_layout(term, number, from, to)),
            Effect::Switch { term, number, from, to, retire, claim, above } => {
                Some(self.switch(term, (number, from, to), &retire, &claim, above))
            }
            Effect::Claim { term, key, node, boot, seen } => {
                let health = self.core.membership().get(&node).map(|member| member.health);
                assert_eq!(health, Some(Health::Alive), "only a node that lives is given a shard");
                Some(self.claim(term, key, node, boot, seen))
            }
            Effect::Acquire { node, key, epoch, .. } => {
                let process = self.processes.get_mut(&node).filter(|process| process.life == Life::Running)?;
                if process.started.get(&key).is_some_and(|started| epoch <= *started) {
                    return None;
                }
                process.started.insert(key, epoch);
                process.warm.remove(&key);
                if process.broken || !process.database.0 {
                    process.endings.push(Ending { key, epoch, above: Epoch::default() });
                } else {
                    process.holdings.insert(key, Holding { key, epoch, active: true });
                }
                self.heard(&node)
            }
            Effect::Prepare { node, key, epoch, .. } => {
                let process = self.processes.get_mut(&node).filter(|process| process.life == Life::Running)?;
                if process.stays_cold {
                    return None;
                }
                process.warm.insert(key, epoch);
                self.heard(&node)
            }
            Effect::HandOff { node, key, epoch, to, boot, .. } => self.hand_off(&node, key, epoch, to, boot),
            Effect::Release { node, key, epoch, .. } => {
                let process = self.processes.get_mut(&node).filter(|process| process.life == Life::Running)?;
                process.holdings.get(&key).filter(|holding| holding.epoch == epoch)?;
                process.holdings.remove(&key);
                process.endings.push(Ending { key, epoch, above: Epoch::default() });
                self.heard(&node)
            }
            Effect::Redial { node, boot, .. } => {
                let lives = self.processes.get(&node).is_some_and(|process| process.boot == boot && process.life != Life::Gone);
                let outcome = if lives { Redial::Connected } else { Redial::Refused };
                Some(Event::Redialled { node, boot, outcome })
            }
            Effect::Publish(_) | Effect::Resign => None,
        }
    }

    fn claim(&mut self, term: i64, key: ShardKey, node: NodeName, boot: BootId, seen: Option<Epoch>) -> Event {
        if !self.database_up {
            return Event::ClaimFailed { term, key, stale: false };
        }
        let stored = self.database.get(&key).map(|record| record.epoch);
        if stored != seen || self.database.get(&key).is_some_and(|record| record.retired) {
            return Event::ClaimFailed { term, key, stale: true };
        }
        assert!(!self.database.values().any(|other| !other.retired && other.key != key && overlap(&other.key, &key)), "{key:?}");
        let record = Record { key, epoch: stored.unwrap_or_default().next(), node, boot, retired: false };
        self.database.insert(key, record.clone());
        Event::Claimed { term, record }
    }

    /// Somebody asks for another count; the leader reads it.
    pub(super) fn want(&mut self, count: u32) {
        for shape in self.numbers.values_mut() {
            shape.wanted = ShardCount::new(count).unwrap();
        }
        if let (Some(term), true) = (self.core.term(), self.database_up) {
            self.feed(Event::NumbersRead { term, numbers: self.numbers.clone() });
        }
    }

    fn set_layout(&mut self, term: i64, number: WaId, from: Layout, to: Layout) -> Event {
        let shape = self.numbers.get_mut(&number).unwrap();
        if !self.database_up || shape.layout != from {
            return Event::NotSwitched { term, number };
        }
        shape.layout = to;
        if self.loses_answers { Event::NotSwitched { term, number } } else { Event::LayoutSet { term, number, layout: to } }
    }

    fn switch(
        &mut self,
        term: i64,
        (number, from, to): (WaId, ShardCount, ShardCount),
        retire: &[(Shard, Epoch)],
        claim: &[(Shard, NodeName, BootId)],
        above: Epoch,
    ) -> Event {
        let stored = |(shard, seen): &(Shard, Epoch)| {
            self.database.get(&(number, from, *shard)).is_some_and(|record| !record.retired && record.epoch == *seen)
        };
        if !self.database_up || self.numbers[&number].layout != (Layout::Switch { from, to }) || !retire.iter().all(stored) {
            return Event::NotSwitched { term, number };
        }
        let retired: Vec<ShardKey> = retire.iter().map(|(shard, _)| (number, from, *shard)).collect();
        for key in &retired {
            let record = self.database.get_mut(key).unwrap();
            (record.epoch, record.retired) = (record.epoch.next(), true);
        }
        let arising: Vec<ShardKey> = claim.iter().map(|(shard, ..)| (number, to, *shard)).collect();
        let touched = self.database.values().filter(|record| arising.iter().any(|key| overlap(key, &record.key)));
        let epoch = touched.map(|record| record.epoch).max().unwrap_or_default().max(above).next();
        let records: Vec<Record> = claim
            .iter()
            .map(|(shard, node, boot)| Record {
                key: (number, to, *shard),
                epoch,
                node: node.clone(),
                boot: *boot,
                retired: false,
            })
            .collect();
        for record in &records {
            let before = self.database.insert(record.key, record.clone());
            assert!(before.is_none_or(|before| before.retired && before.epoch < epoch), "{record:?}");
        }
        if self.loses_answers { Event::NotSwitched { term, number } } else { Event::Switched { term, number, retired, records } }
    }

    fn heard(&self, node: &NodeName) -> Option<Event> {
        Some(Event::Heard(word_of(node, self.processes.get(node)?, self.now)))
    }

    /// The owner raises the epoch for the target, if it still can.
    fn hand_off(&mut self, node: &NodeName, key: ShardKey, epoch: Epoch, to: NodeName, boot: BootId) -> Option<Event> {
        let can = |process: &&mut Process| process.life == Life::Running && !process.clings && process.database.0;
        let process = self.processes.get_mut(node).filter(can)?;
        process.holdings.get(&key).filter(|holding| holding.epoch == epoch)?;
        let stored = self.database.get(&key).filter(|record| self.database_up && !record.retired && record.epoch == epoch)?;
        let record = Record { key, epoch: stored.epoch.next(), node: to, boot, retired: false };
        self.database.insert(key, record.clone());
        process.holdings.remove(&key);
        process.handed.push(record);
        if process.dies_handing {
            (process.life, process.holdings) = (Life::Gone, BTreeMap::new());
            return Some(Event::StreamBroke { node: node.clone(), boot: process.boot });
        }
        self.heard(node)
    }

    /// What holds after every step.
    fn check(&self) {
        for (key, record) in &self.database {
            let current = self
                .processes
                .iter()
                .filter(|(_, process)| process.holdings.get(key).is_some_and(|holding| holding.epoch == record.epoch));
            let owners: Vec<&NodeName> = current.map(|(node, _)| node).collect();
            assert!(owners.len() <= 1 && owners.iter().all(|node| **node == record.node), "{key:?}: {owners:?}, I1");
            assert!(!record.retired || owners.is_empty(), "{key:?} is retired and owned by {owners:?}, I1");
        }
        let living: Vec<&ShardKey> = self.database.values().filter(|record| !record.retired).map(|record| &record.key).collect();
        for (place, key) in living.iter().enumerate() {
            assert!(!living[place + 1..].iter().any(|other| overlap(key, other)), "{key:?} shares slots, I1");
        }
        let super::super::state::Leadership::Leader(term) = &self.core.leadership else { return };
        assert!(term.moves.len() <= 8, "at most eight moves at once");
        let mut claims: BTreeMap<&NodeName, usize> = BTreeMap::new();
        term.claims.values().for_each(|node| *claims.entry(node).or_default() += 1);
        assert!(claims.values().all(|count| *count <= TAKEOVERS), "too many takeovers at a node");
    }

    /// Shards held under the newest epoch, by node.
    pub(super) fn loads(&self) -> BTreeMap<&str, usize> {
        let mut loads = BTreeMap::new();
        for (node, process) in self.processes.iter().filter(|(_, process)| process.life == Life::Running) {
            let current = process.holdings.values().filter(|held| self.database[&held.key].epoch == held.epoch).count();
            loads.insert(node.as_str(), current);
        }
        loads
    }
}

fn overlap(one: &ShardKey, other: &ShardKey) -> bool {
    one.0 == other.0 && one.1.overlap(one.2, (other.1, other.2))
}

/// What a process reports.
fn word_of(node: &str, process: &Process, now: Moment) -> Report {
    let reach =
        |(is_reached, since): (bool, Moment)| if is_reached { Reach::Well(now - since) } else { Reach::Lost(now - since) };
    Report {
        node: node.to_owned(),
        boot: process.boot,
        address: format!("{node}:1"),
        draining: process.draining,
        holdings: process.holdings.values().copied().collect(),
        endings: process.endings.clone(),
        warm: process.warm.iter().map(|(key, epoch)| (*key, *epoch)).collect(),
        handed: process.handed.clone(),
        needs: Needs { network: reach(process.network), database: reach(process.database) },
    }
}

/// An order, in one line.
fn line(effect: &Effect) -> String {
    let name = |(_, count, shard): &ShardKey| format!("{shard}/{}", count.get());
    match effect {
        Effect::ReadOwners { term } => format!("read owners (term {term})"),
        Effect::Claim { term, key, node, seen, .. } => {
            let seen = seen.map_or_else(|| "nothing".to_owned(), |epoch| epoch.to_string());
            format!("claim {} for {node} over {seen} (term {term})", name(key))
        }
        Effect::Acquire { node, key, epoch, .. } => format!("{node}: acquire {} in epoch {epoch}", name(key)),
        Effect::Release { node, key, epoch, .. } => format!("{node}: release {} in epoch {epoch}", name(key)),
        Effect::Prepare { node, key, epoch, .. } => format!("{node}: prepare {} after epoch {epoch}", name(key)),
        Effect::HandOff { node, key, epoch, to, .. } => format!("{node}: hand {} in epoch {epoch} off to {to}", name(key)),
        Effect::Redial { node, .. } => format!("dial {node}"),
        Effect::Publish(entries) => {
            let entries = entries.iter().map(|entry| format!("{} at {} in {}", name(&entry.key), entry.address, entry.epoch));
            format!("publish {}", entries.collect::<Vec<_>>().join(", "))
        }
        Effect::SetLayout { from, to, .. } => format!("layout {from:?} becomes {to:?}").replace("ShardCount", ""),
        Effect::Switch { from, to, retire, claim, .. } => {
            let retire = retire.iter().map(|(shard, seen)| format!("{shard}/{} in {seen}", from.get()));
            let claim = claim.iter().map(|(shard, node, _)| format!("{shard}/{} for {node}", to.get()));
            format!("switch {} to {}", retire.collect::<Vec<_>>().join(", "), claim.collect::<Vec<_>>().join(", "))
        }
        Effect::Resign => "resign".to_owned(),
    }
}
