//! One run: the hosts, the faults as their times come, the rules after every step, and the end.

use std::{
    collections::BTreeMap,
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
use futures::future::{Either, pending};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::watch;
use turmoil::Sim;

use crate::{
    Mutation, Summary,
    etcd::{State, serve},
    faults::{Fault, MASTERS, NODES, Planned, master, node, plan, revoke_leader},
    network::{Cuts, ETCD, Simulated},
    office::{Desk, Shared},
    process::{self, Dialled, Process},
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

/// The same when its host is lost or its process stopped, so that its lease has to end.
const FOLLOWED_SILENT: Duration = Duration::from_millis(3500);
/// How long a fault waits for its moment: renewals are half a second apart.
const AIM: Duration = Duration::from_secs(1);

type Dead = Arc<Mutex<bool>>;
type Kernel = Arc<Mutex<Option<Dialled>>>;

pub(crate) struct World {
    seed: u64,
    mutation: Option<Mutation>,
    state: Arc<Mutex<State>>,
    shared: Arc<Mutex<Shared>>,
    planned: Vec<Planned>,
    active: Vec<Planned>,
    cuts: Cuts,
    /// Whether etcd's process is dead.
    dead: Dead,
    processes: BTreeMap<String, Process>,
    /// What is left for the hosts of processes that start.
    kernels: BTreeMap<String, Kernel>,
    /// How often each process started.
    lives: BTreeMap<String, u32>,
    /// Seconds that the clock of each process needs for 100.
    paces: BTreeMap<String, u32>,
    /// Since when nothing is wrong.
    calm_since: Duration,
    led_at: Duration,
    /// A leader fell silent while everything else was well: when another must lead, and how long that is.
    followed_by: Option<(Duration, Duration)>,
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
        let mut clocks = SmallRng::seed_from_u64(seed ^ 0xC10C);
        let names = (0..MASTERS).map(master).chain((0..NODES).map(node));
        let paces: BTreeMap<String, u32> = names.map(|name| (name, clocks.random_range(PACE))).collect();
        let trace = paces.iter().map(|(name, pace)| format!("the clock of {name} needs {pace} s for 100")).collect();
        Self {
            seed,
            mutation,
            state: Arc::new(Mutex::new(State::new(PREFIX, mutation == Some(Mutation::TakesAnyWriter)))),
            shared: Arc::new(Mutex::new(Shared { may_claim: true, ..Shared::default() })),
            planned,
            active: Vec::new(),
            cuts: Cuts::default(),
            dead: Dead::default(),
            processes: BTreeMap::new(),
            kernels: BTreeMap::new(),
            lives: BTreeMap::new(),
            paces,
            calm_since: Duration::ZERO,
            led_at: Duration::ZERO,
            followed_by: None,
            claims_when_healed: 0,
            trace,
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
        self.start_hosts(&mut sim)?;
        while sim.elapsed() < END {
            self.strike(&mut sim)?;
            sim.step().map_err(|error| format!("a host failed: {error}"))?;
            self.processes.values_mut().for_each(|process| process.run(STEP));
            self.listen(sim.elapsed());
            self.check(sim.elapsed())?;
        }
        self.has_settled()
    }

    fn start_hosts(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        let (state, dead) = (self.state.clone(), self.dead.clone());
        sim.host(ETCD, move || {
            let state = state.clone();
            if *lock(&dead) { Either::Right(pending()) } else { Either::Left(async move { Ok(serve(state).await?) }) }
        });
        for name in (0..MASTERS).map(master).chain((0..NODES).map(node)) {
            let kernel: Kernel = Arc::default();
            self.kernels.insert(name.clone(), kernel.clone());
            self.start(&name)?;
            sim.host(name, move || match lock(&kernel).take() {
                Some(dialled) => Either::Left(async move { Ok(process::kernel(dialled, PORT).await?) }),
                // Its process is dead: nobody listens.
                None => Either::Right(pending()),
            });
        }
        Ok(())
    }

    /// Starts a program, and leaves its host the kernel under it.
    fn start(&mut self, name: &str) -> Result<(), String> {
        let life = self.lives.entry(name.to_owned()).or_default();
        *life += 1;
        let pace = self.paces[name];
        let (dials, dialled) = process::dials();
        *lock(&self.kernels[name]) = Some(dialled);
        let timing = Timing::default().at_pace(pace);
        let network = Arc::new(Simulated { timing, host: name.to_owned(), cuts: self.cuts.clone(), dials });
        let place = (0..MASTERS).find(|place| master(*place) == name);
        let boot = boot(place.unwrap_or(MASTERS), *life);
        let started = match place {
            Some(place) => {
                let identity = Identity { prefix: PREFIX.to_owned(), node: Node::new("master", &format!("{name}:{PORT}"), boot) };
                let (start, seed, shared, mutation) = ((place, *life), self.seed, self.shared.clone(), self.mutation);
                Process::start(name.to_owned(), async move {
                    // Its clock begins with the process.
                    run_master(network, identity, Desk::new(start, pace, seed, shared, mutation));
                })
            }
            None => {
                let record = Node::new("coreapp", &format!("{name}:{PORT}"), boot);
                let registering = register(network, timing, PREFIX.to_owned(), name.to_owned(), record, Tasks::new());
                Process::start(name.to_owned(), registering)
            }
        };
        self.processes.insert(name.to_owned(), started.map_err(|error| format!("{name} does not start: {error}"))?);
        Ok(())
    }

    /// Begins and ends what is due.
    fn strike(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        let now = sim.elapsed();
        let (over, active): (Vec<_>, Vec<_>) = std::mem::take(&mut self.active).into_iter().partition(|fault| fault.ends <= now);
        self.active = active;
        for planned in over {
            self.mend(sim, now, &planned.fault)?;
        }
        while self.planned.last().is_some_and(|next| next.begins <= now && !self.waits(now, next)) {
            let Some(mut planned) = self.planned.pop() else { return Ok(()) };
            if planned.fault == Fault::StopLeader {
                // Nobody acts now: then it is the first.
                let leader = lock(&self.shared).leaders().keys().next().copied();
                planned.fault = Fault::Stop(master(leader.unwrap_or_default()));
            }
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
        Ok(())
    }

    /// Whether a fault waits for its moment, and others with it.
    fn waits(&self, now: Duration, planned: &Planned) -> bool {
        let is_renewed = lock(&self.state).leader_renewed().is_some_and(|renewed| renewed + STEP >= now);
        planned.fault == Fault::StopLeader && !is_renewed && now < planned.begins + AIM
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
                self.is_to_be_followed(name, was_calm, now, FOLLOWED);
                self.kill(sim, name);
            }
            Fault::Lose(name) => {
                self.is_to_be_followed(name, was_calm, now, FOLLOWED_SILENT);
                self.lose(sim, name);
            }
            Fault::Stop(name) => {
                self.is_to_be_followed(name, was_calm, now, FOLLOWED_SILENT);
                self.stop(name);
            }
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
            Fault::Cut(..) | Fault::StopLeader => {}
        }
    }

    /// If everything is well but for a leader that falls silent now, another leads soon.
    fn is_to_be_followed(&mut self, name: &str, was_calm: bool, now: Duration, within: Duration) {
        let leads = lock(&self.shared).acting.keys().any(|place| master(*place) == name);
        self.followed_by = (leads && was_calm).then_some((now + within, within));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, now: Duration, fault: &Fault) -> Result<(), String> {
        self.note(now, format!("{fault:?} ends"));
        let others: Vec<(String, String)> = self.active.iter().flat_map(|planned| planned.fault.cuts()).collect();
        lock(&self.cuts).retain(|cut| others.contains(cut) || !fault.cuts().contains(cut));
        match fault {
            Fault::Crash(name) | Fault::Lose(name) => self.revive(sim, name)?,
            Fault::Wipe => self.revive(sim, ETCD)?,
            Fault::Stop(name) => self.go_on(name),
            Fault::Cut(one, other) if one != other => sim.repair(one.as_str(), other.as_str()),
            Fault::CutOneWay(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
            Fault::Hold(one, other) => sim.release(one.as_str(), other.as_str()),
            Fault::Cut(..) | Fault::StopLeader | Fault::RevokeLeader | Fault::Compact => {}
        }
        Ok(())
    }

    /// The host lives on without its process, and refuses connections.
    fn kill(&mut self, sim: &mut Sim<'_>, name: &str) {
        if name == ETCD {
            if std::mem::replace(&mut *lock(&self.dead), true) {
                return;
            }
        } else if self.processes.remove(name).is_none() {
            return;
        }
        sim.bounce(name);
        self.forget(name);
    }

    /// The host falls silent.
    fn lose(&mut self, sim: &mut Sim<'_>, name: &str) {
        self.processes.remove(name);
        sim.crash(name);
        self.forget(name);
    }

    /// A master that is gone acts no more.
    fn forget(&self, name: &str) {
        if let Some(place) = (0..MASTERS).find(|place| master(*place) == name) {
            let mut shared = lock(&self.shared);
            shared.acting.remove(&place);
            shared.stopped.remove(&place);
            shared.robbed.retain(|robbed| *robbed != place);
        }
    }

    /// Unless another fault keeps it down.
    fn revive(&mut self, sim: &mut Sim<'_>, name: &str) -> Result<(), String> {
        let keeps = |planned: &Planned| match &planned.fault {
            Fault::Crash(down) | Fault::Lose(down) => down == name,
            Fault::Wipe => name == ETCD,
            _ => false,
        };
        if self.active.iter().any(keeps) {
            return Ok(());
        }
        if name == ETCD {
            *lock(&self.dead) = false;
        } else {
            self.start(name)?;
        }
        sim.bounce(name);
        Ok(())
    }

    fn stop(&mut self, name: &str) {
        let Some(process) = self.processes.get_mut(name) else { return };
        process.stop();
        lock(&self.shared).stopped.extend((0..MASTERS).find(|place| master(*place) == name));
    }

    /// Unless it was stopped twice, or is another start of the process by now.
    fn go_on(&mut self, name: &str) {
        let still = self.active.iter().any(|planned| planned.fault == Fault::Stop(name.to_owned()));
        let Some(process) = self.processes.get_mut(name).filter(|process| process.is_stopped() && !still) else { return };
        lock(&self.shared).stopped.retain(|place| master(*place) != name);
        process.go_on();
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
        let leaders = shared.leaders();
        if leaders.len() > 1 {
            return Err(format!("several act as leader at once: {leaders:?}"));
        }
        if !leaders.is_empty() {
            (self.led_at, self.followed_by) = (now, None);
        }
        if let Some((by, within)) = self.followed_by
            && now > by
        {
            return Err(format!("a leader that fell silent was not followed within {within:?}"));
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

fn boot(place: usize, life: u32) -> BootId {
    let mut boot = [0; 16];
    boot[0] = u8::try_from(place).unwrap_or(u8::MAX);
    boot[12..].copy_from_slice(&life.to_be_bytes());
    BootId(boot)
}

/// Begins what a master does.
fn run_master(network: Arc<Simulated>, identity: Identity, desk: Desk) {
    let (timing, tasks) = (network.timing, Tasks::new());
    tasks.spawn("work", desk.clone().work());
    tasks.spawn("registrations", follow_nodes(network.clone(), timing, PREFIX.to_owned(), desk.clone(), tasks.clone()));
    tasks.spawn("election", stand(network, timing, identity, desk, watch::channel(false).0, tasks.clone()));
}
