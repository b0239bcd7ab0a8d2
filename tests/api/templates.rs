//! Templates from the call to the phone: samples, files, the control interface, and what a person sees
//! (spec/templates.md).

use std::fs;

use estafet_harness::{Sandbox, web::Web};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{KERRY, World};

const NAMESPACE: &str = "estafet_sandbox";

fn message(name: &str, language: &str, components: Value) -> Value {
    let language = json!({ "policy": "deterministic", "code": language });
    json!({ "to": KERRY, "type": "template",
        "template": { "namespace": NAMESPACE, "name": name, "language": language, "components": components } })
}

fn texts(texts: &[&str]) -> Value {
    let parameters: Vec<Value> = texts.iter().map(|text| json!({ "type": "text", "text": text })).collect();
    json!({ "type": "body", "parameters": parameters })
}

#[tokio::test]
async fn samples_arrive_as_a_person_sees_them() -> anyhow::Result<()> {
    let (world, web) = (World::start().await?, Web::start().await?);
    let link = format!("{}/a.jpg", web.url());
    let promo = json!([
        { "type": "header", "parameters": [{ "type": "image", "image": { "link": link } }] },
        texts(&["Ana"]),
        { "type": "button", "sub_type": "quick_reply", "index": "0", "parameters": [{ "type": "payload", "payload": "MORE" }] },
        { "type": "button", "sub_type": "url", "index": "1", "parameters": [{ "type": "text", "text": "7?x=1" }] } ]);
    let hsm = json!({ "to": KERRY, "type": "hsm", "hsm": { "namespace": NAMESPACE, "element_name": "order_update",
        "language": { "policy": "fallback", "code": "en_US" },
        "localizable_params": [{ "default": "Ana" }, { "default": "today" }] } });
    let messages = [
        message("hello_world", "en_US", json!([{ "type": "body" }])),
        message("order_update", "en_US", json!([texts(&["Ana", "tomorrow"])])),
        message("order_update", "id", json!([texts(&["Ana", "besok"])])),
        message("promo_image", "EN-us", promo),
        hsm,
    ];
    let mut ids = Vec::new();
    for message in &messages {
        ids.push(world.admin.send(message).await?);
    }
    world.sink.wait_for_status(ids.last().expect("there are messages"), "read").await?;

    let inbox = world.admin.inbox(KERRY).await?;
    let received: Vec<&str> = inbox.messages.iter().map(|message| message.id.as_str()).collect();
    assert_eq!(received, ids);
    assert!(inbox.messages.iter().all(|message| message.content["type"] == "template"));
    let bodies: Vec<&Value> = inbox.messages.iter().map(|message| &message.content["rendered"]["body"]).collect();
    let expected = [
        "Hello World. This message shows that your integration works.",
        "Hello Ana, your order will arrive tomorrow.",
        "Halo Ana, pesanan Anda akan tiba besok.",
        "Hello Ana, have a look at what is new this week.",
        "Hello Ana, your order will arrive today.",
    ];
    assert_eq!(bodies, expected);
    let promo = &inbox.messages[3].content["rendered"];
    assert_eq!(promo["header"]["image"]["downloaded"], true, "{promo}");
    assert_eq!(promo["buttons"][0]["payload"], "MORE");
    assert_eq!(promo["buttons"][1]["url"], "https://example.org/offers/7?x=1");
    Ok(())
}

#[tokio::test]
async fn a_refused_template_reaches_no_phone() -> anyhow::Result<()> {
    let world = World::start().await?;
    for (message, status, code, title) in [
        (message("order_update", "en_US", json!([texts(&["Ana"])])), 400, 2000, "Template Param Count Mismatch"),
        (message("no_such", "en_US", json!([])), 404, 2001, "Template Missing"),
        (message("order_update", "de", json!([texts(&["Ana", "morgen"])])), 404, 2003, "Template Pack Missing"),
        (message("promo_image", "en_US", json!([texts(&["Ana"])])), 400, 2009, "Template Required Component Missing"),
        (message("order_update", "en_US", json!([texts(&["Ana", "a\nb"])])), 400, 2006, "Template White Space Policy Violated"),
    ] {
        let answer = world.admin.call(Method::POST, "/v1/messages", Some(&message)).await?;
        let said = (answer.status, answer.error_code(), answer.text_at("/errors/0/title"));
        assert_eq!(said, (status, Some(code), Some(title)), "{}", answer.text);
    }
    let later = world.admin.send_text(KERRY, "later").await?;
    world.sink.wait_for_status(&later, "read").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_template_can_be_sent_from_its_approval_to_its_removal() -> anyhow::Result<()> {
    let world = World::start().await?;
    let note = || message("note", "en_US", json!([texts(&["Ana"])]));
    let refusal = async || anyhow::Ok(world.admin.call(Method::POST, "/v1/messages", Some(&note())).await?.error_code());
    let template = |status: &str| {
        json!({ "namespace": NAMESPACE, "name": "note", "language": "en_US", "status": status,
            "components": [{ "type": "BODY", "text": "Note for {{1}}" }] })
    };
    assert_eq!(refusal().await?, Some(2001));
    for (status, expected) in [("PENDING", Some(2001)), ("PAUSED", Some(2061)), ("APPROVED", None)] {
        world.admin.add_templates(&template(status)).await?;
        assert_eq!(refusal().await?, expected, "{status}");
    }
    let path = format!("/sandbox/templates/{NAMESPACE}/note");
    assert_eq!(world.admin.call(Method::DELETE, &path, None).await?.status, 200);
    assert_eq!(world.admin.call(Method::DELETE, &path, None).await?.status, 404);
    assert_eq!(refusal().await?, Some(2001));
    Ok(())
}

#[tokio::test]
async fn templates_of_a_file_are_there_from_the_start() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("templates.json");
    let template = json!({ "name": "from_file", "language": "en", "components": [{ "type": "BODY", "text": "Hi {{1}}" }] });
    fs::write(&file, json!({ "namespace": "shop", "data": [template] }).to_string())?;
    let path = file.to_str().expect("temporary paths are text");
    let world = World::start_with(Sandbox::options().flag("--templates", path)).await?;
    let mut message = message("from_file", "en", json!([texts(&["Ana"])]));
    message["template"]["namespace"] = json!("shop");
    let id = world.admin.send(&message).await?;
    world.sink.wait_for_status(&id, "read").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages[0].content["rendered"], json!({ "body": "Hi Ana" }));
    Ok(())
}

#[tokio::test]
async fn a_sandbox_with_a_bad_template_file_names_file_and_entry_and_does_not_start() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("templates.json");
    fs::write(&file, r#"{"namespace":"shop","templates":[{"name":"broken","language":"en","components":[]}]}"#)?;
    let path = file.to_str().expect("temporary paths are text");
    let error = Sandbox::options().flag("--templates", path).start().await.expect_err("there is no body");
    let said = format!("{error:#}");
    assert!(said.contains("templates.json: template 1 (broken): a body is needed"), "{said}");
    Ok(())
}
