//! Statistics of a running sandbox (spec/health-and-stats.md).

use estafet_harness::client::until;
use reqwest::Method;
use serde_json::Value;

use crate::world::{KERRY, World};

async fn read(world: &World, path: &str) -> anyhow::Result<Value> {
    let answer = world.admin.call(Method::GET, path, None).await?;
    anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text);
    Ok(answer.body)
}

/// The value of a metric with this label, or the only one.
fn value(metrics: &Value, name: &str, label: Option<(&str, &str)>) -> f64 {
    let data = metrics[name]["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |sample: &&Value| label.is_none_or(|(name, value)| sample["labels"][name] == value);
    data.iter().find(has).and_then(|sample| sample["value"].as_f64()).unwrap_or(0.0)
}

#[tokio::test]
async fn a_message_and_its_answer_are_counted_on_their_way() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.send_text(KERRY, "hello").await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&id, "read")).await?;
    let inbound = world.admin.phone_sends_text(KERRY, "hi").await?;
    world.sink.wait_for_message(&inbound).await?;
    until("everything is counted", async || {
        let app = &read(&world, "/v1/stats/app").await?["stats"]["app"];
        let is = |name: &str, label, wanted: f64| value(app, name, label) == wanted;
        Ok(is("out_message_persisted", None, 1.0)
            && is("out_message_sent_duration_ms_count", Some(("retry", "0")), 1.0)
            && is("out_message_status", Some(("status", "read")), 1.0)
            && is("in_message_from_server", None, 1.0)
            && is("in_message_decoded", None, 1.0)
            && is("in_message_persisted", None, 1.0)
            && is("callback_requests", Some(("type", "inbound_message")), 1.0)
            && is("callback_requests", Some(("type", "status_change")), 2.0)
            && is("endpoint_requests", Some(("method", "submit")), 1.0)
            && is("internal_server_conn_duration_ms_count", Some(("result", "success")), 1.0)
            && is("pending_messages", None, 0.0)
            && is("callback_queue_size", None, 0.0)
            && value(app, "db_request_duration_us_sum", None) > 0.0)
    })
    .await?;
    let db = &read(&world, "/v1/stats/db").await?["stats"]["db"];
    assert_eq!(value(db, "db_messages", Some(("type", "outgoing"))), 1.0, "{db}");
    assert_eq!(value(db, "db_messages", Some(("type", "incoming"))), 1.0, "{db}");
    assert_eq!(value(db, "db_message_receipts", None), 1.0, "{db}");
    let web = &read(&world, "/v1/metrics").await?["metrics"];
    assert_eq!(value(web, "api_requests_duration_ms_count", Some(("method", "POST_v1_messages"))), 1.0, "{web}");
    Ok(())
}
