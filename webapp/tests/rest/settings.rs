use estafet_webapp::Config;
use reqwest::Method;
use serde_json::json;

use super::world::{Webapp, World, eventually, registered};

const PATH: &str = "/v1/settings/application";

#[tokio::test]
async fn a_change_is_whole_visible_everywhere_and_told_to_the_owner() {
    let (world, core, webapp) = World::ready().await;
    let other = world.webapp(registered()).await;
    let admin = webapp.admin().await;
    let changed = webapp
        .patch(
            PATH,
            &admin,
            json!({"webhooks": {"url": "https://hooks.example.net/wa"}, "sent_status": true, "some_future_key": 1}),
        )
        .await
        .is(200);
    assert_eq!(changed.body.as_object().unwrap().len(), 1, "only meta");
    assert_eq!(core.reloaded_version(), 1, "in force before the answer");
    for replica in [&webapp, &other] {
        let shown = replica.get(PATH, &admin).await.is(200).body["settings"]["application"].clone();
        assert_eq!(shown["webhooks"]["url"], "https://hooks.example.net/wa");
        assert_eq!((&shown["sent_status"], &shown["webhooks"]["message"]["sent"]), (&json!(true), &json!(true)));
        assert_eq!((&shown["wa_id"], &shown["callback_backoff_delay_ms"]), (&json!("15550000001"), &json!(3000)));
    }
    let refused =
        webapp.patch(PATH, &admin, json!({"callback_persist": false, "webhooks": {"max_concurrent_requests": 7}})).await;
    assert_eq!(refused.refusal(), (400, 1009));
    let shown = webapp.get(PATH, &admin).await.body["settings"]["application"].clone();
    assert_eq!(shown["callback_persist"], true, "nothing of a refused change is applied");
    webapp.delete(PATH, &admin).await.is(200);
    let shown = webapp.get(PATH, &admin).await.body["settings"]["application"].clone();
    assert_eq!((shown["webhooks"].get("url"), &shown["sent_status"]), (None, &json!(false)));
    assert_eq!(core.reloaded_version(), 2);
}

#[tokio::test]
async fn refusals_follow_the_rules() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    for (change, refusal) in [
        (json!({"webhooks": {"url": "http://hooks.example.org/"}}), (400, 1009)),
        (json!({"webhooks": {"url": "https://u:p@hooks.example.org/"}}), (400, 1009)),
        (json!({"webhooks": {"url": "https://hooks.example.org/\r\nX: y"}}), (400, 1009)),
        (json!({"callback_backoff_delay_ms": 900_001}), (400, 1009)),
        (json!({"wa_id": "15550000001"}), (400, 1010)),
        (json!([]), (400, 1008)),
        (json!("text"), (400, 1008)),
    ] {
        assert_eq!(webapp.patch(PATH, &admin, change.clone()).await.refusal(), refusal, "{change}");
    }
    webapp.patch(PATH, &admin, json!({"webhooks": {"url": "http://127.0.0.1:9/"}})).await.is(200);
    webapp.put(PATH, &admin, json!({"callback_backoff_delay_ms": "5000"})).await.is(200);
    webapp.call(Method::PATCH, PATH, &format!("Bearer {admin}"), None).await.is(200);
    let shown = webapp.get(PATH, &admin).await.body["settings"]["application"].clone();
    assert_eq!(shown["callback_backoff_delay_ms"], 5000);
}

#[tokio::test]
async fn concurrent_changes_of_different_members_all_take_effect() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    let changes = [
        json!({"callback_backoff_delay_ms": 4000}),
        json!({"heartbeat_interval": 6}),
        json!({"webhooks": {"max_concurrent_requests": 24}}),
        json!({"pass_through": true}),
    ];
    let answers = futures::future::join_all(changes.map(|change| webapp.patch(PATH, &admin, change))).await;
    assert!(answers.iter().all(|got| got.status == 200));
    let shown = webapp.get(PATH, &admin).await.body["settings"]["application"].clone();
    assert_eq!(
        (&shown["callback_backoff_delay_ms"], &shown["heartbeat_interval"], &shown["webhooks"]["max_concurrent_requests"]),
        (&json!(4000), &json!(6), &json!(24))
    );
    assert_eq!(shown["pass_through"], true);
}

