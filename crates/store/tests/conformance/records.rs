//! What the owner of a shard writes and reads back.

use bytes::Bytes;
use estafet_model::{EndpointId, StatusSet};
use estafet_store::{
    Batch, Committed, ContactRow, Counts, DeadLetter, Error, EventRef, KEY_LIFE_MS, NewEvent, NewMessage, SessionRow,
    SharedStore, StatusRow, SubmissionKey, Times,
};

use crate::given::*;

/// A caller's key of the message `id` in this slot.
fn key(at: u32, hash: u8, id: u64, used_at_ms: i64) -> SubmissionKey {
    SubmissionKey { slot: slot(at), hash: [hash; 16], fingerprint: [0xff; 16], id_key: message((at, 1), id).id_key, used_at_ms }
}

fn status(at: (u32, i64), bits: u8, error_code: Option<u16>) -> StatusRow {
    StatusRow {
        slot: slot(at.0),
        seq: seq(at.1),
        statuses: StatusSet::from_bits(bits),
        error_code,
        changed_at_ms: NOW + i64::from(bits),
        times: Times::default(),
    }
}

pub(crate) async fn a_message_comes_back_as_it_was_written(store: SharedStore) {
    let fence = owner(&*store).await;
    let bodies = [Bytes::new(), Bytes::from_static(ANY_BYTES), Bytes::from(vec![0xa5; 300_000])];
    let written: Vec<NewMessage> =
        (1..).zip(bodies).map(|(i, body)| NewMessage { body, ..message((1023, (9 << 32) + i), (1 << 40) + i as u64) }).collect();
    store.commit(&fence, &messages(written.clone())).await.unwrap();
    let at: Vec<_> = written.iter().map(|m| (m.slot, m.seq)).chain([(slot(1), seq(1))]).collect();
    let mut read = store.messages(number(), &at).await.unwrap();
    read.sort_by_key(|m| m.seq);
    assert_eq!(read.len(), written.len());
    for (read, written) in read.iter().zip(&written) {
        assert_eq!((read.slot, read.seq, read.id_key), (written.slot, written.seq, written.id_key));
        assert_eq!((read.recipient, read.accepted_at_ms), (written.recipient, written.accepted_at_ms));
        assert!(read.body == written.body, "body of {:?}", written.seq);
    }
}

pub(crate) async fn messages_stored_before_are_reported(store: SharedStore) {
    let fence = owner(&*store).await;
    let first = store.commit(&fence, &messages([message((1, 1), 1), message((2, 1), 2)])).await.unwrap();
    assert_eq!(first, Committed::default());
    let again = messages([message((3, 1), 3), message((2, 9), 2), message((1, 9), 1), message((4, 1), 4)]);
    let second = store.commit(&fence, &again).await.unwrap();
    assert_eq!(second.duplicate_messages, [1, 2]);
    let at: Vec<_> = (1..=4).map(|s| (slot(s), seq(0))).collect();
    let outbox = store.outbox(number(), &at, 10).await.unwrap();
    assert_eq!(places(outbox.iter().map(|m| (&m.slot, &m.seq))), [(1, 1), (2, 1), (3, 1), (4, 1)]);
}

pub(crate) async fn a_position_taken_by_another_message_is_an_error(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &messages([message((1, 1), 1)])).await.unwrap();
    let batch = messages([message((2, 1), 2), message((1, 1), 3)]);
    assert!(matches!(store.commit(&fence, &batch).await, Err(Error::Failed(_))));
    assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (0, 1));
}

pub(crate) async fn a_repeated_batch_is_harmless(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &Batch { events: vec![event((1, 8)), event((1, 9))], ..messages([message((3, 1), 9)]) }).await.unwrap();
    let batch = Batch {
        keys: vec![key(1, 1, 1, NOW)],
        messages: vec![message((1, 1), 1), message((1, 2), 2)],
        statuses: vec![status((1, 1), 3, None)],
        outbox_cursors: vec![(slot(1), seq(1))],
        sessions: vec![SessionRow { slot: slot(1), peer: recipient(1), state: Bytes::from_static(b"pickle") }],
        inbound: vec![inbound("in-1")],
        inbound_read: vec!["in-1".to_owned()],
        events: vec![event((1, 10))],
        events_done: vec![event_at(1, 8)],
        dead_letters: vec![DeadLetter { event: event_at(1, 9), reason: "too old".to_owned(), at_ms: NOW }],
        events_kept: vec![],
        requeued: vec![],
        replayed: vec![],
        letters_dropped: vec![],
        forgotten_messages: vec![(slot(3), seq(1))],
        forgotten_inbound: Vec::new(),
    };
    for _ in 0..3 {
        store.commit(&fence, &batch).await.unwrap();
        assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (1, 1));
        let outbox = store.outbox(number(), &[(slot(1), seq(0)), (slot(3), seq(0))], 10).await.unwrap();
        assert_eq!(places(outbox.iter().map(|m| (&m.slot, &m.seq))), [(1, 2)]);
        assert_eq!(store.statuses(number(), &[(slot(1), seq(1))]).await.unwrap(), batch.statuses);
        assert_eq!(store.sessions(number(), &[recipient(1)]).await.unwrap(), batch.sessions);
        assert!(store.inbound(number(), &batch.inbound_read).await.unwrap()[0].is_read());
    }
}

