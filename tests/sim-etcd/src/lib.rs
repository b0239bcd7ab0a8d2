//! The election and the client around etcd, unchanged, in a simulation: three masters and two registered processes
//! reach a simulated etcd of three members over a simulated network, under one seed, with faults (docs/simulation.md).
//!
//! Real: `estafet_etcd` (sessions, leases, registrations, followed keys), `estafet_master::{election, standing,
//! assignments}` and its core, the gRPC client of etcd with everything below it up to the socket. Played: the network,
//! etcd's state ([`etcd`]), the message database's term and owners ([`office`]).
//!
//! Each process runs on a runtime of its own ([`process`]), so that it can be stopped for a while.
//!
//! After every step: no two masters act as leader at once; no write of a leader takes effect while another leads; no
//! two masters claim in one term. When faults are over one leads soon, and etcd, the database and all copies agree.

mod etcd;
mod faults;
mod network;
mod office;
mod process;
mod world;

use clap::ValueEnum;

/// A rule taken out, to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mutation {
    /// Writes are not on condition of the leader's key.
    TakesAnyWriter,
    /// A leader acts as long as it believes in its lease.
    NeverStepsDown,
    /// A term that the database refuses is used nevertheless.
    TermNotRaised,
    /// The age of a renewal counts from its answer.
    BelievesAnswers,
    /// Members of etcd that have no leader are listened to.
    TrustsAnyMember,
}

/// What came of a run in which no rule was broken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Terms in which a master acted.
    pub terms: u64,
    /// Shards given away by leaders.
    pub claims: u64,
    /// Writes of leaders to etcd.
    pub writes: u64,
    /// What happened, line by line.
    pub trace: Vec<String>,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// In the run of this seed.
    pub seed: u64,
    /// How.
    pub what: String,
    /// What happened before, line by line.
    pub trace: Vec<String>,
    mutation: Option<Mutation>,
}

impl Violation {
    /// What a person needs: the last lines, the rule, the command that makes the same run again.
    pub fn report(&self) -> String {
        const LINES: usize = 40;
        let from = self.trace.len().saturating_sub(LINES);
        let mutation = self.mutation.and_then(|mutation| mutation.to_possible_value());
        let mutation = mutation.map(|value| format!(" --mutate {}", value.get_name())).unwrap_or_default();
        let replay = format!("cargo run -p estafet-sim-etcd -- --seed {} --trace{mutation}", self.seed);
        format!("{}\nseed {}: {}\nagain: {replay}", self.trace[from..].join("\n"), self.seed, self.what)
    }
}

/// One run. In a process that did nothing before, a seed is always the same run: the order in which tokio drops the tasks of
/// a process that dies follows from numbers that count on through the whole life of the simulator's process.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Result<Summary, Violation> {
    let mut world = world::World::new(seed, mutation);
    match world.run() {
        Ok(()) => Ok(world.summary()),
        Err(what) => Err(Violation { seed, what, trace: world.summary().trace, mutation }),
    }
}
