//! Keys that callers give their sends: one key, one message, whoever owns the shard.

use estafet_coreapp::request::CallerKey;

use super::*;

fn key(hash: u8, fingerprint: u8) -> CallerKey {
    CallerKey { hash: [hash; 16], fingerprint: [fingerprint; 16] }
}

/// What a send with a key came to: the id it stands for, or the refusal.
#[derive(Debug, PartialEq)]
enum Outcome {
    Accepted,
    StoredAs(IdKey),
    Refused(u32, u32),
}

impl Bench {
    fn send(&self, key: CallerKey) -> (IdKey, oneshot::Receiver<v1::Outcome>) {
        let id_key = self.ids.lock().unwrap().generate(1_800_000_000_000);
        let (reply, outcome) = oneshot::channel();
        let action = Action::Submit { recipient: phone(), id_key, body: Bytes::from_static(b"{}"), key: Some(key) };
        self.node.dispatch(number(), Slot::of(phone()), action, Reply::Single(reply));
        (id_key, outcome)
    }

    async fn sent(&self, key: CallerKey) -> (IdKey, Outcome) {
        let (id_key, outcome) = self.send(key);
        (id_key, read(outcome).await)
    }

    async fn stored(&self) -> Vec<IdKey> {
        let rows = self.store.outbox(number(), &[(Slot::of(phone()), estafet_model::Seq::ZERO)], 100).await.unwrap();
        rows.into_iter().map(|row| row.id_key).collect()
    }

    /// The same node gets the shard anew, with nothing in memory.
    async fn next_owner(&mut self) {
        self.node.release(&self.fence);
        self.endings.recv().await.unwrap();
        let seen = Some(self.fence.epoch);
        self.fence = self.store.claim(number(), Shard::ZERO, ShardCount::ONE, seen, "a", BOOT, 0, 0).await.unwrap().unwrap();
        self.node.acquire(self.fence).await.unwrap();
    }
}

async fn read(outcome: oneshot::Receiver<v1::Outcome>) -> Outcome {
    match outcome.await.unwrap().result.unwrap() {
        Answer::Done(done) => IdKey::from_slice(&done.id_key).map_or(Outcome::Accepted, Outcome::StoredAs),
        Answer::Refused(refused) => Outcome::Refused(refused.code, refused.http_status),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_repeated_send_has_the_id_of_the_first_and_is_stored_once() {
    let bench = bench().await;
    let (first, outcome) = bench.sent(key(1, 1)).await;
    assert_eq!(outcome, Outcome::Accepted);
    assert_eq!(bench.sent(key(1, 1)).await.1, Outcome::StoredAs(first));
    let (other, outcome) = bench.sent(key(2, 1)).await;
    assert_eq!(outcome, Outcome::Accepted, "another key is another message");
    assert_eq!(bench.stored().await, [first, other]);
}

#[tokio::test]
async fn sends_under_one_key_at_the_same_moment_are_one_message() {
    let bench = bench().await;
    let sends: Vec<_> = (0..20).map(|_| bench.send(key(1, 1))).collect();
    let first = sends[0].0;
    for (id_key, outcome) in sends {
        let expected = if id_key == first { Outcome::Accepted } else { Outcome::StoredAs(first) };
        assert_eq!(read(outcome).await, expected);
    }
    assert_eq!(bench.stored().await, [first]);
}

#[tokio::test]
async fn a_key_survives_its_owner_whether_or_not_the_answer_arrived() {
    let mut bench = bench().await;
    let (heard, _) = bench.sent(key(1, 1)).await;
    // The caller of this one never hears that it was stored.
    let (unheard, outcome) = bench.send(key(2, 1));
    drop(outcome);
    bench.next_owner().await;
    assert_eq!(bench.sent(key(1, 1)).await.1, Outcome::StoredAs(heard));
    let (repeated, outcome) = bench.sent(key(2, 1)).await;
    // Stored with the message or not at all: the owner may have ended before it took the request.
    let one = if outcome == Outcome::StoredAs(unheard) { unheard } else { repeated };
    assert!(outcome == Outcome::StoredAs(unheard) || outcome == Outcome::Accepted, "{outcome:?}");
    assert_eq!(bench.stored().await, [heard, one]);
}

#[tokio::test]
async fn another_request_under_the_same_key_is_refused_with_422() {
    let mut bench = bench().await;
    let (first, _) = bench.sent(key(1, 1)).await;
    assert_eq!(bench.sent(key(1, 2)).await.1, Outcome::Refused(1025, 422));
    bench.next_owner().await;
    assert_eq!(bench.sent(key(1, 2)).await.1, Outcome::Refused(1025, 422));
    assert_eq!(bench.stored().await, [first]);
}

#[tokio::test]
async fn a_key_is_free_again_after_a_day() {
    let mut bench = bench().await;
    let (first, _) = bench.sent(key(1, 1)).await;
    bench.clock.set(1_800_000_000_000 + estafet_store::KEY_LIFE_MS - 1);
    assert_eq!(bench.sent(key(1, 1)).await.1, Outcome::StoredAs(first));
    bench.clock.set(1_800_000_000_000 + estafet_store::KEY_LIFE_MS);
    let (second, outcome) = bench.sent(key(1, 2)).await;
    assert_eq!(outcome, Outcome::Accepted);
    bench.next_owner().await;
    assert_eq!(bench.sent(key(1, 2)).await.1, Outcome::StoredAs(second));
    assert_eq!(bench.stored().await, [first, second]);
}
