use estafet_webapp::Config;
use reqwest::Method;
use serde_json::json;

use super::world::{World, eventually, registered};

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
