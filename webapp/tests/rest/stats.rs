//! Statistics: both forms, who may read them, and what several nodes look like.

use estafet_proto::v1::{ReadStatsResponse, Stat, StatSample};
use estafet_store::ContactRow;
use estafet_webapp::Config;
use reqwest::Method;
use serde_json::json;

use super::world::{START_MS, World, number, registered};

const KEY: &str = "Apikey key-0123456789";

fn told(node: &str, value: f64) -> ReadStatsResponse {
    let stat = Stat {
        name: "pending_messages".to_owned(),
        is_counter: false,
        help: "Waiting".to_owned(),
        data: vec![StatSample { labels: Vec::new(), value }],
    };
    ReadStatsResponse { node: node.to_owned(), stats: vec![stat] }
}

#[tokio::test]
async fn a_single_instance_shows_its_metrics_at_once() {
    let (_world, core, webapp) = World::ready().await;
    core.tells(told("core-0:1", 7.0));
    let got = webapp.call(Method::GET, "/v1/stats/app", KEY, None).await.is(200);
    assert_eq!(
        got.body["stats"],
        json!({ "app": { "pending_messages": { "type": "gauge", "help": "Waiting", "data": [{ "value": 7 }] } } })
    );
    let got = webapp.call(Method::GET, "/v1/stats/app?format=prometheus", KEY, None).await.is(200);
    assert_eq!(got.headers["content-type"], "text/plain; version=0.0.4");
    assert_eq!(got.body, "# HELP pending_messages Waiting\n# TYPE pending_messages gauge\npending_messages 7\n");
    for path in ["/v1/stats/app?format=xml", "/v1/stats/db?format=", "/v1/metrics?format=1", "/metrics?format=x"] {
        assert_eq!(webapp.call(Method::GET, path, KEY, None).await.refusal(), (400, 1009), "{path}");
    }
}

#[tokio::test]
async fn in_a_cluster_every_node_has_a_member_and_one_that_is_away_says_so() {
    let world = World::new().await;
    let core = world.core("core-0").await;
    world.own("core-0", 0, 2);
    world.own("nobody", 1, 2);
    core.tells(told("core-0:1", 3.0));
    let webapp = world.webapp(Config { multiconnect: true, ..registered() }).await;
    let got = webapp.call(Method::GET, "/v1/stats/app", KEY, None).await.is(200);
    let app = &got.body["stats"]["app"];
    assert_eq!(app["core-0:1"]["pending_messages"]["data"], json!([{ "value": 3 }]));
    assert_eq!(app["nobody"]["errors"][0]["code"], 1014, "{app}");
    let got = webapp.call(Method::GET, "/v1/stats/app?format=prometheus", KEY, None).await.is(200);
    assert!(got.body.as_str().unwrap().ends_with("pending_messages{node=\"core-0:1\"} 3\n"), "{}", got.body);
}

#[tokio::test]
async fn statistics_want_a_token_or_the_key() {
    let (_world, _core, webapp) = World::ready().await;
    let admin = webapp.admin().await;
    let user = webapp.user(&admin, "agent").await;
    for path in ["/v1/stats/app", "/v1/stats/db", "/v1/metrics", "/metrics", "/metrics?format=json"] {
        for authorization in [KEY.to_owned(), format!("Bearer {user}"), format!("Bearer {admin}")] {
            webapp.call(Method::GET, path, &authorization, None).await.is(200);
        }
        assert_eq!(webapp.call(Method::GET, path, "Apikey something-else", None).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn the_database_is_counted_once_for_everybody_who_asks_within_half_a_minute() {
    let (world, _core, webapp) = World::ready().await;
    let contact = |wa_id: u64, on_network| ContactRow {
        wa_id: estafet_model::WaId::from_u64(wa_id).unwrap(),
        on_network,
        checked_at_ms: 1,
    };
    world.store.put_contact_checks(number(), &[contact(15_550_001_001, true), contact(15_550_001_002, false)]).await.unwrap();
    let counted = async || {
        let got = webapp.call(Method::GET, "/v1/stats/db", KEY, None).await.is(200);
        got.body["stats"]["db"]["db_contacts"]["data"].clone()
    };
    let shown = |users: u64| {
        json!([
            { "labels": { "type": "whatsapp_user" }, "value": users },
            { "labels": { "type": "non_whatsapp_user" }, "value": 1 },
        ])
    };
    assert_eq!(counted().await, shown(1));
    world.store.put_contact_checks(number(), &[contact(15_550_001_003, true)]).await.unwrap();
    for counts in futures::future::join_all((0..50).map(|_| counted())).await {
        assert_eq!(counts, shown(1));
    }
    world.clock.set(START_MS + 31_000);
    assert_eq!(counted().await, shown(2));
}

#[tokio::test]
async fn what_a_replica_serves_is_told_by_method_and_result() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    webapp.send(&token, "hello").await.is(201);
    webapp.post("/v1/messages", &token, json!({})).await.is(400);
    assert_eq!(core.requests().len(), 1);
    let got = webapp.get("/v1/metrics", &token).await.is(200);
    let metrics = &got.body["metrics"];
    let data = metrics["api_requests_duration_ms_count"]["data"].as_array().unwrap();
    let value = |result: &str| {
        let of = |sample: &&serde_json::Value| {
            sample["labels"]["method"] == "POST_v1_messages" && sample["labels"]["result"] == result
        };
        data.iter().find(of).map(|sample| sample["value"].clone())
    };
    assert_eq!((value("201"), value("400")), (Some(json!(1)), Some(json!(1))));
    assert_eq!(metrics["api_requests_coreapp_duration_ms_count"]["data"][0]["labels"]["app"], "core-0");
    assert!(metrics["web_connections"]["data"][0]["value"].as_u64().unwrap() >= 1);
    assert!(metrics["web_uptime"]["data"][0]["labels"].get("node").is_some());
    let ours = webapp.get("/metrics", &token).await.is(200);
    assert!(ours.body.as_str().unwrap().contains("webapp_requests"), "our own metrics stay where they were");
    let theirs = webapp.get("/metrics?format=prometheus", &token).await.is(200);
    assert!(theirs.body.as_str().unwrap().contains("web_queue_len{node="), "{}", theirs.body);
}
