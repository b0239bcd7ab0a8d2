//! Which members of etcd agree with each other: who leads them and which of them answer. Pure; time is an argument.
//!
//! Nothing is read or written but through a leader that reaches a majority. A member that does not reach it keeps its
//! connections, lets requests wait, and tells its watches nothing, until it knows that it has no leader.

use std::{collections::BTreeSet, time::Duration};

use super::state::Time;
use crate::network::{MEMBERS, member};

/// How long it takes to notice that there is no leader, and to elect one.
const ELECTION: Duration = Duration::from_secs(1);
const MAJORITY: usize = MEMBERS / 2 + 1;

/// The members' view of each other.
#[derive(Debug, Default)]
pub(crate) struct Quorum {
    down: BTreeSet<usize>,
    /// From whom to whom nothing passes.
    cut: BTreeSet<(usize, usize)>,
    leader: Option<usize>,
    /// Since when there is no leader although there could be one.
    vacant_since: Option<Time>,
    /// Since when each member has not reached a leader.
    lost_since: [Option<Time>; MEMBERS],
}

impl Quorum {
    /// A member's process dies or begins.
    pub(crate) fn set_down(&mut self, member: usize, is_down: bool) {
        if is_down {
            self.down.insert(member)
        } else {
            self.down.remove(&member)
        };
    }

    /// Between which hosts nothing passes.
    pub(crate) fn set_cuts(&mut self, cuts: &BTreeSet<(String, String)>) {
        let place = |name: &str| (0..MEMBERS).find(|place| member(*place) == name);
        self.cut = cuts.iter().filter_map(|(from, to)| Some((place(from)?, place(to)?))).collect();
    }

    fn reaches(&self, one: usize, other: usize) -> bool {
        let is_up = |member| !self.down.contains(&member);
        let is_cut = self.cut.contains(&(one, other)) || self.cut.contains(&(other, one));
        is_up(one) && is_up(other) && !is_cut
    }

    fn may_lead(&self, member: usize) -> bool {
        (0..MEMBERS).filter(|other| self.reaches(member, *other)).count() >= MAJORITY
    }

    /// Time passed; whether a member began to lead.
    pub(crate) fn passed(&mut self, now: Time) -> bool {
        self.leader = self.leader.filter(|leader| self.may_lead(*leader));
        let next = (0..MEMBERS).find(|member| self.may_lead(*member));
        self.vacant_since = next.filter(|_| self.leader.is_none()).map(|_| self.vacant_since.unwrap_or(now));
        // The first one needs no time: the simulation begins with an etcd that works.
        let is_due = self.vacant_since.is_some_and(|since| now.is_zero() || now - since >= ELECTION);
        if is_due {
            (self.leader, self.vacant_since) = (next, None);
        }
        for member in 0..MEMBERS {
            let lost = (!self.serves(member)).then(|| self.lost_since[member].unwrap_or(now));
            self.lost_since[member] = lost;
        }
        is_due
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        self.leader
    }

    /// Whether a member answers.
    pub(crate) fn serves(&self, member: usize) -> bool {
        self.leader.is_some_and(|leader| self.reaches(member, leader))
    }

    /// Whether a member knows that it has no leader.
    pub(crate) fn is_leaderless(&self, member: usize, now: Time) -> bool {
        self.lost_since[member].is_some_and(|since| now.saturating_sub(since) >= ELECTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(quorum: &mut Quorum, ms: u64) -> (Option<usize>, Vec<usize>) {
        quorum.passed(Time::from_millis(ms));
        (quorum.leader(), (0..MEMBERS).filter(|member| quorum.serves(*member)).collect())
    }

    fn cuts(of: &[(usize, usize)]) -> BTreeSet<(String, String)> {
        of.iter().map(|(from, to)| (member(*from), member(*to))).collect()
    }

    #[test]
    fn a_majority_goes_on_under_another_leader_and_who_is_cut_off_from_it_answers_nothing() {
        let mut quorum = Quorum::default();
        assert_eq!(at(&mut quorum, 0), (Some(0), vec![0, 1, 2]));
        quorum.set_cuts(&cuts(&[(0, 1), (2, 0)]));
        assert_eq!(at(&mut quorum, 10), (None, vec![]));
        assert!(!quorum.is_leaderless(0, Time::from_millis(1_000)) && quorum.is_leaderless(0, Time::from_millis(1_010)));
        assert_eq!(at(&mut quorum, 1_010), (Some(1), vec![1, 2]));
        assert!(!quorum.is_leaderless(1, Time::from_millis(1_010)));
        quorum.set_cuts(&cuts(&[]));
        assert_eq!(at(&mut quorum, 1_020), (Some(1), vec![0, 1, 2]));
    }

    #[test]
    fn one_member_alone_never_leads() {
        let mut quorum = Quorum::default();
        at(&mut quorum, 0);
        (0..2).for_each(|member| quorum.set_down(member, true));
        for ms in [10, 2_000, 60_000] {
            assert_eq!(at(&mut quorum, ms), (None, vec![]));
        }
        quorum.set_down(1, false);
        assert_eq!(at(&mut quorum, 60_010), (None, vec![]));
        assert_eq!(at(&mut quorum, 61_010), (Some(1), vec![1, 2]));
    }
}
