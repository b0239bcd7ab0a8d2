//! From a fact to orders.
//!
//! 1. What is known is brought up to date; a leader whose lease is in doubt steps down before it acts.
//! 2. A leader compares what is with what should be ([`super::placement`]) and orders the difference. A shard
//!    without a living owner is claimed at once; one whose owner lives is handed off ([`super::handoff`]).
//! 3. The database comes first: a node is told to start a shard only after the epoch is stored.
//!
//! An epoch is given out once. A node that did not start it in time gets, or loses the shard to, a new one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use estafet_model::{BootId, Epoch, WaId};

use super::{
    Core, Effect, Event, MapEntry, Moment, Record, Report,
    failures::STEADY,
    membership::{Health, Membership},
    placement::{NodeName, Plan, Problem, ShardKey, solve},
    resharding::{self, Shape},
    state::{Leadership, Tenure, Term},
};

/// How long after sending the last successful renewal a leader still acts; the lease is half a second longer.
pub const STEP_DOWN: Duration = Duration::from_millis(1500);
/// A master that just started waits so long for the owners in the database to report.
pub const OBSERVATION: Duration = Duration::from_secs(1);
/// The same for owners whose process is registered in etcd: it existed a lease's time ago, and reports in a moment.
pub const EXPECTATION: Duration = Duration::from_secs(3);
/// How long a node may take to report a shard it was told to start.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause after a failed claim or reading.
const PAUSE: Duration = Duration::from_millis(100);
/// Takeovers under way at one node. Those that are ordered together cost the database one transaction.
pub(super) const TAKEOVERS: usize = 128;
/// Shards that nobody ever had which begin at one node within [`PACE`]: the nodes of a new cluster come one after the
/// other, and each is to get its part.
pub(super) const BEGINNINGS: usize = 8;
const PACE: Duration = Duration::from_millis(250);
/// Without any event for this long, this process did not run: the driver ticks far more often.
const STALL: Duration = Duration::from_millis(200);

/// What every master knows, as a leader uses it.
pub(super) struct View<'a> {
    pub(super) now: Moment,
    pub(super) numbers: &'a BTreeMap<WaId, Shape>,
    pub(super) membership: &'a Membership,
    /// How long this master has been listening.
    pub(super) listening: Duration,
    pub(super) registered: &'a BTreeMap<NodeName, BootId>,
}

impl View<'_> {
    /// Whether an owner that was never heard may still report.
    fn may_report(&self, owner: Option<&Tenure>) -> bool {
        let exists = owner.is_some_and(|owner| self.registered.get(&owner.node) == Some(&owner.boot));
        self.listening < if exists { EXPECTATION } else { OBSERVATION }
    }
}

/// How a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nobody owns it who lives.
    Orphan,
    /// It was given away and not yet confirmed.
    Pending,
    /// Its owner reports it.
    Held,
}