pub(crate) async fn the_outbox_is_ordered_and_leaves_out_what_is_settled(store: SharedStore) {
    let fence = owner(&*store).await;
    let list = (1..=6).rev().flat_map(|i| [message((8, i), i as u64), message((9, i), 100 + i as u64)]);
    let batch = Batch {
        statuses: vec![status((8, 2), 1, None), status((8, 3), 8, Some(470)), status((8, 4), 0, None)],
        ..messages(list)
    };
    store.commit(&fence, &batch).await.unwrap();
    let outbox = async |after: &[(u32, i64)], limit| {
        let after: Vec<_> = after.iter().map(|&(s, q)| (slot(s), seq(q))).collect();
        let rows = store.outbox(number(), &after, limit).await.unwrap();
        places(rows.iter().map(|m| (&m.slot, &m.seq)))
    };
    assert_eq!(outbox(&[(8, 0)], 10).await, [(8, 1), (8, 4), (8, 5), (8, 6)]);
    assert_eq!(outbox(&[(8, 0)], 2).await, [(8, 1), (8, 4)], "settled ones do not count");
    assert_eq!(outbox(&[(8, 1), (9, 4), (10, 0)], 2).await, [(8, 4), (8, 5), (9, 5), (9, 6)], "the limit is per slot");
    assert_eq!(outbox(&[(9, 6)], 2).await, []);
    assert_eq!(outbox(&[], 2).await, []);
    assert_eq!(store.backlog(number(), slot(0)..=slot(8)).await.unwrap(), (0, 4));
}

pub(crate) async fn the_outbox_cursor_only_moves_up(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &messages((1..=4).map(|i| message((8, i), i as u64)))).await.unwrap();
    for (cursor, left) in [(2, vec![(8, 3), (8, 4)]), (1, vec![(8, 3), (8, 4)]), (3, vec![(8, 4)])] {
        let batch = Batch { outbox_cursors: vec![(slot(8), seq(cursor))], ..Batch::default() };
        store.commit(&fence, &batch).await.unwrap();
        let outbox = store.outbox(number(), &[(slot(8), seq(0))], 10).await.unwrap();
        assert_eq!(places(outbox.iter().map(|m| (&m.slot, &m.seq))), left);
        assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (0, left.len() as u64));
    }
}

pub(crate) async fn statuses_are_replaced(store: SharedStore) {
    let fence = owner(&*store).await;
    let write = async |rows| store.commit(&fence, &Batch { statuses: rows, ..Batch::default() }).await.unwrap();
    write(vec![status((1, 1), 1, None), status((2, 1), 1, None)]).await;
    write(vec![status((1, 1), 8, Some(65_535))]).await;
    let mut read = store.statuses(number(), &[(slot(1), seq(1)), (slot(2), seq(1)), (slot(3), seq(1))]).await.unwrap();
    read.sort_by_key(|s| s.slot);
    assert_eq!(read, [status((1, 1), 8, Some(65_535)), status((2, 1), 1, None)]);
}

pub(crate) async fn times_of_a_message_stay_as_they_were_noted_first(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &messages([message((1, 1), 1), message((2, 1), 2)])).await.unwrap();
    let write = async |bits, times| {
        let row = StatusRow { times, ..status((1, 1), bits, None) };
        store.commit(&fence, &Batch { statuses: vec![row], ..Batch::default() }).await.unwrap();
    };
    write(1, Times { left: Some(NOW), sent: Some(NOW + 5), ..Times::default() }).await;
    write(3, Times { sent: Some(NOW + 9), delivered: Some(NOW + 8), ..Times::default() }).await;
    write(7, Times { seen: Some(NOW + 20), failed: Some(1), ..Times::default() }).await;
    let found = store.message_of(number(), message((1, 1), 1).id_key).await.unwrap().unwrap();
    assert_eq!((found.slot, found.seq, found.recipient), (slot(1), seq(1), recipient(1)));
    let read = store.statuses(number(), &[(found.slot, found.seq)]).await.unwrap().remove(0);
    let expected =
        Times { left: Some(NOW), sent: Some(NOW + 5), delivered: Some(NOW + 8), seen: Some(NOW + 20), failed: Some(1) };
    assert_eq!((read.statuses.bits(), read.times), (7, expected));
    assert!(store.message_of(number(), message((1, 1), 9).id_key).await.unwrap().is_none());
    assert!(store.message_of(other_number(), message((1, 1), 1).id_key).await.unwrap().is_none());
}

