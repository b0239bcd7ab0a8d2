use estafet_proto::v1::{self, outcome, request::Action};
use estafet_webapp::{Config, ContactMode};
use serde_json::{Value, json};

use super::{
    core::{Core, refused},
    world::{START_MS, World, eventually, registered},
};

const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

fn live() -> Config {
    Config { contact_mode: ContactMode::Live, ..registered() }
}

/// Numbers that end in an even digit are on the network.
fn knows_even_numbers(core: &Core) {
    core.answers(|request| {
        let Some(Action::CheckContacts(check)) = &request.action else { return refused(1000, false) };
        // Some owners name the ones on the network only.
        let named = check.wa_ids.iter().filter(|wa_id| **wa_id % 4 != 3);
        let contacts = named.map(|wa_id| v1::ContactState { wa_id: *wa_id, on_network: wa_id % 2 == 0 });
        Some(outcome::Result::Contacts(v1::ContactStates { contacts: contacts.collect() }))
    });
}

async fn rows(webapp: &super::world::Webapp, token: &str, body: Value) -> Value {
    webapp.post("/v1/contacts/", token, body).await.is(200).body["contacts"].clone()
}

#[tokio::test]
async fn every_parseable_number_is_valid_without_look_ups() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let got = rows(&webapp, &token, json!({"contacts": ["+5582999887766", "not-a-number", "+1 (631) 555-1234"]})).await;
    assert_eq!(
        got,
        json!([
            {"input": "+5582999887766", "status": "valid", "wa_id": "558299887766"},
            {"input": "not-a-number", "status": "invalid"},
            {"input": "+1 (631) 555-1234", "status": "valid", "wa_id": "16315551234"},
        ])
    );
    assert!(core.requests().is_empty());
}

#[tokio::test]
async fn a_waiting_check_asks_the_network_once_in_seven_days() {
    let (world, core, webapp) = World::ready_with(live()).await;
    let token = webapp.admin().await;
    knows_even_numbers(&core);
    let query = |force: bool| json!({"blocking": "wait", "contacts": ["16315551002", "16315551001", "16315551003", "x"], "force_check": force});
    let expected = json!([
        {"input": "16315551002", "status": "valid", "wa_id": "16315551002"},
        {"input": "16315551001", "status": "invalid"},
        {"input": "16315551003", "status": "invalid"},
        {"input": "x", "status": "invalid"},
    ]);
    assert_eq!(rows(&webapp, &token, query(false)).await, expected);
    assert_eq!(rows(&webapp, &token, query(false)).await, expected);
    assert_eq!(core.requests().len(), 1, "the second call is served from the cache");
    assert_eq!(rows(&webapp, &token, query(true)).await, expected);
    assert_eq!(core.requests().len(), 2, "forced");
    world.clock.set(START_MS + WEEK_MS);
    let token = webapp.admin().await;
    assert_eq!(rows(&webapp, &token, query(false)).await, expected);
    assert_eq!(core.requests().len(), 3, "too old");
}

#[tokio::test]
async fn a_check_that_does_not_wait_answers_later() {
    let (_world, core, webapp) = World::ready_with(live()).await;
    let token = webapp.admin().await;
    knows_even_numbers(&core);
    let query = || json!({"contacts": ["16315551002"]});
    assert_eq!(rows(&webapp, &token, query()).await, json!([{"input": "16315551002", "status": "processing"}]));
    eventually("the look-up", async || rows(&webapp, &token, query()).await[0]["status"] == "valid").await;
}

#[tokio::test]
async fn a_look_up_that_cannot_be_made_is_failed() {
    let (_world, core, webapp) = World::ready_with(live()).await;
    let token = webapp.admin().await;
    core.answers(|_| refused(1016, true));
    let got = rows(&webapp, &token, json!({"blocking": "wait", "contacts": ["16315551002"]})).await;
    assert_eq!(got, json!([{"input": "16315551002", "status": "failed"}]));
}

#[tokio::test]
async fn look_ups_are_grouped_by_owner() {
    let world = World::new().await;
    let (zero, one) = (world.core("core-0").await, world.core("core-1").await);
    knows_even_numbers(&zero);
    knows_even_numbers(&one);
    world.own("core-0", 0, 2);
    world.own("core-1", 1, 2);
    let webapp = world.webapp(live()).await;
    let token = webapp.admin().await;
    let numbers: Vec<String> = (0..1000).map(|n| format!("{}", 16_315_550_000u64 + 2 * n)).collect();
    let got = rows(&webapp, &token, json!({"blocking": "wait", "contacts": numbers})).await;
    assert!(got.as_array().unwrap().iter().all(|row| row["status"] == "valid"));
    assert_eq!((zero.requests().len(), one.requests().len()), (1, 1));
}

#[tokio::test]
async fn before_v2_39_a_number_must_be_checked_before_it_is_messaged() {
    let (_world, core, webapp) = World::ready_with(Config { legacy_contact_check: true, ..live() }).await;
    let token = webapp.admin().await;
    knows_even_numbers(&core);
    let refused = webapp.send(&token, "hi").await;
    assert_eq!((refused.refusal(), refused.body["errors"][0]["details"].as_str()), ((404, 1006), Some("unknown contact")));
    rows(&webapp, &token, json!({"blocking": "wait", "contacts": ["16315551234"]})).await;
    core.answers(|_| super::core::done());
    webapp.send(&token, "hi").await.is(201);
}
