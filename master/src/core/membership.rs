//! Which nodes are alive, from their heartbeats alone.
//!
//! 1. Heard within the threshold, stream whole: **alive**.
//! 2. Stream broken, or silent for half the threshold: **suspect**. It keeps what it has and gets nothing new.
//! 3. Silent for the threshold: **dead**. The threshold follows the node's own rhythm (mean + 6 sigma of the
//!    last 100 gaps) between 600 ms and 1.5 s.
//! 4. Stream broken and the dial refused: **dead** at once; not answered: dead after a grace of 100 ms.
//! 5. Time in which this process itself did not run is nobody's silence; but who says nothing between three such
//!    stalls in a row is silent, or a starved master would never notice a hung node.
//! 6. A node that the webapps do not reach ([`super::hints`]) gives what it has to others and gets nothing new, for
//!    ten seconds after the last word of it, as long as there are others. Silent for half the threshold as well,
//!    it is **dead**.
//! 7. A node that lost ownership, or failed to start one, three times in five minutes is quarantined for ten;
//!    failures within a second of each other count once.
//!
//! A wrong verdict costs a reconnect, never a message: that is the epoch's part (**I2**).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use estafet_model::{BootId, Epoch};

use super::{
    Moment, Redial, Report,
    event::Holding,
    placement::{NodeName, ShardKey},
};

/// Bounds of the threshold.
pub const SHORTEST_SILENCE: Duration = Duration::from_millis(600);
/// No silence is longer.
pub const LONGEST_SILENCE: Duration = Duration::from_millis(1500);
/// How long a broken stream may take to come back when the dial is not refused.
pub const GRACE: Duration = Duration::from_millis(100);
/// Gaps remembered.
const GAPS: usize = 100;
/// Losses after which a node is quarantined, the time they happen in, and the quarantine's length.
const LOSSES: usize = 3;
const LOSSES_WITHIN: Duration = Duration::from_secs(5 * 60);
const QUARANTINE: Duration = Duration::from_secs(10 * 60);
/// Stalls of our own that one silence is excused by.
const EXCUSES: u8 = 3;
/// How long a node is cut off after it was last said.
const CUT_OFF: Duration = Duration::from_secs(10);
/// What fails within this time of the last loss has the same cause.
const SAME_CAUSE: Duration = Duration::from_secs(1);
/// Former processes of a node whose late words are not listened to.
const FORMER: usize = 8;

/// What is thought of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It reports.
    Alive,
    /// Perhaps not.
    Suspect,
    /// It lost what it had.
    Dead,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its process.
    pub boot: BootId,
    /// Where its data service is.
    pub address: String,
    /// It wants to end.
    pub draining: bool,
    /// The verdict.
    pub health: Health,
    /// What it says it owns.
    pub holdings: BTreeMap<ShardKey, Holding>,
    /// What it is ready to take, after which epoch.
    pub warm: BTreeMap<ShardKey, Epoch>,
    former: VecDeque<BootId>,
    heard_at: Moment,
    broken_at: Option<Moment>,
    gaps: VecDeque<Duration>,
    losses: VecDeque<Moment>,
    quarantined_until: Moment,
    cut_off_until: Moment,
    /// Stalls of our own since it was heard.
    excuses: u8,
}

impl Member {
    fn new(now: Moment, report: &Report) -> Self {
        Self {
            boot: report.boot,
            address: report.address.clone(),
            draining: report.draining,
            health: Health::Alive,
            holdings: BTreeMap::new(),
            warm: BTreeMap::new(),
            former: VecDeque::new(),
            heard_at: now,
            broken_at: None,
            gaps: VecDeque::new(),
            losses: VecDeque::new(),
            quarantined_until: Moment::ZERO,
            cut_off_until: Moment::ZERO,
            excuses: 0,
        }
    }

    /// How long this node may be silent.
    pub fn threshold(&self) -> Duration {
        let count = self.gaps.len().max(1) as f64;
        let mean = self.gaps.iter().map(Duration::as_secs_f64).sum::<f64>() / count;
        let variance = self.gaps.iter().map(|gap| (gap.as_secs_f64() - mean).powi(2)).sum::<f64>() / count;
        let adaptive = Duration::from_secs_f64((mean + 6.0 * variance.sqrt()).min(LONGEST_SILENCE.as_secs_f64()));
        adaptive.clamp(SHORTEST_SILENCE, LONGEST_SILENCE)
    }

