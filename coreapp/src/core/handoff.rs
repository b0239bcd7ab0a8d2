//! Both sides of a planned move (reliability.md §6.10): when an owner may raise the epoch, and what a target is
//! ready for.
//!
//! The owner sends and posts nothing more and waits a little for answers of the network and of callback receivers,
//! accepting all the while. Then it takes no more requests, finishes what is being written, and raises the epoch for
//! the target. What was not answered by then is in the database, and is sent again under the
//! same id. When it takes too long the owner keeps the shard. A target is ready for a few shards, for a short
//! time: being ready costs a connection, and the owner's word may never come.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use estafet_model::{BootId, Epoch, Shard, ShardCount, WaId};

/// How long a handoff may take, from the order on.
pub const BUDGET: Duration = Duration::from_secs(2);
/// How long answers are waited for, from the order on.
const ANSWERS: Duration = Duration::from_millis(50);
/// How long a node stays ready for a shard.
pub const WARM_FOR: Duration = Duration::from_secs(5);
/// Shards a node is ready for at once.
const STANDBYS: usize = 16;

/// The node a shard is handed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub node: String,
    /// Its process.
    pub boot: BootId,
    /// Where its data service is.
    pub address: String,
    /// Term of the master that orders the handoff.
    pub term: i64,
}

/// What a shard has under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// A transaction runs or waits to be run.
    pub writes: bool,
    /// Messages without the network's verdict, and posts without an answer.
    pub unanswered: usize,
}

/// What the owner does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait, at most until then.
    Wait(Instant),
    /// Take no more requests.
    Close,
    /// Raise the epoch for the target.
    Raise,
    /// Keep the shard.
    GiveUp,
}

/// The owner's side of one handoff, until the epoch is raised.
#[derive(Clone, Copy, Debug)]
pub struct Handoff {
    began: Instant,
    /// No requests are taken any more.
    closed: bool,
}

impl Handoff {
    /// The order came.
    pub fn begin(now: Instant) -> Self {
        Self { began: now, closed: false }
    }

    /// Decides, each time something changed or the time given last has come.
    pub fn next(&mut self, now: Instant, under_way: UnderWay) -> Next {
        if now >= self.give_up_at() {
            return Next::GiveUp;
        }
        let patient_until = self.began + ANSWERS;
        if !self.closed && under_way.unanswered > 0 && now < patient_until {
            return Next::Wait(patient_until);
        }
        if !std::mem::replace(&mut self.closed, true) {
            return Next::Close;
        }
        if under_way.writes { Next::Wait(self.give_up_at()) } else { Next::Raise }
    }

    /// When the owner gives up.
    pub fn give_up_at(&self) -> Instant {
        self.began + BUDGET
    }
}

/// A shard of a number at a count.
pub type Key = (WaId, ShardCount, Shard);

/// What a node is, or gets, ready for.
#[derive(Debug, Default)]
pub struct Standbys {
    by_shard: BTreeMap<Key, Standby>,
}

#[derive(Debug)]
struct Standby {
    after: Epoch,
    since: Instant,
    ready: bool,
}

impl Standbys {
    /// Asked to get ready for a shard that is owned in epoch `after`; says whether there is something to do.
    pub fn prepare(&mut self, key: Key, after: Epoch, now: Instant) -> bool {
        if let Some(standby) = self.by_shard.get_mut(&key) {
            // Being ready does not depend on the owner's epoch.
            (standby.after, standby.since) = (after, now);
            return false;
        }
        let has_room = self.by_shard.len() < STANDBYS;
        if has_room {
            self.by_shard.insert(key, Standby { after, since: now, ready: false });
        }
        has_room
    }

    /// Everything is loaded; `false` if nobody waits for that any more.
    pub fn ready(&mut self, key: &Key) -> bool {
        let Some(standby) = self.by_shard.get_mut(key) else { return false };
        standby.ready = true;
        true
    }

    /// The shard was taken, or could not be prepared.
    pub fn remove(&mut self, key: &Key) {
        self.by_shard.remove(key);
    }

