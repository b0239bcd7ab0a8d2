//! Whether this node reaches what an owner needs: the network and the message database (reliability.md §6.9).
//!
//! Two kinds of evidence. **Probes**, which every node makes, owner or not, so that masters can tell who would do
//! better; and what **use** says: a connection that is up, commits that succeed or do not. A probe that fails while use
//! succeeds says nothing, since a busy pool or a full listener is not a node without a network. Commits that fail
//! count although probes succeed. What is not known is not told.

use std::time::{Duration, Instant};

/// Whether something is reached, and for how long that has been so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Nothing is known.
    #[default]
    Unknown,
    /// It is.
    Well(Duration),
    /// It is not.
    Lost(Duration),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Well {
        since: Instant,
    },
    Lost {
        since: Instant,
    },
}

/// What is known of one of the needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    state: State,
    /// When the first of the probes began that have failed since one succeeded.
    failing_since: Option<Instant>,
}

impl Need {
    /// It was reached.
    fn reached(&mut self, now: Instant) {
        self.failing_since = None;
        if !matches!(self.state, State::Well { .. }) {
            self.state = State::Well { since: now };
        }
    }

    /// It has not been reached since then.
    fn missed(&mut self, since: Instant) {
        if !matches!(self.state, State::Lost { .. }) {
            self.state = State::Lost { since };
        }
    }

    /// How it stands now.
    pub fn reach(&self, now: Instant) -> Reach {
        match self.state {
            State::Unknown => Reach::Unknown,
            State::Well { since } => Reach::Well(now.saturating_duration_since(since)),
            State::Lost { since } => Reach::Lost(now.saturating_duration_since(since)),
        }
    }

    /// A probe of the network ended that began at `began`; `is_connected`: some shard's connection is up.
    pub fn probed_network(&mut self, began: Instant, now: Instant, succeeded: bool, is_connected: bool) {
        if succeeded {
            return self.reached(now);
        }
        // A connection that is dead but not yet known to be hides nothing for longer than that takes.
        let since = *self.failing_since.get_or_insert(began);
        if is_connected { self.state = State::Unknown } else { self.missed(since) }
    }

    /// A probe of the database ended that began at `began`; `writes` is what this node's commits say.
    pub fn probed_database(&mut self, began: Instant, now: Instant, succeeded: bool, writes: &Writes) {
        match (succeeded, writes.lost_since()) {
            (_, Some(since)) => self.missed(since),
            (true, None) => self.reached(now),
            (false, None) if writes.committed_at.is_some_and(|at| at >= began) => self.state = State::Unknown,
            (false, None) => self.missed(began),
        }
    }
}

/// What commits say of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    committed_at: Option<Instant>,
    failing_since: Option<Instant>,
}

impl Writes {
    /// A commit took place.
    pub fn committed(&mut self, now: Instant) {
        *self = Self { committed_at: Some(now), failing_since: None };
    }

    /// The database gave no answer to a commit that was first tried at `since`.
    pub fn unanswered(&mut self, since: Instant) {
        self.failing_since.get_or_insert(since);
    }

    /// Of two shards of one node.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let failing = [self.failing_since, other.failing_since];
        Self { committed_at: self.committed_at.max(other.committed_at), failing_since: failing.into_iter().flatten().min() }
    }

    /// Since when commits have failed and none succeeded.
    fn lost_since(&self) -> Option<Instant> {
        self.failing_since.filter(|since| self.committed_at.is_none_or(|at| at < *since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        use std::sync::OnceLock;
        static BASE: OnceLock<Instant> = OnceLock::new();
        *BASE.get_or_init(|| tokio::time::Instant::now().into_std()) + Duration::from_millis(ms)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_network_is_lost_from_the_first_probe_that_failed_and_well_from_the_first_that_did_not() {
        let mut need = Need::default();
        assert_eq!(need.reach(at(0)), Reach::Unknown);
        need.probed_network(at(0), at(10), true, false);
        need.probed_network(at(1000), at(1010), true, false);
        assert_eq!(need.reach(at(1010)), Reach::Well(ms(1000)));
        need.probed_network(at(2000), at(4000), false, false);
        need.probed_network(at(5000), at(7000), false, false);
        assert_eq!(need.reach(at(7000)), Reach::Lost(ms(5000)));
        need.probed_network(at(8000), at(8010), true, false);
        assert_eq!(need.reach(at(8010)), Reach::Well(ms(0)));
    }

    #[test]
    fn a_node_with_a_live_connection_is_not_without_network() {
        let mut need = Need::default();
        need.probed_network(at(0), at(2000), false, true);
        assert_eq!(need.reach(at(2000)), Reach::Unknown);
        need.probed_network(at(3000), at(5000), false, true);
        need.probed_network(at(6000), at(8000), false, false);
        assert_eq!(need.reach(at(8000)), Reach::Lost(ms(8000)), "the connection was dead all the time");
    }

    #[test]
    fn commits_that_fail_count_although_probes_succeed_until_one_succeeds() {
        let (mut need, mut writes) = (Need::default(), Writes::default());
        writes.committed(at(0));
        need.probed_database(at(100), at(110), true, &writes);
        writes.unanswered(at(200));
        writes.unanswered(at(700));
        need.probed_database(at(800), at(810), true, &writes);
        assert_eq!(need.reach(at(810)), Reach::Lost(ms(610)));
        writes.committed(at(900));
        need.probed_database(at(1000), at(1010), true, &writes);
        assert_eq!(need.reach(at(1010)), Reach::Well(ms(0)));
    }

    #[test]
    fn a_probe_that_fails_while_commits_succeed_says_nothing() {
        let (mut need, mut writes) = (Need::default(), Writes::default());
        writes.committed(at(300));
        need.probed_database(at(0), at(600), false, &writes);
        assert_eq!(need.reach(at(600)), Reach::Unknown);
        need.probed_database(at(800), at(1400), false, &writes);
        assert_eq!(need.reach(at(1400)), Reach::Lost(ms(600)), "none has succeeded since it began");
    }

    #[test]
    fn one_shard_that_fails_is_no_lost_database_while_another_commits() {
        let (mut failing, mut fine) = (Writes::default(), Writes::default());
        failing.unanswered(at(100));
        assert_eq!(failing.with(fine).lost_since(), Some(at(100)));
        fine.committed(at(200));
        assert_eq!(failing.with(fine).lost_since(), None);
        assert_eq!(fine.with(failing).lost_since(), None);
    }
}
