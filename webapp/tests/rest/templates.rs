use std::{fs, path::Path};

use estafet_proto::v1::request::Action;
use estafet_webapp::Config;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{PHONE, START_MS, World, registered};

fn order(name: &str, policy: &str) -> Value {
    json!({"to": PHONE, "type": "template", "template": {"namespace": "estafet_sandbox", "name": name,
        "language": {"policy": policy, "code": "en_US"}, "components": [
            {"type": "body", "parameters": [{"type": "text", "text": "Ana"}, {"type": "text", "text": "today"}]}]}})
}

#[tokio::test]
async fn a_template_is_submitted_by_its_name_without_its_text() {
    let (_world, core, webapp) = World::ready_with(Config { sample_templates: true, ..registered() }).await;
    let token = webapp.admin().await;
    webapp.post("/v1/messages", &token, order("order_update", "fallback")).await.is(201);
    let requests = core.requests();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let Some(Action::Submit(submit)) = &request.action else { panic!("{request:?}") };
    let body: Value = serde_json::from_slice(&submit.body).unwrap();
    assert_eq!(body["template"]["name"], "order_update");
    assert!(body.get("rendered").is_none() && !body.to_string().contains("will arrive"), "{body}");
    assert_eq!(body["template"]["language"], json!({"policy": "deterministic", "code": "en_US"}));
}

#[tokio::test]
async fn a_template_that_does_not_fit_reaches_no_coreapp() {
    let (_world, core, webapp) = World::ready_with(Config { sample_templates: true, ..registered() }).await;
    let token = webapp.admin().await;
    for (request, refusal) in [
        (order("hello_world", "deterministic"), (400, 2000)),
        (order("no_such", "deterministic"), (404, 2001)),
        (json!({"to": PHONE, "type": "template", "template": {}}), (400, 2014)),
        (json!({"to": PHONE, "type": "hsm", "hsm": {}}), (400, 2014)),
    ] {
        assert_eq!(webapp.post("/v1/messages", &token, request.clone()).await.refusal(), refusal, "{request}");
    }
    assert!(core.requests().is_empty());
}

#[tokio::test]
async fn without_templates_every_namespace_is_foreign_and_there_is_no_control_interface() {
    let (_world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let got = webapp.post("/v1/messages", &token, order("order_update", "deterministic")).await;
    assert_eq!(got.refusal(), (400, 1009));
    assert_eq!(webapp.call(Method::GET, "/sandbox/templates", "", None).await.refusal(), (404, 1014));
}

#[tokio::test]
async fn a_template_file_that_cannot_be_read_keeps_the_webapp_from_starting() {
    let world = World::new().await;
    let config = Config { template_files: vec!["/nonexistent/templates.json".into()], ..registered() };
    let error = estafet_webapp::app(config, world.deps()).await.expect_err("there is no such file");
    assert!(error.to_string().contains("/nonexistent/templates.json"), "{error}");
}

/// Writes a file with templates of these names, without parameters.
fn write_templates(file: &Path, names: &[&str]) {
    let body = json!([{"type": "BODY", "text": "Hi"}]);
    let entry = |name: &&str| json!({"name": name, "language": "en_US", "components": body});
    let list = json!({"namespace": "shop", "templates": names.iter().map(entry).collect::<Vec<_>>()});
    fs::write(file, list.to_string()).unwrap();
}

#[tokio::test]
async fn r141_r142_r201_changed_templates_count_at_once_where_they_are_missed_and_after_seven_days_elsewhere() {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("templates.json");
    write_templates(&file, &["old"]);
    let (world, _core, webapp) = World::ready_with(Config { template_files: vec![file.clone()], ..registered() }).await;
    // A token does not live as long as the packs do.
    let send = async |name: &str, later_ms: i64| {
        world.clock.set(START_MS + later_ms);
        let message = json!({"to": PHONE, "type": "template",
            "template": {"namespace": "shop", "name": name, "language": {"code": "en_US"}}});
        let got = webapp.post("/v1/messages", &webapp.admin().await, message).await;
        (got.status, got.code())
    };
    assert_eq!(send("new", 0).await, (404, 2001));
    write_templates(&file, &["old", "new"]);
    assert_eq!(send("new", 59_999).await, (404, 2001), "one look a minute");
    assert_eq!(send("new", 60_000).await, (201, 0), "found within the same call");

    write_templates(&file, &["new"]);
    assert_eq!(send("old", 60_000 + 6 * DAY_MS).await, (201, 0), "packs are good for seven days");
    assert_eq!(send("old", 60_000 + 7 * DAY_MS).await, (201, 0));
    assert_eq!(send("new", 61_000 + 7 * DAY_MS).await, (201, 0), "and are fetched after that, whatever they hold");
    assert_eq!(send("old", 62_000 + 7 * DAY_MS).await, (404, 2001));

    fs::write(&file, "{").unwrap();
    assert_eq!(send("new", 70_000 + 14 * DAY_MS).await, (201, 0), "what cannot be fetched leaves what there was");
}
