//! One run: the hosts, the faults as their times come, the rules after every step, and the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use estafet_etcd::{Node, Timing, register};
use estafet_master::{
    election::Identity,
    standing::{follow_nodes, stand},
};
use estafet_model::BootId;
use estafet_runtime::Tasks;
use futures::future::{Either, Pending, pending};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::watch;
use turmoil::Sim;

use crate::{
    Mutation, Summary,
    etcd::{State, serve},
    faults::{Fault, MASTERS, NODES, Planned, master, node, plan, revoke_leader},
    network::{self, Cuts, ETCD, Simulated},
    office::{Desk, Shared},
};

const PREFIX: &str = "/sim";
const PORT: u16 = 6260;
const STEP: Duration = Duration::from_millis(10);
/// Seconds that a clock may need for 100.
const PACE: std::ops::Range<u32> = 85..118;
/// When the last fault ends.
const HEALED: Duration = Duration::from_secs(26);
/// When leaders give no more shards away.
const QUIET: Duration = Duration::from_secs(36);
/// When everything must agree.
const END: Duration = Duration::from_secs(39);
/// Without any fault some master leads after so long: a lease, a restart's addition to it, a watch's trust.
const LEADERLESS: Duration = Duration::from_secs(7);
/// After so long without any fault all is well again: all stand, and know whom they wait for.
const WELL: Duration = Duration::from_secs(3);
/// The same when a leader dies and everything else is well: its standby notices.
const FOLLOWED: Duration = Duration::from_millis(1500);

type Dead = Arc<Mutex<BTreeSet<String>>>;

pub(crate) struct World {
    seed: u64,
    mutation: Option<Mutation>,
    state: Arc<Mutex<State>>,
    shared: Arc<Mutex<Shared>>,
    planned: Vec<Planned>,
    active: Vec<Planned>,
    cuts: Cuts,
    /// Hosts whose process is dead.
    dead: Dead,
    /// Since when nothing is wrong.
    calm_since: Duration,
    led_at: Duration,
    /// A leader died while everything else was well.
    followed_by: Option<Duration>,
    claims_when_healed: u64,
    trace: Vec<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut planned = plan(&mut rng, HEALED);
        planned.reverse();
        Self {
            seed,
            mutation,
            state: Arc::new(Mutex::new(State::new(PREFIX, mutation == Some(Mutation::TakesAnyWriter)))),
            shared: Arc::new(Mutex::new(Shared { may_claim: true, ..Shared::default() })),
            planned,
            active: Vec::new(),
            cuts: Cuts::default(),
            dead: Dead::default(),
            calm_since: Duration::ZERO,
            led_at: Duration::ZERO,
            followed_by: None,
            claims_when_healed: 0,
            trace: Vec::new(),
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        let shared = lock(&self.shared);
        Summary {
            terms: shared.database.terms,
            claims: shared.database.claims,
            writes: lock(&self.state).guarded,
            trace: self.trace.clone(),
        }
    }

