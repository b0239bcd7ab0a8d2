//! `/v1/estafet/messages/{id}/trace` (docs/trace.md), an extension: the timeline of one message.

use std::sync::Arc;

use estafet_model::{ApiError, Code, IdKey, MessageId, WaId, message_id::Direction, settings::WebhookSettings};
use estafet_store::{KeptCallback, Queue, StatusRow};
use serde_json::{Value, json};

use super::{
    Call,
    callbacks::{MOST, Selection, find},
};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    error::store_failure,
    trace::{self, Incoming, Outgoing, Step, Told},
};

pub(super) async fn read(app: Arc<App>, mut call: Call) -> Outcome {
    let id = call.path_parameter().await.ok_or_else(unknown)?;
    let parsed: MessageId = id.parse().map_err(|_| unknown())?;
    let tenant = call.tenant()?;
    let webhooks = tenant.settings.read().await?.webhooks;
    let now_ms = app.clock.now_ms();
    let told = told(&app, tenant.number, &id, &parsed, &webhooks).await?;
    let (direction, steps) = match parsed.direction() {
        Direction::Outgoing => {
            let message = outgoing(&app, tenant.number, parsed.key().ok_or_else(unknown)?).await?;
            ("outgoing", trace::outgoing(&message, &told, now_ms))
        }
        Direction::Incoming => ("incoming", trace::incoming(&incoming(&app, tenant.number, &id).await?, &told, now_ms)),
    };
    let longest = trace::longest(&steps).map(longest);
    Ok(Answer::ok(&json!({
        "trace": {
            "id": id,
            "direction": direction,
            "contact": parsed.phone(),
            "steps": steps,
            "longest_wait": longest,
            "keeps_delivered_callbacks": webhooks.keep_delivered.is_some(),
        }
    })))
}

fn unknown() -> ApiError {
    ApiError::new(Code::NotFound, "No such message is stored")
}

fn longest(step: &Step) -> Value {
    let mut longest = json!({ "wait": step.wait, "until": step.step, "waited_ms": step.waited_ms, "awaited": step.awaited });
    for (name, value) in [("about", &step.about), ("endpoint", &step.endpoint)] {
        if let Some(value) = value {
            longest[name] = json!(value);
        }
    }
    longest
}

async fn outgoing(app: &App, number: WaId, key: IdKey) -> Result<Outgoing, ApiError> {
    let message = app.store.message_of(number, key).await.map_err(|error| store_failure("read a message", &error))?;
    let message = message.ok_or_else(unknown)?;
    let statuses = app.store.statuses(number, &[(message.slot, message.seq)]).await;
    let status: Option<StatusRow> = statuses.map_err(|error| store_failure("read statuses", &error))?.pop();
    Ok(Outgoing {
        made_ms: key.made_at_ms(),
        accepted_ms: message.accepted_at_ms,
        statuses: status.map(|status| status.statuses).unwrap_or_default(),
        times: status.map(|status| status.times).unwrap_or_default(),
        error_code: status.and_then(|status| status.error_code),
    })
}

async fn incoming(app: &App, number: WaId, id: &str) -> Result<Incoming, ApiError> {
    let rows = app.store.inbound(number, &[id.to_owned()]).await;
    let row = rows.map_err(|error| store_failure("read a message", &error))?.pop().ok_or_else(unknown)?;
    Ok(Incoming { sent_ms: row.sent_at_ms, stored_ms: row.stored_at_ms, read_ms: row.read_at_ms })
}

/// The callbacks about the message, wherever they are.
async fn told(app: &App, number: WaId, id: &str, parsed: &MessageId, webhooks: &WebhookSettings) -> Result<Vec<Told>, ApiError> {
    let selection = Selection::of_message(id, parsed);
    let mut told = Vec::new();
    for queue in [Queue::Delivered, Queue::Dead, Queue::Waiting] {
        let (found, _) = find(app, number, queue, &selection, MOST).await?;
        told.extend(found.into_iter().map(|callback| Told {
            about: about(&callback, id),
            endpoint: webhooks.name_of(callback.event.endpoint).to_owned(),
            since_ms: callback.event.created_at_ms,
            end: callback.end,
        }));
    }
    Ok(told)
}

/// What a callback tells of a message.
fn about(callback: &KeptCallback, id: &str) -> String {
    let body: Value = serde_json::from_slice(&callback.event.body).unwrap_or_default();
    let statuses = body.get("statuses").and_then(Value::as_array);
    let status = statuses.into_iter().flatten().find(|status| status.get("id").is_some_and(|told| told == id));
    let status = status.and_then(|status| status.get("status")).and_then(Value::as_str);
    status.unwrap_or("message").to_owned()
}
