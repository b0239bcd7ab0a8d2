//! Who may use the network: the epochs seen and the connections active per (number, shard). Pure.
//!
//! Keeps **I1**: for every (number, slot) at most one connection is current at any moment. A login is
//! compared with every shard it overlaps, of the same shard count or another:
//!
//! 1. one of them has seen a higher epoch: refused as stale, nothing changes;
//! 2. the same shard has the same epoch and the same boot: a reconnect, which replaces its own older connection;
//! 3. the same epoch otherwise: a conflict, the holder stays;
//! 4. else the login is admitted, and the connections it overlaps are closed before it is current.
//!
//! What a shard has seen is never forgotten, so a parent of a split keeps fencing the slots of a child that
//! has not logged in yet. The shell persists each admission before it answers.

use std::collections::HashMap;

use estafet_model::{BootId, Shard, ShardCount, Slot, WaId};

/// One connection of this server's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What a login claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Business number.
    pub number: WaId,
    /// Shard of `count`.
    pub shard: Shard,
    /// Shard count.
    pub count: ShardCount,
    /// Epoch of the ownership.
    pub epoch: u64,
    /// Start of the client's process.
    pub boot: BootId,
    /// Who it is, for people.
    pub holder: String,
}

impl Claim {
    /// Whether `slot` is among the claimed ones.
    pub fn covers(&self, slot: Slot) -> bool {
        self.count.slots_of(self.shard).contains(&slot)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.number == other.number && self.count.overlap(self.shard, (other.count, other.shard))
    }

    fn is_same_shard(&self, other: &Self) -> bool {
        (self.number, self.count, self.shard) == (other.number, other.count, other.shard)
    }
}

/// The answer to a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Admitted; these connections are no longer current and must be told and closed.
    Admitted {
        /// Connections that lost their shard.
        replaced: Vec<ConnId>,
    },
    /// A higher epoch was seen.
    Stale {
        /// The highest.
        highest: u64,
    },
    /// The same epoch is held by another.
    Conflict {
        /// Epoch both claim.
        epoch: u64,
        /// Who holds it.
        holder: String,
        /// The holder's connection, if it has one.
        incumbent: Option<ConnId>,
    },
    /// The static key is not the one the number registered with.
    Unauthorized,
}

#[derive(Debug)]
struct Entry {
    claim: Claim,
    conn: Option<ConnId>,
}

#[derive(Debug, Default)]
struct Number {
    static_key: Option<[u8; 32]>,
    /// The last admission of every shard of every count.
    entries: Vec<Entry>,
}

/// The table of sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    numbers: HashMap<WaId, Number>,
    /// Current connections and what they were admitted with.
    current: HashMap<ConnId, Claim>,
}

impl Sessions {
    /// Takes the stored static key of a number.
    pub fn restore_key(&mut self, number: WaId, static_key: [u8; 32]) {
        self.numbers.entry(number).or_default().static_key = Some(static_key);
    }

    /// Takes a stored admission.
    pub fn restore(&mut self, claim: Claim) {
        self.numbers.entry(claim.number).or_default().entries.push(Entry { claim, conn: None });
    }

    /// Decides a login. A connection logs in once: a second login of it is the caller's to refuse.
    pub fn login(&mut self, conn: ConnId, static_key: [u8; 32], claim: Claim) -> Decision {
        let number = self.numbers.entry(claim.number).or_default();
        if number.static_key.is_some_and(|known| known != static_key) {
            return Decision::Unauthorized;
        }
        let overlapping = || number.entries.iter().filter(|entry| entry.claim.overlaps(&claim));
        let highest = overlapping().map(|entry| entry.claim.epoch).max().unwrap_or(0);
        if highest > claim.epoch {
            return Decision::Stale { highest };
        }
        let is_own = |entry: &Entry| entry.claim.is_same_shard(&claim) && entry.claim.boot == claim.boot;
        if let Some(other) = overlapping().find(|entry| entry.claim.epoch == claim.epoch && !is_own(entry)) {
            return Decision::Conflict { epoch: claim.epoch, holder: other.claim.holder.clone(), incumbent: other.conn };
        }
        number.static_key = Some(static_key);
        let mut replaced = Vec::new();
        for entry in number.entries.iter_mut().filter(|entry| entry.claim.overlaps(&claim)) {
            if let Some(old) = entry.conn.take() {
                self.current.remove(&old);
                replaced.push(old);
            }
        }
        number.entries.retain(|entry| !entry.claim.is_same_shard(&claim));
        self.current.insert(conn, claim.clone());
        number.entries.push(Entry { claim, conn: Some(conn) });
        Decision::Admitted { replaced }
    }

