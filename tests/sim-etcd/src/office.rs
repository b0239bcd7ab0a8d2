//! The office of a master: its real core, ticked by its own clock, and the part of the message database that fences terms.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use estafet_etcd::follow::Copied;
use estafet_master::{
    assignments::Wanted,
    core::{Core, Effect, Event, Record, placement::ShardKey, resharding::Shape},
    standing::{Behind, Office},
};
use estafet_model::{BootId, Epoch, Shard, ShardCount, WaId};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use crate::Mutation;

const TICK: Duration = Duration::from_millis(50);
/// One tick of so many has a claim.
const CLAIMS: u32 = 4;

/// What an observer knows of all masters, and the database.
#[derive(Default)]
pub(crate) struct Shared {
    /// In which term each master acts.
    pub(crate) acting: BTreeMap<usize, i64>,
    /// Masters that could not know yet that they lost their lease: it was taken away by hand, or with all data.
    pub(crate) robbed: Vec<usize>,
    /// Masters that are stopped, or have not run since: they did nothing yet, whatever they believe.
    pub(crate) stopped: BTreeSet<usize>,
    /// Who is registered, as each master knows.
    pub(crate) copies: BTreeMap<usize, BTreeMap<String, String>>,
    pub(crate) database: Database,
    /// Whether leaders give shards away.
    pub(crate) may_claim: bool,
    pub(crate) broken: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Shared {
    /// Who acts as leader, in which term, and had to know if it did not lead any more.
    pub(crate) fn leaders(&self) -> BTreeMap<usize, i64> {
        let counts = |place: &usize| !self.robbed.contains(place) && !self.stopped.contains(place);
        self.acting.iter().filter(|(place, _)| counts(place)).map(|(place, term)| (*place, *term)).collect()
    }
}

/// The message database, as far as terms go.
#[derive(Default)]
pub(crate) struct Database {
    pub(crate) term: i64,
    pub(crate) rows: BTreeMap<ShardKey, Record>,
    /// Which start of which master claimed in a term.
    claimants: BTreeMap<i64, (usize, u32)>,
    pub(crate) claims: u64,
    pub(crate) terms: u64,
}

impl Database {
    /// The newest term that was known before.
    fn raise(&mut self, term: i64) -> i64 {
        let before = self.term;
        self.term = before.max(term);
        before
    }

    fn claim(&mut self, term: i64, who: (usize, u32), key: ShardKey) -> Result<Option<Record>, String> {
        if self.term > term {
            return Ok(None);
        }
        self.term = term;
        let claimant = self.claimants.entry(term).or_insert_with(|| {
            self.terms += 1;
            who
        });
        if *claimant != who {
            return Err(format!("master {} and master {} claimed in term {term}", claimant.0, who.0));
        }
        self.claims += 1;
        let epoch = self.rows.get(&key).map_or(Epoch::default(), |row| row.epoch).next();
        let record = Record { key, epoch, node: format!("c{}", self.claims % 2), boot: BootId([1; 16]), retired: false };
        self.rows.insert(key, record.clone());
        Ok(Some(record))
    }
}

fn number() -> WaId {
    WaId::from_u64(15_550_000_001).expect("eleven digits")
}

fn count() -> ShardCount {
    ShardCount::new(4).expect("a power of two")
}

/// What the office works with, under one lock.
struct Work {
    core: Core,
    rng: SmallRng,
    known_term: Option<i64>,
    pictured: Option<(i64, u64)>,
}

/// The office of one start of a master.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Inner>);

struct Inner {
    place: usize,
    life: u32,
    /// Seconds that its clock needs for 100.
    pace: u32,
    started: Instant,
    work: Mutex<Work>,
    shared: Arc<Mutex<Shared>>,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    behind: watch::Sender<Option<Behind>>,
    resign: Notify,
    mutation: Option<Mutation>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    pub(crate) fn new(
        (place, life): (usize, u32),
        pace: u32,
        seed: u64,
        shared: Arc<Mutex<Shared>>,
        mutation: Option<Mutation>,
    ) -> Self {
        let core = Core::new(BTreeMap::from([(number(), count())]));
        let rng = SmallRng::seed_from_u64(seed ^ (place as u64) << 32 ^ u64::from(life) << 48);
        let work = Mutex::new(Work { core, rng, known_term: None, pictured: None });
        Self(Arc::new(Inner {
            place,
            life,
            pace,
            started: Instant::now(),
            work,
            shared,
            wanted: watch::channel(None).0,
            behind: watch::channel(None).0,
            resign: Notify::new(),
            mutation,
        }))
    }

    /// A time by the process's own clock.
    fn moment(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.0.started) * 100 / self.0.pace
    }

