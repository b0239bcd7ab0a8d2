//! What holds after every step, and what holds in the end.

use std::{collections::BTreeMap, time::Duration};

use super::{ASTRAY, LEADERLESS, LEADERLESS_BORNE, PORT, STEP, World, lock};
use crate::faults::{MASTERS, NODES, master, node};

impl World {
    pub(super) fn check(&mut self, now: Duration) -> Result<(), String> {
        if let Some(broken) = lock(&self.etcd.state).broken.first() {
            return Err(broken.clone());
        }
        let shared = lock(&self.shared);
        if let Some(broken) = shared.broken.first() {
            return Err(broken.clone());
        }
        let leaders = shared.leaders();
        if leaders.len() > 1 {
            return Err(format!("several act as leader at once: {leaders:?}"));
        }
        if !leaders.is_empty() {
            (self.led_at, self.followed_by) = (now, None);
        }
        if let Some((by, within)) = self.followed_by
            && now > by
        {
            return Err(format!("a leader that fell silent was not followed within {within:?}"));
        }
        if now.saturating_sub(self.led_at.max(self.calm_since)) > LEADERLESS {
            return Err(format!("nobody leads for {LEADERLESS:?} although nothing is wrong"));
        }
        if now.saturating_sub(self.led_at.max(self.borne_since)) > LEADERLESS_BORNE {
            return Err(format!("nobody leads for {LEADERLESS_BORNE:?} although somebody could"));
        }
        drop(shared);
        self.know_who_is_registered(now)
    }

    /// Masters that nothing is wrong with know it soon, as long as etcd works.
    fn know_who_is_registered(&mut self, now: Duration) -> Result<(), String> {
        let shared = lock(&self.shared);
        let registered = lock(&self.etcd.state).listed("node/");
        for place in 0..MASTERS {
            let is_hit = self.active.iter().any(|planned| planned.fault.touches().contains(master(place).as_str()));
            if is_hit || self.borne_since + STEP >= now || shared.copies.get(&place) == Some(&registered) {
                self.astray.remove(&place);
                continue;
            }
            let since = *self.astray.entry(place).or_insert(now);
            if now.saturating_sub(since) > ASTRAY {
                return Err(format!("master {place} has not known who is registered for {ASTRAY:?} although it could"));
            }
        }
        Ok(())
    }

    /// In the end one leads, and all agree on everything.
    pub(super) fn has_settled(&self) -> Result<(), String> {
        let (shared, state) = (lock(&self.shared), lock(&self.etcd.state));
        let agree = |what: &str, holds: bool, seen: String| if holds { Ok(()) } else { Err(format!("{what}: {seen}")) };
        let leader = state.leader().map(|(address, _)| address);
        let acting: Vec<String> = shared.acting.keys().map(|place| format!("{}:{PORT}", master(*place))).collect();
        agree(
            "the one whose key leads acts, alone",
            acting.len() == 1 && leader == acting.first().cloned(),
            format!("{leader:?} {acting:?}"),
        )?;
        let terms: Vec<i64> = shared.acting.values().copied().collect();
        agree(
            "the database knows the leader's term",
            terms == [shared.database.term],
            format!("{terms:?} {}", shared.database.term),
        )?;
        let claims = shared.database.claims;
        agree(
            "the leader's claims are taken",
            claims > self.claims_when_healed,
            format!("{claims} of {}", self.claims_when_healed),
        )?;

        let registered = state.listed("node/");
        let wanted = (0..MASTERS).map(|place| format!("{}:{PORT}", master(place))).chain((0..NODES).map(node));
        let mut wanted: Vec<String> = wanted.collect();
        wanted.sort();
        agree("everybody is registered", registered.keys().eq(wanted.iter()), format!("{:?}", registered.keys()))?;
        for place in 0..MASTERS {
            let copy = shared.copies.get(&place);
            agree(&format!("master {place} knows who is registered"), copy == Some(&registered), format!("{copy:?}"))?;
        }

        let said = state.listed("assign/");
        let row = |record: &estafet_master::core::Record| {
            let (number, count, shard) = record.key;
            let value = format!(r#"{{"owner":"{}","epoch":{}}}"#, record.node, record.epoch);
            (format!("{number}/{}/{}", count.get(), shard.get()), value)
        };
        let stored: BTreeMap<String, String> = shared.database.rows.values().map(row).collect();
        agree("etcd says what the database says", said == stored, format!("{said:?} {stored:?}"))
    }
}
