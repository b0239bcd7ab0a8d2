//! Which of the nodes that live may be given shards, and which keep what they have.
//!
//! 1. Who wants to end, or is suspect, gets nothing.
//! 2. A node has a **trouble** while the webapps do not reach it ([`super::hints`]), or while it has not reached the
//!    network for 5 s, or the database for 1.5 s, and another node reached it all that time. It lasts ten seconds
//!    longer than its cause, so that a link that flaps moves nothing to and fro, and counts as a loss.
//! 3. A node in trouble keeps nothing while there is another that has none and has what this one lacks. It hands its
//!    shards off itself, except without the database: then they are claimed for others (reliability.md §6.9).
//! 4. What nobody reaches moves nothing: nobody would be better.
//! 5. A node that lost ownership, or failed to start one, three times in five minutes is quarantined for ten;
//!    failures within a second of each other count once. It keeps what it has.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    Moment,
    event::{Needs, Reach},
    membership::{Health, Member, Membership},
    placement::NodeName,
};

/// How long a trouble lasts after its cause was last seen.
const LASTS: Duration = Duration::from_secs(10);
/// Losses after which a node is quarantined, the time they happen in, and the quarantine's length.
const LOSSES: usize = 3;
const LOSSES_WITHIN: Duration = Duration::from_secs(5 * 60);
pub(super) const QUARANTINE: Duration = Duration::from_secs(10 * 60);
/// What fails within this time of the last loss has the same cause.
const SAME_CAUSE: Duration = Duration::from_secs(1);

/// What keeps a node that lives from serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The webapps do not reach it.
    Unreached,
    /// It does not reach the network.
    NoNetwork,
    /// It does not reach the database.
    NoDatabase,
    /// It lost shards again and again.
    Quarantined,
}

/// A trouble a node says it has, and how long others must have done without it.
const NEEDS: [(Trouble, Duration); 2] =
    [(Trouble::NoNetwork, Duration::from_secs(5)), (Trouble::NoDatabase, Duration::from_millis(1500))];

fn reach(needs: &Needs, trouble: Trouble) -> Reach {
    match trouble {
        Trouble::NoNetwork => needs.network,
        Trouble::NoDatabase => needs.database,
        Trouble::Unreached | Trouble::Quarantined => Reach::Unknown,
    }
}

/// A node's troubles, each with the time it is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Troubles {
    until: BTreeMap<Trouble, Moment>,
    losses: VecDeque<Moment>,
}

impl Troubles {
    fn has(&self, trouble: Trouble, now: Moment) -> bool {
        self.until.get(&trouble).is_some_and(|until| now < *until)
    }

    /// Troubles for which a node gives its shards away.
    fn grave(&self, now: Moment) -> impl Iterator<Item = Trouble> {
        self.all(now).filter(|trouble| *trouble != Trouble::Quarantined)
    }

    fn all(&self, now: Moment) -> impl Iterator<Item = Trouble> {
        self.until.iter().filter(move |(_, until)| now < **until).map(|(trouble, _)| *trouble)
    }

    pub(super) fn lost(&mut self, now: Moment) {
        self.losses.retain(|at| now.saturating_sub(*at) < LOSSES_WITHIN);
        self.losses.push_back(now);
        if self.losses.len() >= LOSSES {
            self.losses.clear();
            self.until.insert(Trouble::Quarantined, now + QUARANTINE);
        }
    }

    /// Another process of the node may do better; its losses stay.
    pub(super) fn restarted(&mut self) {
        self.until.retain(|trouble, _| *trouble == Trouble::Quarantined);
    }
}

impl Member {
    /// Whether it may be given shards, troubles aside.
    fn is_fit(&self) -> bool {
        self.health == Health::Alive && !self.draining
    }

    pub(super) fn is_unreached(&self, now: Moment) -> bool {
        self.troubles.has(Trouble::Unreached, now)
    }

    fn lacks(&self, trouble: Trouble, at_least: Duration) -> bool {
        matches!(reach(&self.needs, trouble), Reach::Lost(lost) if lost >= at_least)
    }

    /// Whether it would do better with this trouble's cause.
    fn is_free_of(&self, trouble: Trouble, now: Moment) -> bool {
        let has_it = trouble == Trouble::Unreached || matches!(reach(&self.needs, trouble), Reach::Well(_));
        self.is_fit() && has_it && self.troubles.grave(now).next().is_none()
    }

    /// Whether it does not say that it lacks something.
    pub(super) fn has_all(&self) -> bool {
        NEEDS.iter().all(|(trouble, _)| !self.lacks(*trouble, Duration::ZERO))
    }
}

impl Membership {
    /// Takes nodes for troubled that lack what another has had all the time.
    pub(super) fn compare_needs(&mut self, now: Moment) {
        for (trouble, at_least) in NEEDS {
            let well = |member: &Member| matches!(reach(&member.needs, trouble), Reach::Well(well) if well >= at_least);
            if !self.iter().any(|(_, member)| member.is_fit() && well(member)) {
                continue;
            }
            let lacking = |member: &Member| member.health == Health::Alive && member.lacks(trouble, at_least);
            let names: Vec<NodeName> = self.iter().filter(|(_, member)| lacking(member)).map(|(node, _)| node.clone()).collect();
            names.iter().for_each(|node| self.trouble(now, node, trouble));
        }
    }

