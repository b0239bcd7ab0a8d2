//! What goes wrong in a run, and when: drawn from its seed before it begins.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt as _, rngs::SmallRng};

use crate::{
    etcd::State,
    network::{MEMBERS, member},
};

/// Masters, and other processes that register.
pub(crate) const MASTERS: usize = 3;
pub(crate) const NODES: usize = 2;

/// Something that goes wrong for a while. Names of several hosts are joined by `+`.
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
    /// The member that leads etcd dies.
    CrashEtcdLeader,
    /// Nothing passes between it and the other members.
    CutEtcdLeader,
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
            Self::Cut(one, other) => pairs(one, other).into_iter().chain(pairs(other, one)).collect(),
            Self::CutOneWay(from, to) => pairs(from, to),
            _ => Vec::new(),
        }
    }

    /// Whether one member of etcd is cut off from the others.
    fn isolates_member(&self) -> bool {
        (0..MEMBERS).any(|place| *self == Self::Cut(member(place), members_but(Some(place))))
    }

    /// The hosts that it is about.
    pub(crate) fn touches(&self) -> BTreeSet<&str> {
        match self {
            Self::Crash(name) | Self::Stop(name) | Self::Lose(name) => hosts(name).collect(),
            Self::Cut(one, other) | Self::CutOneWay(one, other) | Self::Hold(one, other) => {
                hosts(one).chain(hosts(other)).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

/// The hosts of a name.
pub(crate) fn hosts(name: &str) -> impl Iterator<Item = &str> {
    name.split('+')
}

/// Each host of one name with each of another.
pub(crate) fn pairs(one: &str, other: &str) -> Vec<(String, String)> {
    hosts(one).flat_map(|one| hosts(other).map(|other| (one.to_owned(), other.to_owned()))).collect()
}

/// All members of etcd but this one.
pub(crate) fn members_but(left_out: Option<usize>) -> String {
    (0..MEMBERS).filter(|place| Some(*place) != left_out).map(member).collect::<Vec<String>>().join("+")
}

/// Whether the others do without what is wrong: a majority of etcd and a master are well and reach each other. There
/// are never more than two faults.
pub(crate) fn is_borne<'a>(faults: impl Iterator<Item = &'a Fault>) -> bool {
    let is_member = |name: &str| (0..MEMBERS).any(|place| member(place) == name);
    let mut lacking: BTreeSet<String> = BTreeSet::new();
    for fault in faults {
        match fault {
            Fault::Crash(name) | Fault::Lose(name) => {
                lacking.extend(hosts(name).filter(|name| is_member(name)).map(str::to_owned))
            }
            Fault::Cut(one, _) if is_member(one) => drop(lacking.insert(one.clone())),
            Fault::Wipe => return false,
            _ => {}
        }
    }
    lacking.len() <= 1
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

/// A fault that is longer is to be noticed by those who only listen.
const NOTICED: Duration = Duration::from_secs(8);
const SOON: Duration = Duration::from_millis(500);

/// Faults from the third second to `last`, at most two at a time.
pub(crate) fn plan(rng: &mut SmallRng, last: Duration) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut at = Duration::from_secs(3);
    while at < last {
        let fault = some_fault(rng);
        let longest = if fault.touches().iter().any(|name| name.starts_with('e')) { 12_000 } else { 5_000 };
        let lasts = if fault.is_instant() { 0 } else { rng.random_range(100..longest) };
        let ends = (at + Duration::from_millis(lasts)).min(last);
        if planned.iter().filter(|other| other.ends > at).count() < 2 {
            let isolates_member = fault == Fault::CutEtcdLeader || fault.isolates_member();
            planned.push(Planned { begins: at, ends, fault });
            if isolates_member && ends - at > NOTICED {
                // Somebody registers anew meanwhile: whoever listens to that member alone does not hear of it.
                at += SOON;
                planned.push(Planned { begins: at, ends: at + SOON, fault: Fault::Crash(node(rng.random_range(0..NODES))) });
            }
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
    let etcd = members_but(None);
    let place = rng.random_range(0..MEMBERS);
    let (one, majority) = (member(place), members_but(Some(place)));
    match rng.random_range(0..28) {
        0..3 => Fault::Crash(other),
        3 | 4 => Fault::Crash(etcd),
        5 => Fault::Wipe,
        6 => Fault::Cut(other, etcd),
        7 => Fault::Cut(other, majority),
        8 => Fault::CutOneWay(other, etcd),
        9 => Fault::CutOneWay(etcd, other),
        10 => Fault::Hold(other, etcd),
        11 => Fault::Cut(master, self::master(rng.random_range(0..MASTERS))),
        12 => Fault::RevokeLeader,
        13 => Fault::Compact,
        14 => Fault::Lose(other),
        15 => Fault::Stop(other),
        16 | 17 => Fault::StopLeader,
        18 => Fault::Crash(one),
        19 => Fault::Lose(one),
        20 => Fault::Cut(one, majority),
        21 | 22 => Fault::CrashEtcdLeader,
        23 | 24 => Fault::CutEtcdLeader,
        25 => Fault::Cut(other, one),
        26 => Fault::Hold(other, one),
        _ => Fault::CutOneWay(one, other),
    }
}

/// Ends the leader's lease; which master that was.
pub(crate) fn revoke_leader(state: &mut State) -> Option<usize> {
    let (address, lease) = state.leader()?;
    state.revoke(lease).ok()?;
    (0..MASTERS).find(|place| address.starts_with(&master(*place)))
}
