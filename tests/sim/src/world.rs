//! Time and processes.
//!
//! One queue of happenings, each addressed to one start of one process. What arrives at a stopped process waits and
//! is handed over when it wakes: messages first, then the timers that ran out meanwhile, as an event loop finds
//! them. All chance comes from the seed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    Mutation, Options, Violation, chatd::Network, coreapps::Coreapp, database::Database, etcd::Etcd, faults::Weather,
    layouts::Number, ledger::Ledger, masters::Master, messages::Body, network::Stream, receiver::Receiver, webapps::Webapp,
};

/// Microseconds of the true time, which no process can see.
pub(crate) type Time = u64;

pub(crate) const MS: Time = 1_000;
pub(crate) const SECOND: Time = 1_000 * MS;

/// A duration of the product as the simulator counts it.
pub(crate) const fn micros(duration: std::time::Duration) -> Time {
    duration.as_micros() as Time
}
/// Wall clock at the beginning, milliseconds since 1970.
pub(crate) const BEGAN_MS: i64 = 1_790_000_000_000;

pub(crate) const MASTERS: usize = 3;
pub(crate) const COREAPPS: usize = 3;
pub(crate) const WEBAPPS: usize = 2;

/// Who something is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Master(usize),
    Coreapp(usize),
    Webapp(usize),
    Chatd,
    Database,
    Etcd,
    Receiver,
    /// Not a process: load, faults, the end.
    World,
}

impl Place {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let masters = (0..MASTERS).map(Self::Master);
        let nodes = (0..COREAPPS).map(Self::Coreapp).chain((0..WEBAPPS).map(Self::Webapp));
        masters.chain(nodes).chain([Self::Chatd, Self::Database, Self::Etcd, Self::Receiver])
    }
}

/// What a process asked to be woken for.
#[derive(Clone, Debug)]
pub(crate) enum Timer {
    /// The master's tick, the node's heartbeat, what a webapp tells the masters.
    Beat,
    /// A node looks whether it reaches what an owner needs.
    ProbeNetwork,
    ProbeDatabase,
    /// A master looks after its candidacy.
    Campaign,
    /// A master looks which shard count is wanted.
    Look,
    /// A master has waited for a node that did not answer a dial.
    Redial {
        node: usize,
        boot: u32,
    },
    /// Dial again.
    Dial(Place),
    /// A shard connects.
    Connect(u64),
    /// A shard asked to be woken.
    Due(u64),
    /// A call has taken too long.
    Late(u64),
    /// A call that failed is made again.
    Again(u64),
    /// A held request tries again.
    Try(u64),
    /// A transaction has waited for its client too long.
    Idle(u64),
    /// A transaction has done its work.
    Work(u64),
    /// A claim has waited for a lock too long.
    LockLate(u64),
}

/// What happens.
#[derive(Debug)]
pub(crate) enum What {
    Woken(Timer),
    Dialled {
        to: Place,
        tag: u64,
        stream: Option<u64>,
        refused: bool,
    },
    Accepted {
        from: Place,
        stream: u64,
    },
    Arrived {
        stream: u64,
        body: Body,
    },
    Called {
        from: (Place, u32),
        call: u64,
        body: Body,
    },
    Answered {
        call: u64,
        body: Body,
    },
    Broke {
        stream: u64,
    },
    /// Whether a stream is still stalled is looked at.
    KeepAlive {
        stream: u64,
    },
    Fault,
    Load,
    /// Somebody asks for another shard count.
    Wish,
    Mended(u64),
}

struct Happening {
    to: Place,
    life: u32,
    what: What,
}

/// A process.
pub(crate) struct Process {
    /// Which start of it.
    pub(crate) life: u32,
    pub(crate) up: bool,
    pub(crate) stopped: bool,
    started: Time,
    /// Parts of a million that its clock runs fast.
    drift: i64,
    /// Milliseconds its wall clock is wrong.
    pub(crate) skew_ms: i64,
    waiting: VecDeque<What>,
}