pub(crate) async fn the_same_row_twice_in_a_batch_takes_the_last(store: SharedStore) {
    let fence = owner(&*store).await;
    let session = |state: &'static [u8]| SessionRow { slot: slot(1), peer: recipient(1), state: Bytes::from_static(state) };
    let batch = Batch {
        keys: vec![key(1, 1, 1, NOW), key(1, 1, 3, NOW)],
        messages: vec![message((1, 1), 1), message((1, 2), 1), message((1, 3), 3)],
        statuses: vec![status((1, 1), 3, None), status((1, 3), 1, None), status((1, 1), 1, None)],
        outbox_cursors: vec![(slot(1), seq(2)), (slot(1), seq(1))],
        sessions: vec![session(b"older"), session(b"newer")],
        inbound: vec![inbound("in-1"), inbound("in-1")],
        inbound_read: vec!["in-1".to_owned(), "in-1".to_owned()],
        events: vec![event((1, 1)), event((1, 1)), event((1, 2))],
        events_done: vec![event_at(1, 1), event_at(1, 1)],
        dead_letters: vec![DeadLetter { event: event_at(1, 2), reason: "a".to_owned(), at_ms: NOW }; 2],
        events_kept: vec![],
        requeued: vec![],
        replayed: vec![],
        letters_dropped: vec![event_at(1, 2), event_at(1, 2)],
        forgotten_messages: vec![(slot(1), seq(9)), (slot(1), seq(9))],
        forgotten_inbound: Vec::new(),
    };
    assert_eq!(store.commit(&fence, &batch).await.unwrap().duplicate_messages, [1]);
    assert_eq!(store.statuses(number(), &[(slot(1), seq(1))]).await.unwrap(), [status((1, 1), 1, None)]);
    assert_eq!(store.sessions(number(), &[recipient(1)]).await.unwrap(), [session(b"newer")]);
    assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (0, 0));
}

pub(crate) async fn events_wait_until_done(store: SharedStore) {
    let fence = owner(&*store).await;
    let of_the_number = NewEvent { contact: None, kind: "error", body: Bytes::from_static(ANY_BYTES), ..event((6, 4)) };
    let batch = Batch { events: vec![event((6, 2)), event((6, 1)), event((5, 3)), of_the_number], ..Batch::default() };
    store.commit(&fence, &batch).await.unwrap();
    let events = async |after: &[(u32, i64)], limit| {
        let after: Vec<_> = after.iter().map(|&(s, q)| (slot(s), seq(q))).collect();
        store.events(number(), EndpointId::MAIN, &after, limit).await.unwrap()
    };
    let at = async |after: &[(u32, i64)], limit| places(events(after, limit).await.iter().map(|e| (&e.slot, &e.seq)));
    assert_eq!(at(&[(6, 0), (5, 0)], 2).await, [(5, 3), (6, 1), (6, 2)]);
    assert_eq!(at(&[(6, 2), (5, 3)], 10).await, [(6, 4)]);
    let last = events(&[(6, 2)], 1).await.remove(0);
    assert_eq!((last.contact, last.kind.as_str(), last.created_at_ms), (None, "error", NOW + 4));
    assert_eq!(last.body, ANY_BYTES);
    assert_eq!(events(&[(6, 0)], 1).await[0].contact, Some(recipient(1)));
    assert_eq!(store.backlog(number(), slot(6)..=slot(9)).await.unwrap(), (3, 0));

    let done = Batch { events_done: vec![event_at(6, 1), event_at(6, 4), event_at(9, 9)], ..Batch::default() };
    store.commit(&fence, &done).await.unwrap();
    assert_eq!(at(&[(6, 0), (5, 0)], 10).await, [(5, 3), (6, 2)]);
}