    /// Ticks until the process is killed.
    pub(crate) async fn work(self) {
        loop {
            sleep(TICK * self.0.pace / 100).await;
            if self.0.mutation == Some(Mutation::NeverStepsDown) {
                self.step(Event::Renewed { sent: self.moment(Instant::now()) });
            }
            self.step(Event::Ticked);
            self.show_picture();
            self.claim();
        }
    }

    fn show_picture(&self) {
        let mut work = lock(&self.0.work);
        let picture = work.core.picture();
        if work.pictured != picture {
            work.pictured = picture;
            self.0.wanted.send_replace(Wanted::of(&work.core).map(Arc::new));
        }
    }

    /// A leader gives a shard away, now and then.
    fn claim(&self) {
        let term = {
            let mut work = lock(&self.0.work);
            let chosen = work.rng.random_range(0..CLAIMS) == 0 && work.core.assignments().is_some();
            let Some(term) = work.core.term().filter(|_| chosen && lock(&self.0.shared).may_claim) else { return };
            term
        };
        let shard = lock(&self.0.work).rng.random_range(0..u32::from(count().get()));
        let key = (number(), count(), Shard::new(shard, count()).expect("below the count"));
        let claimed = {
            let mut shared = lock(&self.0.shared);
            let others: Vec<usize> = shared.leaders().into_keys().filter(|place| *place != self.0.place).collect();
            if !others.is_empty() && !shared.robbed.contains(&self.0.place) {
                shared
                    .broken
                    .push(format!("several act as leader at once: {} claims in term {term} beside {others:?}", self.0.place));
            }
            shared.database.claim(term, (self.0.place, self.0.life), key)
        };
        match claimed {
            Ok(Some(record)) => self.step(Event::Claimed { term, record }),
            Ok(None) => self.step(Event::ClaimFailed { term, key, stale: true }),
            Err(broken) => lock(&self.0.shared).broken.push(broken),
        }
    }

    /// Hands the core a fact and does what it orders.
    fn step(&self, event: Event) {
        let mut work = lock(&self.0.work);
        let now = self.moment(Instant::now());
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in work.core.step(now, event) {
                match effect {
                    Effect::ReadOwners { term } => events.extend(self.read_owners(&mut work, term)),
                    Effect::Resign => self.0.resign.notify_one(),
                    // No coreapp reports here, so nothing else is ordered that matters.
                    _ => {}
                }
            }
        }
        let acts = work.core.term().filter(|_| work.core.assignments().is_some());
        self.acts(acts);
    }

    /// As the driver does it.
    fn read_owners(&self, work: &mut Work, term: i64) -> Vec<Event> {
        let mut shared = lock(&self.0.shared);
        let stored = shared.database.raise(term);
        let is_behind = stored > term || (stored == term && work.known_term != Some(term));
        if is_behind && self.0.mutation != Some(Mutation::TermNotRaised) {
            self.0.behind.send_replace(Some(Behind { term, stored }));
            return vec![Event::Deposed];
        }
        work.known_term = Some(term);
        let numbers = BTreeMap::from([(number(), Shape::settled(count()))]);
        let records = shared.database.rows.values().cloned().collect();
        vec![Event::NumbersRead { term, numbers }, Event::OwnersRead { term, records }]
    }

    fn acts(&self, term: Option<i64>) {
        let mut shared = lock(&self.0.shared);
        let place = self.0.place;
        let before = match term {
            Some(term) => shared.acting.insert(place, term),
            None => shared.acting.remove(&place),
        };
        if before == term {
            return;
        }
        if term.is_none() {
            shared.robbed.retain(|robbed| *robbed != place);
        }
        shared.notes.push(match term {
            Some(term) => format!("master {place} acts in term {term}"),
            None => format!("master {place} stops acting"),
        });
    }
}

impl Office for Desk {
    async fn elected(&self, term: i64, renewed: Instant) {
        self.step(Event::Elected { term, renewed: self.moment(renewed) });
    }

    async fn renewed(&self, sent: Instant) {
        let counts_from = if self.0.mutation == Some(Mutation::BelievesAnswers) { Instant::now() } else { sent };
        self.step(Event::Renewed { sent: self.moment(counts_from) });
    }

    async fn deposed(&self) {
        self.step(Event::Deposed);
    }

    async fn registered(&self, nodes: Arc<Copied>) {
        let text = |(id, value): (&String, &Vec<u8>)| (id.clone(), String::from_utf8_lossy(value).into_owned());
        lock(&self.0.shared).copies.insert(self.0.place, nodes.iter().map(text).collect());
    }

    fn wanted(&self) -> watch::Receiver<Option<Arc<Wanted>>> {
        self.0.wanted.subscribe()
    }

    fn behind(&self) -> watch::Receiver<Option<Behind>> {
        self.0.behind.subscribe()
    }

    fn resign(&self) -> &Notify {
        &self.0.resign
    }
}
