//! Webhooks: what counts as taken, what is told again, and what the settings switch while everything runs.

use estafet_harness::{
    PATIENCE,
    client::until,
    sink::{Arrival, Gate, Reply},
};
use reqwest::Method;
use serde_json::json;

use crate::world::{KERRY, World};

/// Answers that are no success.
const ANSWERS: usize = 8;

#[tokio::test]
async fn r151_r153_r154_whatever_is_not_200_is_told_again_byte_by_byte() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.retry_soon().await?;
    world.admin.patch_settings(&json!({ "webhooks": { "timeout_ms": 200 } })).await?;
    let never = Gate::new();
    let statuses = [201, 204, 304, 400, 500, 503].map(Reply::Status);
    let replies = [Reply::Redirect("/elsewhere"), Reply::After(never.clone(), 200)].into_iter().chain(statuses);
    let replies: Vec<Reply> = replies.collect();
    assert_eq!(replies.len(), ANSWERS);
    world.sink.reply_next_about(KERRY, replies);
    // At first nobody listens.
    world.sink.close().await?;
    let id = world.admin.phone_sends_text(KERRY, "Grüße 😀").await?;
    world.sink.open().await?;
    let all = |arrivals: &[Arrival]| arrivals.iter().filter(|arrival| brings(arrival, &id)).count() > ANSWERS;
    let arrivals = world.sink.wait_for(PATIENCE, all).await?;
    never.open();
    // Only what was taken is followed by the next.
    let next = world.admin.phone_sends_text(KERRY, "next").await?;
    world.sink.wait_for_message(&next).await?;

    let tries: Vec<&Arrival> = arrivals.iter().filter(|arrival| brings(arrival, &id)).collect();
    let answered: Vec<u16> = tries.iter().map(|arrival| arrival.status).collect();
    assert_eq!(answered, [302, 200, 201, 204, 304, 400, 500, 503, 200], "the second answer came too late");
    assert!(tries.iter().all(|arrival| arrival.body == tries[0].body), "every try has the same bytes");
    let arrivals = world.sink.arrivals();
    assert_eq!(arrivals.iter().filter(|arrival| brings(arrival, &id)).count(), ANSWERS + 1, "told again after 200");
    assert!(arrivals.iter().all(|arrival| arrival.path == estafet_harness::sink::PATH), "a redirect was followed");
    Ok(())
}

/// The gauge of the main receiver in `/v1/stats/app`, and the same of the whole process in `/metrics`.
async fn gauges(world: &World, name: &str) -> anyhow::Result<(f64, f64)> {
    let app = world.admin.call(Method::GET, "/v1/stats/app", None).await?;
    let samples = app.body["stats"]["app"][name]["data"].as_array().cloned().unwrap_or_default();
    let main = samples.iter().find(|sample| sample["labels"]["endpoint"] == "main");
    let ours = world.admin.metrics().await?;
    let line = ours.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains("endpoint=\"main\""));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    Ok((main.and_then(|sample| sample["value"].as_f64()).unwrap_or(f64::NAN), value.unwrap_or(f64::NAN)))
}

#[tokio::test]
async fn r92_callbacks_that_wait_and_the_oldest_of_them_are_told_until_none_waits() -> anyhow::Result<()> {
    let mut world = World::start().await?;
    world.retry_soon().await?;
    world.sink.close().await?;
    for n in 0..5 {
        world.admin.phone_sends_text(KERRY, &format!("{n}")).await?;
    }
    until("the queue is told as long and as getting older", async || {
        let ((waiting, ours), (age, our_age)) =
            (gauges(&world, "callbacks_waiting").await?, gauges(&world, "callback_oldest_seconds").await?);
        Ok(waiting == 5.0 && ours == 5.0 && age >= 2.0 && our_age >= 2.0)
    })
    .await?;
    world.sink.open().await?;
    until("nothing waits", async || {
        Ok(gauges(&world, "callbacks_waiting").await? == (0.0, 0.0)
            && gauges(&world, "callback_oldest_seconds").await? == (0.0, 0.0))
    })
    .await
}

fn brings(arrival: &Arrival, id: &str) -> bool {
    arrival.messages().any(|brought| brought == id)
}

#[tokio::test]
async fn r155_r156_pass_through_silences_read_and_its_end_brings_it_back_at_once() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.admin.patch_settings(&json!({ "pass_through": true })).await?;
    let silent = world.admin.send_text(KERRY, "silent").await?;
    world.sink.wait_for_status(&silent, "delivered").await?;
    world.admin.patch_settings(&json!({ "pass_through": false })).await?;
    let told = world.admin.send_text(KERRY, "told").await?;
    world.sink.wait_for_status(&told, "read").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages.len(), 2);
    // What concerns one user comes in order, so a `read` of the first would be here.
    assert!(!world.sink.arrivals().iter().any(|arrival| arrival.reports(&silent, "read")));
    Ok(())
}

#[tokio::test]
async fn r157_the_size_of_the_database_is_told() -> anyhow::Result<()> {
    let world = World::start().await?;
    until("rows and bytes are told", async || {
        let text = world.admin.metrics().await?;
        let has = |name: &str, table: &str| {
            text.lines().any(|line| line.starts_with(&format!("{name}{{")) && line.contains(&format!("table=\"{table}\"")))
        };
        Ok(has("database_rows", "message_out") && has("database_rows", "callback_event") && has("database_bytes", "all"))
    })
    .await
}