    /// The webapps do not reach the node at this address.
    pub(super) fn cut_off(&mut self, now: Moment, address: &str) {
        let lives = |member: &Member| member.address == address && member.health != Health::Dead;
        let names: Vec<NodeName> = self.iter().filter(|(_, member)| lives(member)).map(|(node, _)| node.clone()).collect();
        names.iter().for_each(|node| self.trouble(now, node, Trouble::Unreached));
    }

    fn trouble(&mut self, now: Moment, node: &NodeName, trouble: Trouble) {
        let Some(member) = self.member_mut(node) else { return };
        let is_new = !member.troubles.has(trouble, now);
        member.troubles.until.insert(trouble, now + LASTS);
        if is_new {
            if !member.holdings.is_empty() {
                member.troubles.lost(now);
            }
            self.changed(now);
        }
    }

    /// A node could not start a shard that it was given.
    pub fn failed(&mut self, now: Moment, node: &NodeName) {
        let Some(member) = self.member_mut(node) else { return };
        if member.troubles.losses.back().is_none_or(|last| now.saturating_sub(*last) >= SAME_CAUSE) {
            member.troubles.lost(now);
        }
    }

    /// Nodes that may be given shards: those in quarantine, in trouble, or without what owners need only when there is
    /// nobody else.
    pub fn candidates(&self, now: Moment) -> Vec<NodeName> {
        let fit = |counts: &dyn Fn(&Member) -> bool| -> Vec<NodeName> {
            let members = self.iter().filter(|(_, member)| member.is_fit() && counts(member));
            members.map(|(node, _)| node.clone()).collect()
        };
        let untroubled = |member: &Member| member.troubles.grave(now).next().is_none();
        let good = fit(&|member| untroubled(member) && member.has_all());
        let best = fit(&|member| untroubled(member) && member.has_all() && !member.troubles.has(Trouble::Quarantined, now));
        [best, good, fit(&untroubled)].into_iter().find(|nodes| !nodes.is_empty()).unwrap_or_else(|| fit(&|_| true))
    }

    /// Nodes that keep what they have: all that live, do not want to end, and need not make room for a better one.
    pub fn keepers(&self, now: Moment) -> Vec<NodeName> {
        let keeps = |member: &Member| member.health != Health::Dead && !member.draining && !self.gives_way(member, now);
        self.iter().filter(|(_, member)| keeps(member)).map(|(node, _)| node.clone()).collect()
    }

    /// Whether some node would serve better than this one.
    fn gives_way(&self, member: &Member, now: Moment) -> bool {
        let better = |trouble| self.iter().any(|(_, other)| other.is_free_of(trouble, now));
        member.troubles.grave(now).any(better)
    }

    /// Whether every node that lives has what owners need, as far as it says.
    pub fn lacks_nothing(&self) -> bool {
        self.iter().all(|(_, member)| member.health == Health::Dead || member.has_all())
    }

    /// Whether the node cannot even hand its shards off: it does not reach the database and others do.
    pub fn is_cut_from_database(&self, node: &NodeName, now: Moment) -> bool {
        let Some(member) = self.get(node) else { return false };
        let (trouble, at_least) = NEEDS[1];
        let better = || self.iter().any(|(_, other)| other.is_free_of(trouble, now));
        member.troubles.has(trouble, now) && member.lacks(trouble, at_least) && better()
    }

    /// What keeps a node from serving, for people.
    pub fn troubles(&self, node: &NodeName, now: Moment) -> Vec<Trouble> {
        self.get(node).map(|member| member.troubles.all(now).collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Report, membership::tests::report},
        *,
    };

    const WELL: Reach = Reach::Well(Duration::from_secs(60));

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn named(node: &str, boot: u8) -> Report {
        Report { node: node.to_owned(), address: format!("{node}:1"), ..report(boot) }
    }

    fn lost(ms: u64) -> Reach {
        Reach::Lost(Duration::from_millis(ms))
    }

    /// Nodes a, b, ... that report these needs at 0.
    fn nodes(needs: &[(Reach, Reach)]) -> Membership {
        let mut membership = Membership::default();
        for (node, (network, database)) in ["a", "b", "c"].iter().zip(needs) {
            let needs = Needs { network: *network, database: *database };
            membership.heard(ms(0), &Report { needs, ..named(node, 1) });
        }
        membership.compare_needs(ms(0));
        membership
    }

    fn placed(membership: &Membership, at: u64) -> (String, String) {
        (membership.candidates(ms(at)).concat(), membership.keepers(ms(at)).concat())
    }

