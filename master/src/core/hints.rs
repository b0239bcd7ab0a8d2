//! What webapps say of coreapps that they cannot reach.
//!
//! Masters may hear a coreapp well that no webapp reaches (F26). Two webapps that say so for a second, or the only
//! one there is, are believed: the node gets nothing new and its shards are handed to others, which it does itself,
//! since only its clients are cut off. One cut-off webapp of several moves nothing, and who is the only one is known
//! after some seconds of listening. It is never proof: when no other node is left, nothing changes, and without any
//! word things are as the heartbeats say.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use estafet_model::BootId;

use super::Moment;

/// Words that are further apart are not about the same time: a webapp speaks four times as often.
const TOGETHER: Duration = Duration::from_millis(600);
/// How long they must agree.
const AGREEMENT: Duration = Duration::from_secs(1);
/// How long a silent webapp counts as being there.
const PRESENT: Duration = Duration::from_secs(3);
/// How many must say it, when there are more.
const WITNESSES: usize = 2;
/// Webapps that are remembered; of more the longest silent is forgotten.
const MOST: usize = 1024;

/// The last word of a webapp.
#[derive(Clone, Debug)]
struct Word {
    heard_at: Moment,
    unreachable: BTreeSet<String>,
}

/// The last words of all webapps.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    webapps: BTreeMap<BootId, Word>,
    /// Since when some webapp is there.
    listening_since: Moment,
    /// Addresses that enough webapps miss, and since when.
    missed: BTreeMap<String, Moment>,
}

impl Hints {
    /// A webapp says which addresses it cannot reach; the addresses that are believed to be cut off.
    pub fn heard(&mut self, now: Moment, webapp: BootId, unreachable: BTreeSet<String>) -> Vec<String> {
        self.webapps.retain(|_, word| now.saturating_sub(word.heard_at) < PRESENT);
        if self.webapps.is_empty() {
            self.listening_since = now;
        }
        if self.webapps.len() >= MOST
            && let Some(silent) = self.webapps.iter().min_by_key(|(_, word)| word.heard_at).map(|(webapp, _)| *webapp)
        {
            self.webapps.remove(&silent);
        }
        self.webapps.insert(webapp, Word { heard_at: now, unreachable });
        let missed = self.missed_by_enough(now);
        self.missed.retain(|address, _| missed.contains(address));
        for address in missed {
            self.missed.entry(address).or_insert(now);
        }
        let agreed = self.missed.iter().filter(|(_, since)| now.saturating_sub(**since) >= AGREEMENT);
        agreed.map(|(address, _)| address.clone()).collect()
    }

    fn missed_by_enough(&self, now: Moment) -> BTreeSet<String> {
        let mut witnesses: BTreeMap<&String, usize> = BTreeMap::new();
        for word in self.webapps.values().filter(|word| now.saturating_sub(word.heard_at) <= TOGETHER) {
            word.unreachable.iter().for_each(|address| *witnesses.entry(address).or_default() += 1);
        }
        // Whether others are there is not known before each had time to speak.
        let is_known = now.saturating_sub(self.listening_since) >= PRESENT;
        let needed = if is_known { WITNESSES.min(self.webapps.len()) } else { WITNESSES };
        witnesses.into_iter().filter(|(_, count)| *count >= needed).map(|(address, _)| address.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    /// The webapps say so each 150 ms from `from` to `to`; what is believed in the end.
    fn say(hints: &mut Hints, (from, to): (u64, u64), words: &[(u8, &[&str])]) -> Vec<String> {
        let mut believed = Vec::new();
        for at in (from..=to).step_by(150) {
            for (webapp, addresses) in words {
                let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
                believed = hints.heard(ms(at), BootId([*webapp; 16]), addresses);
            }
        }
        believed
    }

    #[test]
    fn two_webapps_are_believed_when_they_agree_for_a_second() {
        let mut hints = Hints::default();
        assert!(say(&mut hints, (0, 900), &[(1, &["a:1", "c:1"]), (2, &["a:1", "b:1"]), (3, &[])]).is_empty(), "too short");
        assert_eq!(say(&mut hints, (1050, 1050), &[(1, &["a:1", "c:1"]), (2, &["a:1", "b:1"])]), ["a:1"]);
        assert!(say(&mut hints, (1200, 1200), &[(1, &["c:1"]), (2, &["a:1", "b:1"])]).is_empty(), "one reaches it again");
        assert!(say(&mut hints, (1350, 2250), &[(1, &["a:1"]), (2, &["a:1"])]).is_empty(), "the second begins anew");
        assert_eq!(say(&mut hints, (2400, 2400), &[(1, &["a:1"]), (2, &["a:1"])]), ["a:1"]);
    }

    #[test]
    fn one_cut_off_webapp_of_several_is_never_believed() {
        let mut hints = Hints::default();
        assert!(say(&mut hints, (0, 60_000), &[(1, &["a:1"]), (2, &[])]).is_empty());
        assert!(say(&mut hints, (60_150, 90_000), &[(1, &["a:1"]), (2, &["b:1"]), (3, &[])]).is_empty());
    }

    #[test]
    fn the_only_webapp_is_believed_once_it_is_known_to_be_the_only_one() {
        let mut hints = Hints::default();
        assert!(say(&mut hints, (0, 3900), &[(1, &["a:1"])]).is_empty(), "the others may not have spoken yet");
        assert_eq!(say(&mut hints, (3950, 4100), &[(1, &["a:1"])]), ["a:1"]);
        assert!(say(&mut hints, (4200, 7000), &[(1, &["a:1"]), (2, &[])]).is_empty(), "another one reaches it");
        assert_eq!(say(&mut hints, (7100, 11_300), &[(1, &["a:1"])]), ["a:1"], "the other is gone");
    }

    #[test]
    fn old_words_are_no_agreement() {
        let mut hints = Hints::default();
        say(&mut hints, (0, 150), &[(1, &["a:1"]), (2, &["a:1"]), (3, &[])]);
        assert!(say(&mut hints, (300, 2500), &[(2, &["a:1"]), (3, &[])]).is_empty(), "the first has not spoken for a while");
    }

    #[test]
    fn only_so_many_webapps_are_remembered() {
        let mut hints = Hints::default();
        for webapp in 0..2 * MOST as u128 {
            hints.heard(ms(webapp as u64), BootId(webapp.to_be_bytes()), BTreeSet::new());
        }
        assert_eq!(hints.webapps.len(), MOST);
    }
}
