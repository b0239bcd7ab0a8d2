//! The receivers of a shard's callbacks: each has lanes of its own, so one that is slow or gone holds no other up
//! (**I6**).
//!
//! An event is stored once for each receiver that wants it and is removed when that one took it; so a receiver's place
//! needs no word beside its rows, and moves with them. A receiver that was just added has no rows, one that was removed
//! is forgotten here at once, and its rows by `retention`.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Instant};

use estafet_model::{EndpointId, Seq, Slot, settings::WebhookSettings};
use estafet_store::{EventRef, StoredEvent};

use super::lanes::{Lanes, Post, Rules};

/// What waits for one receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The receiver.
    pub endpoint: EndpointId,
    /// Callbacks that wait.
    pub waiting: u64,
    /// When the oldest of them happened, to the second; milliseconds since 1970.
    pub oldest_ms: Option<i64>,
}

/// The lanes to each receiver.
#[derive(Debug)]
pub struct Outlets {
    slots: RangeInclusive<Slot>,
    /// Up to here earlier ownerships stored.
    since: Seq,
    lanes: BTreeMap<EndpointId, Lanes>,
}

impl Outlets {
    /// The receivers of a shard just acquired: everything must be loaded first. What earlier owners stored is not after
    /// `since`.
    pub fn recovering(slots: RangeInclusive<Slot>, webhooks: &WebhookSettings, rules: Rules, since: Seq) -> Self {
        let mut outlets = Self { slots, since, lanes: BTreeMap::new() };
        outlets.set(webhooks, rules);
        outlets
    }

    /// Takes changed settings; they hold from the next decision on.
    pub fn set(&mut self, webhooks: &WebhookSettings, rules: Rules) {
        self.lanes.retain(|endpoint, _| webhooks.all_receivers().any(|wanted| wanted == *endpoint));
        for endpoint in webhooks.all_receivers() {
            let (first, last) = self.slots.clone().into_inner();
            let slots = (first.get()..=last.get()).filter_map(|slot| Slot::new(slot.into()));
            // An earlier owner may have stored something for a receiver that is new to us.
            let since = self.since;
            self.lanes.entry(endpoint).or_insert_with(|| Lanes::recovering(slots, rules, since)).set_rules(rules);
        }
    }

    /// Takes an event that was just stored. One for a receiver that is gone is dropped.
    pub fn push(&mut self, event: StoredEvent) {
        if let Some(lanes) = self.lanes.get_mut(&event.endpoint) {
            lanes.push(event);
        }
    }

    /// Notes an event that was stored and not pushed; it will be loaded.
    pub fn stored_unseen(&mut self, endpoint: EndpointId, slot: Slot) {
        if let Some(lanes) = self.lanes.get_mut(&endpoint) {
            lanes.stored_unseen(slot);
        }
    }

    /// The posts to open now. Without a URL the main receiver's events wait.
    pub fn due(&mut self, webhooks: &WebhookSettings, now: Instant) -> Vec<Post> {
        let has_url = |endpoint: &EndpointId| *endpoint != EndpointId::MAIN || webhooks.url.is_some();
        let open = self.lanes.iter_mut().filter(|(endpoint, _)| has_url(endpoint));
        open.flat_map(|(_, lanes)| lanes.due(now)).collect()
    }

    /// When [`Self::due`] should be called next, if nothing else happens.
    pub fn next_due(&self) -> Option<Instant> {
        self.lanes.values().filter_map(Lanes::next_due).min()
    }

    /// The receiver took the event.
    pub fn delivered(&mut self, event: EventRef) {
        if let Some(lanes) = self.lanes.get_mut(&event.endpoint) {
            lanes.delivered(event);
        }
    }

    /// The receiver did not take the event. Gives it back when it is too old to be tried again.
    pub fn failed(&mut self, event: EventRef, now: Instant, wall_ms: i64) -> Option<StoredEvent> {
        self.lanes.get_mut(&event.endpoint)?.failed(event, now, wall_ms)
    }

    /// Slots to load for each receiver, with the positions to load after.
    pub fn take_loads(&mut self, most: usize, rows: usize) -> Vec<(EndpointId, Vec<(Slot, Seq)>)> {
        let loads = self.lanes.iter_mut().map(|(endpoint, lanes)| (*endpoint, lanes.take_loads(most, rows)));
        loads.filter(|(_, asked)| !asked.is_empty()).collect()
    }

    /// The answer of a load.
    pub fn loaded(&mut self, endpoint: EndpointId, asked: &[(Slot, Seq)], rows: Vec<StoredEvent>, limit: usize) {
        if let Some(lanes) = self.lanes.get_mut(&endpoint) {
            lanes.loaded(asked, rows, limit);
        }
    }

    /// What waits for each receiver.
    pub fn backlogs(&self) -> impl Iterator<Item = Backlog> {
        let of = |(endpoint, lanes): (&EndpointId, &Lanes)| Backlog {
            endpoint: *endpoint,
            waiting: lanes.waiting(),
            oldest_ms: lanes.oldest_ms(),
        };
        self.lanes.iter().map(of)
    }

    /// Events in memory.
    pub fn len(&self) -> usize {
        self.lanes.values().map(Lanes::len).sum()
    }

