//! What a shard says and when, without any I/O: rules that concern several of its parts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use estafet_model::{Code, Epoch, IdKey, Shard as ShardNumber, ShardCount, Slot, WaId};
use estafet_store::{Batch, Committed, Error, Fence};
use estafet_upstream::{ConnectError, StaticKey, e2e::Account};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{CONFLICT, Input, NumberKeys, Order, Shard};
use crate::{
    Config,
    request::{Action, Reply, ShardRequest},
    settings::Versioned,
};

/// A shard that has heard nothing yet.
pub(super) fn shard() -> Shard {
    // Few enough slots to be loaded with one statement.
    let count = ShardCount::new(4).unwrap();
    let number = WaId::from_u64(15_550_000_001).unwrap();
    let fence = Fence { number, shard: ShardNumber::new(0, count).unwrap(), count, epoch: Epoch::new(1) };
    let account = Account::new();
    let keys = NumberKeys { public: account.public_keys(), account, static_key: StaticKey::generate() };
    Shard::new(Arc::new(Config::default()), fence, keys, Versioned::default(), tokio::time::Instant::now().into_std(), 0)
}

/// What a shard orders when it hears something, but for loads of slots.
pub(super) fn orders(shard: &mut Shard, now: Instant, now_ms: i64, input: Input) -> Vec<Order> {
    shard.take(now, now_ms, input);
    shard.advance();
    // How many advances it takes until all slots are being loaded is of no matter here.
    let is_load = |order: &Order| matches!(order, Order::LoadOutbox(_) | Order::LoadEvents(..));
    shard.take_orders().into_iter().filter(|order| !is_load(order)).collect()
}

fn started() -> (Shard, Instant) {
    let (mut shard, now) = (shard(), tokio::time::Instant::now().into_std());
    shard.begin();
    (shard, now)
}

fn committed(orders: &[Order]) -> Option<&Arc<Batch>> {
    orders.iter().find_map(|order| match order {
        Order::Commit { batch, .. } => Some(batch),
        _ => None,
    })
}

fn end(result: Result<Committed, Error>) -> Input {
    Input::Committed { result, retried: false, took: Duration::ZERO }
}

#[test]
fn r99_an_id_is_given_back_when_its_message_is_committed_and_not_before() {
    let (mut shard, now) = started();
    let mut phones = (15_550_001_001..).map(|number| WaId::from_u64(number).unwrap());
    let recipient = phones.find(|phone| shard.fence().slots().contains(&Slot::of(*phone))).unwrap();
    let (reply, mut answer) = oneshot::channel();
    let action = Action::Submit { recipient, id_key: IdKey([7; IdKey::LEN]), body: Bytes::from_static(b"{}"), key: None };
    let request = ShardRequest { slot: Slot::of(recipient), action, reply: Reply::Single(reply) };
    let first = orders(&mut shard, now, 0, Input::Request(request));
    let batch = committed(&first).expect("the row is to be committed");
    assert_eq!(batch.messages.iter().map(|message| message.id_key).collect::<Vec<_>>(), [IdKey([7; IdKey::LEN])]);
    assert!(answer.try_recv().is_err(), "nothing is answered while the row is not durable");

    // What became of the transaction is not known: it is tried again, and still nothing is answered.
    let unknown = Error::Failed("the server went away".to_owned());
    let again = orders(&mut shard, now, 0, end(Err(unknown)));
    assert_eq!(committed(&again).map(|batch| batch.messages.len()), Some(1));
    assert!(answer.try_recv().is_err());
    orders(&mut shard, now, 0, end(Ok(Committed::default())));
    let answer = answer.try_recv().expect("the row is durable");
    assert!(matches!(answer.result, Some(estafet_proto::v1::outcome::Result::Done(_))), "{answer:?}");
}

/// The errors at the top of callbacks that are to be stored, and the end of their transaction.
fn errors_told(shard: &mut Shard, now: Instant, now_ms: i64, input: Input) -> Vec<Value> {
    let ordered = orders(shard, now, now_ms, input);
    let Some(batch) = committed(&ordered).cloned() else { return Vec::new() };
    orders(shard, now, now_ms, end(Ok(Committed::default())));
    batch.events.iter().map(|event| serde_json::from_slice::<Value>(&event.body).unwrap()["errors"][0].clone()).collect()
}

#[test]
fn r159_a_conflict_is_told_in_its_words_and_once_in_a_quarter_of_an_hour() {
    const QUARTER_MS: i64 = 15 * 60 * 1000;
    let (mut shard, now) = started();
    let mut conflict = |at_ms| {
        let refused = ConnectError::Conflict { holder: "node b (boot 0b)".to_owned() };
        errors_told(&mut shard, now, at_ms, Input::Connected(Err(refused)))
    };
    let expected = [json!({ "code": 1000, "title": "Generic error", "details": CONFLICT })];
    assert_eq!(CONFLICT, "Conflict: multiple instances with the same number detected");
    assert_eq!(conflict(1), expected);
    assert!(conflict(2).is_empty() && conflict(QUARTER_MS).is_empty(), "not again so soon");
    assert_eq!(conflict(QUARTER_MS + 1), expected);
}

#[test]
fn r160_a_conflict_ends_with_the_connection_that_follows_it() {
    use estafet_proto::v1::GatewayStatus;
    let (mut shard, now) = started();
    let refused = ConnectError::Conflict { holder: "node b".to_owned() };
    let ordered = orders(&mut shard, now, 0, Input::Connected(Err(refused)));
    assert!(ordered.iter().any(|order| matches!(order, Order::Connect { at_once: false })), "it goes on trying");
    assert_eq!(shard.state().gateway_status(), GatewayStatus::Connecting);
    orders(&mut shard, now, 0, Input::Connected(Ok(())));
    assert_eq!(shard.state().gateway_status(), GatewayStatus::Connected);
}

#[test]
fn r189_a_version_that_the_network_refuses_is_told_and_tried_again() {
    let (mut shard, now) = started();
    let refused = || Input::Connected(Err(ConnectError::Version("version 1 is not spoken any more".to_owned())));
    let told = errors_told(&mut shard, now, 0, refused());
    let expected = json!({ "code": Code::AccessDenied.number(), "title": "Access denied",
        "details": "App expired: upgrade required" });
    assert_eq!(told, [expected]);
    let ordered = orders(&mut shard, now, 1, refused());
    assert!(ordered.iter().any(|order| matches!(order, Order::Connect { at_once: false })), "it goes on trying");
}
