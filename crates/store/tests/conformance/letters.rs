//! Callbacks as an operator sees them, and the way of dead letters back into the queue.

use bytes::Bytes;
use estafet_model::{EndpointId, Seq};
use estafet_store::{Batch, DeadLetter, Delivered, End, EventRef, KeptCallback, NewEvent, Page, Queue, Requeued, SharedStore};

use crate::given::{ANY_BYTES, NOW, claim, event, event_at, number, other_number, owner, places, recipient, seq, slot};

fn all() -> Page {
    let after = EventRef { slot: slot(0), endpoint: EndpointId::MAIN, seq: Seq::ZERO };
    Page { slots: slot(0)..=slot(1023), after, created_ms: 0..i64::MAX, contact: None, endpoint: None, limit: 100 }
}

async fn listed(store: &SharedStore, queue: Queue, page: &Page) -> Vec<KeptCallback> {
    store.callbacks(number(), queue, page).await.unwrap()
}

fn at(rows: &[KeptCallback]) -> Vec<(u16, i64)> {
    places(rows.iter().map(|row| (&row.event.slot, &row.event.seq)))
}

fn dead(slot: u32, seq: i64) -> DeadLetter {
    DeadLetter { event: event_at(slot, seq), reason: "receiver said 400".to_owned(), at_ms: NOW + 9 }
}

pub(crate) async fn callbacks_are_listed_by_page_time_and_contact(store: SharedStore) {
    let fence = owner(&*store).await;
    let theirs = claim(&*store, other_number(), None).await.unwrap();
    store.commit(&theirs, &Batch { events: vec![event((6, 1))], ..Batch::default() }).await.unwrap();
    let of_the_number = NewEvent { contact: None, kind: "error", body: Bytes::from_static(ANY_BYTES), ..event((7, 4)) };
    let events = vec![event((7, 2)), event((5, 9)), event((7, 1)), of_the_number];
    store.commit(&fence, &Batch { events, ..Batch::default() }).await.unwrap();
    assert_eq!(at(&listed(&store, Queue::Waiting, &all()).await), [(5, 9), (7, 1), (7, 2), (7, 4)]);
    assert_eq!(at(&listed(&store, Queue::Waiting, &Page { limit: 2, ..all() }).await), [(5, 9), (7, 1)]);
    assert_eq!(at(&listed(&store, Queue::Waiting, &Page { after: event_at(7, 1), ..all() }).await), [(7, 2), (7, 4)]);
    assert_eq!(at(&listed(&store, Queue::Waiting, &Page { slots: slot(5)..=slot(6), ..all() }).await), [(5, 9)]);
    let moment = Page { created_ms: NOW + 2..NOW + 9, ..all() };
    assert_eq!(at(&listed(&store, Queue::Waiting, &moment).await), [(7, 2), (7, 4)], "from on, until not included");
    let of_contact = Page { contact: Some(recipient(2)), ..all() };
    assert_eq!(at(&listed(&store, Queue::Waiting, &of_contact).await), [(7, 2)]);
    let last = listed(&store, Queue::Waiting, &all()).await.pop().unwrap();
    assert_eq!((last.event.contact, last.event.kind.as_str(), &last.event.body[..]), (None, "error", ANY_BYTES));
    assert_eq!(last.end, End::Open);
    assert_eq!(at(&listed(&store, Queue::Dead, &all()).await), []);

    store.commit(&fence, &Batch { dead_letters: vec![dead(7, 2)], ..Batch::default() }).await.unwrap();
    let letters = listed(&store, Queue::Dead, &of_contact).await;
    assert_eq!(at(&letters), [(7, 2)]);
    assert_eq!(letters[0].end, End::GivenUp { reason: "receiver said 400".to_owned(), at_ms: NOW + 9 });
    assert_eq!(at(&listed(&store, Queue::Waiting, &of_contact).await), []);
}

