//! What goes wrong in a run, and when: drawn from its seed before it begins.

use std::time::Duration;

use rand::{RngExt as _, rngs::SmallRng};

use crate::{etcd::State, network::ETCD};

/// Masters, and other processes that register.
pub(crate) const MASTERS: usize = 3;
pub(crate) const NODES: usize = 2;

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process dies, and begins again afterwards.
    Crash(String),
    /// A process is stopped: it does nothing, and goes on afterwards.
    Stop(String),
    /// The same for whichever master acts as leader, while an answer to a renewal of its lease is under way to it.
    StopLeader,
    /// A host is lost with its process: nobody answers, not even to refuse.
    Lose(String),
    /// etcd dies and comes back without its data.
    Wipe,
    /// Nothing passes between two.
    Cut(String, String),
    /// Nothing passes from one to the other.
    CutOneWay(String, String),
    /// Everything between two is kept, and arrives in the end.
    Hold(String, String),
    /// The lease of the leader is ended by hand.
    RevokeLeader,
    /// etcd forgets its history.
    Compact,
}

impl Fault {
    /// Whether it is over at once.
    pub(crate) fn is_instant(&self) -> bool {
        matches!(self, Self::RevokeLeader | Self::Compact)
    }

    /// From whom to whom nothing passes.
    pub(crate) fn cuts(&self) -> Vec<(String, String)> {
        match self {
            Self::Cut(one, other) => vec![(one.clone(), other.clone()), (other.clone(), one.clone())],
            Self::CutOneWay(from, to) => vec![(from.clone(), to.clone())],
            _ => Vec::new(),
        }
    }
}

/// A fault and its time.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) begins: Duration,
    pub(crate) ends: Duration,
    pub(crate) fault: Fault,
}

pub(crate) fn master(place: usize) -> String {
    format!("m{place}")
}

pub(crate) fn node(place: usize) -> String {
    format!("c{place}")
}

/// Faults from the third second to `last`, at most two at a time.
pub(crate) fn plan(rng: &mut SmallRng, last: Duration) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = Duration::from_secs(3);
    while at < last {
        let fault = some_fault(rng);
        let lasts = if fault.is_instant() { 0 } else { rng.random_range(100..5_000) };
        let ends = (at + Duration::from_millis(lasts)).min(last);
        if planned.iter().filter(|other| other.ends > at).count() < 2 {
            planned.push(Planned { begins: at, ends, fault });
        }
        at += Duration::from_millis(rng.random_range(200..3_500));
    }
    planned
}

fn some_fault(rng: &mut SmallRng) -> Fault {
    let master = master(rng.random_range(0..MASTERS));
    let other = match rng.random_range(0..8) {
        0 | 1 => node(rng.random_range(0..NODES)),
        _ => master.clone(),
    };
    let etcd = ETCD.to_owned();
    match rng.random_range(0..18) {
        0..3 => Fault::Crash(other),
        14 => Fault::Lose(other),
        15 => Fault::Stop(other),
        16 | 17 => Fault::StopLeader,
        3 | 4 => Fault::Crash(etcd),
        5 => Fault::Wipe,
        6 | 7 => Fault::Cut(other, etcd),
        8 => Fault::CutOneWay(other, etcd),
        9 => Fault::CutOneWay(etcd, other),
        10 => Fault::Hold(other, etcd),
        11 => Fault::Cut(master, self::master(rng.random_range(0..MASTERS))),
        12 => Fault::RevokeLeader,
        _ => Fault::Compact,
    }
}

/// Ends the leader's lease; which master that was.
pub(crate) fn revoke_leader(state: &mut State) -> Option<usize> {
    let (address, lease) = state.leader()?;
    state.revoke(lease).ok()?;
    (0..MASTERS).find(|place| address.starts_with(&master(*place)))
}
