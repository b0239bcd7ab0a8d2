//! Callbacks as an operator sees them, and the way of dead letters back into the queue.

use bytes::Bytes;
use estafet_model::{Seq, Slot};
use estafet_store::{Batch, DeadLetter, KeptCallback, NewEvent, Page, Queue, Requeued, SharedStore};

use crate::given::{ANY_BYTES, NOW, claim, event, event_at, number, other_number, owner, places, recipient, seq, slot};

fn all() -> Page {
    Page { slots: slot(0)..=slot(1023), after: (slot(0), Seq::ZERO), created_ms: 0..i64::MAX, contact: None, limit: 100 }
}

async fn listed(store: &SharedStore, queue: Queue, page: &Page) -> Vec<KeptCallback> {
    store.callbacks(number(), queue, page).await.unwrap()
}

fn at(rows: &[KeptCallback]) -> Vec<(u16, i64)> {
    let at: Vec<(Slot, Seq)> = rows.iter().map(|row| (row.event.slot, row.event.seq)).collect();
    places(at.iter().map(|(slot, seq)| (slot, seq)))
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
    assert_eq!(at(&listed(&store, Queue::Waiting, &Page { after: (slot(7), seq(1)), ..all() }).await), [(7, 2), (7, 4)]);
    assert_eq!(at(&listed(&store, Queue::Waiting, &Page { slots: slot(5)..=slot(6), ..all() }).await), [(5, 9)]);
    let moment = Page { created_ms: NOW + 2..NOW + 9, ..all() };
    assert_eq!(at(&listed(&store, Queue::Waiting, &moment).await), [(7, 2), (7, 4)], "from on, until not included");
    let of_contact = Page { contact: Some(recipient(2)), ..all() };
    assert_eq!(at(&listed(&store, Queue::Waiting, &of_contact).await), [(7, 2)]);
    let last = listed(&store, Queue::Waiting, &all()).await.pop().unwrap();
    assert_eq!((last.event.contact, last.event.kind.as_str(), &last.event.body[..]), (None, "error", ANY_BYTES));
    assert_eq!(last.given_up, None);
    assert_eq!(at(&listed(&store, Queue::Dead, &all()).await), []);

    store.commit(&fence, &Batch { dead_letters: vec![dead(7, 2)], ..Batch::default() }).await.unwrap();
    let letters = listed(&store, Queue::Dead, &of_contact).await;
    assert_eq!(at(&letters), [(7, 2)]);
    assert_eq!(letters[0].given_up, Some(("receiver said 400".to_owned(), NOW + 9)));
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
        assert_eq!(waiting[1].event.body, "event 6 1");
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
