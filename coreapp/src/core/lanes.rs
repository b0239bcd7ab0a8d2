//! Callback lanes (spec/webhooks.md §2): at least once, in order, one contact never waits for another (**I6**).
//!
//! A lane is one contact of the number (events of the number itself have a lane of their own; with
//! `strict_global_order` there is a single lane). Inside a lane the next event is not tried before
//! the one in front was answered with 200. After the n-th failure in a row a lane waits
//! `n * callback_backoff_delay_ms`, at most `max_callback_backoff_delay_ms`. At most
//! `max_concurrent_requests` posts are open at a time. An event older than the age limit is given
//! up: never silently, the caller stores it as a dead letter.
//!
//! How many wait is counted, though only a window of them is in memory: what this ownership stored when it stored it,
//! what earlier ones left when it is loaded.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use estafet_model::{Seq, Slot, WaId, settings::Settings};
use estafet_store::{EventRef, StoredEvent};

use super::slot_queue::{Limits, Positioned, SlotQueues};

impl Positioned for StoredEvent {
    fn slot(&self) -> Slot {
        self.slot
    }
    fn seq(&self) -> Seq {
        self.seq
    }
}

/// Events in memory that are not in a lane yet: bodies of about 400 bytes, 6 MiB for a shard.
const WINDOW: Limits = Limits { total: 16_384, per_slot: 1024 };
/// Events waiting in the lanes of one slot. Beyond it the slot's later events wait for these.
const LANED_PER_SLOT: usize = 256;
/// Events waiting in all lanes: about 20 MiB for a shard. Beyond it a slot still gets its share below. Receivers share
/// this and the window.
const LANED: usize = 32_768;
/// Events every slot may have in its lanes, however many wait elsewhere: failing contacts starve nobody.
const LANED_ALWAYS: usize = 16;

/// Whose lane an event waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum LaneKey {
    Global,
    Number,
    Contact(WaId),
}

/// One callback to post now.
#[derive(Clone, Debug)]
pub struct Post {
    /// Which event it is.
    pub event: EventRef,
    /// The position it had at first: receivers know it by this, also when it is posted anew.
    pub origin: Seq,
    /// Kind, for metrics.
    pub kind: String,
    /// The body.
    pub body: Bytes,
    /// How often it was tried before.
    pub attempt: u32,
}

/// How callbacks are delivered, from the application settings.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Back-off step.
    pub step: Duration,
    /// Longest back-off.
    pub longest: Duration,
    /// Posts open at a time.
    pub concurrency: usize,
    /// Age at which an event is given up.
    pub max_age: Duration,
    /// One lane for everything.
    pub strict_global_order: bool,
    /// How many receivers share the memory for events.
    pub sharers: usize,
}

impl Rules {
    /// The rules that `settings` give; `max_age` and `strict_global_order` are the configuration's, for what they leave open.
    pub fn new(settings: &Settings, max_age: Duration, strict_global_order: bool) -> Self {
        Self {
            step: Duration::from_millis(settings.callback_backoff_delay_ms),
            longest: Duration::from_millis(settings.max_callback_backoff_delay_ms),
            concurrency: settings.webhooks.max_concurrent_requests as usize,
            max_age: settings.webhooks.max_age.map_or(max_age, Duration::from_secs),
            strict_global_order: settings.webhooks.strict_global_order.unwrap_or(strict_global_order),
            sharers: settings.webhooks.all_receivers().count(),
        }
    }

    /// Events in memory that are not in a lane yet.
    fn window(&self) -> Limits {
        Limits { total: WINDOW.total / self.sharers, ..WINDOW }
    }

    fn delay(&self, failures: u32) -> Duration {
        self.step.saturating_mul(failures).min(self.longest)
    }
}

#[derive(Debug, Default)]
struct Lane {
    events: VecDeque<StoredEvent>,
    failures: u32,
    state: LaneState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LaneState {
    #[default]
    Idle,
    Ready,
    Posting,
    Waiting,
}

/// The lanes of one shard to one receiver.
#[derive(Debug)]
pub struct Lanes {
    rules: Rules,
    queues: SlotQueues<StoredEvent>,
    lanes: HashMap<LaneKey, Lane>,
    laned: HashMap<Slot, usize>,
    laned_total: usize,
    ready: VecDeque<LaneKey>,
    waiting: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    posting: HashMap<EventRef, LaneKey>,
    /// Up to here earlier ownerships stored.
    since: Seq,
    /// Events that wait. Below zero when a load saw one, and it was taken, before it was pushed.
    counted: i64,
    /// How many of the events in memory happened in which second.
    ages: BTreeMap<i64, u32>,
}

impl Lanes {
    /// The lanes of a shard just acquired: everything must be loaded first. What earlier owners stored is not after
    /// `since`.
    pub fn recovering(slots: impl Iterator<Item = Slot>, rules: Rules, since: Seq) -> Self {
        Self {
            rules,
            queues: SlotQueues::recovering(rules.window(), slots),
            lanes: HashMap::new(),
            laned: HashMap::new(),
            laned_total: 0,
            ready: VecDeque::new(),
            waiting: BinaryHeap::new(),
            posting: HashMap::new(),
            since,
            counted: 0,
            ages: BTreeMap::new(),
        }
    }