    /// The error says which rule was broken.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let mut builder = turmoil::Builder::new();
        builder.rng_seed(self.seed).tick_duration(STEP).simulation_duration(END * 2).tcp_capacity(1024);
        builder.min_message_latency(Duration::from_millis(1)).max_message_latency(Duration::from_millis(20));
        let mut sim = builder.build();
        self.start_hosts(&mut sim);
        while sim.elapsed() < END {
            self.strike(&mut sim);
            sim.step().map_err(|error| format!("a process failed: {error}"))?;
            self.listen(sim.elapsed());
            self.check(sim.elapsed())?;
        }
        self.has_settled()
    }

    fn start_hosts(&mut self, sim: &mut Sim<'_>) {
        let (state, dead) = (self.state.clone(), self.dead.clone());
        sim.host(ETCD, move || {
            let state = state.clone();
            unless_dead(&dead, ETCD, move || async move { Ok(serve(state).await?) })
        });
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0xC10C);
        for place in 0..MASTERS {
            let (shared, cuts, dead) = (self.shared.clone(), self.cuts.clone(), self.dead.clone());
            let (seed, mutation) = (self.seed, self.mutation);
            let (pace, lives) = (rng.random_range(PACE), Mutex::new(0));
            self.trace.push(format!("the clock of master {place} needs {pace} s for 100"));
            sim.host(master(place), move || {
                let life = next_life(&lives);
                let (shared, cuts) = (shared.clone(), cuts.clone());
                unless_dead(&dead, &master(place), move || async move {
                    // Its clock begins with the process.
                    let desk = Desk::new((place, life), pace, seed, shared, mutation);
                    Ok(run_master((place, life), pace, cuts, desk).await?)
                })
            });
        }
        for place in 0..NODES {
            let (cuts, dead) = (self.cuts.clone(), self.dead.clone());
            let (pace, lives) = (rng.random_range(PACE), Mutex::new(0));
            sim.host(node(place), move || {
                let (life, cuts) = (next_life(&lives), cuts.clone());
                unless_dead(&dead, &node(place), move || async move {
                    let (timing, tasks) = (Timing::default().at_pace(pace), Tasks::new());
                    let network = Arc::new(Simulated { timing, host: node(place), cuts });
                    let record = Node::new("coreapp", &format!("{}:{PORT}", node(place)), boot(place, life));
                    register(network, timing, PREFIX.to_owned(), node(place), record, tasks).await;
                    Ok(())
                })
            });
        }
    }

    /// Begins and ends what is due.
    fn strike(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let (over, active): (Vec<_>, Vec<_>) = std::mem::take(&mut self.active).into_iter().partition(|fault| fault.ends <= now);
        self.active = active;
        for planned in over {
            self.mend(sim, now, &planned.fault);
        }
        while self.planned.last().is_some_and(|next| next.begins <= now) {
            let Some(planned) = self.planned.pop() else { return };
            self.begin(sim, now, &planned.fault);
            if !planned.fault.is_instant() {
                self.active.push(planned);
            }
        }
        if !self.active.is_empty() {
            self.calm_since = now;
        }
        if now == HEALED {
            self.claims_when_healed = lock(&self.shared).database.claims;
        }
        lock(&self.shared).may_claim = now < QUIET;
    }

    fn note(&mut self, now: Duration, line: impl std::fmt::Display) {
        let line = format!("{:>6} {line}", now.as_millis());
        tracing::info!("{line}");
        self.trace.push(line);
    }

    fn begin(&mut self, sim: &mut Sim<'_>, now: Duration, fault: &Fault) {
        self.note(now, format!("{fault:?} begins"));
        lock(&self.cuts).extend(fault.cuts());
        let was_calm = self.active.is_empty() && now.saturating_sub(self.calm_since) > WELL;
        self.followed_by = None;
        match fault {
            Fault::Crash(name) => {
                let leads = lock(&self.shared).acting.keys().any(|place| master(*place) == *name);
                self.followed_by = (leads && was_calm).then_some(now + FOLLOWED);
                self.kill(sim, name);
            }
            Fault::Lose(name) => self.lose(sim, name),
            Fault::Wipe => {
                self.kill(sim, ETCD);
                lock(&self.state).wipe();
                let mut shared = lock(&self.shared);
                shared.robbed = shared.acting.keys().copied().collect();
            }
            Fault::Cut(one, other) if one != other => sim.partition(one.as_str(), other.as_str()),
            Fault::CutOneWay(from, to) => sim.partition_oneway(from.as_str(), to.as_str()),
            Fault::Hold(one, other) => sim.hold(one.as_str(), other.as_str()),
            Fault::RevokeLeader => {
                let robbed = revoke_leader(&mut lock(&self.state));
                let mut shared = lock(&self.shared);
                let acting = robbed.filter(|place| shared.acting.contains_key(place));
                shared.robbed.extend(acting);
            }
            Fault::Compact => {
                let mut state = lock(&self.state);
                let newest = state.revision();
                state.compact(newest);
            }
            Fault::Cut(..) => {}
        }
    }

    fn mend(&mut self, sim: &mut Sim<'_>, now: Duration, fault: &Fault) {
        self.note(now, format!("{fault:?} ends"));
        let others: Vec<(String, String)> = self.active.iter().flat_map(|planned| planned.fault.cuts()).collect();
        lock(&self.cuts).retain(|cut| others.contains(cut) || !fault.cuts().contains(cut));
        let etcd = ETCD.to_owned();
        match fault {
            Fault::Crash(name) | Fault::Lose(name) => self.revive(sim, name),
            Fault::Wipe => self.revive(sim, &etcd),
            Fault::Cut(one, other) if one != other => sim.repair(one.as_str(), other.as_str()),
            Fault::CutOneWay(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
            Fault::Hold(one, other) => sim.release(one.as_str(), other.as_str()),
            Fault::Cut(..) | Fault::RevokeLeader | Fault::Compact => {}
        }
    }

    /// The host lives on without its process, and refuses connections.
    fn kill(&mut self, sim: &mut Sim<'_>, name: &str) {
        if !lock(&self.dead).insert(name.to_owned()) {
            return;
        }
        sim.bounce(name);
        self.forget(name);
    }

    /// The host falls silent.
    fn lose(&mut self, sim: &mut Sim<'_>, name: &str) {
        sim.crash(name);
        self.forget(name);
    }

    /// A master that is gone acts no more.
    fn forget(&self, name: &str) {
        if let Some(place) = (0..MASTERS).find(|place| master(*place) == name) {
            let mut shared = lock(&self.shared);
            shared.acting.remove(&place);
            shared.robbed.retain(|robbed| *robbed != place);
        }
    }

    /// Unless another fault keeps it down.
    fn revive(&mut self, sim: &mut Sim<'_>, name: &str) {
        let keeps = |planned: &Planned| match &planned.fault {
            Fault::Crash(down) | Fault::Lose(down) => down == name,
            Fault::Wipe => name == ETCD,
            _ => false,
        };
        if !self.active.iter().any(keeps) {
            lock(&self.dead).remove(name);
            sim.bounce(name);
        }
    }

    /// Takes over what the processes noted.
    fn listen(&mut self, now: Duration) {
        let notes = std::mem::take(&mut lock(&self.shared).notes);
        notes.iter().for_each(|line| self.note(now, line));
    }

    fn check(&mut self, now: Duration) -> Result<(), String> {
        if let Some(broken) = lock(&self.state).broken.first() {
            return Err(broken.clone());
        }
        let shared = lock(&self.shared);
        if let Some(broken) = shared.broken.first() {
            return Err(broken.clone());
        }
        let sure: BTreeMap<usize, i64> = shared
            .acting
            .iter()
            .filter(|(place, _)| !shared.robbed.contains(place))
            .map(|(place, term)| (*place, *term))
            .collect();
        if sure.len() > 1 {
            return Err(format!("several act as leader at once: {sure:?}"));
        }
        if !sure.is_empty() {
            (self.led_at, self.followed_by) = (now, None);
        }
        if self.followed_by.is_some_and(|by| now > by) {
            return Err(format!("a leader that died was not followed within {FOLLOWED:?}"));
        }
        if now.saturating_sub(self.led_at.max(self.calm_since)) > LEADERLESS {
            return Err(format!("nobody leads for {LEADERLESS:?} although nothing is wrong"));
        }
        Ok(())
    }

    /// In the end one leads, and all agree on everything.
    fn has_settled(&self) -> Result<(), String> {
        let (shared, state) = (lock(&self.shared), lock(&self.state));
        let agree = |what: &str, holds: bool, seen: String| if holds { Ok(()) } else { Err(format!("{what}: {seen}")) };
        let leader = state.leader().map(|(address, _)| address);
        let acting: Vec<String> = shared.acting.keys().map(|place| format!("{}:{PORT}", master(*place))).collect();
        agree(
            "the one whose key leads acts, alone",
            acting.len() == 1 && leader == acting.first().cloned(),
            format!("{leader:?} {acting:?}"),
        )?;
        let terms: Vec<i64> = shared.acting.values().copied().collect();
        agree(
            "the database knows the leader's term",
            terms == [shared.database.term],
            format!("{terms:?} {}", shared.database.term),
        )?;
        let claims = shared.database.claims;
        agree(
            "the leader's claims are taken",
            claims > self.claims_when_healed,
            format!("{claims} of {}", self.claims_when_healed),
        )?;

        let registered = state.listed("node/");
        let wanted = (0..MASTERS).map(|place| format!("{}:{PORT}", master(place))).chain((0..NODES).map(node));
        let mut wanted: Vec<String> = wanted.collect();
        wanted.sort();
        agree("everybody is registered", registered.keys().eq(wanted.iter()), format!("{:?}", registered.keys()))?;
        for place in 0..MASTERS {
            let copy = shared.copies.get(&place);
            agree(&format!("master {place} knows who is registered"), copy == Some(&registered), format!("{copy:?}"))?;
        }

        let said = state.listed("assign/");
        let row = |record: &estafet_master::core::Record| {
            let (number, count, shard) = record.key;
            let value = format!(r#"{{"owner":"{}","epoch":{}}}"#, record.node, record.epoch);
            (format!("{number}/{}/{}", count.get(), shard.get()), value)
        };
        let stored: BTreeMap<String, String> = shared.database.rows.values().map(row).collect();
        agree("etcd says what the database says", said == stored, format!("{said:?} {stored:?}"))
    }
}

/// What a host runs: its process, or nothing that listens.
fn unless_dead<F: Future<Output = turmoil::Result>>(
    dead: &Dead,
    name: &str,
    process: impl FnOnce() -> F,
) -> Either<F, Pending<turmoil::Result>> {
    if lock(dead).contains(name) { Either::Right(pending()) } else { Either::Left(process()) }
}

fn next_life(lives: &Mutex<u32>) -> u32 {
    let mut lives = lock(lives);
    *lives += 1;
    *lives
}

fn boot(place: usize, life: u32) -> BootId {
    let mut boot = [0; 16];
    boot[0] = u8::try_from(place).unwrap_or(u8::MAX);
    boot[12..].copy_from_slice(&life.to_be_bytes());
    BootId(boot)
}

/// A master, from its start to its death.
async fn run_master((place, life): (usize, u32), pace: u32, cuts: Cuts, desk: Desk) -> anyhow::Result<()> {
    let (timing, tasks) = (Timing::default().at_pace(pace), Tasks::new());
    let network = Arc::new(Simulated { timing, host: master(place), cuts });
    let address = format!("{}:{PORT}", master(place));
    let identity = Identity { prefix: PREFIX.to_owned(), node: Node::new("master", &address, boot(place, life)) };
    tasks.spawn("work", desk.clone().work());
    tasks.spawn("registrations", follow_nodes(network.clone(), timing, PREFIX.to_owned(), desk.clone(), tasks.clone()));
    tasks.spawn("election", stand(network, timing, identity, desk, watch::channel(false).0, tasks.clone()));
    Ok(network::listen(PORT).await?)
}
