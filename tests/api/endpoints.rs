//! Several receivers of one number's callbacks, each at its own place.

use estafet_harness::{PATIENCE, Sandbox, Sink, client::until, sink::Arrival};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

const AUTHORITY: &str = include_str!("fixtures/webhook-ca.pem");
const CHAIN: &[u8] = include_bytes!("fixtures/webhook-server.pem");
const KEY: &[u8] = include_bytes!("fixtures/webhook-server.key");

async fn set(world: &World, endpoints: Value) -> anyhow::Result<()> {
    world.admin.patch_settings(&json!({"webhooks": {"endpoints": endpoints}})).await
}

/// Ids of the messages that were taken, in the order they came.
fn taken(sink: &Sink) -> Vec<String> {
    taken_of(&sink.arrivals())
}

fn taken_of(arrivals: &[Arrival]) -> Vec<String> {
    let taken = arrivals.iter().filter(|arrival| arrival.status == 200);
    taken.flat_map(Arrival::messages).map(str::to_owned).collect()
}

async fn texts(world: &World, phone: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(world.admin.phone_sends_text(phone, &format!("message {n}")).await?);
    }
    Ok(ids)
}

/// How many callbacks of a list there are for a receiver.
async fn count(world: &World, list: &str, endpoint: &str) -> anyhow::Result<usize> {
    let answer = world.admin.call(Method::GET, &format!("/v1/estafet/callbacks{list}?limit=500"), None).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text);
    let callbacks = answer.body["callbacks"].as_array().cloned().unwrap_or_default();
    Ok(callbacks.iter().filter(|callback| callback["endpoint"] == endpoint).count())
}

#[tokio::test]
async fn a_receiver_that_fails_holds_no_other_up_and_gets_everything_in_order_later() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.retry_soon().await?;
    let archive = Sink::start().await?;
    archive.reply_otherwise(500);
    set(&world, json!([{"name": "archive", "url": archive.url()}])).await?;
    let sent = texts(&world, KERRY, 5).await?;
    world.sink.wait_for_message(&sent[4]).await?;
    assert_eq!(taken(&world.sink), sent);
    archive.wait_for_message(&sent[0]).await?;
    until("what the archive lacks waits", async || Ok(count(&world, "", "archive").await? == 5)).await?;
    until("nothing else waits", async || Ok(count(&world, "", "main").await? == 0)).await?;
    archive.reply_otherwise(200);
    archive.wait_for_one(|arrival| arrival.status == 200 && arrival.messages().any(|id| id == sent[4])).await?;
    assert_eq!(taken(&archive), sent);
    assert_eq!(taken(&world.sink), sent, "and nobody gets anything twice");
    Ok(())
}

