//! The shard count of a sandbox changes while messages flow.

use estafet_harness::client::until;
use reqwest::Method;
use serde_json::json;

use crate::world::{ANA, KERRY, World};

#[tokio::test]
async fn a_sandbox_changes_its_shard_count_between_messages_in_order() -> anyhow::Result<()> {
    let world = World::start().await?;
    let admin = &world.admin;
    let mut sent = 0;
    for shards in [8, 2, 1] {
        let body = json!({ "cc": "1", "phone_number": "5550000001", "shards": shards, "cert": "CmkKJQjX" });
        let answer = admin.call(Method::POST, "/v1/account/shards", Some(&body)).await?;
        assert_eq!(answer.status, 201, "{}", answer.text);
        until("every new shard runs", async || {
            for phone in [KERRY, ANA] {
                admin.send_text(phone, &format!("{sent}")).await?;
            }
            sent += 1;
            let status = admin.call(Method::GET, "/sandbox/status", None).await?;
            let states = status.body["shards"].as_array().cloned().unwrap_or_default();
            Ok(states.len() == shards && states.iter().all(|state| state["shard_count"] == shards))
        })
        .await?;
    }
    let read = admin.call(Method::GET, "/v1/account/shards", None).await?;
    assert_eq!(read.body["account"]["shards"], json!(1));
    for phone in [KERRY, ANA] {
        let expected: Vec<String> = (0..sent).map(|n| n.to_string()).collect();
        until("every message has arrived", async || Ok(admin.inbox(phone).await?.messages.len() >= expected.len())).await?;
        let inbox = admin.inbox(phone).await?;
        assert_eq!(inbox.messages.iter().map(|message| message.text().to_owned()).collect::<Vec<_>>(), expected);
        assert_eq!(inbox.duplicates, 0);
    }
    Ok(())
}
