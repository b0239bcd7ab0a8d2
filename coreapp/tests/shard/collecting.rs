//! Messages that are over are removed under load; what waits stays, and what comes late changes nothing.

use super::*;

const DAY_MS: i64 = 24 * 3600 * 1000;
const START_MS: i64 = 1_800_000_000_000;
/// Messages of a day; the phone reads all but the first.
const DAILY: usize = 10;

fn read_at(id: u64, envelope: &Envelope, status: Status, at_ms: i64) -> Delivery {
    let Envelope { recipient, slot, seq, id_key, .. } = envelope.clone();
    Delivery { id, item: Item::Receipt { recipient, slot, seq, id_key, status, at_ms, error_code: None } }
}

impl Bench {
    async fn outgoing(&self) -> u64 {
        self.store.counts(number()).await.unwrap().outgoing
    }
}

/// Sends the messages of a day, which are read; the first of them.
async fn a_day(bench: &Bench, peer: &mut Peer, account: &mut Account, now_ms: i64) -> Vec<Envelope> {
    bench.clock.set(now_ms);
    for n in 0..DAILY {
        bench.accept(&format!("{n}")).await;
    }
    let mut sent = Vec::new();
    while sent.len() < DAILY {
        sent.extend(peer.envelopes(account).await);
    }
    peer.take(&sent).await;
    let read = sent.iter().skip(1).zip(1..).map(|(envelope, id)| read_at(id, envelope, Status::Read, now_ms));
    peer.deliver(read.collect()).await;
    sent
}

#[tokio::test]
async fn r157_rows_reach_a_plateau_under_load_and_what_waits_stays() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let mut account = Account::new();
    let mut first = Vec::new();
    for day in 0..30 {
        let sent = a_day(&bench, &mut peer, &mut account, START_MS + day * DAY_MS).await;
        if day == 0 {
            first = sent;
        }
        let removed = bench.node.collect_messages(number()).await.unwrap();
        // A week and the day itself of those that were read, and every one that a phone may still get.
        let kept = (day + 1).min(8) as u64 * (DAILY as u64 - 1);
        assert_eq!(bench.outgoing().await, kept + day as u64 + 1, "day {day}");
        assert_eq!(removed.outgoing, if day < 8 { 0 } else { DAILY as u64 - 1 }, "day {day}");
    }
    let waiting = async || bench.store.counts(number()).await.unwrap().pending_callbacks;
    let told = waiting().await;
    assert_eq!(told, 30 * (DAILY as u64 - 1), "nobody takes callbacks, so they wait");
    peer.deliver(vec![read_at(99, &first[1], Status::Delivered, START_MS)]).await;
    assert_eq!(bench.statuses(&first[1]).await, None, "a late receipt makes no row");
    assert_eq!(waiting().await, told, "and tells nothing");
    peer.deliver(vec![read_at(100, &first[0], Status::Delivered, START_MS + 29 * DAY_MS)]).await;
    assert_eq!(bench.statuses(&first[0]).await, Some(0b011), "after 29 days in the network");

    bench.accept("the network never takes it").await;
    bench.clock.set(START_MS + 400 * DAY_MS);
    bench.node.collect_messages(number()).await.unwrap();
    let counts = bench.store.counts(number()).await.unwrap();
    assert_eq!((counts.outgoing, counts.pending_messages), (1, 1));
    assert_eq!(counts.pending_callbacks, told + 1, "callbacks wait however long");
}

#[tokio::test]
async fn r157_an_incoming_message_can_be_marked_as_read_for_a_week() {
    let mut bench = bench().await;
    let mut peer = bench.connections.recv().await.unwrap();
    let account = Account::new();
    let mut ratchet = Ratchet::outbound(&account, &peer.login.keys.bundle()).unwrap();
    let message_id = MessageId::incoming(phone(), [3; 10]).to_string();
    let item = Item::Inbound {
        sender: phone(),
        message_id: message_id.clone(),
        at_ms: START_MS,
        profile_name: "Ana".to_owned(),
        sealed: ratchet.encrypt(br#"{"type":"text","text":{"body":"hi"}}"#),
        identity_key: account.identity_key(),
    };
    peer.deliver(vec![Delivery { id: 1, item }]).await;
    let mark = async || {
        let (reply, outcome) = oneshot::channel();
        let action = Action::MarkRead { message_id: message_id.clone() };
        bench.node.dispatch(number(), Slot::of(phone()), action, Reply::Single(reply));
        outcome.await.unwrap().result.unwrap()
    };
    for (day, removed) in [(6, 0), (8, 1)] {
        bench.clock.set(START_MS + day * DAY_MS);
        assert_eq!(bench.node.collect_messages(number()).await.unwrap().incoming, removed, "day {day}");
        match mark().await {
            Answer::Done(_) => assert_eq!(day, 6),
            Answer::Refused(refused) => assert_eq!((day, refused.code), (8, 1006)),
            other => panic!("{other:?}"),
        }
    }
}