    /// Forgets a connection that has closed; returns what it had claimed, if it was still current.
    pub fn disconnect(&mut self, conn: ConnId) -> Option<Claim> {
        let claim = self.current.remove(&conn)?;
        let entries = self.numbers.get_mut(&claim.number).into_iter().flat_map(|number| &mut number.entries);
        for entry in entries.filter(|entry| entry.conn == Some(conn)) {
            entry.conn = None;
        }
        Some(claim)
    }

    /// The claim of a connection, if it is the current one of its shard.
    pub fn claim(&self, conn: ConnId) -> Option<&Claim> {
        self.current.get(&conn)
    }

    /// The claim of a connection whose frame carries `epoch`; `None` if the frame must be discarded.
    pub fn current(&self, conn: ConnId, epoch: u64) -> Option<&Claim> {
        self.claim(conn).filter(|claim| claim.epoch == epoch)
    }

    /// The connection that serves `slot` of `number`.
    pub fn covering(&self, number: WaId, slot: Slot) -> Option<ConnId> {
        self.numbers.get(&number)?.entries.iter().find_map(|entry| entry.conn.filter(|_| entry.claim.covers(slot)))
    }

    /// The numbers that ever logged in.
    pub fn numbers(&self) -> impl Iterator<Item = WaId> {
        self.numbers.keys().copied()
    }