impl Core {
    /// Takes a fact; says what is to be done, in this order.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let since_last = if self.began.is_some() { now.saturating_sub(self.last_step) } else { Duration::ZERO };
        let began = *self.began.get_or_insert(now);
        self.last_step = now;
        self.membership.passed(now, if since_last > STALL { since_last } else { Duration::ZERO });
        if let Leadership::Leader(term) = &self.leadership
            && now.saturating_sub(term.renewed) >= STEP_DOWN
            && !matches!(event, Event::Renewed { sent } if now.saturating_sub(sent) < STEP_DOWN)
        {
            self.leadership = Leadership::Follower;
            effects.push(Effect::Resign);
        }
        self.learn(now, event, &mut effects);
        self.membership.compare_needs(now);
        if let Leadership::Leader(term) = &mut self.leadership {
            let view = View {
                now,
                numbers: &self.numbers,
                membership: &self.membership,
                listening: now.saturating_sub(began),
                registered: &self.registered,
            };
            term.act(&view, &mut effects);
        }
        effects
    }

    fn learn(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Heard(report) => self.heard(now, &report, effects),
            Event::StreamBroke { node, boot } => {
                if let Some(address) = self.membership.broke(now, &node, boot) {
                    effects.push(Effect::Redial { node, boot, address });
                }
            }
            Event::Redialled { node, boot, outcome } => self.membership.redialled(now, &node, boot, outcome),
            Event::Unreached { webapp, unreachable } => self.unreached(now, webapp, unreachable),
            Event::Elected { term, renewed } => self.leadership = Leadership::Leader(Box::new(Term::new(term, renewed, now))),
            Event::Renewed { sent } => {
                if let Leadership::Leader(term) = &mut self.leadership {
                    term.renewed = term.renewed.max(sent);
                }
            }
            Event::Deposed => self.leadership = Leadership::Follower,
            Event::NumbersRead { term, numbers } => self.numbers_read(term, numbers),
            Event::LayoutSet { term, number, layout } => {
                let mut current = false;
                self.in_term(term, |term| current = term.stepping.remove(&number));
                if let Some(shape) = self.numbers.get_mut(&number).filter(|_| current) {
                    shape.layout = layout;
                }
            }
            Event::Switched { term, number, retired, records } => {
                self.in_term(term, |term| effects.extend(term.switched(now, number, &retired, records)));
            }
            Event::NotSwitched { term, number } => self.in_term(term, |term| term.not_switched(now, number)),
            Event::OwnersRead { term, records } => {
                let idle = self.idle_owners(&records);
                self.in_term(term, |term| effects.extend(term.owners_read(now, records, &idle)));
            }
            Event::OwnersUnread { term } => self.in_term(term, |term| {
                term.reading = false;
                term.read_after = now + PAUSE;
            }),
            Event::Claimed { term, record } => {
                let lives = self.lives(&record);
                self.in_term(term, |term| {
                    term.claims.remove(&record.key);
                    effects.extend(term.granted(now, record, lives));
                });
            }
            Event::ClaimFailed { term, key, stale } => self.in_term(term, |term| {
                term.claims.remove(&key);
                term.retry_after.insert(key, now + PAUSE);
                if stale {
                    term.stale = true;
                }
            }),
            Event::Registered(nodes) => self.registered = nodes,
            Event::Ticked => {}
        }
    }

    fn unreached(&mut self, now: Moment, webapp: BootId, unreachable: BTreeSet<String>) {
        let believed = self.hints.heard(now, webapp, unreachable);
        believed.iter().for_each(|address| self.membership.cut_off(now, address));
    }

    fn numbers_read(&mut self, term: i64, mut numbers: BTreeMap<WaId, Shape>) {
        let Leadership::Leader(leading) = &mut self.leadership else { return };
        if leading.number != term {
            return;
        }
        leading.numbers_known = true;
        // What this leader is writing is newer than what was read before.
        for (number, shape) in numbers.iter_mut() {
            if let Some(known) = self.numbers.get(number).filter(|_| leading.stepping.contains(number)) {
                shape.layout = known.layout;
            }
        }
        if !numbers.keys().eq(self.numbers.keys()) {
            leading.picture += 1;
        }
        self.map.retain(|key, _| numbers.contains_key(&key.0));
        self.numbers = numbers;
    }

    /// Whether the process lives that a row names.
    fn lives(&self, record: &Record) -> bool {
        let member = self.membership.get(&record.node);
        member.is_some_and(|member| member.boot == record.boot && member.health != Health::Dead)
    }

    /// Shards whose owner of the database lives and does not report them: it was perhaps never told.
    fn idle_owners(&self, records: &[Record]) -> BTreeSet<ShardKey> {
        let reported = |record: &Record| {
            let holding = self.membership.get(&record.node).and_then(|member| member.holdings.get(&record.key));
            holding.is_some_and(|holding| holding.epoch == record.epoch)
        };
        let idle = |record: &&Record| !record.retired && self.lives(record) && !reported(record);
        records.iter().filter(idle).map(|record| record.key).collect()
    }

    /// Words that were meant for an earlier term are not heard.
    fn in_term(&mut self, number: i64, then: impl FnOnce(&mut Term)) {
        if let Leadership::Leader(term) = &mut self.leadership
            && term.number == number
        {
            then(term);
        }
    }

    fn heard(&mut self, now: Moment, report: &Report, effects: &mut Vec<Effect>) {
        if !self.membership.heard(now, report) {
            return;
        }
        let mut news = Vec::new();
        for holding in report.holdings.iter().filter(|holding| holding.active) {
            if self.map.get(&holding.key).is_some_and(|known| known.epoch >= holding.epoch) {
                continue;
            }
            // Epochs of a slot only grow, whatever the count: an older one is a shard that was split or merged.
            let overlapping: Vec<ShardKey> = self.map.keys().filter(|key| overlap(key, &holding.key)).copied().collect();
            if overlapping.iter().all(|key| self.map[key].epoch < holding.epoch) {
                overlapping.iter().for_each(|key| drop(self.map.remove(key)));
                let entry = MapEntry { key: holding.key, epoch: holding.epoch, address: report.address.clone() };
                self.map.insert(holding.key, entry.clone());
                news.push(entry);
            }
        }
        if !news.is_empty() {
            effects.push(Effect::Publish(news));
        }
        let handed: Vec<(Record, bool)> = report.handed.iter().map(|record| (record.clone(), self.lives(record))).collect();
        let Leadership::Leader(term) = &mut self.leadership else { return };
        if term.heard(now, report) {
            self.membership.failed(now, &report.node);
        }
        for (record, lives) in handed {
            if term.owners.is_some() && term.tenure(&record.key).is_none_or(|known| known.epoch < record.epoch) {
                effects.extend(term.granted(now, record, lives));
            }
        }
    }
}

