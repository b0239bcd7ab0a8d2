use std::time::Duration;

use estafet_model::{ShardMap, protocol::PROTOCOL};
use estafet_proto::v1::{GatewayStatus, request::Action};
use estafet_webapp::{Config, Limits};
use futures::stream::{FuturesUnordered, StreamExt as _};
use serde_json::json;

use super::{
    core::{done, not_owner},
    world::{Got, World, connected, eventually, registered},
};

fn with_limits(limits: Limits) -> Config {
    Config { limits, ..registered() }
}

fn keys(core: &super::core::Core) -> Vec<Vec<u8>> {
    let key = |request: &estafet_proto::v1::Request| match &request.action {
        Some(Action::Submit(submit)) => submit.id_key.to_vec(),
        other => panic!("{other:?}"),
    };
    core.requests().iter().map(key).collect()
}

#[tokio::test]
async fn a_hint_is_followed_with_the_same_id() {
    let world = World::new().await;
    let (old, new) = (world.core("core-0").await, world.core("core-1").await);
    old.answers(|_| not_owner("core-1"));
    world.own("core-0", 0, 2);
    world.own("core-1", 1, 2);
    let webapp = world.webapp(registered()).await;
    let token = webapp.admin().await;
    // Whichever half the recipient is in, after the first request to the new owner both links are up.
    for n in 0..8 {
        let to = format!("1631555{n:04}");
        webapp.post("/v1/messages", &token, serde_json::json!({"to": to, "text": {"body": "x"}})).await.is(201);
    }
    assert!(!keys(&old).is_empty());
    assert!(keys(&old).iter().all(|key| keys(&new).contains(key)), "every refused id was accepted elsewhere");
    assert_eq!(keys(&new).len(), 8, "and each only once");
}

#[tokio::test]
async fn a_request_is_held_until_the_map_names_the_new_owner() {
    let (world, old, webapp) = World::ready().await;
    let token = webapp.admin().await;
    old.answers(|_| not_owner(""));
    let sending = tokio::time::timeout(Duration::from_secs(30), webapp.send(&token, "x"));
    let moving = async {
        old.received(1).await;
        let new = world.core("core-1").await;
        world.own("core-1", 0, 1);
        new
    };
    let (got, new) = tokio::join!(sending, moving);
    got.unwrap().is(201);
    assert_eq!(keys(&new), keys(&old)[..1]);
}

#[tokio::test]
async fn a_request_without_an_owner_waits_for_one_and_then_gives_up() {
    let world = World::new().await;
    let webapp = world.webapp(with_limits(Limits { hold_ms: 100, ..Limits::default() })).await;
    let token = webapp.admin().await;
    assert_eq!(webapp.send(&token, "x").await.refusal(), (503, 1011));
    assert_eq!(webapp.get("/v1/health", &token).await.refusal(), (500, 1014));
    let patient = world.webapp(with_limits(Limits { hold_ms: 20_000, ..Limits::default() })).await;
    let sending = patient.send(&token, "x");
    let owning = async {
        world.core("core-0").await;
        world.own("core-0", 0, 1);
    };
    tokio::join!(sending, owning).0.is(201);
}

#[tokio::test]
async fn r190_a_coreapp_of_the_next_release_is_used_and_one_of_a_later_release_is_not() {
    let world = World::new().await;
    let core = world.core("core-0").await;
    core.speaks(PROTOCOL + 2);
    world.own("core-0", 0, 1);
    let webapp = world.webapp(with_limits(Limits { hold_ms: 100, ..Limits::default() })).await;
    let token = webapp.admin().await;
    assert_eq!(webapp.send(&token, "x").await.status, 503);
    assert!(core.requests().is_empty(), "nothing is sent to it");
    core.speaks(PROTOCOL + 1);
    eventually("the coreapp is used", || async { webapp.send(&token, "x").await.status == 201 }).await;
}

#[tokio::test]
async fn an_owner_that_never_owns_ends_in_1018() {
    let (_world, core, webapp) = World::ready_with(with_limits(Limits { hold_ms: 100, ..Limits::default() })).await;
    let token = webapp.admin().await;
    core.answers(|_| not_owner("core-0"));
    assert_eq!(webapp.send(&token, "x").await.refusal(), (503, 1018));
}

#[tokio::test]
async fn a_broken_stream_is_hidden_and_repeats_the_same_id() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    core.answers(|_| None);
    let sending = webapp.send(&token, "x");
    let breaking = async {
        core.received(1).await;
        core.answers(|_| done());
        core.cut_streams();
    };
    tokio::join!(sending, breaking).0.is(201);
    let keys = keys(&core);
    assert_eq!((keys.len(), &keys[0]), (2, &keys[1]));
}

#[tokio::test]
async fn a_hung_owner_is_left_when_the_map_moves() {
    let (world, hung, webapp) = World::ready().await;
    let token = webapp.admin().await;
    hung.answers(|_| None);
    let new = world.core("core-1").await;
    let sending = webapp.send(&token, "x");
    let moving = async {
        hung.received(1).await;
        world.own("core-1", 0, 1);
    };
    tokio::join!(sending, moving).0.is(201);
    assert_eq!(keys(&new), keys(&hung));
}

