//! The language packs as they were fetched last, and when they are fetched again (spec/templates.md §4). Pure: the time is
//! an argument, and whoever is told to fetch does it.
//!
//! * Packs are good for seven days. Older ones are fetched before a template of theirs is sent, whatever they hold.
//! * A template message that the packs refuse has them fetched at once, once a minute for each namespace they have, and
//!   once a minute for all others together: what clients write cannot make the source busy (**I8**).
//! * A fetch that fails changes nothing: what there was goes on, and age is looked at again a minute later.
//!
//! Nothing here lasts: a process that starts fetches first.

use std::{collections::BTreeMap, sync::Arc};

use super::library::Library;

/// How long packs are good for.
const LIFE_MS: i64 = 7 * 24 * 3600 * 1000;
/// The pause between two tries for the same reason.
const PAUSE_MS: i64 = 60 * 1000;

/// What there is, and how old it is. Moments are milliseconds of the wall clock.
#[derive(Debug, Default)]
pub(super) struct Packs {
    library: Arc<Library>,
    fetched_at_ms: i64,
    /// When they were last tried to be fetched for their age.
    tried_at_ms: Option<i64>,
    /// When a refusal last had them fetched, by namespace.
    doubted: BTreeMap<String, i64>,
    /// The same for namespaces that they do not have.
    strangers_at_ms: Option<i64>,
}

impl Packs {
    /// What there is.
    pub(super) fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// Something else is there, without a fetch.
    pub(super) fn replace(&mut self, library: Arc<Library>) {
        self.library = library;
    }

    /// Packs were fetched.
    pub(super) fn fetched(&mut self, library: Arc<Library>, now_ms: i64) {
        self.library = library;
        self.fetched_at_ms = now_ms;
        self.tried_at_ms = None;
        let there = &self.library;
        self.doubted.retain(|namespace, _| there.knows(namespace));
    }

    /// Whether age alone asks for a fetch.
    pub(super) fn are_old(&self, now_ms: i64) -> bool {
        now_ms.saturating_sub(self.fetched_at_ms) > LIFE_MS && has_rested(self.tried_at_ms, now_ms)
    }

    /// Whether the packs are to be fetched before a message of this namespace is answered. If so, that is a try.
    pub(super) fn begin_fetch(&mut self, namespace: &str, was_refused: bool, now_ms: i64) -> bool {
        let is_old = self.are_old(now_ms);
        if is_old {
            self.tried_at_ms = Some(now_ms);
        }
        let is_doubted = was_refused && has_rested(self.doubted_at_ms(namespace), now_ms);
        if is_doubted {
            if self.library.knows(namespace) {
                self.doubted.insert(namespace.to_owned(), now_ms);
            } else {
                self.strangers_at_ms = Some(now_ms);
            }
        }
        is_old || is_doubted
    }

    fn doubted_at_ms(&self, namespace: &str) -> Option<i64> {
        if self.library.knows(namespace) { self.doubted.get(namespace).copied() } else { self.strangers_at_ms }
    }
}

/// Whether the pause after a try is over; a clock that was set back ends it.
fn has_rested(tried_at_ms: Option<i64>, now_ms: i64) -> bool {
    tried_at_ms.is_none_or(|tried| !(tried..tried.saturating_add(PAUSE_MS)).contains(&now_ms))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY_MS: i64 = 24 * 3600 * 1000;
    const START_MS: i64 = 1_800_000_000_000;

    /// Packs of the namespace `ns`, fetched at the start.
    fn packs() -> Packs {
        let body = json!([{ "type": "BODY", "text": "Hi" }]);
        let library = super::super::library(&json!([{ "name": "a", "language": "en", "components": body }]));
        let mut packs = Packs::default();
        packs.fetched(Arc::new(library), START_MS);
        packs
    }

    fn again(packs: &mut Packs, now_ms: i64) {
        let library = packs.library().clone();
        packs.fetched(library, now_ms);
    }

    #[test]
    fn r141_packs_are_good_for_seven_days() {
        let mut packs = packs();
        for now_ms in [0, 6 * DAY_MS, 7 * DAY_MS].map(|later| START_MS + later) {
            assert!(!packs.are_old(now_ms) && !packs.begin_fetch("ns", false, now_ms));
        }
        assert!(packs.are_old(START_MS + 7 * DAY_MS + 1000));
        assert!(!packs.begin_fetch("ns", false, 0), "a clock that was set back makes nothing old");
    }

    #[test]
    fn r142_after_seven_days_they_are_fetched_whatever_they_hold() {
        let (mut packs, late) = (packs(), START_MS + 7 * DAY_MS + 1000);
        assert!(packs.begin_fetch("ns", false, late), "the template is there");
        again(&mut packs, late);
        assert!(!packs.begin_fetch("ns", false, late + 6 * DAY_MS));
        assert!(packs.begin_fetch("ns", false, late + 7 * DAY_MS + 1000));
    }

    #[test]
    fn r142_a_name_that_is_missing_has_them_fetched_at_once_and_once_a_minute() {
        let (mut packs, now_ms) = (packs(), START_MS + 1000);
        assert!(packs.begin_fetch("ns", true, now_ms), "it may be new");
        again(&mut packs, now_ms);
        assert!(!packs.begin_fetch("ns", true, now_ms + 59_999));
        assert!(packs.begin_fetch("ns", true, now_ms + 60_000));
        assert!(!packs.begin_fetch("ns", false, now_ms + 200_000), "it is there, and not old");
    }

    #[test]
    fn namespaces_that_nobody_knows_share_one_try_a_minute() {
        let (mut packs, now_ms) = (packs(), START_MS + 1000);
        assert!(packs.begin_fetch("other", true, now_ms));
        for name in 0..1000 {
            assert!(!packs.begin_fetch(&name.to_string(), true, now_ms + 1));
        }
        assert!(packs.begin_fetch("ns", true, now_ms + 1), "they do not use up the try of one that is there");
        assert_eq!(packs.doubted.len(), 1, "nothing is kept of them");
    }

    #[test]
    fn a_fetch_that_fails_keeps_what_there_was_and_is_tried_again_after_a_minute() {
        let (mut packs, late) = (packs(), START_MS + 8 * DAY_MS);
        assert!(packs.begin_fetch("ns", false, late));
        assert!(packs.library().knows("ns"));
        assert!(!packs.are_old(late + 1000) && !packs.begin_fetch("ns", false, late + 1000));
        assert!(packs.begin_fetch("ns", false, late + 60_000));
    }
}