    #[test]
    fn a_node_keeps_its_shards_unless_another_has_had_what_it_lacks() {
        let unknown = Reach::Unknown;
        let new = Reach::Well(Duration::from_millis(100));
        for (what, needs, candidates, keepers) in [
            ("all is well", vec![(WELL, WELL), (WELL, WELL)], "ab", "ab"),
            ("a shorter time than it takes", vec![(lost(4999), WELL), (WELL, WELL)], "b", "ab"),
            ("no network for 5 s", vec![(lost(5000), WELL), (WELL, WELL)], "b", "b"),
            ("nobody has a network", vec![(lost(9000), WELL), (lost(6000), WELL)], "ab", "ab"),
            ("the other has it only now", vec![(lost(9000), WELL), (new, WELL)], "b", "ab"),
            ("the other does not say", vec![(lost(9000), WELL), (unknown, WELL)], "b", "ab"),
            ("no database for 1.5 s", vec![(WELL, lost(1500)), (WELL, WELL)], "b", "b"),
            ("nobody has a database", vec![(WELL, lost(9000)), (WELL, lost(9000))], "ab", "ab"),
            ("each lacks something", vec![(lost(9000), WELL), (WELL, lost(9000))], "ab", "ab"),
            ("of three, one lacks nothing", vec![(lost(9000), WELL), (WELL, lost(9000)), (WELL, WELL)], "c", "c"),
            ("nothing is said", vec![(unknown, unknown), (unknown, unknown)], "ab", "ab"),
        ] {
            let membership = nodes(&needs);
            assert_eq!(placed(&membership, 0), (candidates.to_owned(), keepers.to_owned()), "{what}");
        }
    }

    #[test]
    fn without_the_database_a_node_cannot_hand_off_and_without_the_network_it_can() {
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let cut = nodes(&[(WELL, lost(1500)), (WELL, WELL)]);
        assert!(cut.is_cut_from_database(&a, ms(0)) && !cut.is_cut_from_database(&b, ms(0)));
        assert!(!nodes(&[(lost(9000), WELL), (WELL, WELL)]).is_cut_from_database(&a, ms(0)));
        assert!(!nodes(&[(WELL, lost(9000)), (WELL, lost(9000))]).is_cut_from_database(&a, ms(0)), "nobody has it");
    }

    #[test]
    fn a_trouble_lasts_longer_than_its_cause_and_three_are_a_quarantine() {
        let mut membership = nodes(&[(lost(5000), WELL), (WELL, WELL)]);
        let mut say = |at: u64, network| {
            for (node, network) in [("a", network), ("b", WELL)] {
                let needs = Needs { network, database: WELL };
                membership.heard(ms(at), &Report { needs, ..named(node, 1) });
            }
            membership.compare_needs(ms(at));
            placed(&membership, at).1
        };
        assert_eq!(say(100, WELL), "b");
        assert_eq!(say(9_999, WELL), "b");
        assert_eq!(say(10_000, WELL), "ab", "it is over");
        assert_eq!(say(20_000, lost(5000)), "b");
        assert_eq!(say(40_000, WELL), "ab");
        assert_eq!(say(50_000, lost(5000)), "b");
        assert_eq!(say(70_000, WELL), "ab");
        assert_eq!(membership.candidates(ms(70_000)), ["b"], "it may be given nothing");
        assert_eq!(membership.troubles(&"a".to_owned(), ms(70_000)), [Trouble::Quarantined]);
    }

    #[test]
    fn a_node_that_the_webapps_miss_keeps_nothing_while_there_are_others() {
        let mut membership = Membership::default();
        membership.heard(ms(0), &named("a", 1));
        membership.cut_off(ms(0), "a:1");
        assert_eq!(placed(&membership, 1), ("a".to_owned(), "a".to_owned()));
        membership.heard(ms(1), &named("b", 1));
        assert_eq!(placed(&membership, 2), ("b".to_owned(), "b".to_owned()));
        assert_eq!(placed(&membership, 10_000).1, "ab", "nobody says so any more");
    }

    #[test]
    fn three_losses_in_five_minutes_are_a_quarantine_unless_there_is_nobody_else() {
        let mut membership = Membership::default();
        for boot in 1..=4 {
            membership.heard(ms(u64::from(boot) * 1000), &named("a", boot));
        }
        assert_eq!(membership.candidates(ms(5000)), ["a"], "nobody else");
        membership.heard(ms(4000), &named("b", 1));
        assert_eq!(membership.candidates(ms(5000)), ["b"]);
        assert_eq!(membership.candidates(ms(4000) + QUARANTINE), ["a", "b"]);
    }

    #[test]
    fn shards_that_cannot_be_started_are_losses_and_those_of_one_second_are_one() {
        let mut membership = Membership::default();
        for node in ["a", "b"] {
            membership.heard(ms(0), &named(node, 1));
        }
        for at in [0, 10, 999, 1000, 1999] {
            membership.failed(ms(at), &"a".to_owned());
        }
        assert_eq!(membership.candidates(ms(1999)), ["a", "b"], "two losses");
        membership.failed(ms(2000), &"a".to_owned());
        assert_eq!(membership.candidates(ms(2000)), ["b"]);
    }
}
