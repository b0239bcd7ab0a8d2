//! Sends under a key, end to end.

use estafet_harness::client::text_message;

use crate::world::{ANA, KERRY, World};

#[tokio::test]
async fn a_send_repeated_under_its_key_arrives_once_under_one_id() -> anyhow::Result<()> {
    let world = World::start().await?;
    let first = world.admin.send_with_key("order-17", &text_message(KERRY, "hello")).await?;
    let again = world.admin.send_with_key("order-17", &text_message(KERRY, "hello")).await?;
    assert_eq!((first.status, &first.body), (201, &again.body), "{}", again.text);
    let other = world.admin.send_with_key("order-17", &text_message(KERRY, "something else")).await?;
    assert_eq!((other.status, other.error_code()), (422, Some(1025)), "{}", other.text);
    let elsewhere = world.admin.send_with_key("order-17", &text_message(ANA, "hello")).await?;
    assert_eq!(elsewhere.status, 201, "a key is one recipient's: {}", elsewhere.text);

    let last = world.admin.send_text(KERRY, "the last one").await?;
    world.sink.wait_for_one(|arrival| arrival.reports(&last, "read")).await?;
    let inbox = world.admin.inbox(KERRY).await?;
    let texts: Vec<&str> = inbox.messages.iter().map(estafet_harness::client::Message::text).collect();
    assert_eq!((texts, inbox.duplicates), (vec!["hello", "the last one"], 0));
    Ok(())
}