    /// Takes changed rules; they hold from the next decision on.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
        self.queues.set_total(rules.window().total);
    }

    /// Takes an event that was just stored.
    pub fn push(&mut self, event: StoredEvent) {
        let (slot, at_ms) = (event.slot, event.created_at_ms);
        self.counted += 1;
        if self.queues.push(event) {
            *self.ages.entry(at_ms.div_euclid(1000)).or_default() += 1;
            self.fill(slot);
        }
    }

    /// Notes an event that was stored and not pushed; it will be loaded.
    pub fn stored_unseen(&mut self, slot: Slot) {
        self.counted += 1;
        self.queues.spill(slot);
    }

    /// The posts to open now.
    pub fn due(&mut self, now: Instant) -> Vec<Post> {
        while let Some(Reverse((at, key))) = self.waiting.peek().copied()
            && at <= now
        {
            self.waiting.pop();
            self.lanes.get_mut(&key).expect("waiting lanes exist").state = LaneState::Ready;
            self.ready.push_back(key);
        }
        let mut posts = Vec::new();
        while self.posting.len() < self.rules.concurrency
            && let Some(key) = self.ready.pop_front()
        {
            let lane = self.lanes.get_mut(&key).expect("ready lanes exist");
            let event = lane.events.front().expect("ready lanes have an event");
            let at = event.at();
            posts.push(Post {
                event: at,
                origin: event.origin.unwrap_or(event.seq),
                kind: event.kind.clone(),
                body: event.body.clone(),
                attempt: lane.failures,
            });
            lane.state = LaneState::Posting;
            self.posting.insert(at, key);
        }
        posts
    }