fn overlap(one: &ShardKey, other: &ShardKey) -> bool {
    one.0 == other.0 && one.1.overlap(one.2, (other.1, other.2))
}

/// When shards began lately that nobody ever had, and at which node.
#[derive(Debug, Default)]
pub(super) struct Beginnings(VecDeque<(Moment, NodeName)>);

impl Beginnings {
    /// Whether one more may begin there; it counts as begun then.
    fn admits(&mut self, node: &NodeName, now: Moment) -> bool {
        while self.0.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= PACE) {
            self.0.pop_front();
        }
        let has_room = self.0.iter().filter(|(_, begun)| begun == node).count() < BEGINNINGS;
        if has_room {
            self.0.push_back((now, node.clone()));
        }
        has_room
    }
}

impl Term {
    /// What a node says of what it was given; whether it is to be blamed for a shard that it could not start.
    fn heard(&mut self, now: Moment, report: &Report) -> bool {
        let ending = report.endings.iter().map(|ending| ending.key);
        let let_go: BTreeSet<ShardKey> = ending.filter(|key| self.is_switching(key)).collect();
        let Some(owners) = &mut self.owners else { return false };
        for holding in report.holdings.iter().filter(|holding| holding.active) {
            if let Some(tenure) = owners.get_mut(&holding.key)
                && (tenure.epoch, tenure.boot) == (holding.epoch, report.boot)
            {
                tenure.started = true;
                if now.saturating_sub(tenure.since) >= STEADY {
                    self.failures.steady(&holding.key);
                }
            }
        }
        let mut is_blamed = false;
        for ending in &report.endings {
            let tenure = owners.get_mut(&ending.key);
            // Repeated in every report; it counts once.
            let ended = |tenure: &&mut Tenure| (tenure.epoch, tenure.boot, tenure.over) == (ending.epoch, report.boot, false);
            let Some(tenure) = tenure.filter(ended) else { continue };
            tenure.over = true;
            tenure.above = tenure.above.max(ending.above);
            let was_steady = tenure.started && now.saturating_sub(tenure.since) >= STEADY;
            let was_asked_for = report.draining || let_go.contains(&ending.key);
            if !was_steady && !was_asked_for && ending.above <= ending.epoch {
                let is_first = self.failures.failed(now, ending.key, &report.node);
                is_blamed |= is_first && !tenure.started;
            }
        }
        is_blamed
    }