pub(crate) async fn a_dead_letter_is_requeued_once_as_a_new_event(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &Batch { events: vec![event((6, 1)), event((6, 2))], ..Batch::default() }).await.unwrap();
    store.commit(&fence, &Batch { dead_letters: vec![dead(6, 1)], ..Batch::default() }).await.unwrap();
    let requeue = |place, seq_| Requeued { letter: event_at(6, place), seq: seq(seq_), at_ms: NOW + 500 };
    let batch = Batch { requeued: vec![requeue(1, 7), requeue(5, 8)], ..Batch::default() };
    for _ in 0..2 {
        store.commit(&fence, &batch).await.unwrap();
        let waiting = listed(&store, Queue::Waiting, &all()).await;
        assert_eq!(at(&waiting), [(6, 2), (6, 7)], "what is no dead letter is not made an event");
        assert_eq!((waiting[1].event.contact, waiting[1].event.created_at_ms), (Some(recipient(1)), NOW + 500));
        assert_eq!((waiting[1].event.origin, waiting[1].event.body.as_ref()), (Some(seq(1)), &b"event 6 1"[..]));
        assert_eq!(at(&listed(&store, Queue::Dead, &all()).await), []);
    }
    let done = Batch { events_done: vec![event_at(6, 7)], ..Batch::default() };
    store.commit(&fence, &done).await.unwrap();
    store.commit(&fence, &batch).await.unwrap();
    assert_eq!(at(&listed(&store, Queue::Waiting, &all()).await), [(6, 2)], "a repeated batch brings nothing back");
}

pub(crate) async fn dropped_dead_letters_are_gone_and_others_stay(store: SharedStore) {
    let fence = owner(&*store).await;
    let events = vec![event((6, 1)), event((6, 2)), event((6, 3))];
    store.commit(&fence, &Batch { events, ..Batch::default() }).await.unwrap();
    store.commit(&fence, &Batch { dead_letters: vec![dead(6, 1), dead(6, 2)], ..Batch::default() }).await.unwrap();
    let batch = Batch { letters_dropped: vec![event_at(6, 1), event_at(6, 3), event_at(9, 9)], ..Batch::default() };
    store.commit(&fence, &batch).await.unwrap();
    assert_eq!(at(&listed(&store, Queue::Dead, &all()).await), [(6, 2)]);
    assert_eq!(at(&listed(&store, Queue::Waiting, &all()).await), [(6, 3)], "an event that waits is no dead letter");
}

fn taken(place: EventRef, at_ms: i64) -> Delivered {
    Delivered { event: place, at_ms }
}

pub(crate) async fn a_delivered_callback_is_kept_and_replayed_as_a_new_event(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &Batch { events: vec![event((6, 1)), event((6, 2))], ..Batch::default() }).await.unwrap();
    let kept = Batch { events_kept: vec![taken(event_at(6, 1), NOW + 50), taken(event_at(9, 9), NOW)], ..Batch::default() };
    for _ in 0..2 {
        store.commit(&fence, &kept).await.unwrap();
        assert_eq!(at(&listed(&store, Queue::Waiting, &all()).await), [(6, 2)]);
        let delivered = listed(&store, Queue::Delivered, &all()).await;
        assert_eq!(at(&delivered), [(6, 1)], "what did not wait was not delivered");
        assert_eq!(delivered[0].end, End::Taken { at_ms: NOW + 50 });
        assert_eq!((delivered[0].event.contact, delivered[0].event.created_at_ms), (Some(recipient(1)), NOW + 1));
        assert_eq!(delivered[0].event.body, "event 6 1");
    }
    let again = |place, seq_| Requeued { letter: event_at(6, place), seq: seq(seq_), at_ms: NOW + 500 };
    let replay = Batch { replayed: vec![again(1, 7), again(5, 8)], ..Batch::default() };
    for _ in 0..2 {
        store.commit(&fence, &replay).await.unwrap();
        let waiting = listed(&store, Queue::Waiting, &all()).await;
        assert_eq!(at(&waiting), [(6, 2), (6, 7)], "what was not delivered is not replayed");
        assert_eq!((waiting[1].event.origin, waiting[1].event.created_at_ms), (Some(seq(1)), NOW + 500));
        assert_eq!((waiting[1].event.contact, waiting[1].event.body.as_ref()), (Some(recipient(1)), &b"event 6 1"[..]));
        assert_eq!(at(&listed(&store, Queue::Delivered, &all()).await), [(6, 1)], "and it stays");
    }
    let loaded = store.events(number(), EndpointId::MAIN, &[(slot(6), seq(2))], 9).await.unwrap();
    assert_eq!((loaded[0].seq, loaded[0].origin), (seq(7), Some(seq(1))));
    let kept = Batch { events_kept: vec![taken(event_at(6, 7), NOW + 900)], ..Batch::default() };
    store.commit(&fence, &kept).await.unwrap();
    assert_eq!(at(&listed(&store, Queue::Waiting, &all()).await), [(6, 2)]);
    let delivered = listed(&store, Queue::Delivered, &all()).await;
    assert_eq!(at(&delivered), [(6, 1)], "one callback, however often it was posted");
    assert_eq!(delivered[0].end, End::Taken { at_ms: NOW + 50 });
}

