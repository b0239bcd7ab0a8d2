//! Templates: what travels, what phones make of it, and what the operator sees.

use estafet_harness::{client::until, environment::estafet_binary};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{ANA, KERRY, World};

/// Whether `estafet template ...` succeeds, and what it prints.
async fn template(world: &World, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(estafet_binary()?);
    let output = command.arg("template").args(arguments).args(["--url", world.admin.base_url()]).output().await?;
    Ok((output.status.success(), String::from_utf8(output.stdout)?))
}

#[tokio::test]
async fn r182_r183_the_operator_sees_parameters_and_gaps_between_languages() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (listed, list) = template(&world, &["list"]).await?;
    let row = |name: &str, language: &str| {
        let mut rows = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.find(|row| row[1..3] == [name, language]).map(|row| row[3..].join(" "))
    };
    assert!(listed);
    assert_eq!(row("hello_world", "en_US").as_deref(), Some("APPROVED"));
    assert_eq!(row("order_update", "id").as_deref(), Some("APPROVED body 2"));
    assert_eq!(row("promo_image", "en_US").as_deref(), Some("APPROVED header 1, body 1, buttons 1"));
    let (whole, gaps) = template(&world, &["check"]).await?;
    let expected = ["hello_world", "promo_image"].map(|name| format!("{name} of estafet_sandbox cannot be sent in id"));
    assert_eq!((whole, gaps.lines().collect::<Vec<_>>()), (false, expected.iter().map(String::as_str).collect()));
    template(&world, &["remove", "estafet_sandbox", "order_update", "--language", "id"]).await?;
    assert_eq!(template(&world, &["check"]).await?, (true, String::new()));
    Ok(())
}

/// A message of a template whose text has a word that is nowhere else.
fn canary(to: &str, name: &str) -> Value {
    json!({ "to": to, "type": "template", "template": { "namespace": "estafet_sandbox", "name": name,
        "language": { "policy": "deterministic", "code": "en_US" },
        "components": [{ "type": "body", "parameters": [{ "type": "text", "text": "Ana" }] }] } })
}

#[tokio::test]
async fn r145_r176_r177_r179_r180_a_phone_renders_what_it_knows_and_fails_what_it_cannot_show() -> anyhow::Result<()> {
    let world = World::start().await?;
    let template = json!({ "namespace": "estafet_sandbox", "name": "note", "language": "en_US",
        "components": [{ "type": "BODY", "text": "A platypus for {{1}}" }] });
    world.admin.add_templates(&template).await?;
    world.admin.set_phone(ANA, "outdated").await?;
    let shown = world.admin.send(&canary(KERRY, "note")).await?;
    let unshown = world.admin.send(&canary(ANA, "note")).await?;
    world.sink.wait_for_status(&shown, "read").await?;
    let content = world.admin.inbox(KERRY).await?.messages[0].content.clone();
    assert_eq!(content["rendered"], json!({ "body": "A platypus for Ana" }));

    let failed = world.sink.wait_for_status(&unshown, "failed").await?.event["statuses"][0].clone();
    assert_eq!((&failed["id"], &failed["recipient_id"]), (&json!(unshown), &json!(ANA)));
    let error = &failed["errors"][0];
    let title = "structure unavailable: Client could not display highly structured message (HSM)";
    assert_eq!((&error["code"], &error["title"]), (&json!(500), &json!(title)), "{failed}");
    // Everything else is shown, and the phone is no worse for it.
    let text = world.admin.send_text(ANA, "a text").await?;
    world.sink.wait_for_status(&text, "read").await?;
    assert_eq!(world.admin.inbox(ANA).await?.messages.len(), 1);
    let told = |status: &str| world.sink.arrivals().iter().any(|arrival| arrival.reports(&unshown, status));
    assert!(!told("delivered") && !told("read"));

    // It has learned the template when its app is renewed.
    world.admin.set_phone(ANA, "read").await?;
    let again = world.admin.send(&canary(ANA, "note")).await?;
    world.sink.wait_for_status(&again, "read").await?;
    until("the phone shows it", async || {
        let messages = world.admin.inbox(ANA).await?.messages;
        Ok(messages.last().is_some_and(|message| message.content["rendered"]["body"] == "A platypus for Ana"))
    })
    .await
}
