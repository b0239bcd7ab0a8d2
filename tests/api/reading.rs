//! Marking as read (spec/messages.md §7).

use estafet_harness::client::until;
use reqwest::Method;
use serde_json::json;

use crate::world::{KERRY, World};

#[tokio::test]
async fn a_message_marked_as_read_is_read_on_the_phone_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.phone_sends_text(KERRY, "please read").await?;
    world.sink.wait_for_message(&id).await?;
    assert_eq!(world.admin.read_marks(KERRY).await?, Vec::<String>::new());

    world.admin.mark_read(&id).await?;
    world.admin.mark_read(&id).await?;
    until("the phone shows that its message was read", async || Ok(world.admin.read_marks(KERRY).await? == [id.as_str()])).await
}

#[tokio::test]
async fn an_outgoing_message_cannot_be_marked_as_read() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.send_text(KERRY, "mine").await?;
    let answer = world.admin.call(Method::PUT, &format!("/v1/messages/{id}"), Some(&json!({ "status": "read" }))).await?;
    assert_eq!((answer.status, answer.error_code()), (400, Some(1009)), "{}", answer.text);
    Ok(())
}
