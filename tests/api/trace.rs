//! The timeline of one message, over the API and with the command.

use estafet_harness::{Api, client::until, environment, sandbox::ADMIN_PASSWORD, sink::Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{KERRY, World};

async fn trace(api: &Api, id: &str) -> anyhow::Result<Value> {
    let answer = api.call(Method::GET, &format!("/v1/estafet/messages/{id}/trace"), None).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text);
    Ok(answer.body["trace"].clone())
}

/// Names of the steps that happened, callbacks with what they tell.
fn steps(trace: &Value) -> Vec<String> {
    let happened = trace["steps"].as_array().into_iter().flatten().filter(|step| step["awaited"] != true);
    let name = |step: &Value| match step["about"].as_str() {
        Some(about) => format!("{}: {about}", step["step"].as_str().unwrap_or_default()),
        None => step["step"].as_str().unwrap_or_default().to_owned(),
    };
    happened.map(name).collect()
}

#[tokio::test]
async fn an_outgoing_message_is_traced_from_its_acceptance_to_its_last_callback() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.admin.patch_settings(&json!({"webhooks": {"keep_delivered": 3600, "message": {"sent": true}}})).await?;
    let id = world.admin.send_text(KERRY, "where have you been").await?;
    world.sink.wait_for_status(&id, "read").await?;
    until("every callback is recorded", async || {
        let all = steps(&trace(&world.admin, &id).await?);
        Ok(all.iter().filter(|step| step.starts_with("callback taken")).count() == 3)
    })
    .await?;
    let traced = trace(&world.admin, &id).await?;
    assert_eq!((&traced["direction"], &traced["contact"], &traced["id"]), (&json!("outgoing"), &json!(KERRY), &json!(id)));
    let mut all = steps(&traced);
    all.sort_unstable();
    let mut expected = ["made", "accepted", "left", "sent", "delivered", "read"].map(str::to_owned).to_vec();
    expected.extend(["sent", "delivered", "read"].map(|status| format!("callback taken: {status}")));
    expected.sort_unstable();
    assert_eq!(all, expected);
    let waits = traced["steps"].as_array().into_iter().flatten().filter_map(|step| step["waited_ms"].as_i64());
    assert_eq!(traced["longest_wait"]["waited_ms"].as_i64(), waits.max());
    Ok(())
}

#[tokio::test]
async fn what_is_awaited_is_named_and_an_incoming_message_is_traced_to_its_receiver() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    // Nothing is tried again while the test looks.
    world.admin.patch_settings(&json!({"callback_backoff_delay_ms": 600_000})).await?;
    world.admin.set_phone(KERRY, "offline").await?;
    let id = world.admin.send_text(KERRY, "are you there").await?;
    until("the network has it", async || Ok(steps(&trace(&world.admin, &id).await?).contains(&"sent".to_owned()))).await?;
    let traced = trace(&world.admin, &id).await?;
    let awaited = traced["steps"].as_array().and_then(|steps| steps.last()).cloned().unwrap_or_default();
    assert_eq!((&awaited["step"], &awaited["wait"], &awaited["awaited"]), (&json!("delivered"), &json!("phone"), &json!(true)));

    world.sink.reply_next_about(KERRY, [Reply::Status(500)]);
    let id = world.admin.phone_sends_text(KERRY, "hello").await?;
    world.sink.wait_for_message(&id).await?;
    let traced = trace(&world.admin, &id).await?;
    assert_eq!((&traced["direction"], &steps(&traced)[..2]), (&json!("incoming"), &["sent".to_owned(), "stored".to_owned()][..]));
    let waiting = traced["steps"].as_array().and_then(|steps| steps.last()).cloned().unwrap_or_default();
    assert_eq!((&waiting["about"], &waiting["endpoint"], &waiting["awaited"]), (&json!("message"), &json!("main"), &json!(true)));

    let command = |args: &[&str]| -> anyhow::Result<std::process::Command> {
        let mut command = std::process::Command::new(environment::estafet_binary()?);
        command.arg("trace").args(args).args(["--url", world.admin.base_url(), "--password", ADMIN_PASSWORD]);
        Ok(command)
    };
    let (mut table, mut as_json) = (command(&[&id])?, command(&[&id, "--json"])?);
    let (table, as_json) = tokio::task::spawn_blocking(move || (table.output(), as_json.output())).await?;
    let table = String::from_utf8(table?.stdout)?;
    assert!(table.contains("not yet callback taken: message, by main") && table.contains("longest wait: "), "{table}");
    let as_json: Value = serde_json::from_slice(&as_json?.stdout)?;
    assert_eq!(as_json["id"], json!(id));
    world.sandbox.terminate().await.map(drop)
}

#[tokio::test]
async fn unknown_messages_are_not_found_and_only_administrators_may_ask() -> anyhow::Result<()> {
    let world = World::start().await?;
    for id in ["gBGGFlA5FpafAgkOuJbRq54qwbM", "ABGGFlA5FpafAgo6tHcNmNjXmuSf", "foreign", "%ff"] {
        let answer = world.admin.call(Method::GET, &format!("/v1/estafet/messages/{id}/trace"), None).await?;
        assert_eq!((answer.status, answer.error_code()), (404, Some(1006)), "{id}: {}", answer.text);
        assert!(
            answer.text_at("/errors/0/details").is_some_and(|details| details.contains("No such message")),
            "{}",
            answer.text
        );
    }
    let id = world.admin.send_text(KERRY, "mine").await?;
    let user = world.admin.create_user("clerk", "Cl3rk!pass").await?;
    assert_eq!(user.call(Method::GET, &format!("/v1/estafet/messages/{id}/trace"), None).await?.status, 403);
    Ok(())
}