    /// The highest epoch seen for `slot` of `number`.
    pub fn highest(&self, number: WaId, slot: Slot) -> u64 {
        let entries = self.numbers.get(&number).into_iter().flat_map(|number| &number.entries);
        entries.filter(|entry| entry.claim.covers(slot)).map(|entry| entry.claim.epoch).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const KEY: [u8; 32] = [1; 32];

    fn claim(shard: u32, count: u32, epoch: u64, boot: u8) -> Claim {
        let count = ShardCount::new(count).unwrap();
        Claim {
            number: WaId::from_u64(15_550_000_001).unwrap(),
            shard: Shard::new(shard, count).unwrap(),
            count,
            epoch,
            boot: BootId([boot; 16]),
            holder: format!("node {boot}"),
        }
    }

    fn admitted(replaced: &[u64]) -> Decision {
        Decision::Admitted { replaced: replaced.iter().copied().map(ConnId).collect() }
    }

    #[test]
    fn a_higher_epoch_replaces_and_a_lower_one_is_stale() {
        let mut sessions = Sessions::default();
        assert_eq!(sessions.login(ConnId(1), KEY, claim(0, 1, 5, 1)), admitted(&[]));
        assert_eq!(sessions.login(ConnId(2), KEY, claim(0, 1, 4, 2)), Decision::Stale { highest: 5 });
        assert_eq!(sessions.login(ConnId(3), KEY, claim(0, 1, 6, 2)), admitted(&[1]));
        assert!(sessions.current(ConnId(1), 5).is_none() && sessions.current(ConnId(3), 5).is_none());
        assert!(sessions.current(ConnId(3), 6).is_some());
        assert_eq!(sessions.disconnect(ConnId(1)), None);
        assert_eq!(sessions.disconnect(ConnId(3)), Some(claim(0, 1, 6, 2)));
        assert_eq!(sessions.login(ConnId(4), KEY, claim(0, 1, 5, 1)), Decision::Stale { highest: 6 });
    }

    #[test]
    fn an_equal_epoch_is_a_reconnect_or_a_conflict() {
        let mut sessions = Sessions::default();
        sessions.login(ConnId(1), KEY, claim(0, 1, 5, 1));
        let conflict = |incumbent| Decision::Conflict { epoch: 5, holder: "node 1".to_owned(), incumbent };
        assert_eq!(sessions.login(ConnId(2), KEY, claim(0, 1, 5, 2)), conflict(Some(ConnId(1))));
        assert_eq!(sessions.login(ConnId(3), KEY, claim(0, 1, 5, 1)), admitted(&[1]));
        sessions.disconnect(ConnId(3));
        assert_eq!(sessions.login(ConnId(4), KEY, claim(0, 1, 5, 2)), conflict(None), "also while the holder is away");
    }

    #[test]
    fn counts_mix_as_long_as_ranges_do_not_overlap() {
        let mut sessions = Sessions::default();
        sessions.login(ConnId(1), KEY, claim(0, 2, 3, 1));
        sessions.login(ConnId(2), KEY, claim(1, 2, 3, 1));
        assert_eq!(sessions.login(ConnId(3), KEY, claim(2, 4, 4, 2)), admitted(&[2]), "a child kicks its parent");
        assert_eq!(sessions.login(ConnId(4), KEY, claim(1, 2, 3, 1)), Decision::Stale { highest: 4 });
        assert_eq!(sessions.login(ConnId(5), KEY, claim(3, 4, 2, 2)), Decision::Stale { highest: 3 }, "the parent still fences");
        assert_eq!(sessions.login(ConnId(6), KEY, claim(3, 4, 4, 2)), admitted(&[]));
        assert_eq!(sessions.login(ConnId(7), KEY, claim(0, 1, 5, 3)), admitted(&[1, 3, 6]), "a merge kicks all it covers");
        assert_eq!(sessions.covering(claim(0, 1, 5, 3).number, Slot::new(700).unwrap()), Some(ConnId(7)));
    }

    #[test]
    fn the_static_key_of_the_first_login_counts_for_ever() {
        let mut sessions = Sessions::default();
        sessions.login(ConnId(1), KEY, claim(0, 1, 1, 1));
        assert_eq!(sessions.login(ConnId(2), [2; 32], claim(0, 1, 9, 2)), Decision::Unauthorized);
        let mut restored = Sessions::default();
        restored.restore_key(claim(0, 1, 1, 1).number, KEY);
        restored.restore(claim(0, 1, 4, 1));
        assert_eq!(restored.login(ConnId(2), [2; 32], claim(0, 1, 9, 2)), Decision::Unauthorized);
        assert_eq!(restored.login(ConnId(2), KEY, claim(0, 1, 3, 2)), Decision::Stale { highest: 4 });
    }

    /// After each of many random events: at most one current connection per slot, and it has the highest epoch seen.
    #[test]
    fn i1_holds_after_every_event() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut sessions = Sessions::default();
            let mut open: Vec<ConnId> = Vec::new();
            let mut seen = [0u64; 1024];
            for event in 0..200 {
                if random.random_bool(0.25) && !open.is_empty() {
                    let conn = open.swap_remove(random.random_range(0..open.len()));
                    sessions.disconnect(conn);
                } else {
                    let count = 1 << random.random_range(0..4u32);
                    let claim =
                        claim(random.random_range(0..count), count, random.random_range(1..40), random.random_range(0..3));
                    let conn = ConnId(event);
                    if let Decision::Admitted { replaced } = sessions.login(conn, KEY, claim.clone()) {
                        open.retain(|open| !replaced.contains(open));
                        open.push(conn);
                        let slots = claim.count.slots_of(claim.shard);
                        let slots = usize::from(slots.start().get())..=usize::from(slots.end().get());
                        for seen in &mut seen[slots] {
                            assert!(*seen <= claim.epoch, "seed {seed}: an epoch went back");
                            *seen = claim.epoch;
                        }
                    }
                }
                for slot in (0..1024).step_by(32) {
                    let slot = Slot::new(slot).unwrap();
                    let holders: Vec<_> = sessions.current.values().filter(|claim| claim.covers(slot)).collect();
                    assert!(holders.len() <= 1, "seed {seed}, event {event}: {holders:?}");
                    assert!(holders.iter().all(|claim| claim.epoch == seen[usize::from(slot.get())]));
                }
                assert_eq!(sessions.current.len(), open.len());
            }
        }
    }
}
