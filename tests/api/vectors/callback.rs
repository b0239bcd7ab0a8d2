//! Runs one callback vector on a sandbox of its own: pulls the trigger, then looks at the receiver.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use estafet_harness::{
    files,
    sink::{self, Arrival, Reply},
    vectors::{self, CallbackVector, ExpectCallback, Names},
};
use serde_json::{Value, json};

use super::{
    now_s,
    setup::{Stage, apply_setting, become_known},
};

/// The user of all callback vectors.
const PHONE: &str = "16315551234";
/// Where a redirect would lead.
const ELSEWHERE: &str = "/elsewhere";

pub(super) async fn run(vector: &CallbackVector, patience: Duration) -> anyhow::Result<()> {
    let stage = Stage::registered().await?;
    for state in &vector.setup {
        let known = matches!(state.as_str(), "registered" | "webhook_set") || apply_setting(state, &stage).await?;
        ensure!(known, "nothing brings about the state `{state}`");
    }
    let url = json!({ "webhooks": { "url": stage.sink.url() } });
    stage.admin()?.patch_settings(&url).await?;
    let answers = script(&vector.trigger, &stage)?;
    let mut names = stage.names();
    pull(&vector.trigger, &stage, &mut names).await.context("trigger")?;
    if answers > 0 {
        return check_attempts(&vector.expect_callback, answers, &stage, patience).await;
    }
    check_content(&vector.expect_callback, &stage, &names, patience).await
}

/// Prepares the scripted answers and says how many there are.
fn script(trigger: &Value, stage: &Stage) -> anyhow::Result<usize> {
    let answers = trigger["endpoint_answers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let reply = |answer: &Value| match answer.as_u64().and_then(|status| u16::try_from(status).ok()) {
        Some(302) => Ok(Reply::Redirect(ELSEWHERE)),
        Some(status) => Ok(Reply::Status(status)),
        None => bail!("not a status: {answer}"),
    };
    stage.sink.reply_next(answers.iter().map(reply).collect::<anyhow::Result<Vec<_>>>()?);
    Ok(answers.len())
}

async fn pull(trigger: &Value, stage: &Stage, names: &mut Names) -> anyhow::Result<()> {
    let api = stage.admin()?;
    if let Some(texts) = trigger["inbound_sequence"].as_array() {
        for text in texts {
            api.phone_sends_text(PHONE, text.as_str().context("not a text")?).await?;
        }
        return Ok(());
    }
    if let Some(inbound) = trigger.get("inbound") {
        let (kind, from) = (inbound["type"].as_str().unwrap_or_default(), inbound["from"].as_str().unwrap_or(PHONE));
        let mut content = match kind {
            "text" => json!({ "type": "text", "text": { "body": inbound["text"] } }),
            "interactive" => {
                let reply = &inbound["button_reply"];
                ensure!(reply.is_object(), "no phone of the runner writes {inbound}");
                json!({ "type": "interactive", "interactive": { "type": "button_reply", "button_reply": reply } })
            }
            "image" | "voice" => {
                let (mime_type, file) = (if kind == "voice" { "audio/ogg; codecs=opus" } else { "image/jpeg" }, &inbound["file"]);
                let file = files::by_name(file.as_str().unwrap_or_default()).context("no such file")?;
                let left = api.request(reqwest::Method::POST, "/sandbox/files", Some((mime_type, file))).await?;
                json!({ "type": kind, kind: left.body })
            }
            "poll" => json!({ "type": "poll", "poll": {} }),
            other => bail!("no phone of the runner writes `{other}`"),
        };
        if !inbound["in_reply_to"].is_null() {
            names.set("sent_id", api.send_text(from, "yes or no?").await?);
            content["context"] = json!({ "id": names.fill_value(&inbound["in_reply_to"])? });
        }
        api.phone_sends(from, &content).await?;
        return Ok(());
    }
    if let Some(act @ ("changes_identity" | "changes_number")) = trigger["phone"].as_str() {
        let user = trigger["wa_id"].as_str().unwrap_or(PHONE);
        become_known(stage, user).await?;
        if act == "changes_identity" {
            return api.phone_gets_new_identity(user).await;
        }
        let to = trigger["to"].as_str().context("no number to change to")?;
        let answer = api.phone_changes_number(user, to).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text);
        return Ok(());
    }
    let message = match trigger.get("send") {
        Some(Value::String(kind)) if kind == "text" => json!({ "to": PHONE, "type": "text", "text": { "body": "hello" } }),
        Some(Value::Object(members)) => {
            let mut message = members.clone();
            message.insert("to".to_owned(), json!(PHONE));
            names.fill_value(&Value::Object(message))?
        }
        _ => bail!("an unknown trigger: {trigger}"),
    };
    let id = api.send(&message).await?;
    names.set("sent_id", id);
    Ok(())
}