    /// When [`Self::due`] should be called next, if nothing else happens.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((at, _))| *at)
    }

    /// The receiver took the event.
    pub fn delivered(&mut self, event: EventRef) {
        if let Some(key) = self.posting.remove(&event) {
            self.finish_front(key);
        }
    }

    /// The receiver did not take the event. Gives it back when it is too old to be tried again.
    pub fn failed(&mut self, event: EventRef, now: Instant, wall_ms: i64) -> Option<StoredEvent> {
        let key = self.posting.remove(&event)?;
        let lane = self.lanes.get_mut(&key).expect("posting lanes exist");
        let front = lane.events.front().expect("posting lanes have an event");
        let age = Duration::from_millis(wall_ms.saturating_sub(front.created_at_ms).max(0) as u64);
        if age >= self.rules.max_age {
            let given_up = front.clone();
            self.finish_front(key);
            return Some(given_up);
        }
        lane.failures = lane.failures.saturating_add(1);
        lane.state = LaneState::Waiting;
        self.waiting.push(Reverse((now + self.rules.delay(lane.failures), key)));
        None
    }

    /// Slots to load, with the positions to load after.
    pub fn take_loads(&mut self, most: usize, rows: usize) -> Vec<(Slot, Seq)> {
        self.queues.take_loads(most, rows)
    }

    /// The answer of a load.
    pub fn loaded(&mut self, asked: &[(Slot, Seq)], rows: Vec<StoredEvent>, limit: usize) {
        for row in &rows {
            self.counted += i64::from(row.seq <= self.since);
            *self.ages.entry(row.created_at_ms.div_euclid(1000)).or_default() += 1;
        }
        self.queues.loaded(asked, rows, limit);
        asked.iter().for_each(|(slot, _)| self.fill(*slot));
    }

    /// Events in memory.
    pub fn len(&self) -> usize {
        self.queues.len() + self.laned_total
    }

    /// Whether memory holds no event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events that wait. Of what earlier owners left only what was loaded counts.
    pub fn waiting(&self) -> u64 {
        if self.is_empty() && self.queues.is_exhausted() {
            return 0;
        }
        u64::try_from(self.counted).unwrap_or(0).max(self.len() as u64)
    }

    /// When the oldest event in memory happened, to the second; milliseconds since 1970.
    pub fn oldest_ms(&self) -> Option<i64> {
        self.ages.keys().next().map(|second| second * 1000)
    }

    /// Posts that are open.
    pub fn posting(&self) -> usize {
        self.posting.len()
    }

    /// Moves events of a slot from its window into lanes.
    fn fill(&mut self, slot: Slot) {
        let laned = self.laned.entry(slot).or_default();
        while (*laned < LANED_ALWAYS || *laned < LANED_PER_SLOT && self.laned_total < LANED / self.rules.sharers)
            && let Some(event) = self.queues.pop(slot)
        {
            *laned += 1;
            self.laned_total += 1;
            let key = if self.rules.strict_global_order {
                LaneKey::Global
            } else {
                event.contact.map_or(LaneKey::Number, LaneKey::Contact)
            };
            let lane = self.lanes.entry(key).or_default();
            lane.events.push_back(event);
            if lane.state == LaneState::Idle {
                lane.state = LaneState::Ready;
                self.ready.push_back(key);
            }
        }
    }

    fn finish_front(&mut self, key: LaneKey) {
        let lane = self.lanes.get_mut(&key).expect("the lane was posting");
        let event = lane.events.pop_front().expect("the lane was posting its front");
        lane.failures = 0;
        if lane.events.is_empty() {
            self.lanes.remove(&key);
        } else {
            lane.state = LaneState::Ready;
            self.ready.push_back(key);
        }
        self.laned_total -= 1;
        self.forget(&event);
        match self.laned.get_mut(&event.slot) {
            Some(1) | None => drop(self.laned.remove(&event.slot)),
            Some(count) => *count -= 1,
        }
        self.fill(event.slot);
    }

    /// Counts an event that is done.
    fn forget(&mut self, event: &StoredEvent) {
        self.counted -= 1;
        let second = event.created_at_ms.div_euclid(1000);
        match self.ages.get_mut(&second) {
            Some(1) | None => drop(self.ages.remove(&second)),
            Some(count) => *count -= 1,
        }
        if self.is_empty() && self.queues.is_exhausted() {
            // What was never stored, and found no room, is gone.
            self.counted = self.counted.min(0);
            self.ages.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::EndpointId;

    use super::*;

    const CONTACTS: [u64; 3] = [15_550_001_001, 15_550_001_002, 15_550_001_003];

    fn event(contact: u64, seq: i64) -> StoredEvent {
        let contact = WaId::from_u64(contact).unwrap();
        StoredEvent {
            slot: Slot::of(contact),
            endpoint: EndpointId::MAIN,
            seq: Seq::new(seq),
            origin: None,
            contact: Some(contact),
            kind: "status_change".to_owned(),
            created_at_ms: 0,
            body: Bytes::from(seq.to_string()),
        }
    }

    fn rules() -> Rules {
        Rules::new(&Settings::default(), Duration::from_secs(3600), false)
    }

    fn lanes(rules: Rules) -> Lanes {
        Lanes::recovering(std::iter::empty(), rules, Seq::ZERO)
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn bodies(posts: &[Post]) -> Vec<&str> {
        posts.iter().map(|p| std::str::from_utf8(&p.body).unwrap()).collect()
    }

    #[test]
    fn a_failing_contact_keeps_its_order_and_holds_nobody_else() {
        let (mut lanes, t0) = (lanes(rules()), start());
        for seq in 1..=2 {
            lanes.push(event(CONTACTS[0], seq));
            lanes.push(event(CONTACTS[1], seq + 10));
        }
        let posts = lanes.due(t0);
        assert_eq!(bodies(&posts), ["1", "11"]);
        assert!(lanes.failed(posts[0].event, t0, 0).is_none());
        lanes.delivered(posts[1].event);
        let posts = lanes.due(t0);
        assert_eq!(bodies(&posts), ["12"], "2 waits behind 1");
        lanes.delivered(posts[0].event);
        assert!(lanes.due(t0 + Duration::from_millis(2999)).is_empty());
        let posts = lanes.due(t0 + Duration::from_millis(3000));
        assert_eq!(bodies(&posts), ["1"]);
        lanes.delivered(posts[0].event);
        assert_eq!(bodies(&lanes.due(t0)), ["2"]);
    }

    #[test]
    fn back_off_grows_linearly_up_to_the_cap_and_starts_anew_after_success() {
        let settings = Settings { max_callback_backoff_delay_ms: 7000, ..Settings::default() };
        let mut lanes = lanes(Rules::new(&settings, Duration::from_secs(3600), false));
        let mut now = start();
        lanes.push(event(CONTACTS[0], 1));
        lanes.push(event(CONTACTS[0], 2));
        for expected in [3000, 6000, 7000, 7000] {
            let post = lanes.due(now).remove(0);
            lanes.failed(post.event, now, 0);
            assert_eq!(lanes.next_due(), Some(now + Duration::from_millis(expected)));
            now += Duration::from_millis(expected);
        }
        let post = lanes.due(now).remove(0);
        lanes.delivered(post.event);
        let post = lanes.due(now).remove(0);
        lanes.failed(post.event, now, 0);
        assert_eq!(lanes.next_due(), Some(now + Duration::from_millis(3000)));
    }

    #[test]
    fn posts_in_flight_are_capped_and_strict_order_is_one_lane() {
        let t0 = start();
        let mut many = lanes(rules());
        (0..50).for_each(|n| many.push(event(15_550_001_000 + n, n as i64 + 1)));
        assert_eq!(many.due(t0).len(), 6);
        assert!(many.due(t0).is_empty());
        let mut strict = lanes(Rules { strict_global_order: true, ..rules() });
        (0..3).for_each(|n| strict.push(event(CONTACTS[n], n as i64 + 1)));
        let posts = strict.due(t0);
        assert_eq!(bodies(&posts), ["1"]);
        strict.failed(posts[0].event, t0, 0);
        assert!(strict.due(t0).is_empty());
    }

    #[test]
    fn r92_what_waits_is_counted_in_memory_and_beyond_it_and_the_oldest_is_known() {
        let (mut lanes, t0) = (lanes(rules()), start());
        assert_eq!((lanes.waiting(), lanes.oldest_ms()), (0, None));
        let most = WINDOW.per_slot as i64 + LANED_PER_SLOT as i64;
        for seq in 1..=most + 100 {
            lanes.push(StoredEvent { created_at_ms: seq * 1000 + 7, ..event(CONTACTS[0], seq) });
        }
        assert_eq!((lanes.waiting(), lanes.len() as i64), (most as u64 + 100, most), "some are only stored");
        assert_eq!(lanes.oldest_ms(), Some(1000));
        let post = lanes.due(t0).remove(0);
        lanes.delivered(post.event);
        assert_eq!((lanes.waiting(), lanes.oldest_ms()), (most as u64 + 99, Some(2000)));
        let post = lanes.due(t0).remove(0);
        assert!(lanes.failed(post.event, t0, 3_600_000_000).is_some());
        assert_eq!((lanes.waiting(), lanes.oldest_ms()), (most as u64 + 98, Some(3000)), "a dead letter waits no more");
    }

    #[test]
    fn r92_what_an_earlier_owner_left_counts_when_it_is_loaded_and_nothing_counts_twice() {
        let (slot, t0, since) = (event(CONTACTS[0], 1).slot, start(), Seq::new(100));
        let mut lanes = Lanes::recovering(std::iter::once(slot), rules(), since);
        let asked = lanes.take_loads(9, 9);
        assert_eq!(lanes.waiting(), 0);
        // The load sees one that was just stored, before it is pushed.
        lanes.loaded(&asked, vec![event(CONTACTS[0], 99), event(CONTACTS[0], 101)], 9);
        assert_eq!(lanes.waiting(), 2, "all that is in memory waits");
        lanes.push(event(CONTACTS[0], 101));
        assert_eq!(lanes.waiting(), 2);
        for _ in 0..2 {
            let post = lanes.due(t0).remove(0);
            lanes.delivered(post.event);
        }
        assert_eq!((lanes.waiting(), lanes.oldest_ms()), (0, None));
    }

    #[test]
    fn settings_win_over_the_configuration() {
        let mut settings = Settings::default();
        let rules = Rules::new(&settings, Duration::from_secs(3600), true);
        assert_eq!((rules.max_age, rules.strict_global_order), (Duration::from_secs(3600), true));
        settings.webhooks.max_age = Some(60);
        settings.webhooks.strict_global_order = Some(false);
        let rules = Rules::new(&settings, Duration::from_secs(3600), true);
        assert_eq!((rules.max_age, rules.strict_global_order), (Duration::from_secs(60), false));
    }

    #[test]
    fn an_old_event_is_given_up_and_the_next_one_tried() {
        let (mut lanes, t0) = (lanes(rules()), start());
        lanes.push(event(CONTACTS[0], 1));
        lanes.push(event(CONTACTS[0], 2));
        let post = lanes.due(t0).remove(0);
        assert_eq!(lanes.failed(post.event, t0, 3_600_000).unwrap().seq, Seq::new(1));
        assert_eq!(bodies(&lanes.due(t0)), ["2"]);
    }
}
