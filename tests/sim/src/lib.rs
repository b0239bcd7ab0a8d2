//! A whole cluster in one thread: the real decisions of master, coreapp, webapp and chatd under one seeded
//! discrete-event simulator, with everything around them modelled (docs/simulation.md).
//!
//! * `world`: time and processes. `network`: what is between them. `faults`: what goes wrong, and the load. `ledger`:
//!   I1-I6 and I12, checked after every step.
//! * `masters`, `coreapps`, `webapps`, `chatd`: each role's core with a modelled shell around it; of a coreapp, `tasks`
//!   are its shards and `lines` their connections. `moves`, `layouts`: planned moves and resharding, from end to end. `reach`: who says
//!   that somebody is not reached.
//! * `database`, `etcd`, `receiver`: models. `messages`: what travels.
//!
//! One seed is one run, always the same. [`Mutation`]s take a rule out, to prove that the ledger notices.

mod chatd;
mod coreapps;
mod database;
mod etcd;
mod faults;
mod layouts;
mod ledger;
mod lines;
mod masters;
mod messages;
mod moves;
mod network;
mod reach;
mod receiver;
mod tasks;
mod webapps;
mod world;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use estafet_model::WaId;

pub use world::World;

/// A rule that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mutation {
    /// The database does not compare the epoch of a commit.
    NoDatabaseFence,
    /// The network does not compare the epoch of a login.
    NoChatdFence,
    /// A takeover leaves the epoch as it is.
    EpochNotRaised,
    /// Neither compares: whoever was told to own a shard does.
    LeaseOnly,
    /// The commit's lock does not conflict with a takeover (`FOR KEY SHARE`).
    WrongLock,
    /// Shards that are split or merged retire, and their epoch stays as it is.
    SwitchWithoutFence,
    /// Nodes and webapps do not say what they do not reach.
    SaysNothing,
}

impl Mutation {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::NoDatabaseFence,
        Self::NoChatdFence,
        Self::EpochNotRaised,
        Self::LeaseOnly,
        Self::WrongLock,
        Self::SwitchWithoutFence,
        Self::SaysNothing,
    ];
}

/// How runs are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Happenings after which a run that has not settled fails.
    pub steps: u64,
    /// The rule that is taken out.
    pub mutation: Option<Mutation>,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 400_000, mutation: None }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which (ARCHITECTURE.md).
    pub rule: &'static str,
    /// How.
    pub what: String,
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The rule.
    pub violation: Violation,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Happenings.
    pub steps: u64,
    /// Of everything that happened, in order.
    pub digest: u64,
    /// Messages that were answered with 201.
    pub answered: usize,
    /// Messages that the network took.
    pub upstream: usize,
    /// Commits of the database.
    pub commits: u64,
    /// Logins the network admitted.
    pub logins: u64,
    /// Groups of shards that were split or merged.
    pub switches: u64,
    /// Owners that alone lacked something, and lost their shards to others in time.
    pub left: u64,
}

impl Failure {
    /// The command that makes the run again.
    pub fn replay(&self, options: &Options) -> String {
        let mutate = options.mutation.map_or_else(String::new, |mutation| {
            use clap::ValueEnum as _;
            mutation.to_possible_value().map_or_else(String::new, |value| format!(" --mutate {}", value.get_name()))
        });
        format!("cargo run -p estafet-sim -- --seed {} --steps {}{mutate} --trace", self.seed, options.steps)
    }

    /// The rule, the last lines of the trace, and the command that makes the run again.
    pub fn report(&self, options: &Options) -> String {
        let (_, trace) = trace(self.seed, options);
        let last = trace[trace.len().saturating_sub(40)..].join("\n");
        format!(
            "{last}\n\nseed {} breaks {}: {}\nreplay: {}",
            self.seed,
            self.violation.rule,
            self.violation.what,
            self.replay(options)
        )
    }
}

/// Makes one run.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Failure> {
    let mut world = World::new(seed, options, false);
    world.run(options.steps).map_err(|violation| Failure { seed, violation })?;
    let (answered, upstream) = world.ledger.counts();
    let (commits, logins, switches) = (world.ledger.commits, world.ledger.logins, world.database.switches);
    Ok(Summary {
        steps: world.steps,
        digest: world.digest,
        answered,
        upstream,
        commits,
        logins,
        switches,
        left: world.weather.left,
    })
}

/// Makes one run and gives every line of its trace.
pub fn trace(seed: u64, options: &Options) -> (Result<(), Violation>, Vec<String>) {
    let mut world = World::new(seed, options, true);
    let result = world.run(options.steps);
    (result, world.take_trace())
}

/// Makes runs on several threads until one fails; the failure with the lowest seed among those found, or the sum.
pub fn run_many(seeds: std::ops::Range<u64>, threads: usize, options: &Options) -> Result<Summary, Failure> {
    let (next, failed, sum) = (AtomicU64::new(seeds.start), Mutex::new(None::<Failure>), Mutex::new(Summary::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                        return;
                    }
                    match run(seed, options) {
                        Ok(one) => {
                            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                            sum.steps += one.steps;
                            sum.digest ^= one.digest;
                            sum.answered += one.answered;
                            sum.upstream += one.upstream;
                            sum.commits += one.commits;
                            sum.logins += one.logins;
                            sum.switches += one.switches;
                            sum.left += one.left;
                        }
                        Err(failure) => {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            if failed.as_ref().is_none_or(|known| known.seed > failure.seed) {
                                *failed = Some(failure);
                            }
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(failure) => Err(failure),
        None => Ok(sum.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// The business number.
pub(crate) fn number() -> WaId {
    WaId::from_u64(15_550_000_001).expect("a number")
}