pub(crate) async fn a_callback_given_up_again_keeps_what_it_was_at_first(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &Batch { events: vec![event((6, 1))], ..Batch::default() }).await.unwrap();
    for (now, next) in [(1, 5), (5, 9)] {
        store.commit(&fence, &Batch { dead_letters: vec![dead(6, now)], ..Batch::default() }).await.unwrap();
        let requeued = vec![Requeued { letter: event_at(6, now), seq: seq(next), at_ms: NOW }];
        store.commit(&fence, &Batch { requeued, ..Batch::default() }).await.unwrap();
    }
    let waiting = listed(&store, Queue::Waiting, &all()).await;
    assert_eq!((at(&waiting), waiting[0].event.origin), (vec![(6, 9)], Some(seq(1))));
}

pub(crate) async fn delivered_callbacks_are_forgotten_by_age_the_oldest_first(store: SharedStore) {
    let fence = owner(&*store).await;
    let theirs = claim(&*store, other_number(), None).await.unwrap();
    for (fence, count) in [(&fence, 5), (&theirs, 1)] {
        let events = (1..=count).map(|i| event((6, i))).collect();
        store.commit(fence, &Batch { events, ..Batch::default() }).await.unwrap();
        let events_kept = (1..=count).map(|i| taken(event_at(6, i), NOW + 10 - i)).collect();
        store.commit(fence, &Batch { events_kept, ..Batch::default() }).await.unwrap();
    }
    assert_eq!(store.forget_delivered(number(), NOW + 5, 10).await.unwrap(), 0, "of this age they stay");
    assert_eq!(store.forget_delivered(number(), NOW + 8, 2).await.unwrap(), 2);
    assert_eq!(at(&listed(&store, Queue::Delivered, &all()).await), [(6, 1), (6, 2), (6, 3)]);
    assert_eq!(store.forget_delivered(number(), i64::MAX, 10).await.unwrap(), 3);
    let of_others = store.callbacks(other_number(), Queue::Delivered, &all()).await.unwrap();
    assert_eq!(at(&of_others), [(6, 1)]);
}