#[tokio::test]
async fn each_receiver_goes_on_at_its_place_after_a_kill() -> anyhow::Result<()> {
    let mut world = World::start_with(Sandbox::options().shards(4)).await?;
    world.retry_soon().await?;
    let archive = Sink::start().await?;
    set(&world, json!([{"name": "archive", "url": archive.url()}])).await?;
    let early = texts(&world, KERRY, 2).await?;
    for sink in [&world.sink, &archive] {
        sink.wait_for_message(&early[1]).await?;
    }
    until("both are done", async || Ok(count(&world, "", "main").await? + count(&world, "", "archive").await? == 0)).await?;
    archive.reply_otherwise(503);
    let (of_kerry, of_ana) = (texts(&world, KERRY, 3).await?, texts(&world, ANA, 3).await?);
    world.sink.wait_for(PATIENCE, |arrivals| taken_of(arrivals).len() == 8).await?;
    world.sandbox.kill();
    world.sandbox.restart().await?;
    world.admin = world.sandbox.login().await?;
    archive.reply_otherwise(200);
    archive.wait_for(PATIENCE, |arrivals| taken_of(arrivals).len() == 8).await?;
    let taken = taken(&archive);
    assert_eq!(taken[..2], early, "what it took before does not come again");
    for sent in [of_kerry, of_ana] {
        let of_phone: Vec<&String> = taken.iter().filter(|id| sent.contains(id)).collect();
        assert_eq!(of_phone, sent.iter().collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test]
async fn a_new_receiver_begins_with_new_events_and_what_waits_for_a_removed_one_is_dropped() -> anyhow::Result<()> {
    let world = World::start().await?;
    let first = texts(&world, KERRY, 1).await?;
    world.sink.wait_for_message(&first[0]).await?;
    let archive = Sink::start().await?;
    archive.reply_otherwise(500);
    let with = json!([{"name": "archive", "url": archive.url()}]);
    set(&world, with.clone()).await?;
    let second = texts(&world, KERRY, 2).await?;
    archive.wait_for_message(&second[0]).await?;
    set(&world, json!([])).await?;
    until("nothing is left of the archive", async || Ok(count(&world, "", "removed").await? == 0)).await?;

    archive.reply_otherwise(200);
    set(&world, with).await?;
    let third = texts(&world, KERRY, 1).await?;
    archive.wait_for_message(&third[0]).await?;
    world.sink.wait_for_message(&third[0]).await?;
    assert_eq!(taken(&archive), third, "under the same name it is a new receiver");
    assert_eq!(taken(&world.sink), [first, second, third].concat());
    Ok(())
}

#[tokio::test]
async fn a_receiver_hears_what_it_asked_for_with_its_own_headers_secrets_and_certificates() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (inbox, errors) = (Sink::start_tls(CHAIN, KEY).await?, Sink::start().await?);
    let endpoints = json!([
        {"name": "inbox", "url": inbox.url(), "events": ["messages"], "ca": AUTHORITY,
         "headers": {"Authorization": "Bearer of-the-inbox"}, "app_secret": "0123456789abcdef"},
        {"name": "errors", "url": errors.url(), "events": ["errors"]},
    ]);
    set(&world, endpoints).await?;
    let shown = world.admin.settings().await?;
    assert_eq!(shown["webhooks"]["endpoints"][0]["headers"], json!({"authorization": "********"}));
    assert!(!shown.to_string().contains("of-the-inbox"));
    set(&world, shown["webhooks"]["endpoints"].clone()).await?;

    let id = world.admin.send_text(KERRY, "to a phone that reads").await?;
    let text = texts(&world, KERRY, 1).await?;
    world.sink.wait_for_status(&id, "read").await?;
    world.sink.wait_for_message(&text[0]).await?;
    let brought = inbox.wait_for_message(&text[0]).await?;
    assert_eq!(brought.headers["authorization"], "Bearer of-the-inbox");
    assert!(brought.headers.contains_key("x-hub-signature-256"));
    let all = world.sink.arrivals();
    assert!(all.iter().all(|a| !a.headers.contains_key("authorization") && !a.headers.contains_key("x-hub-signature-256")));
    until("all is done", async || Ok(count(&world, "", "main").await? + count(&world, "", "inbox").await? == 0)).await?;
    assert_eq!(inbox.arrivals().len(), 1, "statuses are not for it");
    assert!(errors.arrivals().is_empty());

    for (endpoints, code) in [
        (json!([{"name": "a", "url": "http://hooks.example.org/"}]), 1009),
        (json!([{"name": "a", "url": "https://hooks.example.org/", "ca": "hello"}]), 1009),
        (json!([{"url": "https://hooks.example.org/"}]), 1008),
    ] {
        let change = json!({"webhooks": {"endpoints": endpoints}});
        let refused = world.admin.call(Method::PATCH, "/v1/settings/application", Some(&change)).await?;
        assert_eq!((refused.status, refused.error_code()), (400, Some(code)), "{}", refused.text);
    }
    assert_eq!(world.admin.settings().await?["webhooks"]["endpoints"], shown["webhooks"]["endpoints"]);
    Ok(())
}

#[tokio::test]
async fn callbacks_go_to_public_addresses_only_if_the_settings_say_so() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.retry_soon().await?;
    let by_name = Sink::start().await?;
    let url = by_name.url().replace("127.0.0.1", "localhost");
    world
        .admin
        .patch_settings(&json!({"webhooks": {"deny_private": true, "endpoints": [{"name": "named", "url": url}]}}))
        .await?;
    let sent = texts(&world, KERRY, 1).await?;
    let refused = async |endpoint: &str| {
        let is_refusal = |line: &&str| {
            line.contains("callback_posts")
                && line.contains(r#"result="connection""#)
                && line.contains(&format!(r#"endpoint="{endpoint}""#))
        };
        Ok(world.admin.metrics().await?.lines().find(is_refusal).is_some_and(|line| !line.ends_with(" 0")))
    };
    until("the address is refused", async || refused("main").await).await?;
    until("the name is refused", async || refused("named").await).await?;
    assert!(world.sink.arrivals().is_empty() && by_name.arrivals().is_empty());
    world.admin.patch_settings(&json!({"webhooks": {"deny_private": false}})).await?;
    world.sink.wait_for_message(&sent[0]).await?;
    by_name.wait_for_message(&sent[0]).await?;
    Ok(())
}
