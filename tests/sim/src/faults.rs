//! What goes wrong, and when it ends; and the load meanwhile.
//!
//! Each fault begins by chance and is mended after a while of its own; when the time of faults is over, all are
//! mended at once, and everything must settle. To add one: a variant of [`Fault`], how it begins, how it ends.

use std::collections::BTreeMap;

use rand::{RngExt as _, rngs::SmallRng};

use crate::{
    chatd::{PHONES, phone},
    reach::Lack,
    world::{COREAPPS, MASTERS, MS, Place, SECOND, Time, WEBAPPS, What, World},
};

/// One run of so many has one fault only, from the time on at which the others have long had what it takes away.
const TESTED: u32 = 16;
const STEADY: Time = 8 * SECOND;

/// Something that is wrong for a while.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The process is gone.
    Down(Place),
    /// The process is stopped.
    Stopped(Place),
    /// Nothing gets through from one to the other.
    Deaf(Place, Place),
    /// Nothing gets through between the two.
    Cut(Place, Place),
    /// The place reaches nobody.
    Alone(Place),
    /// What travels between the two takes long.
    Slow(Place, Place),
    /// The database takes long for a commit.
    SlowDatabase,
    /// Half of the database's answers are lost.
    LostAnswers,
    /// The receiver fails.
    Receiver,
    /// The node is asked to end; then its process does.
    Draining(usize),
    /// The node alone does not reach something that an owner needs, or that needs it.
    Lacks(Lack, usize),
    /// The same and nothing else, for so long that others must have its shards.
    Tested(Lack, usize),
    /// Calls on nobody: the stream between two places broke, or a wall clock jumped.
    Nothing,
}

/// The faults of a run, and its load.
pub(crate) struct Weather {
    open: BTreeMap<u64, Fault>,
    ends: Time,
    /// Nothing else goes wrong in this run.
    tests: Option<Lack>,
    /// Owners whose shards went to others in time.
    pub(crate) left: u64,
    /// Since when nothing is wrong any more.
    pub(crate) calm_since: Option<Time>,
    /// How long settling may take.
    pub(crate) patience: Time,
    /// Reports, orders and maps may be lost, doubled and overtake each other.
    pub(crate) unruly: bool,
    pub(crate) slow: Option<(Place, Place)>,
    pub(crate) slow_database: bool,
    pub(crate) loses_answers: bool,
    /// Longest pause between two faults.
    pause: Time,
    /// The same between two messages.
    load: Time,
}

impl Weather {
    pub(crate) fn new(chance: &mut SmallRng) -> Self {
        Self {
            open: BTreeMap::new(),
            ends: chance.random_range(3 * SECOND..6 * SECOND),
            tests: (chance.random_range(0..TESTED) == 0).then(|| Lack::ALL[chance.random_range(0..Lack::ALL.len())]),
            left: 0,
            calm_since: None,
            patience: 60 * SECOND,
            unruly: chance.random_range(0..3) == 0,
            slow: None,
            slow_database: false,
            loses_answers: false,
            pause: chance.random_range(100 * MS..1_000 * MS),
            load: chance.random_range(100 * MS..500 * MS),
        }
    }
}

impl World {
    pub(crate) fn begin(&mut self) {
        for place in Place::all().filter(|place| !matches!(place, Place::Chatd | Place::Etcd | Place::Database)) {
            self.start(place);
        }
        let first = self.between(SECOND, 2 * SECOND);
        self.world_in(if self.weather.tests.is_some() { STEADY } else { first }, What::Fault);
        self.world_in(100 * MS, What::Load);
        self.world_in(first, What::Wish);
    }

    pub(crate) fn start(&mut self, place: Place) {
        match place {
            Place::Master(i) => self.start_master(i),
            Place::Coreapp(i) => self.start_coreapp(i),
            Place::Webapp(i) => self.start_webapp(i),
            Place::Chatd => self.start_chatd(),
            Place::Etcd => self.etcd_started(),
            Place::Database | Place::Receiver | Place::World => {}
        }
    }