pub(crate) async fn each_receiver_has_a_queue_of_its_own(store: SharedStore) {
    let fence = owner(&*store).await;
    let second = EndpointId::new(2);
    let for_second = |at| NewEvent { endpoint: second, ..event(at) };
    let of_second = |seq_| EventRef { slot: slot(6), endpoint: second, seq: seq(seq_) };
    let events = vec![event((6, 1)), for_second((6, 1)), event((6, 2)), for_second((6, 3))];
    store.commit(&fence, &Batch { events, ..Batch::default() }).await.unwrap();
    let loaded = async |endpoint| {
        let rows = store.events(number(), endpoint, &[(slot(6), seq(0))], 9).await.unwrap();
        rows.iter().map(|row| (row.endpoint, row.seq.get())).collect::<Vec<_>>()
    };
    assert_eq!(loaded(EndpointId::MAIN).await, [(EndpointId::MAIN, 1), (EndpointId::MAIN, 2)]);
    assert_eq!(loaded(second).await, [(second, 1), (second, 3)]);
    let only = Page { endpoint: Some(second), ..all() };
    assert_eq!(at(&listed(&store, Queue::Waiting, &only).await), [(6, 1), (6, 3)]);
    let page = Page { after: event_at(6, 1), limit: 2, ..all() };
    assert_eq!(at(&listed(&store, Queue::Waiting, &page).await), [(6, 2), (6, 1)], "by slot, receiver and position");

    let batch = Batch {
        events_done: vec![event_at(6, 1)],
        events_kept: vec![taken(of_second(1), NOW)],
        dead_letters: vec![DeadLetter { event: of_second(3), ..dead(6, 3) }],
        ..Batch::default()
    };
    store.commit(&fence, &batch).await.unwrap();
    assert_eq!((loaded(EndpointId::MAIN).await, loaded(second).await), (vec![(EndpointId::MAIN, 2)], vec![]));
    assert_eq!(listed(&store, Queue::Dead, &all()).await[0].event.at(), of_second(3));
    assert_eq!(listed(&store, Queue::Delivered, &all()).await[0].event.at(), of_second(1));
    let again = |letter, seq_| Requeued { letter, seq: seq(seq_), at_ms: NOW };
    let batch = Batch { requeued: vec![again(of_second(3), 7)], replayed: vec![again(of_second(1), 8)], ..Batch::default() };
    store.commit(&fence, &batch).await.unwrap();
    assert_eq!((loaded(EndpointId::MAIN).await.len(), loaded(second).await), (1, vec![(second, 7), (second, 8)]));
}

pub(crate) async fn what_is_stored_for_removed_receivers_is_dropped_and_nothing_else(store: SharedStore) {
    let fence = owner(&*store).await;
    let theirs = claim(&*store, other_number(), None).await.unwrap();
    let to = |endpoint, at| NewEvent { endpoint: EndpointId::new(endpoint), ..event(at) };
    let place = |endpoint, seq_| EventRef { slot: slot(6), endpoint: EndpointId::new(endpoint), seq: seq(seq_) };
    for fence in [&fence, &theirs] {
        let mut events: Vec<NewEvent> = (0..=4).flat_map(|e| (1..=4).map(move |at| to(e, (6, at)))).collect();
        events.push(to(1, (200, 1)));
        store.commit(fence, &Batch { events, ..Batch::default() }).await.unwrap();
        let dead_letters = [1, 2].map(|e| DeadLetter { event: place(e, 3), ..dead(6, 3) }).to_vec();
        let events_kept = [1, 2].map(|e| taken(place(e, 4), NOW)).to_vec();
        store.commit(fence, &Batch { dead_letters, events_kept, ..Batch::default() }).await.unwrap();
    }
    let (kept, last) = ([EndpointId::MAIN, EndpointId::new(2)], EndpointId::new(3));
    let drop_some = async |limit| store.drop_receivers(number(), slot(0)..=slot(63), &kept, last, limit).await.unwrap();
    assert_eq!(drop_some(1).await, 3, "one of each table");
    while drop_some(1).await > 0 {}
    let receivers = async |queue| {
        let mut receivers: Vec<(u16, u16)> =
            listed(&store, queue, &all()).await.iter().map(|row| (row.event.slot.get(), row.event.endpoint.get())).collect();
        receivers.dedup();
        receivers
    };
    assert_eq!(receivers(Queue::Waiting).await, [(6, 0), (6, 2), (6, 4), (200, 1)], "4 is newer than the settings say");
    assert_eq!((receivers(Queue::Dead).await, receivers(Queue::Delivered).await), (vec![(6, 2)], vec![(6, 2)]));
    assert_eq!(store.callbacks(other_number(), Queue::Waiting, &all()).await.unwrap().len(), 17);
}