pub(crate) async fn dead_letters_leave_the_queue(store: SharedStore) {
    let fence = owner(&*store).await;
    store.commit(&fence, &Batch { events: vec![event((6, 1)), event((6, 2))], ..Batch::default() }).await.unwrap();
    let dead = |event: EventRef| DeadLetter { event, reason: "receiver said 400\0".to_owned(), at_ms: NOW };
    let batch = Batch { dead_letters: vec![dead(event_at(6, 1)), dead(event_at(9, 9))], ..Batch::default() };
    store.commit(&fence, &batch).await.unwrap();
    let left = store.events(number(), EndpointId::MAIN, &[(slot(6), seq(0))], 10).await.unwrap();
    assert_eq!(places(left.iter().map(|e| (&e.slot, &e.seq))), [(6, 2)]);
}

pub(crate) async fn sessions_come_back_as_written(store: SharedStore) {
    let fence = owner(&*store).await;
    let session = |i, state: &'static [u8]| SessionRow { slot: slot(3), peer: recipient(i), state: Bytes::from_static(state) };
    let write = async |rows| store.commit(&fence, &Batch { sessions: rows, ..Batch::default() }).await.unwrap();
    write(vec![session(1, ANY_BYTES), session(2, b"two")]).await;
    write(vec![session(2, b"")]).await;
    let mut read = store.sessions(number(), &[recipient(1), recipient(2), recipient(3)]).await.unwrap();
    read.sort_by_key(|s| s.peer);
    assert_eq!(read, [session(1, ANY_BYTES), session(2, b"")]);
}

pub(crate) async fn incoming_messages_are_stored_once(store: SharedStore) {
    let fence = owner(&*store).await;
    let ids = ["in-1".to_owned(), "in-2".to_owned(), "nul\0".to_owned()];
    let batch =
        Batch { inbound: ids.iter().map(|id| inbound(id)).collect(), inbound_read: vec!["in-2".to_owned()], ..Batch::default() };
    store.commit(&fence, &batch).await.unwrap();
    store.commit(&fence, &batch).await.unwrap();
    let mut read = store.inbound(number(), &[ids.to_vec(), vec!["in-9".to_owned()]].concat()).await.unwrap();
    read.sort_by(|a, b| a.id.cmp(&b.id));
    let read: Vec<_> = read.iter().map(|row| (row.id.as_str(), row.sender, row.is_read())).collect();
    let row = store.inbound(number(), &ids[..1]).await.unwrap().remove(0);
    assert_eq!((row.sent_at_ms, row.stored_at_ms), (NOW, Some(NOW + 7)));
    assert_eq!(read, [("in-1", recipient(5), false), ("in-2", recipient(5), true), ("nul\u{fffd}", recipient(5), false)]);
}

pub(crate) async fn forgotten_messages_are_gone(store: SharedStore) {
    let fence = owner(&*store).await;
    let written = Batch { statuses: vec![status((1, 1), 3, None)], ..messages([message((1, 1), 1), message((1, 2), 2)]) };
    store.commit(&fence, &written).await.unwrap();
    let forget = Batch { forgotten_messages: vec![(slot(1), seq(1))], ..Batch::default() };
    store.commit(&fence, &forget).await.unwrap();
    let at = [(slot(1), seq(1)), (slot(1), seq(2))];
    assert_eq!(store.messages(number(), &at).await.unwrap().len(), 1);
    assert!(store.statuses(number(), &at).await.unwrap().is_empty());
}

pub(crate) async fn a_large_batch_is_written_whole(store: SharedStore) {
    let fence = owner(&*store).await;
    // Three lists of twice what a shard writes at once; back ends give up transactions that take longer than seconds.
    let count = 4_096;
    let list = (0..count).map(|i| message((i % 1024, i64::from(i) + 1), u64::from(i)));
    let batch = Batch {
        statuses: (0..count).map(|i| status((i % 1024, i64::from(i) + 1), 1, None)).collect(),
        events: (0..count).map(|i| event((i % 1024, i64::from(i) + 1))).collect(),
        ..messages(list)
    };
    // A busy machine may need longer than a statement is given; a batch may be repeated.
    for tries in 0.. {
        match store.commit(&fence, &batch).await {
            Ok(_) => break,
            Err(error) => assert!(error.is_retryable() && tries < 20, "{error}"),
        }
    }
    assert_eq!(store.backlog(number(), fence.slots()).await.unwrap(), (u64::from(count), 0));
    let all: Vec<_> = (0..1024).map(|s| (slot(s), seq(0))).collect();
    assert_eq!(store.events(number(), EndpointId::MAIN, &all, 3).await.unwrap().len(), 3 * 1024);
}