/// The whole cluster.
pub struct World {
    pub(crate) now: Time,
    pub(crate) chance: SmallRng,
    pub(crate) mutation: Option<Mutation>,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    /// Boxed, because they are large and move about in the map.
    happenings: BTreeMap<u64, Box<Happening>>,
    order: u64,
    pub(crate) processes: BTreeMap<Place, Process>,
    pub(crate) streams: BTreeMap<u64, Stream>,
    next: u64,
    /// Directions in which nothing gets through.
    pub(crate) blocked: BTreeSet<(Place, Place)>,
    pub(crate) weather: Weather,
    pub(crate) masters: Vec<Master>,
    pub(crate) coreapps: Vec<Coreapp>,
    pub(crate) webapps: Vec<Webapp>,
    pub(crate) chatd: Network,
    pub(crate) database: Database,
    pub(crate) etcd: Etcd,
    pub(crate) receiver: Receiver,
    pub(crate) ledger: Ledger,
    base: Instant,
    trace: Option<Vec<String>>,
    /// Of everything that happened, to compare two runs.
    pub(crate) digest: u64,
    /// Happenings so far.
    pub(crate) steps: u64,
}

impl World {
    pub(crate) fn new(seed: u64, options: &Options, traced: bool) -> Self {
        let mut chance = SmallRng::seed_from_u64(seed);
        let weather = Weather::new(&mut chance);
        let number = Number::new(&mut chance);
        let process = |chance: &mut SmallRng| Process {
            life: 1,
            up: true,
            stopped: false,
            started: 0,
            drift: chance.random_range(-20_000..20_000),
            skew_ms: chance.random_range(-2_000..2_000),
            waiting: VecDeque::new(),
        };
        let processes = Place::all().map(|place| (place, process(&mut chance))).collect();
        Self {
            now: 0,
            mutation: options.mutation,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            order: 0,
            processes,
            streams: BTreeMap::new(),
            next: 0,
            blocked: BTreeSet::new(),
            weather,
            masters: (0..MASTERS).map(|_| Master::default()).collect(),
            coreapps: (0..COREAPPS).map(|_| Coreapp::default()).collect(),
            webapps: (0..WEBAPPS).map(Webapp::new).collect(),
            chatd: Network::new(seed),
            database: Database::new(number),
            etcd: Etcd::default(),
            receiver: Receiver::default(),
            ledger: Ledger::default(),
            // Only differences count; the moment itself enters no decision.
            base: tokio::time::Instant::now().into_std(),
            trace: traced.then(Vec::new),
            digest: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            chance,
        }
    }

    /// Runs until everything is settled after the faults, a rule is broken, or `steps` happenings.
    pub(crate) fn run(&mut self, steps: u64) -> Result<(), Violation> {
        self.begin();
        while let Some(Reverse((at, order))) = self.queue.pop() {
            self.now = at;
            let Some(happening) = self.happenings.remove(&order) else { continue };
            let Happening { to, life, what } = *happening;
            self.steps += 1;
            self.happen(to, life, what);
            if let Some(violation) = self.ledger.violation.take() {
                return Err(violation);
            }
            if self.is_over() {
                return Ok(());
            }
            if self.steps >= steps {
                return self.not_settled(format!("{steps} steps were not enough"));
            }
        }
        self.not_settled("nothing happens any more".to_owned())
    }

    fn happen(&mut self, to: Place, life: u32, mut what: What) {
        // The word of a connection may come after that of its end.
        if let What::Dialled { stream, .. } = &mut what {
            *stream = stream.filter(|stream| self.is_open(*stream));
        }
        if to == Place::World {
            return self.disturb(what);
        }
        let Some(process) = self.processes.get_mut(&to) else { return };
        if process.life != life || !process.up {
            return;
        }
        if process.stopped {
            process.waiting.push_back(what);
            return;
        }
        self.note(|now| format!("{now:>9} {to:?} {what:?}"));
        if let What::KeepAlive { stream } = what {
            return self.keep_alive(stream);
        }
        match to {
            Place::Master(i) => self.at_master(i, what),
            Place::Coreapp(i) => self.at_coreapp(i, what),
            Place::Webapp(i) => self.at_webapp(i, what),
            Place::Chatd => self.at_chatd(what),
            Place::Database => self.at_database(what),
            Place::Etcd => self.at_etcd(what),
            Place::Receiver => self.at_receiver(what),
            Place::World => {}
        }
    }

