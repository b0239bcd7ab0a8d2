//! Who says that somebody is not reached: nodes probe the network and the database for themselves, webapps tell the
//! masters which coreapps they miss. What that means is decided by [`Need`] in the node and by the master's core.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use estafet_coreapp::core::needs::{Need, Reach as Reached, Writes};
use estafet_master::core::{Event, Needs, Reach};
use estafet_model::BootId;

use crate::{
    Mutation,
    coreapps::DATABASE,
    lines::Line,
    masters::{boot_of, name},
    messages::{Body, Read},
    tasks::Asked,
    world::{COREAPPS, MASTERS, MS, Place, SECOND, Time, Timer, WEBAPPS, What, World},
};

/// Pauses between two probes, and how long the database may take for one (`cluster/probing.rs` of the coreapp).
const NETWORK_PAUSE: Time = SECOND;
const DATABASE_PAUSE: Time = 200 * MS;
const DATABASE_LATE: Time = 600 * MS;
const _: () = assert!(DATABASE_LATE < DATABASE, "a probe tells sooner than use");
/// How often a webapp tells what it misses, and for how long before (`cluster.rs` of the webapp).
const REPORT: Time = 150 * MS;
/// The same while it misses nobody: there is nothing in it but that it is there, which counts for three seconds.
const QUIET: Time = 450 * MS;
const GRACE: Duration = Duration::from_millis(100);
/// Tag of a dial that only probes.
pub(crate) const PROBE: u64 = u64::MAX;

/// Something that a node lacks and others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    Webapps,
    Network,
    Database,
}

impl Lack {
    pub(crate) const ALL: [Self; 3] = [Self::Webapps, Self::Network, Self::Database];

    /// When others have its shards, if everything else is well: to notice, to be believed, to move.
    pub(crate) fn bound(self) -> Time {
        match self {
            Self::Webapps => 6 * SECOND,
            Self::Network => 10 * SECOND,
            Self::Database => 5 * SECOND,
        }
    }

    /// Whom a node does not reach then.
    pub(crate) fn places(self) -> Vec<Place> {
        match self {
            Self::Webapps => (0..WEBAPPS).map(Place::Webapp).collect(),
            Self::Network => vec![Place::Chatd],
            Self::Database => vec![Place::Database],
        }
    }
}

/// What a node's probes say.
#[derive(Default)]
pub(crate) struct Probes {
    network: Need,
    database: Need,
    /// When the dial under way began.
    dialled: Option<Instant>,
}

/// Coreapps that a webapp misses, and since when by its clock.
pub(crate) type Missed = BTreeMap<String, Duration>;

impl World {
    pub(crate) fn start_probes(&mut self, i: usize) {
        let (network, database) = (self.between(0, NETWORK_PAUSE), self.between(0, DATABASE_PAUSE));
        self.wake(Place::Coreapp(i), network, Timer::ProbeNetwork);
        self.wake(Place::Coreapp(i), database, Timer::ProbeDatabase);
    }

    pub(crate) fn probe_network(&mut self, i: usize) {
        self.coreapps[i].probes.dialled = Some(self.instant(Place::Coreapp(i)));
        self.dial(Place::Coreapp(i), Place::Chatd, PROBE);
    }

    pub(crate) fn network_probed(&mut self, i: usize, stream: Option<u64>) {
        let now = self.instant(Place::Coreapp(i));
        stream.into_iter().for_each(|stream| self.hang_up(stream));
        let node = &mut self.coreapps[i];
        let is_connected = node.tasks.values().any(|task| matches!(task.line, Line::Up(_)));
        let began = node.probes.dialled.take().unwrap_or(now);
        node.probes.network.probed_network(began, now, stream.is_some(), is_connected);
        self.wake(Place::Coreapp(i), NETWORK_PAUSE, Timer::ProbeNetwork);
    }

    pub(crate) fn probe_database(&mut self, i: usize) {
        let (call, began) = (self.fresh(), self.instant(Place::Coreapp(i)));
        self.coreapps[i].calls.insert(call, Asked::Probe { began });
        self.call(Place::Coreapp(i), Place::Database, call, DATABASE_LATE, Body::Read(Read::Keys));
    }

