//! Rows of the requirement list (tests/requirements.txt) that one webapp or two replicas show.

use estafet_model::IdKey;
use estafet_proto::v1::{self, outcome, request::Action};
use estafet_webapp::{Config, ContactMode};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    core::{done, refused},
    world::{PHONE, Webapp, World, registered},
};

/// The sum of a counter over its labels.
fn counter(name: &str) -> u64 {
    let metrics = estafet_runtime::metrics::render();
    let of = |line: &str| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<f64>().ok();
    metrics.lines().filter(|line| !line.starts_with('#')).filter_map(of).sum::<f64>() as u64
}

async fn send_as(webapp: &Webapp, token: &str, content_type: Option<&str>) -> super::world::Got {
    let body = json!({"to": PHONE, "text": {"body": "x"}}).to_string();
    let mut request = webapp.client.post(webapp.url("/v1/messages")).bearer_auth(token).body(body);
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    super::world::check(request.send().await.unwrap()).await
}

#[tokio::test]
async fn r116_a_body_is_json_by_its_type_or_without_one_which_is_counted() {
    let (_world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    for content_type in ["application/json", "application/json; charset=utf-8"] {
        send_as(&webapp, &token, Some(content_type)).await.is(201);
    }
    let before = counter("webapp_untyped_requests_total");
    send_as(&webapp, &token, None).await.is(201);
    assert!(counter("webapp_untyped_requests_total") > before, "not counted");
    let refused = send_as(&webapp, &token, Some("text/plain")).await;
    assert_eq!(refused.refusal(), (400, 1025));
    assert!(refused.body["errors"][0]["details"].as_str().unwrap().contains("Content-Type"), "{}", refused.body);
}

#[tokio::test]
async fn r119_r120_r186_a_check_is_needed_where_it_was_and_counts_on_every_replica() {
    let legacy = Config { legacy_contact_check: true, contact_mode: ContactMode::Live, ..registered() };
    let (world, core, here) = World::ready_with(legacy.clone()).await;
    let there = world.webapp(legacy).await;
    let token = here.admin().await;
    let unknown = there.send(&token, "hi").await;
    assert_eq!((unknown.refusal(), unknown.body["errors"][0]["details"].as_str()), ((404, 1006), Some("unknown contact")));
    core.answers(|request| match &request.action {
        Some(Action::CheckContacts(check)) => {
            let known = |wa_id: &u64| v1::ContactState { wa_id: *wa_id, on_network: true };
            Some(outcome::Result::Contacts(v1::ContactStates { contacts: check.wa_ids.iter().map(known).collect() }))
        }
        Some(Action::Submit(_)) => done(),
        _ => refused(1000, false),
    });
    here.post("/v1/contacts", &token, json!({"blocking": "wait", "contacts": [PHONE]})).await.is(200);
    there.send(&token, "hi").await.is(201);
    // Since v2.39 no check is needed.
    let modern = world.webapp(registered()).await;
    modern.post("/v1/messages", &token, json!({"to": "16315550199", "text": {"body": "x"}})).await.is(201);
}

#[tokio::test]
async fn r130_a_file_uploaded_to_one_replica_can_be_sent_by_another() {
    let (world, core, here) = World::ready().await;
    let there = world.webapp(registered()).await;
    let token = here.admin().await;
    let content = b"%PDF-1.7 a document".to_vec();
    let upload = here.client.post(here.url("/v1/media")).bearer_auth(&token).header("content-type", "application/pdf");
    let uploaded = super::world::check(upload.body(content.clone()).send().await.unwrap()).await.is(200);
    let id = uploaded.body["media"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!((id.len(), id.to_lowercase()), (36, id.clone()));
    let message = json!({"to": PHONE, "type": "document", "document": {"id": id, "caption": "c"}});
    there.post("/v1/messages", &token, message).await.is(201);
    let requests = core.requests();
    let Some(Action::Submit(submit)) = &requests[0].action else { panic!("{requests:?}") };
    assert!(IdKey::from_slice(&submit.id_key).is_some());
    let body: Value = serde_json::from_slice(&submit.body).unwrap();
    assert_eq!(body["document"], json!({"id": id, "caption": "c"}));
    let fetched = there.client.get(there.url(&format!("/v1/media/{id}"))).bearer_auth(&token).send().await.unwrap();
    assert_eq!(fetched.bytes().await.unwrap(), content);
}

#[tokio::test]
async fn r187_r188_before_registration_only_accounts_settings_and_health_are_open() {
    let (_world, core, webapp) = World::ready_with(Config { registered: false, ..registered() }).await;
    let token = webapp.admin().await;
    let id = "ABGGFlA5FpafAgo6tHcNmNjXmuSf";
    let file = "00000000-0000-4000-8000-000000000000";
    let closed = [
        (Method::POST, "/v1/messages".to_owned(), Some(json!({"to": PHONE, "text": {"body": "x"}}))),
        (Method::PUT, format!("/v1/messages/{id}"), Some(json!({"status": "read"}))),
        (Method::POST, "/v1/contacts".to_owned(), Some(json!({"contacts": [PHONE]}))),
        (Method::POST, "/v1/media".to_owned(), Some(json!({"any": "file"}))),
        (Method::GET, format!("/v1/media/{file}"), None),
        (Method::DELETE, format!("/v1/media/{file}"), None),
    ];
    for (method, path, body) in closed {
        let got = webapp.call(method.clone(), &path, &format!("Bearer {token}"), body).await;
        assert_eq!(got.refusal(), (503, 1011), "{method} {path}: {}", got.body);
        assert_eq!(got.body["errors"][0]["title"], "Service not ready");
    }
    let user = || json!({"username": "agent7", "password": super::world::USER_PASSWORD});
    let providers = "/v1/settings/application/media/providers";
    let open = [
        (Method::POST, "/v1/users", Some(user()), 201),
        (Method::GET, "/v1/users/agent7", None, 200),
        (Method::PUT, "/v1/users/agent7", Some(json!({"password": "0ther!Pass"})), 200),
        (Method::DELETE, "/v1/users/agent7", None, 200),
        (Method::GET, "/v1/settings/application", None, 200),
        (Method::PATCH, "/v1/settings/application", Some(json!({"webhooks": {"url": "https://example.org/"}})), 200),
        (Method::GET, providers, None, 200),
        (Method::GET, "/v1/certificates/webhooks/ca", None, 404),
        (Method::GET, "/v1/health", None, 200),
        (Method::POST, "/v1/users/logout", None, 200),
    ];
    for (method, path, body, status) in open {
        let got = webapp.call(method.clone(), path, &format!("Bearer {token}"), body).await;
        assert_eq!(got.status, status, "{method} {path}: {}", got.body);
    }
    assert!(core.requests().is_empty());
}
