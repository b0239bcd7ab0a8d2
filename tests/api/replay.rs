//! Delivered callbacks that are posted once more.

use estafet_harness::{client::until, sink::Arrival};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

const DELIVERED: &str = "/v1/estafet/callbacks/delivered";
const REPLAY: &str = "/v1/estafet/callbacks/replay";

async fn kept(world: &World) -> anyhow::Result<Vec<Value>> {
    let answer = world.admin.call(Method::GET, DELIVERED, None).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text);
    Ok(answer.body["callbacks"].as_array().cloned().unwrap_or_default())
}

/// Texts of a phone, told to the business; their ids.
async fn told(world: &World, phone: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for n in 0..count {
        let id = world.admin.phone_sends_text(phone, &format!("message {n}")).await?;
        world.sink.wait_for_message(&id).await?;
        ids.push(id);
    }
    Ok(ids)
}

async fn replayed(world: &World, selection: Value) -> anyhow::Result<Value> {
    let answer = world.admin.call(Method::POST, REPLAY, Some(&selection)).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text);
    Ok(answer.body)
}

async fn nothing_waits(world: &World) -> anyhow::Result<()> {
    until("nothing waits any more", async || {
        let waiting = world.admin.call(Method::GET, "/v1/estafet/callbacks", None).await?;
        Ok(waiting.body["callbacks"] == json!([]))
    })
    .await
}

fn identity(arrival: &Arrival) -> (Vec<u8>, String) {
    let id = arrival.headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    (arrival.body.to_vec(), id.to_owned())
}

#[tokio::test]
async fn a_replay_posts_the_same_bytes_in_their_order_and_a_dry_run_nothing() -> anyhow::Result<()> {
    let world = World::start().await?;
    let settings = json!({"keep_delivered": 3600, "signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    world.admin.patch_settings(&json!({ "webhooks": settings })).await?;
    let (of_kerry, of_ana) = (told(&world, KERRY, 3).await?, told(&world, ANA, 1).await?);
    until("all are kept", async || Ok(kept(&world).await?.len() == 4)).await?;
    let first: Vec<_> = world.sink.arrivals().iter().map(identity).collect();
    assert_eq!(first.len(), 4);

    let dry = replayed(&world, json!({"contact": KERRY, "dry_run": true})).await?;
    assert_eq!(dry["matched"], 3);
    let shown: Vec<&str> =
        dry["callbacks"].as_array().into_iter().flatten().filter_map(|c| c["body"]["messages"][0]["id"].as_str()).collect();
    assert_eq!(shown, of_kerry);
    assert_eq!(replayed(&world, json!({"until": 1000})).await?["matched"], 0);
    assert_eq!(replayed(&world, json!({"message_id": of_ana[0]})).await?["matched"], 1);
    assert_eq!(replayed(&world, json!({"contact": KERRY})).await?["matched"], 3);
    let arrivals = world.sink.wait_for(std::time::Duration::from_secs(30), |arrivals| arrivals.len() == 8).await?;
    let again: Vec<_> = arrivals[4..].iter().map(identity).collect();
    let of = |list: &[(Vec<u8>, String)], phone: &str| -> Vec<(Vec<u8>, String)> {
        let is_of = |(body, _): &&(Vec<u8>, String)| String::from_utf8_lossy(body).contains(phone);
        list.iter().filter(is_of).cloned().collect()
    };
    for phone in [KERRY, ANA] {
        assert_eq!(of(&again, phone), of(&first, phone), "the same bytes and ids, in the same order");
    }
    assert!(first.iter().all(|(_, id)| id.starts_with("cb_")));
    nothing_waits(&world).await?;
    assert_eq!(kept(&world).await?.len(), 4, "what is posted again is kept once");
    Ok(())
}

#[tokio::test]
async fn nothing_is_kept_unless_asked_for_and_a_replay_says_which() -> anyhow::Result<()> {
    let world = World::start().await?;
    told(&world, KERRY, 1).await?;
    nothing_waits(&world).await?;
    world.admin.patch_settings(&json!({"webhooks": {"keep_delivered": 3600}})).await?;
    let second = told(&world, KERRY, 1).await?;
    until("the second is kept", async || Ok(!kept(&world).await?.is_empty())).await?;
    let all = kept(&world).await?;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["body"]["messages"][0]["id"], json!(second[0]));
    assert!(all[0]["delivered"].is_string());
    let refused = world.admin.call(Method::POST, REPLAY, Some(&json!({}))).await?;
    assert_eq!((refused.status, refused.error_code()), (400, Some(1008)), "{}", refused.text);
    let user = world.admin.create_user("clerk", "Cl3rk!pass").await?;
    assert_eq!(user.call(Method::POST, REPLAY, Some(&json!({"all": true}))).await?.status, 403);
    Ok(())
}
