//! Sending: what the business learns of its messages, and what it cannot learn.

use std::collections::BTreeSet;

use estafet_harness::{Api, Sink, client::until};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

/// A phone of the sandbox that reads what it gets.
const OTHER: &str = "15550001001";

/// A body without what differs between any two messages: numbers, ids, moments.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::String(text) if text.len() > 9 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) => {
            json!("...")
        }
        other => other.clone(),
    }
}

/// Everything that a business hears of a message to a phone that takes nothing.
async fn heard(admin: &Api, sink: &Sink, phone: &str) -> anyhow::Result<Vec<Value>> {
    let message = json!({ "to": phone, "text": { "body": "anybody there?" } });
    let answer = admin.call(Method::POST, "/v1/messages", Some(&message)).await?;
    let id = answer.text_at("/messages/0/id").unwrap_or_default().to_owned();
    sink.wait_for_status(&id, "sent").await?;
    let contacts = admin.contacts(&[phone]).await?;
    let health = admin.call(Method::GET, "/v1/health", None).await?;
    // What happens to others meanwhile proves that nothing more is to come.
    let later = admin.send_text(OTHER, "later").await?;
    sink.wait_for_status(&later, "read").await?;
    let callbacks = sink.arrivals().into_iter().filter(|arrival| arrival.contact.as_deref() == Some(phone));
    let callbacks: Vec<Value> = callbacks.map(|arrival| shape(&arrival.event)).collect();
    Ok([vec![shape(&answer.body), shape(&contacts), shape(&health.body)], callbacks].concat())
}

fn names_of_metrics(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect()
}