async fn check_content(expect: &ExpectCallback, stage: &Stage, names: &Names, patience: Duration) -> anyhow::Result<()> {
    let mismatches =
        |arrival: &Arrival| vectors::mismatches(&arrival.event, &expect.body_has, &expect.body_lacks, names, now_s());
    if !expect.body_has.is_empty() {
        let fits = |arrivals: &[Arrival]| arrivals.iter().any(|arrival| mismatches(arrival).is_empty());
        if let Err(error) = stage.sink.wait_for(patience, fits).await {
            let last = stage.sink.arrivals().last().map(mismatches).unwrap_or_default();
            return Err(error.context(last.join("; ")));
        }
    }
    if !expect.none_with.is_empty() {
        // Nothing announces what does not come. What would come is in the lane before what is caused later.
        let id = names.fill("{{sent_id}}")?;
        stage.sink.wait_for(patience, |arrivals| arrivals.iter().any(|arrival| arrival.reports(&id, "delivered"))).await?;
        let later = stage.admin()?.phone_sends_text(PHONE, "later").await?;
        stage.sink.wait_for_message(&later).await?;
        let unwanted =
            |arrival: &&Arrival| vectors::mismatches(&arrival.event, &expect.none_with, &[], names, now_s()).is_empty();
        if let Some(arrival) = stage.sink.arrivals().iter().find(unwanted) {
            bail!("an unwanted callback: {}", arrival.event);
        }
    }
    Ok(())
}

async fn check_attempts(expect: &ExpectCallback, answers: usize, stage: &Stage, patience: Duration) -> anyhow::Result<()> {
    stage.sink.wait_for(patience, |arrivals| arrivals.len() >= answers).await?;
    // Whatever would still be tried is in the lane before this.
    let later = stage.admin()?.phone_sends_text(PHONE, "later").await?;
    stage.sink.wait_for_message(&later).await?;
    let mut arrivals = stage.sink.arrivals();
    arrivals.retain(|arrival| !arrival.messages().any(|id| id == later));

    let attempts = expect.attempts.unwrap_or(answers);
    ensure!(arrivals.len() == attempts, "{} attempts instead of {attempts}", arrivals.len());
    let followed = arrivals.iter().any(|arrival| arrival.path != sink::PATH);
    ensure!(expect.redirect_followed.unwrap_or(followed) == followed, "redirect followed: {followed}");
    ensure!(
        !expect.same_body || arrivals.iter().all(|arrival| arrival.body == arrivals[0].body),
        "the body changed between attempts"
    );
    let texts: Vec<&str> =
        arrivals.iter().filter_map(|arrival| arrival.event.pointer("/messages/0/text/body")?.as_str()).collect();
    ensure!(expect.order.is_empty() || texts == expect.order, "order {texts:?} instead of {:?}", expect.order);
    // Only the lower bound: how much later an attempt comes is the machine's business.
    for (gap, pair) in expect.gaps_ms.iter().zip(arrivals.windows(2)) {
        let (gap, waited) = (Duration::from_millis(gap.saturating_sub(expect.tolerance_ms)), pair[1].at - pair[0].at);
        ensure!(waited >= gap, "attempt #{} came after {waited:?}", pair[1].n);
    }
    Ok(())
}
