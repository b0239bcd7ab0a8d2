//! Any text reaches the phone as it was written, on every database (spec/messages.md §2.1).

use estafet_harness::{Postgres, Sandbox, sandbox};
use serde_json::Value;

use crate::world::{KERRY, World};

/// Texts that are easily damaged on the way: by SQL, JSON, C strings, code units or trimming.
fn odd_texts() -> Vec<String> {
    let longest = 4096;
    vec![
        "plain".to_owned(),
        " leading and trailing ".to_owned(),
        "\n".to_owned(),
        "line\nbreak\r\nand\ttab".to_owned(),
        r#"quotes ' " ` and \ backslash \n not a break"#.to_owned(),
        "'; DROP TABLE message_out; --".to_owned(),
        "$1 %s {} {{name}} <b>&amp;</b>".to_owned(),
        "controls \u{1}\u{7f}\u{85}\u{2028}\u{feff}".to_owned(),
        "*bold* _italic_ ~gone~ ```code```".to_owned(),
        "Größe, 日本語, العربية, עברית, ไทย".to_owned(),
        "e\u{301} and \u{202e}right to left\u{202c}".to_owned(),
        "👩‍👩‍👧‍👦 🇮🇩 👍🏽 𝒳".to_owned(),
        "\u{10ffff}\u{fffe}\u{fffd}".to_owned(),
        "a".repeat(longest),
        "👍".repeat(longest),
        "\u{1}".repeat(longest),
    ]
}

async fn odd_texts_arrive_unchanged(options: sandbox::Options) -> anyhow::Result<()> {
    let world = World::start_with(options).await?;
    let texts = odd_texts();
    let mut ids = Vec::new();
    for text in &texts {
        ids.push(world.admin.send_text(KERRY, text).await?);
    }
    world.sink.wait_for_status(ids.last().expect("there are texts"), "read").await?;
    let inbox = world.admin.inbox(KERRY).await?;
    let received: Vec<(&str, &str)> = inbox.messages.iter().map(|message| (message.id.as_str(), message.text())).collect();
    let expected: Vec<(&str, &str)> = ids.iter().zip(&texts).map(|(id, text)| (id.as_str(), text.as_str())).collect();
    assert_eq!(received, expected);

    // And from the phone to the business.
    for text in &texts {
        let id = world.admin.phone_sends_text(KERRY, text).await?;
        let arrival = world.sink.wait_for_message(&id).await?;
        assert_eq!(arrival.event.pointer("/messages/0/text/body").and_then(Value::as_str), Some(text.as_str()));
    }
    Ok(())
}

#[tokio::test]
async fn odd_texts_arrive_unchanged_with_sqlite() -> anyhow::Result<()> {
    odd_texts_arrive_unchanged(Sandbox::options()).await
}

#[tokio::test]
async fn odd_texts_arrive_unchanged_with_postgres() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let url = postgres.create_database("text").await?;
    odd_texts_arrive_unchanged(Sandbox::options().database(&url)).await
}