    /// Whether it may be given shards, quarantine aside.
    fn is_fit(&self) -> bool {
        self.health == Health::Alive && !self.draining
    }

    fn is_cut_off(&self, now: Moment) -> bool {
        now < self.cut_off_until
    }

    fn verdict(&self, now: Moment) -> Health {
        let silence = now.saturating_sub(self.heard_at);
        let threshold = self.threshold();
        let missed_by_all = self.is_cut_off(now) && silence >= threshold / 2;
        if self.health == Health::Dead || silence >= threshold || missed_by_all {
            Health::Dead
        } else if self.broken_at.is_some() || silence >= threshold / 2 {
            Health::Suspect
        } else {
            Health::Alive
        }
    }

    fn die(&mut self, now: Moment) {
        if self.health == Health::Dead {
            return;
        }
        self.health = Health::Dead;
        if !self.holdings.is_empty() {
            self.lost(now);
        }
    }

    fn lost(&mut self, now: Moment) {
        self.losses.retain(|at| now.saturating_sub(*at) < LOSSES_WITHIN);
        self.losses.push_back(now);
        if self.losses.len() >= LOSSES {
            self.losses.clear();
            self.quarantined_until = now + QUARANTINE;
        }
    }
}

/// All nodes that were ever heard.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    members: BTreeMap<NodeName, Member>,
    /// When a node last came, left or died.
    changed_at: Moment,
}

impl Membership {
    /// A node reported. Says whether it counts: a process that has a successor does not.
    pub fn heard(&mut self, now: Moment, report: &Report) -> bool {
        let member = self.members.entry(report.node.clone()).or_insert_with(|| {
            self.changed_at = now;
            Member::new(now, report)
        });
        if member.former.contains(&report.boot) {
            return false;
        }
        if member.boot != report.boot {
            member.die(now);
            member.former.push_back(member.boot);
            if member.former.len() > FORMER {
                member.former.pop_front();
            }
            member.boot = report.boot;
            member.gaps.clear();
            member.cut_off_until = Moment::ZERO;
            member.heard_at = now;
        } else if now > member.heard_at && member.health != Health::Dead {
            if member.gaps.len() == GAPS {
                member.gaps.pop_front();
            }
            member.gaps.push_back(now - member.heard_at);
        }
        if member.health == Health::Dead || member.draining != report.draining {
            self.changed_at = now;
        }
        member.address.clone_from(&report.address);
        member.draining = report.draining;
        member.holdings = report.holdings.iter().map(|holding| (holding.key, *holding)).collect();
        member.warm = report.warm.iter().copied().collect();
        (member.health, member.heard_at, member.broken_at, member.excuses) = (Health::Alive, now, None, 0);
        true
    }

    /// A node's stream broke; its address, if it is to be dialled.
    pub fn broke(&mut self, now: Moment, node: &NodeName, boot: BootId) -> Option<String> {
        let member = self.members.get_mut(node).filter(|member| member.boot == boot && member.health != Health::Dead)?;
        member.broken_at.get_or_insert(now);
        member.health = Health::Suspect;
        Some(member.address.clone())
    }

    /// A node was dialled after its stream broke.
    pub fn redialled(&mut self, now: Moment, node: &NodeName, boot: BootId, outcome: Redial) {
        let Some(member) = self.members.get_mut(node).filter(|member| member.boot == boot) else { return };
        // Reported meanwhile: it is back.
        let Some(broken_at) = member.broken_at else { return };
        let gone = match outcome {
            Redial::Refused => true,
            Redial::TimedOut => now.saturating_sub(broken_at) >= GRACE,
            Redial::Connected => false,
        };
        if gone {
            member.die(now);
            self.changed_at = now;
        }
    }

    /// Time passed, `stall` of it without this process running.
    pub fn passed(&mut self, now: Moment, stall: Duration) {
        for member in self.members.values_mut() {
            if !stall.is_zero() && member.excuses < EXCUSES {
                member.excuses += 1;
                member.heard_at = (member.heard_at + stall).min(now);
            }
            match member.verdict(now) {
                Health::Dead if member.health != Health::Dead => {
                    member.die(now);
                    self.changed_at = now;
                }
                verdict => member.health = verdict,
            }
        }
    }

