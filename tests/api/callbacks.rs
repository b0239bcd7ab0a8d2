//! Callbacks: their layout, their lanes, and that none is lost (spec/webhooks.md, **I6**).

use std::collections::BTreeSet;

use estafet_harness::{
    Ledger, PATIENCE, Sandbox, Sink, environment,
    ledger::{self, assert_none},
    sink::{Arrival, Gate, Reply},
};
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

fn members(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

fn is_a_string_of_seconds(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit()))
}

#[tokio::test]
async fn a_message_is_reported_sent_then_delivered_then_read_in_the_documented_layout() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.report_sent().await?;
    let id = world.admin.send_text(KERRY, "hello").await?;
    world.sink.wait_for_status(&id, "read").await?;

    let arrivals = world.sink.arrivals();
    let order: Vec<&str> = arrivals.iter().flat_map(|arrival| arrival.statuses()).map(|(_, status)| status).collect();
    assert_eq!(order, ["sent", "delivered", "read"]);
    for arrival in &arrivals {
        assert_eq!(members(&arrival.event), BTreeSet::from(["statuses"]), "{}", arrival.event);
        assert_eq!(arrival.headers["content-type"], "application/json");
        let status = &arrival.event["statuses"][0];
        let optional = BTreeSet::from(["conversation", "pricing"]);
        let always: BTreeSet<&str> = members(status).difference(&optional).copied().collect();
        assert_eq!(always, BTreeSet::from(["id", "recipient_id", "status", "timestamp", "type"]), "{status}");
        assert_eq!((&status["id"], &status["recipient_id"], &status["type"]), (&json!(id), &json!(KERRY), &json!("message")));
        assert!(is_a_string_of_seconds(&status["timestamp"]), "{status}");
    }
    let sent = &arrivals[0].event["statuses"][0];
    assert!(sent["conversation"]["id"].is_string() && sent["conversation"]["origin"]["type"].is_string(), "{sent}");
    assert!(is_a_string_of_seconds(&sent["conversation"]["expiration_timestamp"]), "{sent}");
    assert_eq!(members(&sent["pricing"]), BTreeSet::from(["pricing_model", "billable", "category"]), "{sent}");
    Ok(())
}

#[tokio::test]
async fn a_phone_can_write_as_soon_as_the_sandbox_is_ready() -> anyhow::Result<()> {
    let sink = Sink::start().await?;
    let sandbox = Sandbox::options().webhook(&sink.url()).shards(16).start().await?;
    let id = sandbox.anonymous()?.phone_sends_text("15550001001", "at once").await?;
    sink.wait_for_message(&id).await.map(drop)
}

#[tokio::test]
async fn a_message_of_a_phone_arrives_in_the_documented_layout() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.phone_sends_text(KERRY, "hi there").await?;
    let arrival = world.sink.wait_for_message(&id).await?;
    let timestamp = arrival.event["messages"][0]["timestamp"].clone();
    assert!(is_a_string_of_seconds(&timestamp), "{}", arrival.event);
    let expected = json!({
        "contacts": [{ "profile": { "name": "Kerry" }, "wa_id": KERRY }],
        "messages": [{ "from": KERRY, "id": id, "timestamp": timestamp, "type": "text", "text": { "body": "hi there" } }],
    });
    assert_eq!(arrival.event, expected);
    Ok(())
}

#[tokio::test]
async fn sent_is_reported_only_when_switched_on() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.send_text(KERRY, "hello").await?;
    world.sink.wait_for_status(&id, "read").await?;
    assert!(!world.sink.arrivals().iter().any(|arrival| arrival.reports(&id, "sent")));
    Ok(())
}

#[tokio::test]
async fn a_failing_callback_holds_its_lane_and_no_other() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.retry_soon().await?;
    let gate = Gate::new();
    let failures = [Reply::After(gate.clone(), 500), Reply::Status(500), Reply::Status(500)];
    world.sink.reply_next_about(KERRY, failures);

    let first = world.admin.phone_sends_text(KERRY, "first").await?;
    world.sink.wait_for_message(&first).await?;
    // Kerry's lane now waits for an answer that is held back.
    let second = world.admin.phone_sends_text(KERRY, "second").await?;
    let other = world.admin.phone_sends_text(ANA, "other").await?;
    world.sink.wait_for_message(&other).await?;
    assert!(!world.sink.arrivals().iter().any(|arrival| arrival.messages().any(|id| id == second)));

    gate.open();
    world.sink.wait_for_message(&second).await?;
    let arrivals = world.sink.arrivals();
    let of_kerry = arrivals.iter().filter(|arrival| arrival.contact.as_deref() == Some(KERRY));
    let order: Vec<(&str, u16)> = of_kerry.flat_map(|arrival| arrival.messages().map(|id| (id, arrival.status))).collect();
    let first = first.as_str();
    assert_eq!(order, [(first, 500), (first, 500), (first, 500), (first, 200), (second.as_str(), 200)]);
    assert_none(&ledger::lanes_not_held(&arrivals));
    Ok(())
}