    /// What a process kept in memory is gone.
    pub(crate) fn forget(&mut self, place: Place) {
        match place {
            Place::Master(i) => self.masters[i] = crate::masters::Master::default(),
            Place::Coreapp(i) => self.coreapps[i] = crate::coreapps::Coreapp::default(),
            Place::Webapp(i) => self.webapps[i] = crate::webapps::Webapp::restarted(i, self.life(place)),
            Place::Database => self.database_crashed(),
            Place::Chatd => self.ledger.network_started(),
            Place::Etcd | Place::Receiver | Place::World => {}
        }
    }

    pub(crate) fn disturb(&mut self, what: What) {
        match what {
            What::Load => self.load(),
            What::Fault => self.fault(),
            What::Wish => self.wish(),
            What::Mended(fault) => {
                if let Some(fault) = self.weather.open.remove(&fault) {
                    self.mend(fault);
                }
            }
            _ => {}
        }
    }

    fn load(&mut self) {
        if self.weather.calm_since.is_some() {
            return;
        }
        let (webapp, recipient) = (self.chance.random_range(0..WEBAPPS), phone(self.chance.random_range(0..PHONES)));
        if self.runs(Place::Webapp(webapp)) {
            self.submit(webapp, recipient);
        }
        if self.odds(30) && self.runs(Place::Chatd) {
            let from = phone(self.chance.random_range(0..PHONES));
            self.phone_writes(from);
        }
        let pause = self.between(MS, self.weather.load);
        self.world_in(pause, What::Load);
    }

    fn fault(&mut self) {
        if let Some(lack) = self.weather.tests.take() {
            self.weather.ends = 0;
            let Some(node) = self.some_owner() else { return self.calm() };
            let lasts = lack.bound();
            self.begin_fault(Fault::Tested(lack, node), lasts);
            return self.world_in(lasts + SECOND, What::Fault);
        }
        if self.now >= self.weather.ends {
            return self.calm();
        }
        let (fault, lasts) = self.some_fault();
        self.begin_fault(fault, lasts);
        let pause = self.between(50 * MS, self.weather.pause);
        self.world_in(pause, What::Fault);
    }

    fn begin_fault(&mut self, fault: Fault, lasts: Time) {
        self.note(|now| format!("{now:>9} FAULT {fault:?} for {} ms", lasts / MS));
        let id = self.fresh();
        self.weather.open.insert(id, fault);
        self.strike(fault);
        self.world_in(lasts, What::Mended(id));
    }

    fn some_place(&mut self) -> Place {
        match self.chance.random_range(0..20) {
            0..10 => Place::Coreapp(self.chance.random_range(0..COREAPPS)),
            10..14 => Place::Master(self.chance.random_range(0..MASTERS)),
            14..16 => Place::Webapp(self.chance.random_range(0..WEBAPPS)),
            16 => Place::Chatd,
            17 => Place::Etcd,
            18 => Place::Database,
            _ => Place::Receiver,
        }
    }

    /// Two places that talk to each other.
    fn some_pair(&mut self) -> (Place, Place) {
        let node = Place::Coreapp(self.chance.random_range(0..COREAPPS));
        let master = Place::Master(self.chance.random_range(0..MASTERS));
        let webapp = Place::Webapp(self.chance.random_range(0..WEBAPPS));
        match self.chance.random_range(0..8) {
            0 | 1 => (node, master),
            2 => (node, webapp),
            3 => (node, Place::Chatd),
            4 => (node, Place::Database),
            5 => (master, Place::Database),
            6 => (master, Place::Etcd),
            _ => (webapp, master),
        }
    }