    /// A node could not start a shard that it was given.
    pub fn failed(&mut self, now: Moment, node: &NodeName) {
        let Some(member) = self.members.get_mut(node) else { return };
        if member.losses.back().is_none_or(|last| now.saturating_sub(*last) >= SAME_CAUSE) {
            member.lost(now);
        }
    }

    /// A node by name.
    pub fn get(&self, node: &NodeName) -> Option<&Member> {
        self.members.get(node)
    }

    /// All nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.members.iter()
    }

    /// The webapps do not reach the node at this address.
    pub fn cut_off(&mut self, now: Moment, address: &str) {
        for member in self.members.values_mut().filter(|member| member.address == address && member.health != Health::Dead) {
            if !member.is_cut_off(now) {
                self.changed_at = now;
            }
            member.cut_off_until = now + CUT_OFF;
        }
    }

    /// Nodes that may be given shards: those in quarantine or cut off only when there is nobody else.
    pub fn candidates(&self, now: Moment) -> Vec<NodeName> {
        let fit = |counts: &dyn Fn(&Member) -> bool| -> Vec<NodeName> {
            let members = self.members.iter().filter(|(_, member)| member.is_fit() && counts(member));
            members.map(|(node, _)| node.clone()).collect()
        };
        let reached = fit(&|member| !member.is_cut_off(now));
        let free = fit(&|member| !member.is_cut_off(now) && now >= member.quarantined_until);
        [free, reached].into_iter().find(|nodes| !nodes.is_empty()).unwrap_or_else(|| fit(&|_| true))
    }

    /// Nodes that keep what they have: all that live, do not want to end and are reached, if any is.
    pub fn keepers(&self, now: Moment) -> Vec<NodeName> {
        let others = self.members.values().any(|member| member.is_fit() && !member.is_cut_off(now));
        let keeps = |member: &Member| member.health != Health::Dead && !member.draining && !(others && member.is_cut_off(now));
        self.members.iter().filter(|(_, member)| keeps(member)).map(|(node, _)| node.clone()).collect()
    }

    /// When a node last came, left or died.
    pub fn changed_at(&self) -> Moment {
        self.changed_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn report(boot: u8) -> Report {
        let holdings = vec![Holding { key: super::super::tests::key(0, 1), epoch: estafet_model::Epoch::new(1), active: true }];
        Report {
            node: "a".to_owned(),
            boot: BootId([boot; 16]),
            address: "a:1".to_owned(),
            draining: false,
            holdings,
            endings: Vec::new(),
            warm: Vec::new(),
            handed: Vec::new(),
        }
    }

    fn health(membership: &Membership) -> Health {
        membership.get(&"a".to_owned()).unwrap().health
    }

    #[test]
    fn a_steady_node_may_be_silent_for_600_ms_and_an_unsteady_one_for_longer() {
        let (mut steady, mut unsteady, mut now) = (Membership::default(), Membership::default(), ms(0));
        for beat in 0..200u64 {
            now += ms(100);
            steady.heard(now, &report(1));
            if beat % 5 != 0 {
                unsteady.heard(now, &report(1));
            }
        }
        steady.passed(now + ms(299), ms(0));
        assert_eq!(health(&steady), Health::Alive);
        steady.passed(now + ms(599), ms(0));
        assert_eq!(health(&steady), Health::Suspect);
        steady.passed(now + ms(600), ms(0));
        assert_eq!(health(&steady), Health::Dead);
        let mut wild = unsteady.clone();
        for beat in 0..100u64 {
            now += ms(if beat % 10 == 0 { 590 } else { 20 });
            wild.heard(now, &report(1));
        }
        let threshold = wild.get(&"a".to_owned()).unwrap().threshold();
        assert!(threshold > SHORTEST_SILENCE && threshold <= LONGEST_SILENCE, "{threshold:?}");
    }

    #[test]
    fn a_refused_dial_is_death_at_once_and_an_unanswered_one_after_the_grace() {
        let node = "a".to_owned();
        for (outcome, at, dead) in [
            (Redial::Refused, 0, true),
            (Redial::TimedOut, 99, false),
            (Redial::TimedOut, 100, true),
            (Redial::Connected, 100, false),
        ] {
            let mut membership = Membership::default();
            membership.heard(ms(0), &report(1));
            assert_eq!(membership.broke(ms(0), &node, BootId([1; 16])).as_deref(), Some("a:1"));
            membership.redialled(ms(at), &node, BootId([1; 16]), outcome);
            assert_eq!(health(&membership) == Health::Dead, dead, "{outcome:?} after {at} ms");
        }
        let mut back = Membership::default();
        back.heard(ms(0), &report(1));
        back.broke(ms(0), &node, BootId([1; 16]));
        back.heard(ms(5), &report(1));
        back.redialled(ms(6), &node, BootId([1; 16]), Redial::Refused);
        assert_eq!(health(&back), Health::Alive, "it reported after the break");
    }

    #[test]
    fn our_own_stall_is_nobodys_silence() {
        let mut membership = Membership::default();
        membership.heard(ms(0), &report(1));
        membership.passed(ms(5000), ms(5000));
        assert_eq!(health(&membership), Health::Alive);
        membership.passed(ms(5600), ms(0));
        assert_eq!(health(&membership), Health::Dead);
    }

    #[test]
    fn a_starved_master_notices_a_hung_node() {
        let mut membership = Membership::default();
        membership.heard(ms(0), &report(1));
        for stall in 1..=5 {
            membership.passed(ms(250 * stall), ms(250));
            assert_ne!(health(&membership), Health::Dead, "after {stall} stalls");
        }
        membership.passed(ms(1500), ms(250));
        assert_eq!(health(&membership), Health::Dead);
        membership.heard(ms(1500), &report(1));
        membership.passed(ms(2500), ms(1000));
        assert_eq!(health(&membership), Health::Alive, "heard in between");
    }

    #[test]
    fn three_losses_in_five_minutes_are_a_quarantine_unless_there_is_nobody_else() {
        let mut membership = Membership::default();
        for boot in 1..=4 {
            membership.heard(ms(u64::from(boot) * 1000), &report(boot));
        }
        assert_eq!(membership.candidates(ms(5000)), ["a"], "nobody else");
        let mut other = report(1);
        other.node = "b".to_owned();
        membership.heard(ms(4000), &other);
        assert_eq!(membership.candidates(ms(5000)), ["b"]);
        assert_eq!(membership.candidates(ms(4000) + QUARANTINE), ["a", "b"]);
    }

    #[test]
    fn a_node_that_the_webapps_miss_keeps_nothing_while_there_are_others() {
        let (mut membership, mut other) = (Membership::default(), report(1));
        (other.node, other.address) = ("b".to_owned(), "b:1".to_owned());
        membership.heard(ms(0), &report(1));
        membership.cut_off(ms(0), "a:1");
        assert_eq!((membership.candidates(ms(1)), membership.keepers(ms(1))), (vec!["a".to_owned()], vec!["a".to_owned()]));
        membership.heard(ms(1), &other);
        assert_eq!((membership.candidates(ms(2)), membership.keepers(ms(2))), (vec!["b".to_owned()], vec!["b".to_owned()]));
        assert_eq!(membership.keepers(CUT_OFF).len(), 2, "nobody says so any more");
    }

    #[test]
    fn half_the_silence_is_enough_when_the_webapps_miss_the_node_too() {
        let mut membership = Membership::default();
        membership.heard(ms(0), &report(1));
        membership.cut_off(ms(0), "a:1");
        membership.passed(ms(299), ms(0));
        assert_eq!(health(&membership), Health::Alive);
        membership.passed(ms(300), ms(0));
        assert_eq!(health(&membership), Health::Dead);
    }

    #[test]
    fn shards_that_cannot_be_started_are_losses_and_those_of_one_second_are_one() {
        let (mut membership, mut other) = (Membership::default(), report(1));
        other.node = "b".to_owned();
        membership.heard(ms(0), &report(1));
        membership.heard(ms(0), &other);
        for at in [0, 10, 999, 1000, 1999] {
            membership.failed(ms(at), &"a".to_owned());
        }
        assert_eq!(membership.candidates(ms(1999)), ["a", "b"], "two losses");
        membership.failed(ms(2000), &"a".to_owned());
        assert_eq!(membership.candidates(ms(2000)), ["b"]);
    }

    #[test]
    fn a_process_that_has_a_successor_is_not_listened_to() {
        let mut membership = Membership::default();
        assert!(membership.heard(ms(0), &report(1)));
        assert!(membership.heard(ms(10), &report(2)));
        assert!(!membership.heard(ms(20), &report(1)));
        assert_eq!(membership.get(&"a".to_owned()).unwrap().boot, BootId([2; 16]));
    }
}