    /// Takes the rows; owners that live and are idle are told (again) to start: an epoch starts once anyway.
    fn owners_read(&mut self, now: Moment, records: Vec<Record>, idle: &BTreeSet<ShardKey>) -> Vec<Effect> {
        (self.reading, self.stale) = (false, false);
        // Also when there is no row at all: the picture is known now.
        self.picture += 1;
        let number = self.number;
        let owners = self.owners.get_or_insert_default();
        let mut effects = Vec::new();
        for record in records {
            if owners.get(&record.key).is_none_or(|known| known.epoch < record.epoch) {
                let (key, epoch, node) = (record.key, record.epoch, record.node.clone());
                if idle.contains(&key) {
                    effects.push(Effect::Acquire { term: number, node, key, epoch });
                }
                owners.insert(key, Tenure::new(record, now));
            }
        }
        effects
    }

    /// The database has a new owner: it is told to start.
    fn granted(&mut self, now: Moment, record: Record, lives: bool) -> Option<Effect> {
        self.moves.remove(&record.key);
        let owners = self.owners.get_or_insert_default();
        let above = owners.get(&record.key).map_or(Epoch::default(), |before| before.above);
        let (key, epoch, node) = (record.key, record.epoch, record.node.clone());
        let mut tenure = Tenure::new(record, now);
        tenure.above = above;
        // Somebody has seen a higher epoch: this one is passed over.
        tenure.over = epoch <= above;
        let usable = !tenure.over && lives;
        owners.insert(key, tenure);
        self.picture += 1;
        usable.then_some(Effect::Acquire { term: self.number, node, key, epoch })
    }

    fn act(&mut self, view: &View<'_>, effects: &mut Vec<Effect>) {
        if (self.owners.is_none() || self.stale) && !self.reading && view.now >= self.read_after {
            self.reading = true;
            effects.push(Effect::ReadOwners { term: self.number });
        }
        if self.owners.is_none() {
            return;
        }
        let standings = self.standings(view);
        self.failures.retain(|key| standings.contains_key(key));
        let candidates = view.membership.candidates(view.now);
        let problem = Problem {
            nodes: candidates,
            keepers: view.membership.keepers(view.now),
            shards: standings.keys().copied().collect(),
        };
        let plan = solve(&problem, &self.previous(&problem.nodes, &standings));
        self.claim_orphans(view, &plan, &standings, effects);
        self.hand_off(view, &plan, &standings, effects);
        self.balance(view, &problem, &plan, &standings, effects);
        self.reshard(view, &plan, &standings, effects);
        self.release_outdated(view, effects);
    }

    fn standings(&self, view: &View<'_>) -> BTreeMap<ShardKey, Standing> {
        let of_number = |(number, shape): (&WaId, &Shape)| resharding::shards(*number, shape.layout, |key| self.is_retired(key));
        let keys: BTreeSet<ShardKey> = view.numbers.iter().flat_map(of_number).collect();
        keys.into_iter().map(|key| (key, self.standing(&key, view))).collect()
    }

    pub(super) fn tenure(&self, key: &ShardKey) -> Option<&Tenure> {
        self.owners.as_ref()?.get(key)
    }

    fn standing(&self, key: &ShardKey, view: &View<'_>) -> Standing {
        let unheard = if view.may_report(self.tenure(key)) { Standing::Pending } else { Standing::Orphan };
        let Some(tenure) = self.tenure(key) else { return unheard };
        // What is known of the number is older than what is known of its owners, and about to be read.
        if tenure.retired {
            return Standing::Pending;
        }
        let Some(member) = view.membership.get(&tenure.node) else { return unheard };
        if tenure.over || member.boot != tenure.boot || member.health == Health::Dead {
            return Standing::Orphan;
        }
        if view.membership.is_cut_from_database(&tenure.node, view.now) {
            return Standing::Orphan;
        }
        match member.holdings.get(key) {
            Some(holding) if holding.epoch == tenure.epoch => Standing::Held,
            _ if view.now.saturating_sub(tenure.since) >= PATIENCE => Standing::Orphan,
            _ => Standing::Pending,
        }
    }

