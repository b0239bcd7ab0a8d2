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
use futures::future::{Either, pending};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::{Notify, watch};
use turmoil::Sim;

use crate::{
    Mutation, Summary,
    etcd::{Etcd, State, serve},
    faults::{Fault, MASTERS, NODES, Planned, hosts, is_borne, master, members_but, node, pairs, plan, revoke_leader},
    network::{Cuts, MEMBERS, Simulated, member},
    office::{Desk, Shared},
    process::{self, Dialled, Process},
};

mod rules;

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
/// The same when something is wrong that others do without, since etcd's leader changed: they may be hit in turn.
const LEADERLESS_BORNE: Duration = Duration::from_secs(8);
/// How long a copy of the registrations may be old.
const ASTRAY: Duration = Duration::from_secs(6);
/// After so long without any fault all is well again: all stand, and know whom they wait for.
const WELL: Duration = Duration::from_secs(3);
/// The same when a leader dies and everything else is well: its standby notices.
const FOLLOWED: Duration = Duration::from_millis(1500);

/// The same when its host is lost or its process stopped, so that its lease has to end.
const FOLLOWED_SILENT: Duration = Duration::from_millis(3500);
/// How long a fault waits for its moment: renewals are half a second apart.
const AIM: Duration = Duration::from_secs(1);

type Dead = Arc<Mutex<BTreeSet<usize>>>;
type Kernel = Arc<Mutex<Option<Dialled>>>;