    fn some_fault(&mut self) -> (Fault, Time) {
        let (place, (one, other)) = (self.some_place(), self.some_pair());
        let short = self.between(50 * MS, SECOND);
        let long = self.between(300 * MS, 4 * SECOND);
        match self.chance.random_range(0..106) {
            100..106 => {
                let lack = Lack::ALL[self.chance.random_range(0..Lack::ALL.len())];
                let node = self.chance.random_range(0..COREAPPS);
                (Fault::Lacks(lack, node), self.between(2 * SECOND, 7 * SECOND))
            }
            0..16 => (Fault::Down(place), long),
            16..40 => (Fault::Stopped(place), long),
            40..50 => (Fault::Stopped(place), short),
            50..60 => (Fault::Cut(one, other), long),
            60..68 => (Fault::Deaf(one, other), long),
            68..76 => (Fault::Alone(place), long),
            76..80 => (Fault::Slow(one, other), long),
            80..84 => (Fault::SlowDatabase, long),
            84..88 => (Fault::LostAnswers, long),
            88..91 => (Fault::Receiver, long),
            91..94 => (Fault::Draining(self.chance.random_range(0..COREAPPS)), long),
            94..97 => {
                self.cut_streams(one, other);
                (Fault::Nothing, short)
            }
            _ => {
                let jump = self.chance.random_range(-3_600_000..3_600_000);
                if let Some(process) = self.processes.get_mut(&place).filter(|_| place != Place::Chatd) {
                    process.skew_ms += jump;
                }
                (Fault::Nothing, short)
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Down(place) => self.crash(place),
            Fault::Stopped(place) => self.stop(place),
            Fault::Slow(one, other) => self.weather.slow = Some((one, other)),
            Fault::SlowDatabase => self.weather.slow_database = true,
            Fault::LostAnswers => self.weather.loses_answers = true,
            Fault::Receiver => self.receiver.fails = 60,
            Fault::Draining(node) => self.drain_node(node),
            Fault::Deaf(..) | Fault::Cut(..) | Fault::Alone(_) | Fault::Lacks(..) | Fault::Tested(..) => self.block(),
            Fault::Nothing => {}
        }
    }

    fn mend(&mut self, fault: Fault) {
        self.note(|now| format!("{now:>9} mended {fault:?}"));
        match fault {
            Fault::Down(place) => self.restart(place),
            Fault::Stopped(place) => self.go_on(place),
            Fault::Slow(..) => self.weather.slow = None,
            Fault::SlowDatabase => self.weather.slow_database = false,
            Fault::LostAnswers => self.weather.loses_answers = false,
            Fault::Receiver => self.receiver.fails = 0,
            // Its time to end is over, whether or not all was given away.
            Fault::Draining(node) => {
                self.crash(Place::Coreapp(node));
                self.restart(Place::Coreapp(node));
            }
            Fault::Tested(lack, node) => {
                self.must_own_nothing(node, lack);
                self.block();
                self.flush_stalled();
            }
            Fault::Deaf(..) | Fault::Cut(..) | Fault::Alone(_) | Fault::Lacks(..) => {
                self.block();
                self.flush_stalled();
            }
            Fault::Nothing => {}
        }
    }

    /// Blocks what the open faults say.
    fn block(&mut self) {
        self.blocked.clear();
        for fault in self.weather.open.values() {
            match *fault {
                Fault::Deaf(one, other) => drop(self.blocked.insert((one, other))),
                Fault::Cut(one, other) => self.blocked.extend([(one, other), (other, one)]),
                Fault::Alone(place) => self.blocked.extend(Place::all().flat_map(|other| [(place, other), (other, place)])),
                Fault::Lacks(lack, node) | Fault::Tested(lack, node) => {
                    let node = Place::Coreapp(node);
                    self.blocked.extend(lack.places().into_iter().flat_map(|other| [(node, other), (other, node)]));
                }
                _ => {}
            }
        }
        self.watch_cut();
    }

    fn calm(&mut self) {
        self.note(|now| format!("{now:>9} the faults are over"));
        for (_, fault) in std::mem::take(&mut self.weather.open) {
            self.mend(fault);
        }
        for place in Place::all() {
            self.go_on(place);
            self.restart(place);
        }
        self.receiver.fails = 0;
        self.weather.unruly = false;
        self.weather.calm_since = Some(self.now);
    }
}
