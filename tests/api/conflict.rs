//! Two instances with one number (spec/webhooks.md §7).

use estafet_harness::Sandbox;

use crate::world::{KERRY, World};

#[tokio::test]
async fn a_second_instance_is_refused_naming_the_holder_and_the_first_reports_the_conflict() -> anyhow::Result<()> {
    let world = World::start().await?;
    let second = Sandbox::options().data_dir(world.sandbox.data_dir()).start().await;
    let error = format!("{:#}", second.expect_err("a second instance on the same data must not start"));
    assert!(error.contains(&world.sandbox.pid().to_string()), "the holder is not named: {error}");

    let arrival = world.sink.wait_for_one(|arrival| arrival.event["errors"].is_array()).await?;
    let details = arrival.event["errors"][0]["details"].as_str().unwrap_or_default();
    assert!(details.contains("Conflict: multiple instances with the same number detected"), "{}", arrival.event);
    assert!(arrival.event["errors"][0]["code"].is_u64() && arrival.event["errors"][0]["title"].is_string());

    // The first goes on.
    let id = world.admin.send_text(KERRY, "still here").await?;
    world.sink.wait_for_status(&id, "read").await?;
    Ok(())
}
