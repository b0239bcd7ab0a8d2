//! Which nodes are alive, from their heartbeats alone.
//!
//! 1. Heard within the threshold, stream whole: **alive**.
//! 2. Stream broken, or silent for half the threshold: **suspect**. It keeps what it has and gets nothing new.
//! 3. Silent for the threshold: **dead**. The threshold follows the node's own rhythm (mean + 6 sigma of the
//!    last 100 gaps) between 600 ms and 1.5 s.
//! 4. Stream broken and the dial refused: **dead** at once; not answered: dead after a grace of 100 ms.
//! 5. Time in which this process itself did not run is nobody's silence; but who says nothing between three such
//!    stalls in a row is silent, or a starved master would never notice a hung node.
//! 6. Silent for half the threshold and missed by the webapps as well ([`super::hints`]): **dead**.
//!
//! Who of those that live may be given shards is decided in [`super::fitness`].
//! A wrong verdict costs a reconnect, never a message: that is the epoch's part (**I2**).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use estafet_model::{BootId, Epoch};

use super::{
    Moment, Redial, Report,
    event::{Holding, Needs},
    fitness::Troubles,
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
/// Stalls of our own that one silence is excused by.
const EXCUSES: u8 = 3;
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
    /// What it says it reaches.
    pub needs: Needs,
    pub(super) troubles: Troubles,
    former: VecDeque<BootId>,
    heard_at: Moment,
    broken_at: Option<Moment>,
    gaps: VecDeque<Duration>,
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
            needs: report.needs,
            troubles: Troubles::default(),
            former: VecDeque::new(),
            heard_at: now,
            broken_at: None,
            gaps: VecDeque::new(),
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

    fn verdict(&self, now: Moment) -> Health {
        let silence = now.saturating_sub(self.heard_at);
        let threshold = self.threshold();
        let missed_by_all = self.is_unreached(now) && silence >= threshold / 2;
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
            self.troubles.lost(now);
        }
    }
}

/// All nodes that were ever heard.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    members: BTreeMap<NodeName, Member>,
    /// When a node last came, left, died, or got into trouble.
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
            member.troubles.restarted();
            member.heard_at = now;
        } else if now > member.heard_at && member.health != Health::Dead {
            if member.gaps.len() == GAPS {
                member.gaps.pop_front();
            }
            member.gaps.push_back(now - member.heard_at);
        }
        let had_all = member.has_all();
        member.needs = report.needs;
        if member.health == Health::Dead || member.draining != report.draining || member.has_all() != had_all {
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

    /// A node by name.
    pub fn get(&self, node: &NodeName) -> Option<&Member> {
        self.members.get(node)
    }

    /// All nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, &Member)> {
        self.members.iter()
    }

    pub(super) fn member_mut(&mut self, node: &NodeName) -> Option<&mut Member> {
        self.members.get_mut(node)
    }

    pub(super) fn changed(&mut self, now: Moment) {
        self.changed_at = now;
    }

    /// When a node last came, left, died, got into trouble, or lacked or found what it needs.
    pub fn changed_at(&self) -> Moment {
        self.changed_at
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    pub(in super::super) fn report(boot: u8) -> Report {
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
            needs: Needs::default(),
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
    fn a_process_that_has_a_successor_is_not_listened_to() {
        let mut membership = Membership::default();
        assert!(membership.heard(ms(0), &report(1)));
        assert!(membership.heard(ms(10), &report(2)));
        assert!(!membership.heard(ms(20), &report(1)));
        assert_eq!(membership.get(&"a".to_owned()).unwrap().boot, BootId([2; 16]));
    }
}