    /// Forgets what was asked for too long ago; the shards that are forgotten.
    pub fn expire(&mut self, now: Instant) -> Vec<Key> {
        let old = |standby: &Standby| now.saturating_duration_since(standby.since) >= WARM_FOR;
        let expired: Vec<Key> = self.by_shard.iter().filter(|(_, standby)| old(standby)).map(|(key, _)| *key).collect();
        expired.iter().for_each(|key| self.remove(key));
        expired
    }

    /// The shards that can be taken at once, each with the epoch that its owner had.
    pub fn warm(&self) -> impl Iterator<Item = (&Key, Epoch)> {
        self.by_shard.iter().filter(|(_, standby)| standby.ready).map(|(key, standby)| (key, standby.after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: UnderWay = UnderWay { writes: true, unanswered: 3 };
    const ASKING: UnderWay = UnderWay { writes: false, unanswered: 3 };
    const IDLE: UnderWay = UnderWay { writes: false, unanswered: 0 };

    fn key(shard: u32) -> Key {
        let count = ShardCount::new(32).unwrap();
        (WaId::from_u64(15_550_000_001).unwrap(), count, Shard::new(shard, count).unwrap())
    }

    #[test]
    fn requests_are_taken_until_all_is_answered_or_for_fifty_milliseconds_and_the_epoch_is_raised_when_all_is_written() {
        let start = tokio::time::Instant::now().into_std();
        let at = |ms| start + Duration::from_millis(ms);
        let mut idle = Handoff::begin(start);
        assert_eq!([idle.next(at(0), IDLE), idle.next(at(0), IDLE)], [Next::Close, Next::Raise]);
        let mut handoff = Handoff::begin(start);
        assert_eq!(handoff.next(at(0), BUSY), Next::Wait(at(50)));
        assert_eq!(handoff.next(at(49), ASKING), Next::Wait(at(50)));
        assert_eq!(handoff.next(at(50), BUSY), Next::Close);
        assert_eq!(handoff.next(at(51), BUSY), Next::Wait(at(2000)), "what was accepted is being written");
        assert_eq!(handoff.next(at(60), ASKING), Next::Raise, "who has not answered by then is asked again");
    }

    #[test]
    fn a_handoff_that_takes_two_seconds_is_given_up() {
        let start = tokio::time::Instant::now().into_std();
        let mut handoff = Handoff::begin(start);
        assert_eq!(handoff.next(start + ANSWERS, BUSY), Next::Close);
        assert_eq!(handoff.next(start + BUDGET - Duration::from_millis(1), BUSY), Next::Wait(start + BUDGET));
        assert_eq!(handoff.next(start + BUDGET, BUSY), Next::GiveUp);
        assert_eq!(handoff.next(start + BUDGET, IDLE), Next::GiveUp);
    }

    #[test]
    fn a_node_is_ready_for_a_few_shards_and_not_for_long() {
        let (mut standbys, start) = (Standbys::default(), tokio::time::Instant::now().into_std());
        for shard in 0..STANDBYS as u32 {
            assert!(standbys.prepare(key(shard), Epoch::new(1), start));
        }
        assert!(!standbys.prepare(key(31), Epoch::new(1), start), "one too many");
        assert!(standbys.ready(&key(0)));
        assert!(!standbys.prepare(key(0), Epoch::new(2), start + WARM_FOR / 2), "it is ready already");
        assert_eq!(standbys.warm().collect::<Vec<_>>(), [(&key(0), Epoch::new(2))]);
        assert_eq!(standbys.expire(start + WARM_FOR).len(), STANDBYS - 1);
        assert!(!standbys.ready(&key(1)), "nobody waits any more");
        assert_eq!(standbys.warm().count(), 1, "the one that was asked for again stays");
        assert!(standbys.prepare(key(31), Epoch::new(1), start + WARM_FOR));
        standbys.remove(&key(0));
        assert_eq!(standbys.warm().count(), 0);
    }
}