#[tokio::test]
async fn no_answer_in_time_is_a_504_that_says_the_message_may_be_stored() {
    let (_world, core, webapp) = World::ready_with(with_limits(Limits { answer_ms: 100, ..Limits::default() })).await;
    let token = webapp.admin().await;
    core.answers(|_| None);
    let got = webapp.send(&token, "x").await;
    assert_eq!(got.refusal(), (504, 1000));
    assert!(got.body["errors"][0]["details"].as_str().unwrap().contains("may have been stored"));
}

#[tokio::test]
async fn without_credit_requests_wait_in_a_bounded_line_and_a_full_one_refuses_at_once() {
    let world = World::new().await;
    let core = world.core_with("core-0", 1).await;
    world.own("core-0", 0, 1);
    let webapp = world.webapp(with_limits(Limits { queued_requests: 2, ..Limits::default() })).await;
    let token = webapp.admin().await;
    core.answers(|_| None);
    let (mut accepted, mut refused) = (0, 0);
    let mut count = |got: Got| match got.refusal() {
        (503, 1016) => refused += 1,
        (201, 0) => accepted += 1,
        other => panic!("{other:?}"),
    };
    let mut sending = FuturesUnordered::from_iter([webapp.send(&token, "takes the only credit")]);
    tokio::select! {
        _ = core.received(1) => {}
        got = sending.next() => panic!("{got:?}"),
    }
    for _ in 0..5 {
        sending.push(webapp.send(&token, "waits"));
    }
    for _ in 0..3 {
        count(sending.next().await.unwrap());
    }
    assert_eq!(core.requests().len(), 1, "nothing went without credit");
    // A stream that breaks gives its requests back; then the coreapp answers again.
    core.answers(|_| done());
    core.cut_streams();
    while let Some(got) = sending.next().await {
        count(got);
    }
    assert_eq!((accepted, refused), (3, 3));
}

#[tokio::test]
async fn held_requests_are_bounded() {
    let world = World::new().await;
    let webapp = world.webapp(with_limits(Limits { held_requests: 0, hold_ms: 20_000, ..Limits::default() })).await;
    let token = webapp.admin().await;
    assert_eq!(webapp.send(&token, "x").await.refusal(), (503, 1018));
}

#[tokio::test]
async fn the_naive_way_works_too() {
    let (_world, core, webapp) = World::ready_with(Config { naive: true, ..registered() }).await;
    let token = webapp.admin().await;
    webapp.send(&token, "x").await.is(201);
    assert_eq!(core.requests().len(), 1);
}

#[tokio::test]
async fn health_tells_the_worst_shard() {
    let world = World::new().await;
    let (zero, one) = (world.core("core-0").await, world.core("core-1").await);
    zero.says(connected(0, 2));
    let mut state = connected(1, 2);
    state[0].gateway_status = GatewayStatus::Disconnected.into();
    one.says(state);
    world.own("core-0", 0, 2);
    world.own("core-1", 1, 2);
    let webapp = world.webapp(registered()).await;
    let token = webapp.admin().await;
    let status = async |word: &str| webapp.get("/v1/health", &token).await.body["health"]["gateway_status"] == word;
    eventually("the states arriving", async || status("disconnected").await).await;
    one.says(connected(1, 2));
    one.cut_streams();
    eventually("the new state arriving", async || status("connected").await).await;
    world.map.send_replace(ShardMap::default());
    eventually("the map losing its owners", async || status("disconnected").await).await;
}

#[tokio::test]
async fn r93_a_cluster_s_health_is_told_by_node_in_all_its_states() {
    let world = World::new().await;
    let (zero, one) = (world.core("core-0").await, world.core("core-1").await);
    zero.says(connected(0, 2));
    let state = |status: GatewayStatus| {
        let mut states = connected(1, 2);
        states[0].gateway_status = status.into();
        states
    };
    one.says(state(GatewayStatus::Disconnected));
    world.own("core-0", 0, 2);
    world.own("core-1", 1, 2);
    let webapp = world.webapp(Config { multiconnect: true, ..registered() }).await;
    let token = webapp.admin().await;
    let node = |word: &str| json!({ "gateway_status": word, "role": "coreapp" });
    for (status, word) in [
        (GatewayStatus::Disconnected, "disconnected"),
        (GatewayStatus::Connecting, "connecting"),
        (GatewayStatus::Uninitialized, "uninitialized"),
        (GatewayStatus::Connected, "connected"),
    ] {
        one.says(state(status));
        one.cut_streams();
        let expected = json!({ "core-0": node("connected"), "core-1": node(word) });
        let told = async || webapp.get("/v1/health", &token).await.body["health"] == expected;
        eventually("the state arriving", told).await;
    }
    let fresh = world.webapp(Config { multiconnect: true, registered: false, ..registered() }).await;
    let token = fresh.admin().await;
    let expected = json!({ "core-0": node("unregistered"), "core-1": node("unregistered") });
    assert_eq!(fresh.get("/v1/health", &token).await.body["health"], expected);
}