    /// Whether memory holds no event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Posts that are open.
    pub fn posting(&self) -> usize {
        self.lanes.values().map(Lanes::posting).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use estafet_model::{
        WaId,
        settings::{Settings, endpoint::Endpoint, patch},
    };
    use serde_json::json;

    use super::*;

    const SECOND: EndpointId = EndpointId::new(1);

    fn settings(endpoints: serde_json::Value) -> Settings {
        let change = json!({"webhooks": {"url": "https://main.example/", "endpoints": endpoints}});
        patch::apply(&Settings::default(), change.as_object().unwrap(), patch::Policy::default()).unwrap()
    }

    fn two() -> Settings {
        settings(json!([{"name": "second", "url": "https://second.example/"}]))
    }

    fn outlets(settings: &Settings) -> Outlets {
        let slots = Slot::of(contact())..=Slot::of(contact());
        let mut outlets = Outlets::recovering(slots, &settings.webhooks, rules(settings), Seq::ZERO);
        answer_loads(&mut outlets);
        outlets
    }

    fn rules(settings: &Settings) -> Rules {
        Rules::new(settings, Duration::from_secs(3600), false)
    }

    fn answer_loads(outlets: &mut Outlets) {
        for (endpoint, asked) in outlets.take_loads(9, 9) {
            outlets.loaded(endpoint, &asked, Vec::new(), 9);
        }
    }

    fn contact() -> WaId {
        "15550001001".parse().unwrap()
    }

    fn event(endpoint: EndpointId, seq: i64) -> StoredEvent {
        StoredEvent {
            slot: Slot::of(contact()),
            endpoint,
            seq: Seq::new(seq),
            origin: None,
            contact: Some(contact()),
            kind: "status_change".to_owned(),
            created_at_ms: 0,
            body: Bytes::from(seq.to_string()),
        }
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn posted(posts: &[Post]) -> Vec<(u16, i64)> {
        posts.iter().map(|post| (post.event.endpoint.get(), post.event.seq.get())).collect()
    }

    #[test]
    fn a_receiver_that_fails_holds_no_other_up() {
        let (settings, now) = (two(), start());
        let mut outlets = outlets(&settings);
        for seq in 1..=3 {
            outlets.push(event(EndpointId::MAIN, seq));
            outlets.push(event(SECOND, seq));
        }
        assert_eq!(posted(&outlets.due(&settings.webhooks, now)), [(0, 1), (1, 1)]);
        assert!(outlets.failed(event(SECOND, 1).at(), now, 0).is_none());
        for seq in 1..=3 {
            outlets.delivered(event(EndpointId::MAIN, seq).at());
            let next = posted(&outlets.due(&settings.webhooks, now));
            assert_eq!(next, if seq < 3 { vec![(0, seq + 1)] } else { vec![] });
        }
        assert_eq!((outlets.len(), outlets.posting()), (3, 0));
        let later = outlets.next_due().unwrap();
        assert_eq!(posted(&outlets.due(&settings.webhooks, later)), [(1, 1)]);
    }

    #[test]
    fn a_receiver_that_was_removed_is_forgotten_and_one_that_comes_is_loaded() {
        let (settings, now) = (two(), start());
        let mut outlets = outlets(&settings);
        outlets.push(event(SECOND, 1));
        let post = outlets.due(&settings.webhooks, now).remove(0);
        let alone = self::settings(json!([]));
        outlets.set(&alone.webhooks, rules(&alone));
        assert_eq!((outlets.len(), outlets.posting(), outlets.next_due()), (0, 0, None));
        assert!(outlets.failed(post.event, now, i64::MAX).is_none());
        outlets.delivered(post.event);
        outlets.push(event(SECOND, 2));
        assert!(outlets.is_empty() && outlets.due(&alone.webhooks, now).is_empty());
        outlets.set(&settings.webhooks, rules(&settings));
        let loads = outlets.take_loads(9, 9);
        assert_eq!(loads, [(SECOND, vec![(Slot::of(contact()), Seq::ZERO)])]);
        outlets.loaded(SECOND, &loads[0].1, vec![event(SECOND, 2)], 9);
        assert_eq!(posted(&outlets.due(&settings.webhooks, now)), [(1, 2)]);
    }

    #[test]
    fn without_a_url_only_the_main_receiver_waits() {
        let (mut settings, now) = (two(), start());
        settings.webhooks.url = None;
        let mut outlets = outlets(&settings);
        outlets.push(event(EndpointId::MAIN, 1));
        outlets.push(event(SECOND, 1));
        assert_eq!(posted(&outlets.due(&settings.webhooks, now)), [(1, 1)]);
        settings.webhooks.url = Some("https://main.example/".to_owned());
        assert_eq!(posted(&outlets.due(&settings.webhooks, now)), [(0, 1)]);
    }

    #[test]
    fn receivers_share_the_memory() {
        let names: Vec<Endpoint> =
            settings(json!((0..7).map(|n| json!({"name": format!("n{n}"), "url": "https://a.example/"})).collect::<Vec<_>>()))
                .webhooks
                .endpoints;
        let mut many = two();
        many.webhooks.endpoints = names;
        let loaded = |settings: &Settings| {
            let slots = Slot::FIRST..=Slot::LAST;
            let mut outlets = Outlets::recovering(slots, &settings.webhooks, rules(settings), Seq::ZERO);
            outlets.take_loads(1024, 64).iter().map(|(_, asked)| asked.len()).sum::<usize>()
        };
        assert!(loaded(&many) <= loaded(&settings(json!([]))), "what is being loaded counts as being in memory");
    }
}