pub(crate) struct World {
    seed: u64,
    mutation: Option<Mutation>,
    etcd: Arc<Etcd>,
    shared: Arc<Mutex<Shared>>,
    planned: Vec<Planned>,
    active: Vec<Planned>,
    cuts: Cuts,
    /// Members of etcd whose process is dead.
    dead: Dead,
    processes: BTreeMap<String, Process>,
    /// What is left for the hosts of processes that start.
    kernels: BTreeMap<String, Kernel>,
    /// How often each process started.
    lives: BTreeMap<String, u32>,
    /// What the processes draw their chance from.
    chance: SmallRng,
    /// Seconds that the clock of each process needs for 100.
    paces: BTreeMap<String, u32>,
    /// Since when nothing is wrong.
    calm_since: Duration,
    /// Since when others do without what is wrong, and etcd has its leader.
    borne_since: Duration,
    /// Since when masters that are well do not know who is registered.
    astray: BTreeMap<usize, Duration>,
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
            etcd: Arc::new(Etcd {
                state: Mutex::new(State::new(PREFIX, mutation == Some(Mutation::TakesAnyWriter))),
                quorum: Mutex::default(),
                changed: Notify::new(),
            }),
            shared: Arc::new(Mutex::new(Shared { may_claim: true, ..Shared::default() })),
            planned,
            active: Vec::new(),
            cuts: Cuts::default(),
            dead: Dead::default(),
            processes: BTreeMap::new(),
            kernels: BTreeMap::new(),
            lives: BTreeMap::new(),
            chance: clocks,
            paces,
            borne_since: Duration::ZERO,
            astray: BTreeMap::new(),
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
            writes: lock(&self.etcd.state).guarded,
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
            self.agree(sim.elapsed());
            sim.step().map_err(|error| format!("a host failed: {error}"))?;
            self.processes.values_mut().for_each(|process| process.run(STEP));
            let stopped = |place: &usize| self.processes.get(&master(*place)).is_some_and(Process::is_stopped);
            lock(&self.shared).stopped.retain(stopped);
            self.listen(sim.elapsed());
            self.check(sim.elapsed())?;
        }
        self.has_settled()
    }

    fn start_hosts(&mut self, sim: &mut Sim<'_>) -> Result<(), String> {
        for place in 0..MEMBERS {
            let (etcd, dead) = (self.etcd.clone(), self.dead.clone());
            sim.host(member(place), move || {
                let etcd = etcd.clone();
                let is_dead = lock(&dead).contains(&place);
                if is_dead { Either::Right(pending()) } else { Either::Left(async move { Ok(serve(etcd, place).await?) }) }
            });
        }
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
        let chance = Mutex::new(SmallRng::from_rng(&mut self.chance));
        let (cuts, trusts_any_member) = (self.cuts.clone(), self.mutation == Some(Mutation::TrustsAnyMember));
        let network = Arc::new(Simulated { timing, host: name.to_owned(), cuts, dials, chance, trusts_any_member });
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
            self.aim(&mut planned.fault);
            self.begin(sim, now, &planned.fault);
            if !planned.fault.is_instant() {
                self.active.push(planned);
            }
        }
        if !self.active.is_empty() {
            self.calm_since = now;
        }
        if !is_borne(self.active.iter().map(|planned| &planned.fault)) {
            self.borne_since = now;
        }
        if now == HEALED {
            self.claims_when_healed = lock(&self.shared).database.claims;
        }
        lock(&self.shared).may_claim = now < QUIET;
        Ok(())
    }

    /// Whether a fault waits for its moment, and others with it.
    fn waits(&self, now: Duration, planned: &Planned) -> bool {
        let is_renewed = lock(&self.etcd.state).leader_renewed().is_some_and(|renewed| renewed + STEP >= now);
        planned.fault == Fault::StopLeader && !is_renewed && now < planned.begins + AIM
    }

    /// Who leads is hit, as soon as it is known who that is; where nobody leads it is the first.
    fn aim(&self, fault: &mut Fault) {
        let leader = lock(&self.etcd.quorum).leader().unwrap_or_default();
        match fault {
            Fault::StopLeader => {
                let acts = lock(&self.shared).leaders().keys().next().copied();
                *fault = Fault::Stop(master(acts.unwrap_or_default()));
            }
            Fault::CrashEtcdLeader => *fault = Fault::Crash(member(leader)),
            Fault::CutEtcdLeader => *fault = Fault::Cut(member(leader), members_but(Some(leader))),
            _ => {}
        }
    }

    /// etcd's members see who of them is there.
    fn agree(&mut self, now: Duration) {
        let mut quorum = lock(&self.etcd.quorum);
        let before: Vec<bool> = (0..MEMBERS).map(|member| quorum.serves(member)).collect();
        quorum.set_cuts(&lock(&self.cuts));
        (0..MEMBERS).for_each(|member| quorum.set_down(member, lock(&self.dead).contains(&member)));
        if quorum.passed(now) {
            lock(&self.etcd.state).led(now);
            // All leases are long again, also of those who are gone.
            self.borne_since = now;
        }
        let is_news = |member: usize| before[member] != quorum.serves(member) || quorum.is_leaderless(member, now);
        let tell = (0..MEMBERS).any(is_news);
        drop(quorum);
        if tell {
            self.etcd.changed.notify_waiters();
        }
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
                hosts(name).for_each(|name| self.kill(sim, name));
            }
            Fault::Lose(name) => {
                self.is_to_be_followed(name, was_calm, now, FOLLOWED_SILENT);
                hosts(name).for_each(|name| self.lose(sim, name));
            }
            Fault::Stop(name) => {
                self.is_to_be_followed(name, was_calm, now, FOLLOWED_SILENT);
                self.stop(name);
            }
            Fault::Wipe => {
                (0..MEMBERS).for_each(|place| self.kill(sim, &member(place)));
                lock(&self.etcd.state).wipe();
                let mut shared = lock(&self.shared);
                shared.robbed = shared.acting.keys().copied().collect();
            }
            Fault::Cut(..) | Fault::CutOneWay(..) | Fault::Hold(..) => cut(sim, fault),
            Fault::RevokeLeader => {
                let robbed = revoke_leader(&mut lock(&self.etcd.state));
                let mut shared = lock(&self.shared);
                let acting = robbed.filter(|place| shared.acting.contains_key(place));
                shared.robbed.extend(acting);
            }
            Fault::Compact => {
                let mut state = lock(&self.etcd.state);
                let newest = state.revision();
                state.compact(newest);
            }
            Fault::StopLeader | Fault::CrashEtcdLeader | Fault::CutEtcdLeader => {}
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
            Fault::Crash(name) | Fault::Lose(name) => hosts(name).try_for_each(|name| self.revive(sim, name))?,
            Fault::Wipe => (0..MEMBERS).try_for_each(|place| self.revive(sim, &member(place)))?,
            Fault::Stop(name) => self.go_on(name),
            Fault::Cut(one, other) => apart(one, other).for_each(|(one, other)| sim.repair(one, other)),
            Fault::CutOneWay(from, to) => pairs(from, to).into_iter().for_each(|(from, to)| sim.repair_oneway(from, to)),
            Fault::Hold(one, other) => pairs(one, other).into_iter().for_each(|(one, other)| sim.release(one, other)),
            _ => {}
        }
        // A link may be under another fault still.
        self.active.iter().for_each(|planned| cut(sim, &planned.fault));
        Ok(())
    }

    /// The host lives on without its process, and refuses connections.
    fn kill(&mut self, sim: &mut Sim<'_>, name: &str) {
        if let Some(place) = member_at(name) {
            if !lock(&self.dead).insert(place) {
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
        lock(&self.dead).extend(member_at(name));
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
            Fault::Crash(down) | Fault::Lose(down) => hosts(down).any(|down| down == name),
            Fault::Wipe => member_at(name).is_some(),
            _ => false,
        };
        if self.active.iter().any(keeps) {
            return Ok(());
        }
        match member_at(name) {
            Some(place) => drop(lock(&self.dead).remove(&place)),
            None => self.start(name)?,
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
        process.go_on();
    }

    /// Takes over what the processes noted.
    fn listen(&mut self, now: Duration) {
        let notes = std::mem::take(&mut lock(&self.shared).notes);
        notes.iter().for_each(|line| self.note(now, line));
    }
}

fn member_at(name: &str) -> Option<usize> {
    (0..MEMBERS).find(|place| member(*place) == name)
}

/// Pairs of different hosts.
fn apart(one: &str, other: &str) -> impl Iterator<Item = (String, String)> {
    pairs(one, other).into_iter().filter(|(one, other)| one != other)
}

/// What a fault does to links.
fn cut(sim: &Sim<'_>, fault: &Fault) {
    match fault {
        Fault::Cut(one, other) => apart(one, other).for_each(|(one, other)| sim.partition(one, other)),
        Fault::CutOneWay(from, to) => pairs(from, to).into_iter().for_each(|(from, to)| sim.partition_oneway(from, to)),
        Fault::Hold(one, other) => pairs(one, other).into_iter().for_each(|(one, other)| sim.hold(one, other)),
        _ => {}
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