    /// What is the case or under way, as the placement's starting point.
    fn previous(&self, candidates: &[NodeName], standings: &BTreeMap<ShardKey, Standing>) -> Plan {
        let owner = |key: &ShardKey, standing: Standing| {
            if let Some(node) = self.claims.get(key) {
                return Some(node.clone());
            }
            match (self.moves.get(key), standing) {
                (Some(planned), _) => candidates.contains(&planned.to).then(|| planned.to.clone()),
                (None, Standing::Orphan) => None,
                (None, Standing::Pending | Standing::Held) => self.tenure(key).map(|tenure| tenure.node.clone()),
            }
        };
        standings.iter().filter_map(|(key, standing)| Some((*key, owner(key, *standing)?))).collect()
    }

    fn claim_orphans(
        &mut self,
        view: &View<'_>,
        plan: &Plan,
        standings: &BTreeMap<ShardKey, Standing>,
        effects: &mut Vec<Effect>,
    ) {
        let mut under_way: BTreeMap<NodeName, usize> = BTreeMap::new();
        for node in self.claims.values() {
            *under_way.entry(node.clone()).or_default() += 1;
        }
        for (key, standing) in standings {
            if let (Standing::Pending, Some(tenure)) = (standing, self.tenure(key)) {
                *under_way.entry(tenure.node.clone()).or_default() += 1;
            }
        }
        let candidates = view.membership.candidates(view.now);
        let load = |node: &NodeName| view.membership.get(node).map_or(0, |member| member.holdings.len());
        for (key, planned) in plan {
            let due = !self.is_switching(key) && standings.get(key) == Some(&Standing::Orphan);
            let refused = self.retry_after.get(key).is_some_and(|after| view.now < *after);
            if !due || refused || self.failures.pauses(view.now, key) || self.claims.contains_key(key) {
                continue;
            }
            let node = &self.failures.next_node(key, planned, &candidates, load);
            // A suspect keeper is planned for what is under way to it, never for something new.
            let fit = view.membership.get(node).filter(|member| member.health == Health::Alive);
            let Some(member) = fit else { continue };
            let room = under_way.entry(node.clone()).or_default();
            let seen = self.tenure(key).map(|tenure| tenure.epoch);
            if *room >= TAKEOVERS || (seen.is_none() && !self.beginnings.admits(node, view.now)) {
                continue;
            }
            *room += 1;
            self.retry_after.remove(key);
            self.claims.insert(*key, node.clone());
            effects.push(Effect::Claim { term: self.number, key: *key, node: node.clone(), boot: member.boot, seen });
        }
    }

    fn release_outdated(&mut self, view: &View<'_>, effects: &mut Vec<Effect>) {
        let held = |node: &NodeName, key: &ShardKey| view.membership.get(node)?.holdings.get(key).map(|held| held.epoch);
        self.released.retain(|(node, key, epoch)| held(node, key) == Some(*epoch));
        for (node, member) in view.membership.iter().filter(|(_, member)| member.health != Health::Dead) {
            for holding in member.holdings.values() {
                let removed = self.numbers_known && !view.numbers.contains_key(&holding.key.0);
                let outdated = removed || self.tenure(&holding.key).is_some_and(|tenure| holding.epoch < tenure.epoch);
                if outdated && self.released.insert((node.clone(), holding.key, holding.epoch)) {
                    let (node, key, epoch) = (node.clone(), holding.key, holding.epoch);
                    effects.push(Effect::Release { term: self.number, node, key, epoch });
                }
            }
        }
    }
}