#[tokio::test]
async fn a_poison_event_of_one_contact_leaves_all_others_complete() -> anyhow::Result<()> {
    const EACH: usize = 25;
    let world = World::start_with(Sandbox::options().phones(4)).await?;
    world.retry_soon().await?;
    let gate = Gate::new();
    world.sink.reply_next_about(KERRY, [Reply::Status(400), Reply::Status(400), Reply::After(gate.clone(), 400)]);
    let others = [ANA, "15550001001", "15550001002", "15550001003", "15550001004"];

    let mut of_kerry = Vec::new();
    for n in 0..EACH {
        of_kerry.push(world.admin.phone_sends_text(KERRY, &format!("poison {n}")).await?);
        for phone in others {
            world.admin.phone_sends_text(phone, &format!("healthy {n}")).await?;
        }
    }
    let healthy = |arrival: &&Arrival| arrival.contact.as_deref() != Some(KERRY);
    let all_others = |arrivals: &[Arrival]| arrivals.iter().filter(healthy).count() == EACH * others.len();
    let arrivals = world.sink.wait_for(PATIENCE, all_others).await?;
    let tried: BTreeSet<&str> = arrivals.iter().filter(|a| !healthy(a)).flat_map(|arrival| arrival.messages()).collect();
    assert!(tried.iter().all(|id| *id == of_kerry[0]), "only the poison event was tried: {tried:?}");

    gate.open();
    for id in &of_kerry {
        world.sink.wait_for_one(|arrival| arrival.status == 200 && arrival.messages().any(|brought| brought == id)).await?;
    }
    assert_none(&ledger::lanes_not_held(&world.sink.arrivals()));
    Ok(())
}

#[tokio::test]
async fn a_backlog_drains_whole_in_order_and_within_bounded_memory() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report.json");
    let mut bench = std::process::Command::new(environment::estafet_binary()?);
    bench.args(["bench", "backlog", "--db", "sqlite", "--events", "50000", "--contacts", "2000", "--shards", "2"]);
    bench.arg("--dir").arg(directory.path()).arg("--report").arg(&report);
    // The bench itself fails for an event that is lost or late, and for memory past its cap.
    let ended = tokio::task::spawn_blocking(move || bench.output()).await??;
    anyhow::ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    assert_eq!((&report["drained"], &report["inverted"]), (&json!(50_000), &json!(0)), "{report}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_while_the_receiver_is_down_and_the_server_restarts() -> anyhow::Result<()> {
    const MESSAGES: usize = 20;
    let mut world = World::start().await?;
    world.retry_soon().await?;
    world.report_sent().await?;
    world.sink.close().await?;

    let mut sent = Ledger::new();
    let mut written = Vec::new();
    for n in 0..MESSAGES {
        for phone in [KERRY, ANA] {
            let text = format!("message {n}");
            let id = world.admin.send_text(phone, &text).await?;
            sent.accepted(phone, &text, &id);
            written.push(world.admin.phone_sends_text(phone, &text).await?);
        }
    }
    let status = world.sandbox.terminate().await?;
    assert!(status.success(), "ended with {status}");
    world.sandbox.restart().await?;
    world.sink.open().await?;

    for id in sent.ids().collect::<Vec<_>>() {
        world.sink.wait_for_status(id, "read").await?;
    }
    for id in &written {
        world.sink.wait_for_message(id).await?;
    }
    assert_none(&sent.compare_callbacks(&world.sink.arrivals(), &["sent", "delivered", "read"]));
    let inboxes = [world.admin.inbox(KERRY).await?, world.admin.inbox(ANA).await?];
    assert_none(&sent.compare_phones(&inboxes));
    assert_eq!(inboxes.map(|inbox| inbox.duplicates), [0, 0]);
    Ok(())
}

#[tokio::test]
async fn a_message_for_an_offline_phone_is_delivered_when_it_returns() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.report_sent().await?;
    world.admin.set_phone(KERRY, "offline").await?;
    let id = world.admin.send_text(KERRY, "for later").await?;
    world.sink.wait_for_status(&id, "sent").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages, []);

    world.admin.set_phone(KERRY, "read").await?;
    world.sink.wait_for_status(&id, "read").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_number_that_is_not_on_the_network_is_accepted_and_then_reported_failed() -> anyhow::Result<()> {
    let world = World::start().await?;
    let id = world.admin.send_text("15550009123", "anybody?").await?;
    let arrival = world.sink.wait_for_status(&id, "failed").await?;
    assert_eq!(arrival.event["statuses"][0]["errors"][0]["code"], 1013, "{}", arrival.event);
    let reported =
        world.sink.wait_for(PATIENCE, |arrivals| arrivals.iter().any(|arrival| arrival.reports(&id, "failed"))).await?;
    assert!(!reported.iter().any(|arrival| arrival.reports(&id, "delivered")));
    Ok(())
}

#[tokio::test]
async fn any_2xx_is_success_once_the_settings_say_so() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.admin.patch_settings(&json!({ "webhooks": { "accept_2xx": true, "strict_global_order": true } })).await?;
    world.sink.reply_next_about(KERRY, [Reply::Status(204)]);
    let first = world.admin.phone_sends_text(KERRY, "first").await?;
    let second = world.admin.phone_sends_text(ANA, "second").await?;
    world.sink.wait_for_message(&second).await?;
    let tries: Vec<u16> = world.sink.arrivals().iter().filter(|a| a.messages().any(|id| id == first)).map(|a| a.status).collect();
    assert_eq!(tries, [204], "in one lane the second follows only a success");
    Ok(())
}