    /// Keeps a line of the trace; the digest takes every line's length and place.
    pub(crate) fn note(&mut self, line: impl FnOnce(Time) -> String) {
        let mixed = self.digest ^ self.now.rotate_left(17) ^ self.steps;
        self.digest = mixed.wrapping_mul(0x0000_0100_0000_01b3);
        if let Some(trace) = &mut self.trace {
            let mut line = line(self.now);
            let end = (0..=300.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
            line.truncate(end);
            trace.push(line);
        }
    }

    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// A number that was not used before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn odds(&mut self, percent: u32) -> bool {
        self.chance.random_range(0..100) < percent
    }

    pub(crate) fn between(&mut self, low: Time, high: Time) -> Time {
        self.chance.random_range(low..=high.max(low))
    }

    // -- clocks --

    /// Time since its start, as a process counts it.
    pub(crate) fn moment(&self, place: Place) -> Duration {
        let process = &self.processes[&place];
        let passed = self.now - process.started;
        let drifted = i128::from(passed) * i128::from(1_000_000 + process.drift) / 1_000_000;
        Duration::from_micros(u64::try_from(drifted).unwrap_or(0))
    }

    /// The same as an instant.
    pub(crate) fn instant(&self, place: Place) -> Instant {
        self.base + Duration::from_secs(3600) + self.moment(place)
    }

    /// The wall clock of a process.
    pub(crate) fn wall_ms(&self, place: Place) -> i64 {
        BEGAN_MS + i64::try_from(self.now / MS).unwrap_or(0) + self.processes[&place].skew_ms
    }

    pub(crate) fn life(&self, place: Place) -> u32 {
        self.processes.get(&place).map_or(0, |process| process.life)
    }

    pub(crate) fn runs(&self, place: Place) -> bool {
        self.processes.get(&place).is_some_and(|process| process.up && !process.stopped)
    }

    // -- the queue --

    pub(crate) fn at(&mut self, at: Time, to: Place, life: u32, what: What) {
        self.order += 1;
        self.happenings.insert(self.order, Box::new(Happening { to, life, what }));
        self.queue.push(Reverse((at, self.order)));
    }

    pub(crate) fn world_in(&mut self, delay: Time, what: What) {
        self.at(self.now + delay, Place::World, 0, what);
    }

    /// Wakes a process after a time of its own clock.
    pub(crate) fn wake(&mut self, place: Place, delay: Time, timer: Timer) {
        let drift = self.processes.get(&place).map_or(0, |process| process.drift);
        let true_delay = i128::from(delay) * 1_000_000 / i128::from(1_000_000 + drift);
        let life = self.life(place);
        self.at(self.now + u64::try_from(true_delay).unwrap_or(delay), place, life, What::Woken(timer));
    }

    // -- processes --

    pub(crate) fn crash(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(&place).filter(|process| process.up) else { return };
        (process.up, process.stopped) = (false, false);
        process.waiting.clear();
        let own: Vec<u64> =
            self.streams.iter().filter(|(_, open)| open.ends.iter().any(|(end, _)| *end == place)).map(|(id, _)| *id).collect();
        own.into_iter().for_each(|stream| self.hang_up(stream));
        self.forget(place);
    }

    pub(crate) fn restart(&mut self, place: Place) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&place).filter(|process| !process.up) else { return };
        process.up = true;
        process.life += 1;
        process.started = now;
        self.start(place);
    }

    pub(crate) fn stop(&mut self, place: Place) {
        if let Some(process) = self.processes.get_mut(&place).filter(|process| process.up) {
            process.stopped = true;
        }
    }

    /// A stopped process goes on: it finds what arrived, and then that its timers ran out.
    pub(crate) fn go_on(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(&place).filter(|process| process.stopped) else { return };
        process.stopped = false;
        let life = process.life;
        let (timers, arrived): (Vec<What>, Vec<What>) =
            std::mem::take(&mut process.waiting).into_iter().partition(|what| matches!(what, What::Woken(_)));
        for what in arrived.into_iter().chain(timers) {
            self.at(self.now, place, life, what);
        }
    }
}