    pub(crate) fn database_probed(&mut self, i: usize, began: Instant, succeeded: bool) {
        let now = self.instant(Place::Coreapp(i));
        let node = &mut self.coreapps[i];
        let writes = node.tasks.values().fold(Writes::default(), |all, task| all.with(task.shard.writes()));
        node.probes.database.probed_database(began, now, succeeded, &writes);
        self.wake(Place::Coreapp(i), DATABASE_PAUSE, Timer::ProbeDatabase);
    }

    /// As a report says it.
    pub(crate) fn needs(&self, i: usize) -> Needs {
        if self.mutation == Some(Mutation::SaysNothing) {
            return Needs::default();
        }
        let (now, probes) = (self.instant(Place::Coreapp(i)), &self.coreapps[i].probes);
        let said = |need: &Need| match need.reach(now) {
            Reached::Unknown => Reach::Unknown,
            Reached::Well(time) => Reach::Well(time),
            Reached::Lost(time) => Reach::Lost(time),
        };
        Needs { network: said(&probes.network), database: said(&probes.database) }
    }

    /// Who owns something and lacks something is of no use; some owner.
    pub(crate) fn some_owner(&mut self) -> Option<usize> {
        let first = self.between(0, COREAPPS as Time - 1) as usize;
        let owns = |node: &usize| self.database.current().any(|(_, owner)| owner.node == name(*node));
        (0..COREAPPS).map(|offset| (first + offset) % COREAPPS).find(owns)
    }

    /// Everything else was well for so long that others must have the node's shards.
    pub(crate) fn must_own_nothing(&mut self, node: usize, lack: Lack) {
        let kept: Vec<String> = self
            .database
            .current()
            .filter(|(_, owner)| owner.node == name(node))
            .map(|(key, owner)| format!("{}/{} in {}", key.2, key.1.get(), owner.epoch))
            .collect();
        if kept.is_empty() {
            self.weather.left += 1;
        } else {
            let bound = lack.bound() / SECOND;
            let what = format!("{} lacks {lack:?} for {bound} s and still owns {}", name(node), kept.join(", "));
            self.ledger.broken("I7", what);
        }
    }

    // -- webapps --

    /// A webapp tells all masters whom it misses, also that it misses nobody: they count who is there.
    pub(crate) fn tell_missed(&mut self, i: usize) {
        let place = Place::Webapp(i);
        let pause = if self.webapps[i].missed.is_empty() { QUIET } else { REPORT };
        self.wake(place, pause, Timer::Beat);
        if self.mutation == Some(Mutation::SaysNothing) {
            return;
        }
        let now = self.moment(place);
        let is_due = |since: &Duration| now.saturating_sub(*since) >= GRACE;
        let missed = self.webapps[i].missed.iter().filter(|(_, since)| is_due(since));
        let unreachable: BTreeSet<String> = missed.map(|(address, _)| address.clone()).collect();
        let webapp = boot_of(COREAPPS + i, self.life(place));
        for master in 0..MASTERS {
            self.tell(place, Place::Master(master), Body::Unreached { webapp, unreachable: unreachable.clone() });
        }
    }

    pub(crate) fn reached(&mut self, i: usize, address: String, is_up: bool) {
        let now = self.moment(Place::Webapp(i));
        if is_up {
            self.webapps[i].missed.remove(&address);
        } else {
            self.webapps[i].missed.entry(address).or_insert(now);
        }
    }

    pub(crate) fn unreached(&mut self, master: usize, webapp: BootId, unreachable: BTreeSet<String>) {
        self.master_step(master, Event::Unreached { webapp, unreachable });
    }

    /// Says something that is not answered, and not repeated when it is lost.
    fn tell(&mut self, from: Place, to: Place, body: Body) {
        if !self.is_blocked(from, to) && self.processes[&to].up {
            let (delay, asker, life) = (self.delay(from, to), (from, self.life(from)), self.life(to));
            self.at(self.now + delay, to, life, What::Called { from: asker, call: 0, body });
        }
    }
}