pub(crate) async fn numbers_do_not_see_each_other(store: SharedStore) {
    let mine = owner(&*store).await;
    let theirs = claim(&*store, other_number(), None).await.unwrap();
    for (fence, key) in [(mine, 1), (theirs, 2)] {
        let batch = Batch { events: vec![event((1, 1))], inbound: vec![inbound("in-1")], ..messages([message((1, 1), key)]) };
        store.commit(&fence, &batch).await.unwrap();
    }
    let batch = Batch {
        events_done: vec![event_at(1, 1)],
        inbound_read: vec!["in-1".to_owned()],
        statuses: vec![status((1, 1), 1, None)],
        ..Batch::default()
    };
    store.commit(&theirs, &batch).await.unwrap();
    assert_eq!(store.backlog(number(), mine.slots()).await.unwrap(), (1, 1));
    assert_eq!(store.backlog(other_number(), mine.slots()).await.unwrap(), (0, 0));
    assert!(!store.inbound(number(), &["in-1".to_owned()]).await.unwrap()[0].is_read());
    let body = store.outbox(number(), &[(slot(1), seq(0))], 9).await.unwrap().remove(0).body;
    assert_eq!(body, "body 1");
}

pub(crate) async fn what_there_is_is_counted(store: SharedStore) {
    let fence = owner(&*store).await;
    assert_eq!(store.counts(number()).await.unwrap(), Counts::default());
    let settled = StatusRow {
        slot: slot(1),
        seq: seq(1),
        statuses: StatusSet::from_bits(1),
        error_code: None,
        changed_at_ms: NOW,
        times: Times::default(),
    };
    let batch = Batch {
        messages: vec![message((1, 1), 1), message((1, 2), 2), message((900, 3), 3)],
        statuses: vec![settled],
        inbound: vec![inbound("ABGG")],
        events: vec![event((1, 4)), event((2, 5))],
        ..Batch::default()
    };
    store.commit(&fence, &batch).await.unwrap();
    let contact = |i, on_network| ContactRow { wa_id: recipient(i), on_network, checked_at_ms: NOW };
    store.put_contact_checks(number(), &[contact(1, true), contact(2, true), contact(3, false)]).await.unwrap();
    let expected =
        Counts { contacts: 2, strangers: 1, outgoing: 3, incoming: 1, receipts: 1, pending_callbacks: 2, pending_messages: 2 };
    assert_eq!(store.counts(number()).await.unwrap(), expected);
    assert_eq!(store.counts(other_number()).await.unwrap(), Counts::default());
}

pub(crate) async fn a_key_stands_for_its_message_and_old_ones_go(store: SharedStore) {
    let fence = owner(&*store).await;
    let write = async |keys: Vec<SubmissionKey>| {
        let batch = Batch { keys, ..Batch::default() };
        store.commit(&fence, &batch).await.unwrap();
    };
    let read = async |keys: &[(u32, u8)]| {
        let asked: Vec<_> = keys.iter().map(|(at, hash)| (slot(*at), [*hash; 16])).collect();
        let mut found = store.submission_keys(number(), &asked).await.unwrap();
        found.sort_by_key(|key| (key.slot, key.hash));
        found
    };
    let (first, other) = (key(1, 7, 1, NOW), key(1, 0, 2, NOW));
    write(vec![first, other]).await;
    write(vec![first, other]).await;
    assert_eq!(read(&[(1, 7), (1, 0), (1, 9), (2, 7)]).await, [other, first], "of this slot, with every byte");
    let again = SubmissionKey { fingerprint: [1; 16], ..key(1, 7, 3, NOW + KEY_LIFE_MS) };
    write(vec![again]).await;
    assert_eq!(read(&[(1, 7), (1, 0)]).await, [other, again], "replaced; a key is kept for the whole of its life");
    // Each that is written takes some old ones of its slot along.
    write((10..30).map(|hash| key(2, hash, 50 + u64::from(hash), NOW)).collect()).await;
    let all: Vec<(u32, u8)> = (10..30).map(|hash| (2, hash)).collect();
    let late = NOW + KEY_LIFE_MS + 1;
    write(vec![key(1, 8, 4, late)]).await;
    assert_eq!((read(&[(1, 0)]).await.len(), read(&all).await.len()), (0, 20), "other slots stay");
    for i in 0..5 {
        write(vec![key(2, 100 + i, 100 + u64::from(i), late)]).await;
        assert_eq!(read(&all).await.len(), 20 - 4 * (usize::from(i) + 1), "a few at a time");
    }
    assert!(store.submission_keys(other_number(), &[(slot(1), [7; 16])]).await.unwrap().is_empty());
    assert!(store.submission_keys(number(), &[]).await.unwrap().is_empty());
}
