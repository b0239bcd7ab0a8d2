//! `Idempotency-Key`: what the owner is asked, and how its answer is told.

use estafet_model::{IdKey, MessageId};
use estafet_proto::v1::{self, Submit, outcome, request::Action};
use serde_json::{Value, json};

use super::{
    core::{Core, done},
    world::{Got, PHONE, Webapp, World, check},
};

async fn send(webapp: &Webapp, token: &str, keys: &[&str], body: &Value) -> Got {
    let request = webapp.client.post(webapp.url("/v1/messages")).header("authorization", format!("Bearer {token}"));
    let request = keys.iter().fold(request, |request, key| request.header("Idempotency-Key", *key));
    check(request.json(body).send().await.unwrap()).await
}

fn submits(core: &Core) -> Vec<Submit> {
    let submit = |request: v1::Request| match request.action {
        Some(Action::Submit(submit)) => Some(submit),
        _ => None,
    };
    core.requests().into_iter().filter_map(submit).collect()
}

fn text(to: &str, body: &str) -> Value {
    json!({ "to": to, "type": "text", "text": { "body": body } })
}

#[tokio::test]
async fn a_repeated_send_is_answered_with_the_id_that_the_owner_names() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let stored = IdKey([7; 9]);
    core.answers(move |_| Some(outcome::Result::Done(v1::Done { id_key: stored.0.to_vec().into() })));
    let got = send(&webapp, &token, &["order-17"], &text(PHONE, "hi")).await.is(201);
    assert_eq!(got.body["messages"][0]["id"], MessageId::outgoing(PHONE.parse().unwrap(), stored).to_string());
    assert_eq!(got.body["contacts"][0]["wa_id"], PHONE);
}

#[tokio::test]
async fn the_owner_is_asked_with_hashes_of_key_and_recipient_and_of_the_request() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    core.answers(|_| done());
    for (key, to, body) in
        [("a", PHONE, "hi"), ("a", PHONE, "hi"), ("b", PHONE, "hi"), ("a", PHONE, "ho"), ("a", "15550001002", "hi")]
    {
        send(&webapp, &token, &[key], &text(to, body)).await.is(201);
    }
    send(&webapp, &token, &[], &text(PHONE, "hi")).await.is(201);
    let asked = submits(&core);
    let [first, again, other_key, other_body, other_user, none] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((first.key_hash.len(), first.fingerprint.len()), (16, 16));
    assert_eq!((&first.key_hash, &first.fingerprint), (&again.key_hash, &again.fingerprint));
    assert_ne!(first.id_key, again.id_key, "which message it is, is the owner's to say");
    assert!(first.key_hash != other_key.key_hash && first.fingerprint == other_key.fingerprint);
    assert!(first.key_hash == other_body.key_hash && first.fingerprint != other_body.fingerprint);
    assert_ne!(first.key_hash, other_user.key_hash, "a key is one recipient's");
    assert!(none.key_hash.is_empty() && none.fingerprint.is_empty());
}

#[tokio::test]
async fn a_key_has_1_to_255_bytes_and_is_given_once() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let (longest, longer) = ("k".repeat(255), "k".repeat(256));
    send(&webapp, &token, &[&longest], &text(PHONE, "hi")).await.is(201);
    for keys in [&[longer.as_str()][..], &[""], &["a", "a"]] {
        assert_eq!(send(&webapp, &token, keys, &text(PHONE, "hi")).await.refusal(), (400, 1009), "{}", keys.len());
    }
    core.answers(|_| {
        let refused =
            v1::Refused { code: 1025, details: "another".to_owned(), retryable: false, http_status: 422, retry_after_s: 0 };
        Some(outcome::Result::Refused(refused))
    });
    assert_eq!(send(&webapp, &token, &["a"], &text(PHONE, "hi")).await.refusal(), (422, 1025));
}