#[tokio::test]
async fn r86_r104_r105_r106_r107_a_phone_that_blocked_looks_like_one_out_of_reach() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.report_sent().await?;
    let (admin, sink) = (&world.admin, &world.sink);
    admin.set_phone(KERRY, "offline").await?;
    let out_of_reach = heard(admin, sink, KERRY).await?;
    // The first look is measured too, and seen by the second.
    admin.metrics().await?;
    let measured = admin.metrics().await?;
    admin.set_phone(ANA, "block").await?;
    let blocked = heard(admin, sink, ANA).await?;
    assert_eq!(blocked, out_of_reach);
    assert_eq!(out_of_reach[3]["statuses"][0]["status"], "sent");
    assert_eq!(out_of_reach.len(), 4, "a delivery that is merely late is no failure: {out_of_reach:#?}");
    let contact = admin.contacts(&[ANA]).await?;
    assert_eq!(contact, json!([{ "input": ANA, "status": "valid", "wa_id": ANA }]));
    let after = admin.metrics().await?;
    let new: Vec<&str> = names_of_metrics(&after).difference(&names_of_metrics(&measured)).copied().collect();
    assert!(new.is_empty() && !after.to_lowercase().contains("block"), "measured only since somebody blocked: {new:?}");

    // Who comes into reach gets everything; who lifts the block gets what is sent from then on.
    for phone in [KERRY, ANA] {
        admin.set_phone(phone, "read").await?;
        let again = admin.send_text(phone, "again").await?;
        sink.wait_for_status(&again, "read").await?;
    }
    let texts = async |phone| {
        let messages = admin.inbox(phone).await?.messages;
        anyhow::Ok(messages.iter().map(|message| message.text().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(texts(KERRY).await?, ["anybody there?", "again"]);
    assert_eq!(texts(ANA).await?, ["again"]);
    Ok(())
}

#[tokio::test]
async fn r113_r115_who_waits_for_delivered_has_the_order_and_links_go_through_untouched() -> anyhow::Result<()> {
    let world = World::start().await?;
    let text = "see https://example.org/a?b=c#d *now* _please_ ~never~ ```x``` and http://example.org/";
    let first = json!({ "to": KERRY, "type": "text", "preview_url": true, "text": { "body": text } });
    let first = world.admin.send(&first).await?;
    world.sink.wait_for_status(&first, "delivered").await?;
    let second = world.admin.send_text(KERRY, "second").await?;
    world.sink.wait_for_status(&second, "delivered").await?;
    let messages = world.admin.inbox(KERRY).await?.messages;
    assert_eq!(messages.iter().map(|message| &message.id).collect::<Vec<_>>(), [&first, &second]);
    assert_eq!(messages[0].content, json!({ "type": "text", "text": { "body": text }, "preview_url": true }));
    Ok(())
}

/// The count of a histogram and the sum of its values.
fn histogram(metrics: &str, name: &str) -> (u64, f64) {
    let value = |part: &str| {
        let name = format!("{name}_{part}");
        let of = |line: &str| line.strip_prefix(name.as_str())?.rsplit(' ').next()?.parse::<f64>().ok();
        metrics.lines().filter_map(of).sum::<f64>()
    };
    (value("count") as u64, value("sum"))
}

#[tokio::test]
async fn r121_our_part_of_a_delivery_and_the_phones_are_measured_apart() -> anyhow::Result<()> {
    let world = World::start().await?;
    let (ours, theirs) = ("message_network_seconds", "message_delivery_seconds");
    world.admin.set_phone(KERRY, "offline").await?;
    let late = world.admin.send_text(KERRY, "for later").await?;
    let prompt = world.admin.send_text(ANA, "now").await?;
    world.sink.wait_for_status(&prompt, "read").await?;
    let taken = async || Ok(histogram(&world.admin.metrics().await?, ours).0 == 2);
    until("both messages were taken by the network", taken).await?;
    let before = world.admin.metrics().await?;
    assert_eq!(histogram(&before, theirs).0, 1, "only one phone has its message");
    assert!(before.contains(r#"status="delivered""#) && before.contains(r#"status="sent""#), "{before}");

    world.admin.set_phone(KERRY, "read").await?;
    world.sink.wait_for_status(&late, "read").await?;
    let after = world.admin.metrics().await?;
    assert_eq!(histogram(&after, ours), histogram(&before, ours), "a phone that is late takes none of our time");
    assert_eq!(histogram(&after, theirs).0, 2);
    Ok(())
}

/// How often messages were found to repeat an earlier one, accepted and refused.
async fn repeated(admin: &Api) -> anyhow::Result<[f64; 2]> {
    let stats = admin.call(Method::GET, "/v1/stats/app", None).await?.body;
    let samples = stats["stats"]["app"]["identical_messages"]["data"].as_array().cloned().unwrap_or_default();
    let of = |result: &str| samples.iter().find(|sample| sample["labels"]["result"] == result)?["value"].as_f64();
    Ok(["accepted", "refused"].map(|result| of(result).unwrap_or(f64::NAN)))
}

#[tokio::test]
async fn r85_the_same_to_one_recipient_again_is_counted_and_refused_where_the_settings_say_so() -> anyhow::Result<()> {
    let world = World::start().await?;
    let admin = &world.admin;
    let set = async |rule: Value| admin.patch_settings(&json!({ "identical_messages": rule })).await;
    for _ in 0..2 {
        admin.send_text(KERRY, "off by default").await?;
    }
    assert_eq!(repeated(admin).await?, [0.0, 0.0], "nothing is compared");
    set(json!({ "window": 3600 })).await?;
    for _ in 0..3 {
        admin.send_text(KERRY, "counted").await?;
    }
    assert_eq!(repeated(admin).await?, [2.0, 0.0]);
    set(json!({ "refuse": true })).await?;
    admin.send_text(KERRY, "once").await?;
    let once = json!({ "to": KERRY, "type": "text", "text": { "body": "once" } });
    let refused = admin.call(Method::POST, "/v1/messages", Some(&once)).await?;
    assert_eq!((refused.status, refused.error_code()), (429, Some(1015)), "{}", refused.text);
    let wait: u64 = refused.headers["retry-after"].to_str()?.parse()?;
    assert!((3000..=3600).contains(&wait), "the rest of the window: {wait}");
    let last = admin.send_text(KERRY, "something else").await?;
    admin.send_text(ANA, "once").await?;
    assert_eq!(repeated(admin).await?, [2.0, 1.0]);
    let text = admin.metrics().await?;
    assert!(text.lines().any(|line| line.starts_with("messages_identical_total{") && line.contains("refused")), "{text}");
    world.sink.wait_for_status(&last, "read").await?;
    let texts = admin.inbox(KERRY).await?.messages;
    assert_eq!(texts.iter().filter(|message| message.text() == "once").count(), 1, "what is refused is not sent");
    set(json!({ "window": null })).await?;
    admin.send_text(KERRY, "once").await.map(drop)
}

#[tokio::test]
async fn r88_every_status_is_told_of_what_a_phone_does() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.report_sent().await?;
    let (admin, sink) = (&world.admin, &world.sink);
    let read = admin.send_text(KERRY, "hello").await?;
    for status in ["sent", "delivered", "read"] {
        sink.wait_for_status(&read, status).await?;
    }
    admin.set_phone(ANA, "spam").await?;
    let failed = admin.send_text(ANA, "hello").await?;
    sink.wait_for_status(&failed, "failed").await?;

    admin.set_phone(KERRY, "soldout").await?;
    let action = json!({ "catalog_id": "1", "product_retailer_id": "2" });
    let product = json!({ "type": "product", "body": { "text": "Flowers" }, "action": action });
    let shown = admin.send(&json!({ "to": KERRY, "type": "interactive", "interactive": product })).await?;
    let warning = sink.wait_for_one(|arrival| arrival.reports(&shown, "warning")).await?.event;
    let error = json!([{ "code": 2029, "title": "List some products failed compliance" }]);
    assert_eq!((&warning["statuses"][0]["errors"], &warning["statuses"][0]["conversation"]), (&error, &Value::Null));
    sink.wait_for_status(&shown, "read").await?;
    let plain = admin.send_text(KERRY, "no product in it").await?;
    sink.wait_for_status(&plain, "read").await?;
    assert!(!sink.arrivals().iter().any(|arrival| arrival.reports(&plain, "warning")));

    let written = admin.phone_sends_text(KERRY, "not meant for you").await?;
    sink.wait_for_message(&written).await?;
    let delete = format!("/sandbox/phones/{KERRY}/messages/{written}");
    assert_eq!(admin.call(Method::DELETE, &delete, None).await?.status, 200);
    let deleted = sink.wait_for_one(|arrival| arrival.reports(&written, "deleted")).await?.event;
    let status = &deleted["statuses"][0];
    assert_eq!((&status["recipient_id"], &status["type"]), (&json!(KERRY), &json!("message")));
    assert!(status["timestamp"].is_string() && status.get("errors").is_none() && deleted.get("messages").is_none());
    assert_eq!(admin.call(Method::DELETE, &delete, None).await?.status, 404, "nothing is deleted twice");
    Ok(())
}