#[tokio::test]
async fn the_initial_url_is_set_once_and_told() {
    let config = || Config { initial_webhook_url: Some("http://127.0.0.1:9/hook".to_owned()), ..registered() };
    let (world, core, webapp) = World::ready_with(config()).await;
    let admin = webapp.admin().await;
    eventually("the owner being told", async || core.reloaded_version() == 1).await;
    assert_eq!(webapp.get(PATH, &admin).await.body["settings"]["application"]["webhooks"]["url"], "http://127.0.0.1:9/hook");
    webapp.patch(PATH, &admin, json!({"webhooks": {"url": "https://own.example/"}})).await.is(200);
    let restarted = world.webapp(config()).await;
    assert_eq!(restarted.get(PATH, &admin).await.body["settings"]["application"]["webhooks"]["url"], "https://own.example/");
}

#[tokio::test]
async fn a_bad_initial_url_stops_the_start() {
    let world = World::new().await;
    let config = Config { initial_webhook_url: Some("ftp://x/".to_owned()), ..registered() };
    let error = estafet_webapp::app(config, world.deps()).await.unwrap_err();
    assert!(error.to_string().contains("initial_webhook_url"), "{error}");
}

#[tokio::test]
async fn r194_a_partly_filled_business_profile_is_read_back_as_it_was_set() {
    const PROFILE: &str = "/v1/settings/business/profile";
    let (world, _core, webapp) = World::ready().await;
    let other = world.webapp(registered()).await;
    let admin = webapp.admin().await;
    let profile = async |of: &Webapp| of.get(PROFILE, &admin).await.is(200).body["settings"]["business"]["profile"].clone();
    assert_eq!(profile(&webapp).await, json!({}));
    let changed = webapp.post(PROFILE, &admin, json!({"address": "Jl. Contoh 1, Jakarta"})).await.is(200);
    assert_eq!(changed.body.as_object().unwrap().len(), 1, "only meta");
    assert_eq!(profile(&other).await, json!({"address": "Jl. Contoh 1, Jakarta"}));
    // A change leaves alone what it does not name; one that is refused changes nothing.
    webapp.post(PROFILE, &admin, json!({"vertical": "RETAIL", "websites": ["https://example.net"], "email": null})).await.is(200);
    let refused = webapp.post(PROFILE, &admin, json!({"description": "Toko bunga", "email": "nobody"})).await;
    assert_eq!(refused.refusal(), (400, 1009));
    for body in [json!([]), json!("text")] {
        assert_eq!(webapp.post(PROFILE, &admin, body).await.refusal(), (400, 1008));
    }
    let whole =
        json!({"address": "Jl. Contoh 1, Jakarta", "vertical": "Shopping and Retail", "websites": ["https://example.net"]});
    assert_eq!(profile(&webapp).await, whole);
    // The application settings neither show it nor reset it, and agents do not see it.
    webapp.patch("/v1/settings/application", &admin, json!({"heartbeat_interval": 6})).await.is(200);
    webapp.delete("/v1/settings/application", &admin).await.is(200);
    let application = webapp.get("/v1/settings/application", &admin).await.body["settings"]["application"].clone();
    assert_eq!(application.get("business_profile"), None);
    assert_eq!(profile(&other).await, whole);
    let agent = webapp.user(&admin, "agent").await;
    assert_eq!(webapp.get(PROFILE, &agent).await.refusal(), (403, 1005));
    assert_eq!(webapp.post(PROFILE, &agent, json!({"address": "x"})).await.refusal(), (403, 1005));
}

#[tokio::test]
async fn the_line_about_a_business_is_kept() {
    const ABOUT: &str = "/v1/settings/profile/about";
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    let line = async || webapp.get(ABOUT, &admin).await.is(200).body["settings"]["profile"]["about"]["text"].clone();
    assert_eq!(line().await, "");
    webapp.patch(ABOUT, &admin, json!({"text": "Open every day"})).await.is(200);
    assert_eq!(webapp.patch(ABOUT, &admin, json!({"text": "a".repeat(140)})).await.refusal(), (400, 1009));
    assert_eq!(webapp.patch(ABOUT, &admin, json!({})).await.refusal(), (400, 1008));
    assert_eq!(line().await, "Open every day");
    let application = webapp.get("/v1/settings/application", &admin).await.body["settings"]["application"].clone();
    assert_eq!(application.get("about"), None);
}
