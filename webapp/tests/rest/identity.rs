//! Identities of users: what is asked of the owner, and how its answers look.

use estafet_model::{Slot, WaId};
use estafet_proto::v1::{self, outcome, request::Action};
use serde_json::json;

use super::{
    core::{done, refused},
    world::{PHONE, World},
};

#[tokio::test]
async fn the_owner_of_the_user_is_asked_and_its_answer_is_an_object_in_milliseconds() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    core.answers(|request| match &request.action {
        Some(Action::ReadIdentity(_)) => {
            let identity =
                v1::Identity { hash: b"12345678".to_vec().into(), created_at_ms: 1_600_132_094_000, acknowledged: true };
            Some(outcome::Result::Identity(identity))
        }
        Some(Action::AcknowledgeIdentity(asked)) if asked.hash == b"12345678".as_slice() => done(),
        _ => refused(1009, false),
    });
    let path = format!("/v1/contacts/{PHONE}/identity");
    let got = webapp.get(&path, &token).await.is(200);
    assert_eq!(
        got.body["contacts"],
        json!({ "hash": "MTIzNDU2Nzg=", "created_timestamp": 1_600_132_094_000_i64, "acknowledged": true })
    );
    webapp.put(&path, &token, json!({ "hash": "MTIzNDU2Nzg=" })).await.is(200);
    assert_eq!(webapp.put(&path, &token, json!({ "hash": "AAAAAAAAAAA=" })).await.refusal(), (400, 1009));
    let user: WaId = PHONE.parse().unwrap();
    for request in core.requests() {
        assert_eq!((request.slot, request.number), (u32::from(Slot::of(user).get()), super::world::NUMBER));
    }
}

#[tokio::test]
async fn what_is_no_hash_or_no_user_is_refused_before_anybody_is_asked() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let path = format!("/v1/contacts/{PHONE}/identity");
    for (body, code) in [(json!({}), 1008), (json!({ "hash": 5 }), 1009), (json!({ "hash": "%%" }), 1009)] {
        assert_eq!(webapp.put(&path, &token, body).await.refusal(), (400, code));
    }
    assert_eq!(webapp.get("/v1/contacts/nobody/identity", &token).await.refusal(), (404, 1006));
    assert_eq!(webapp.get(&path, "").await.status, 401);
    assert_eq!(webapp.delete(&path, &token).await.status, 405);
    assert_eq!(core.requests().len(), 0);
}
