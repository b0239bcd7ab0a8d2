//! Webhooks: what counts as taken, what is told again, and what the settings switch while everything runs.

use estafet_harness::{
    PATIENCE,
    sink::{Arrival, Gate, Reply},
};
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
