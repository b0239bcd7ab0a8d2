//! What the network and the server refuse because of limits (spec/errors.md §1, spec/messages.md §5).

use estafet_harness::Sandbox;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

impl World {
    /// Sends a message that fails, and says with which code.
    async fn failure(&self, message: &Value) -> anyhow::Result<Value> {
        let id = self.admin.send(message).await?;
        let failed = self.sink.wait_for_one(|arrival| arrival.reports(&id, "failed")).await?;
        Ok(failed.event.pointer("/statuses/0/errors/0").cloned().unwrap_or_default())
    }
}

fn text(to: &str) -> Value {
    json!({ "to": to, "type": "text", "text": { "body": "hi" } })
}

#[tokio::test]
async fn outside_the_customer_window_a_text_fails_with_470_and_a_template_arrives() -> anyhow::Result<()> {
    let world = World::start().await?;
    let rules = json!({ "customer_window_s": 86_400 });
    assert_eq!(world.admin.call(Method::PUT, "/sandbox/network", Some(&rules)).await?.status, 200);
    let error = world.failure(&text(KERRY)).await?;
    assert_eq!((&error["code"], &error["title"]), (&json!(470), &json!("Re-engagement message")), "{error}");
    let language = json!({ "policy": "deterministic", "code": "en_US" });
    let template = json!({ "namespace": "estafet_sandbox", "name": "hello_world", "language": language });
    let id = world.admin.send(&json!({ "to": KERRY, "type": "template", "template": template })).await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&id, "delivered")).await?;

    let inbound = world.admin.phone_sends_text(KERRY, "hello?").await?;
    world.sink.wait_for_message(&inbound).await?;
    let id = world.admin.send(&text(KERRY)).await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&id, "delivered")).await?;
    assert_eq!(world.failure(&text(ANA)).await?["code"], 470, "Ana has not written");
    Ok(())
}

#[tokio::test]
async fn the_network_s_other_refusals_can_be_had_from_a_phone() -> anyhow::Result<()> {
    let world = World::start().await?;
    for (mode, code, title) in [
        ("limit", 429, "Rate limit hit"),
        ("spam", 471, "Spam rate limit hit"),
        ("experiment", 472, "User's number is part of an experiment"),
    ] {
        world.admin.set_phone(KERRY, mode).await?;
        let error = world.failure(&text(KERRY)).await?;
        assert_eq!((&error["code"], &error["title"]), (&json!(code), &json!(title)), "{mode}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn past_the_rate_of_a_conversation_the_answer_is_429_with_the_time_to_wait() -> anyhow::Result<()> {
    let world = World::start_with(Sandbox::options().flag("--pair-per-minute", "1")).await?;
    for _ in 0..45 {
        world.admin.send(&text(KERRY)).await?;
    }
    let refused = world.admin.call(Method::POST, "/v1/messages", Some(&text(KERRY))).await?;
    assert_eq!((refused.status, refused.error_code()), (429, Some(1015)), "{}", refused.text);
    assert!(refused.headers.contains_key("retry-after"));
    world.admin.send(&text(ANA)).await.map(drop)
}
