use estafet_model::{IdKey, MessageId, Slot, message_id::Direction};
use estafet_proto::v1::request::Action;
use estafet_webapp::{Config, Limits};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    core::refused,
    world::{NUMBER, PHONE, START_MS, World, registered},
};

const INCOMING: &str = "ABGGFlA5FpafAgo6tHcNmNjXmuSf";

#[tokio::test]
async fn a_text_is_submitted_to_the_owner_under_the_id_that_is_answered() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let got = webapp
        .post(
            "/v1/messages/",
            &token,
            json!({"messaging_product": "whatsapp", "recipient_type": "individual", "to": "+1 631 555 1234", "type": "text",
                "text": {"body": "see https://example.org/"}, "preview_url": true, "context": {"message_id": INCOMING}}),
        )
        .await
        .is(201);
    assert_eq!(got.body["contacts"], json!([{"input": "+1 631 555 1234", "wa_id": PHONE}]));
    let id: MessageId = got.body["messages"][0]["id"].as_str().unwrap().parse().unwrap();
    let requests = core.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let Some(Action::Submit(submit)) = &request.action else { panic!("{request:?}") };
    assert_eq!((request.number, request.slot), (NUMBER, u32::from(Slot::of(PHONE.parse().unwrap()).get())));
    assert_eq!((submit.recipient.to_string().as_str(), submit.submitted_at_ms), (PHONE, START_MS));
    assert_eq!((id.direction(), id.phone().to_string().as_str()), (Direction::Outgoing, PHONE));
    assert_eq!(id.key(), IdKey::from_slice(&submit.id_key));
    let body: Value = serde_json::from_slice(&submit.body).unwrap();
    assert_eq!(
        body,
        json!({"type": "text", "text": {"body": "see https://example.org/"}, "preview_url": true, "context": {"message_id": INCOMING}})
    );
}

#[tokio::test]
async fn ids_of_one_webapp_grow_and_those_of_two_differ() {
    let (world, _core, one) = World::ready().await;
    let two = world.webapp(registered()).await;
    let token = one.admin().await;
    let mut keys = Vec::new();
    for webapp in [&one, &one, &two, &two] {
        let id: MessageId = webapp.send(&token, "hi").await.is(201).body["messages"][0]["id"].as_str().unwrap().parse().unwrap();
        keys.push(id.key().unwrap());
    }
    assert!(keys[0] < keys[1] && keys[2] < keys[3]);
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 4);
}

#[tokio::test]
async fn refused_requests_reach_no_coreapp() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    for (request, refusal) in [
        (json!({"text": {"body": "x"}}), (400, 1008)),
        (json!({"to": "bogus", "text": {"body": "x"}}), (400, 1009)),
        (json!({"to": NUMBER.to_string(), "text": {"body": "x"}}), (400, 1021)),
        (json!({"to": PHONE, "text": {"body": "a".repeat(4097)}}), (400, 1001)),
        (json!({"to": PHONE, "recipient_type": "herd", "text": {"body": "x"}}), (400, 1002)),
        (json!({"to": PHONE, "type": "image", "image": {"id": "x"}}), (400, 1009)),
    ] {
        assert_eq!(webapp.post("/v1/messages", &token, request.clone()).await.refusal(), refusal, "{request}");
    }
    assert!(core.requests().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_coreapp_is_told_in_its_words() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    for (code, retryable, refusal) in [(1016, true, (503, 1016)), (1023, true, (503, 1023)), (1031, false, (403, 1031))] {
        core.answers(move |_| refused(code, retryable));
        let got = webapp.send(&token, "hi").await;
        assert_eq!((got.refusal(), got.body["errors"][0]["details"].as_str()), (refusal, Some("as told")));
    }
}

#[tokio::test]
async fn before_registration_only_accounts_settings_and_health_work() {
    let (_world, _core, webapp) = World::ready_with(Config { registered: false, ..registered() }).await;
    let token = webapp.admin().await;
    assert_eq!(webapp.send(&token, "hi").await.refusal(), (503, 1011));
    assert_eq!(webapp.post("/v1/contacts", &token, json!({"contacts": [PHONE]})).await.refusal(), (503, 1011));
    assert_eq!(webapp.put(&format!("/v1/messages/{INCOMING}"), &token, json!({"status": "read"})).await.refusal(), (503, 1011));
    let health = webapp.get("/v1/health", &token).await.is(200);
    assert_eq!(health.body["health"], json!({"gateway_status": "unregistered"}));
    let settings = webapp.get("/v1/settings/application", &token).await.is(200);
    assert_eq!(settings.body["settings"]["application"].get("wa_id"), None);
}

#[tokio::test]
async fn mark_as_read_goes_to_the_slot_of_the_sender() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let path = format!("/v1/messages/{INCOMING}");
    let got = webapp.put(&path, &token, json!({"status": "read", "typing_indicator": {"type": "text"}})).await.is(200);
    assert_eq!(got.body.as_object().unwrap().len(), 1, "only meta");
    let request = &core.requests()[0];
    let sender = INCOMING.parse::<MessageId>().unwrap().phone();
    assert_eq!(request.slot, u32::from(Slot::of(sender).get()));
    assert!(matches!(&request.action, Some(Action::MarkRead(mark)) if mark.message_id == INCOMING));
    core.answers(|_| refused(1006, false));
    assert_eq!(webapp.put(&path, &token, json!({"status": "read"})).await.refusal(), (404, 1006));
}

#[tokio::test]
async fn only_incoming_messages_can_be_marked_and_only_as_read() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let outgoing = webapp.send(&token, "hi").await.is(201).body["messages"][0]["id"].as_str().unwrap().to_owned();
    for (id, body, refusal) in [
        (INCOMING, json!({}), (400, 1008)),
        (INCOMING, json!({"status": "seen"}), (400, 1009)),
        (INCOMING, json!({"status": true}), (400, 1009)),
        (&outgoing, json!({"status": "read"}), (400, 1009)),
        ("wamid.HBgLMTYzMTU1NTEyMzQ", json!({"status": "read"}), (404, 1006)),
        ("nonsense", json!({"status": "read"}), (404, 1006)),
        ("..%2f..%2fetc%2fpasswd", json!({"status": "read"}), (404, 1006)),
        ("%ff%fe", json!({"status": "read"}), (404, 1006)),
    ] {
        assert_eq!(webapp.put(&format!("/v1/messages/{id}"), &token, body).await.refusal(), refusal, "{id}");
    }
    assert_eq!(core.requests().len(), 1, "only the message itself");
    assert_eq!(webapp.get(&format!("/v1/messages/{INCOMING}"), &token).await.refusal(), (405, 1014));
}

#[tokio::test]
async fn rates_are_limited_per_class_and_health_never_is() {
    let limits = Limits { messages_per_second: 1, messages_burst: 1, ..Limits::default() };
    let (_world, _core, webapp) = World::ready_with(Config { limits, ..registered() }).await;
    let token = webapp.admin().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(webapp.send(&token, "hi").await.refusal());
    }
    assert_eq!(statuses[0], (201, 0));
    assert!(statuses.contains(&(429, 1015)), "{statuses:?}");
    webapp.get("/v1/users/admin", &token).await.is(200);
    webapp.call(Method::GET, "/v1/health", "Apikey key-0123456789", None).await.is(200);
}
