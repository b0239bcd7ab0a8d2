//! `/v1/estafet/callbacks` (docs/callbacks.md), an extension: what waits for its receiver, what was given up, and what
//! was taken and may be posted again.
//!
//! Reading asks the database. Moving is the work of the slot's owner, because a callback that is posted again is a new
//! event in a lane (**I2**).

use std::{ops::Range, sync::Arc};

use estafet_model::{ApiError, Code, EndpointId, MessageId, Seq, Slot, WaId, settings::WebhookSettings};
use estafet_proto::v1::{MoveCallbacks, move_callbacks::How, request::Action};
use estafet_store::{End, EventRef, KeptCallback, Page, Queue};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
    error::store_failure,
    json,
    numbers::Tenant,
};

/// Callbacks in one answer, and dead letters moved by one call: what an owner takes as one request.
pub(super) const MOST: usize = 500;
/// Callbacks in one answer if nobody says how many.
const USUAL: usize = 100;
/// Rows looked at for one answer; a message id may be among few of many.
const LOOKED_AT: usize = 10_000;

pub(super) async fn waiting(app: Arc<App>, call: Call) -> Outcome {
    list(app, call, Queue::Waiting).await
}

pub(super) async fn dead(app: Arc<App>, call: Call) -> Outcome {
    list(app, call, Queue::Dead).await
}

async fn list(app: Arc<App>, call: Call, queue: Queue) -> Outcome {
    let members = query(call.parts.uri.query().unwrap_or_default());
    let webhooks = call.tenant()?.settings.read().await?.webhooks;
    let selection = Selection::read(&members, &["limit"], &webhooks)?;
    let limit = whole(&members, "limit")?.unwrap_or(USUAL as i64);
    let limit = usize::try_from(limit).ok().filter(|limit| (1..=MOST).contains(limit));
    let limit = limit.ok_or_else(|| ApiError::invalid("limit", format_args!("must be 1 to {MOST}")))?;
    let (found, next) = find(&app, call.tenant()?.number, queue, &selection, limit).await?;
    let callbacks: Vec<Value> = found.iter().map(|callback| shown(callback, &webhooks)).collect();
    Ok(Answer::ok(&with_next(json!({ "callbacks": callbacks }), next)))
}

pub(super) async fn delivered(app: Arc<App>, call: Call) -> Outcome {
    list(app, call, Queue::Delivered).await
}

pub(super) async fn move_dead(app: Arc<App>, mut call: Call) -> Outcome {
    let members = members(&call.json(&app).await?)?;
    let how = match text(&members, "action")?.as_deref() {
        Some("requeue") => How::Requeue,
        Some("drop") => How::Drop,
        Some(_) => return Err(ApiError::invalid("action", "must be requeue or drop").into()),
        None => return Err(ApiError::missing("action").into()),
    };
    move_selected(&app, call.tenant()?, how, &members, &["action", "all", "dry_run"]).await
}

pub(super) async fn replay(app: Arc<App>, mut call: Call) -> Outcome {
    let members = members(&call.json(&app).await?)?;
    move_selected(&app, call.tenant()?, How::Replay, &members, &["all", "dry_run"]).await
}

/// Moves what is meant, unless it is a dry run, which shows it.
async fn move_selected(app: &App, tenant: &Tenant, how: How, members: &Map<String, Value>, others: &[&str]) -> Outcome {
    let webhooks = tenant.settings.read().await?.webhooks;
    let selection = Selection::read(members, others, &webhooks)?;
    if selection.is_everything() && !flag(members, "all")? {
        return Err(ApiError::new(Code::ParameterMissing, "Say which: from, until, contact, message_id, endpoint, or all").into());
    }
    let number = tenant.number;
    let queue = if how == How::Replay { Queue::Delivered } else { Queue::Dead };
    let (found, next) = find(app, number, queue, &selection, MOST).await?;
    let mut answer = json!({ "matched": found.len() });
    if flag(members, "dry_run")? {
        answer["callbacks"] = found.iter().map(|callback| shown(callback, &webhooks)).collect();
        return Ok(Answer::ok(&with_next(answer, next)));
    }
    // Rows of a slot and receiver follow each other, in the order they happened.
    for callbacks in found.chunk_by(|a, b| (a.event.slot, a.event.endpoint) == (b.event.slot, b.event.endpoint)) {
        let EventRef { slot, endpoint, .. } = callbacks[0].event.at();
        let seqs = callbacks.iter().map(|callback| callback.event.seq.get()).collect();
        let moved = MoveCallbacks { how: how.into(), seqs, endpoint: endpoint.get().into() };
        app.router.call(number, slot, Action::MoveCallbacks(moved)).await?;
    }
    tracing::info!(%number, how = how.as_str_name(), callbacks = found.len(), "callbacks moved on request");
    Ok(Answer::ok(&with_next(answer, next)))
}

fn members(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match json::parse(body)? {
        Value::Object(members) => Ok(members),
        _ => Err(ApiError::new(Code::ParameterMissing, "The request body must be a JSON object")),
    }
}

/// Which callbacks are meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    created_ms: Range<i64>,
    contact: Option<WaId>,
    message_id: Option<String>,
    endpoint: Option<EndpointId>,
    after: EventRef,
}

impl Selection {
    /// Reads the members that select, and refuses those that are neither these nor `others`.
    fn read(members: &Map<String, Value>, others: &[&str], webhooks: &WebhookSettings) -> Result<Self, ApiError> {
        let known = |name: &&String| !SELECTING.contains(&name.as_str()) && !others.contains(&name.as_str());
        if let Some(name) = members.keys().find(known) {
            return Err(ApiError::new(Code::ParameterNotRequired, format!("Parameter '{name}' is not known")));
        }
        let seconds = |name, open| Ok(whole(members, name)?.map_or(open, |at| at.saturating_mul(1000)));
        let contact = match text(members, "contact")? {
            Some(input) => Some(WaId::from_input(&input).map_err(|why| ApiError::invalid("contact", why))?),
            None => None,
        };
        let message_id = text(members, "message_id")?;
        let of_message = match &message_id {
            Some(id) => Some(id.parse::<MessageId>().map_err(|_| ApiError::invalid("message_id", "is no message id"))?.phone()),
            None => None,
        };
        let endpoint = match text(members, "endpoint")? {
            Some(name) => {
                Some(webhooks.receiver(&name).ok_or_else(|| ApiError::invalid("endpoint", "is the name of no receiver"))?)
            }
            None => None,
        };
        let after = match text(members, "after")? {
            Some(place) => position(&place).ok_or_else(|| ApiError::invalid("after", "is not the next of an answer"))?,
            None => FIRST,
        };
        let created_ms = seconds("from", 0)?..seconds("until", i64::MAX)?;
        Ok(Self { created_ms, contact: contact.or(of_message), message_id, endpoint, after })
    }

    /// The callbacks about one message.
    pub(super) fn of_message(id: &str, parsed: &MessageId) -> Self {
        let contact = Some(parsed.phone());
        Self { created_ms: 0..i64::MAX, contact, message_id: Some(id.to_owned()), endpoint: None, after: FIRST }
    }

    fn is_everything(&self) -> bool {
        self.created_ms == (0..i64::MAX) && self.contact.is_none() && self.endpoint.is_none()
    }

    /// The slots in which such callbacks are.
    fn page(&self, after: EventRef, limit: usize) -> Page {
        let slots = self.contact.map_or(Slot::FIRST..=Slot::LAST, |contact| Slot::of(contact)..=Slot::of(contact));
        let created_ms = self.created_ms.clone();
        Page { slots, after, created_ms, contact: self.contact, endpoint: self.endpoint, limit: limit as u32 }
    }

    /// Whether the callback tells of the message.
    fn fits(&self, body: &[u8]) -> bool {
        let Some(wanted) = &self.message_id else { return true };
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
        let entries = ["messages", "statuses"].map(|name| body.get(name).and_then(Value::as_array).cloned().unwrap_or_default());
        entries.iter().flatten().any(|entry| entry.get("id").and_then(Value::as_str) == Some(wanted))
    }
}

/// What may be said about the callbacks meant.
const SELECTING: [&str; 6] = ["from", "until", "contact", "message_id", "endpoint", "after"];

/// Before every event.
const FIRST: EventRef = EventRef { slot: Slot::FIRST, endpoint: EndpointId::MAIN, seq: Seq::ZERO };

pub(super) type Found = (Vec<KeptCallback>, Option<EventRef>);

/// Up to `most` callbacks that are meant; and the place to go on after, unless there are no more.
pub(super) async fn find(app: &App, number: WaId, queue: Queue, selection: &Selection, most: usize) -> Result<Found, ApiError> {
    let (mut found, mut after, mut looked_at) = (Vec::new(), selection.after, 0);
    loop {
        let page = selection.page(after, MOST);
        let rows = app.store.callbacks(number, queue, &page).await;
        let rows = rows.map_err(|error| store_failure("read callbacks", &error))?;
        looked_at += rows.len();
        let is_last = rows.len() < MOST;
        for row in rows {
            if found.len() == most {
                return Ok((found, Some(after)));
            }
            after = row.event.at();
            if selection.fits(&row.event.body) {
                found.push(row);
            }
        }
        if is_last || looked_at >= LOOKED_AT {
            return Ok((found, (!is_last).then_some(after)));
        }
    }
}

fn shown(callback: &KeptCallback, webhooks: &WebhookSettings) -> Value {
    let event = &callback.event;
    let body = serde_json::from_slice(&event.body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&event.body)));
    let mut shown = json!({
        "id": place(event.at()),
        "kind": event.kind,
        "endpoint": webhooks.name_of(event.endpoint),
        "timestamp": event.created_at_ms.div_euclid(1000).to_string(),
        "body": body,
    });
    if let Some(contact) = event.contact {
        shown["contact"] = json!(contact);
    }
    match &callback.end {
        End::Open => {}
        End::GivenUp { reason, at_ms } => {
            shown["reason"] = json!(reason);
            shown["given_up"] = json!(at_ms.div_euclid(1000).to_string());
        }
        End::Taken { at_ms } => shown["delivered"] = json!(at_ms.div_euclid(1000).to_string()),
    }
    shown
}

fn with_next(mut answer: Value, next: Option<EventRef>) -> Value {
    if let Some(next) = next {
        answer["next"] = json!(place(next));
    }
    answer
}

/// The name of an event, as `webhook-id` has it, with the receiver after the slot unless it is the usual one.
fn place(at: EventRef) -> String {
    let EventRef { slot, endpoint, seq } = at;
    match endpoint {
        EndpointId::MAIN => format!("{}_{}", slot.get(), seq.get()),
        _ => format!("{}_{endpoint}_{}", slot.get(), seq.get()),
    }
}

fn position(text: &str) -> Option<EventRef> {
    let (slot, rest) = text.split_once('_')?;
    let (endpoint, seq) = match rest.split_once('_') {
        Some((endpoint, seq)) => (EndpointId::new(endpoint.parse().ok()?), seq),
        None => (EndpointId::MAIN, rest),
    };
    Some(EventRef { slot: Slot::new(slot.parse().ok()?)?, endpoint, seq: Seq::new(seq.parse().ok()?) })
}

fn query(text: &str) -> Map<String, Value> {
    form_urlencoded::parse(text.as_bytes()).map(|(name, value)| (name.into_owned(), json!(value))).collect()
}

fn text(members: &Map<String, Value>, name: &str) -> Result<Option<String>, ApiError> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::invalid(name, "must be a string")),
    }
}

fn whole(members: &Map<String, Value>, name: &str) -> Result<Option<i64>, ApiError> {
    let number = match members.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    number.filter(|number| *number >= 0).map(Some).ok_or_else(|| ApiError::invalid(name, "must be a whole number"))
}

fn flag(members: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(ApiError::invalid(name, "must be true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "gBGGFlA5FpafAgkOuJbRq54qwbM";

    fn read(text: &str) -> Result<Selection, ApiError> {
        Selection::read(&query(text), &["limit"], &WebhookSettings::default())
    }

    #[test]
    fn a_selection_names_time_contact_message_and_place() {
        let chosen = read("from=10&until=20&contact=%2B1+631-555-1234&after=7_12&limit=5").unwrap();
        assert_eq!((chosen.created_ms.clone(), chosen.message_id.as_deref()), (10_000..20_000, None));
        assert_eq!(chosen.contact, Some("16315551234".parse().unwrap()));
        assert_eq!(chosen.after, position("7_12").unwrap());
        assert_eq!(read("endpoint=main").unwrap().endpoint, Some(EndpointId::MAIN));
        assert!(
            !chosen.is_everything()
                && !read("endpoint=main").unwrap().is_everything()
                && read("after=7_12").unwrap().is_everything()
        );
        for wrong in
            ["from=x", "until=-1", "contact=abc", "message_id=foreign", "after=7", "after=9999_1", "endpoint=other", "colour=red"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_place_of_an_event_is_read_back_as_it_was_shown() {
        for endpoint in [EndpointId::MAIN, EndpointId::new(3)] {
            let at = EventRef { slot: Slot::LAST, endpoint, seq: Seq::new(i64::MAX) };
            assert_eq!(position(&place(at)), Some(at));
        }
        assert_eq!(place(EventRef { seq: Seq::new(9), ..FIRST }), "0_9");
        for wrong in ["", "_", "1_", "1_2_", "1_2_3_4", "1_70000_2", "1024_0_1", "a_b"] {
            assert_eq!(position(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_message_id_finds_its_messages_and_statuses_in_the_slot_of_its_contact() {
        let chosen = read(&format!("message_id={ID}")).unwrap();
        let contact = ID.parse::<MessageId>().unwrap().phone();
        assert_eq!(chosen.page(chosen.after, 9).slots, Slot::of(contact)..=Slot::of(contact));
        for (body, fits) in [
            (json!({"statuses": [{"id": ID}]}), true),
            (json!({"messages": [{"id": ID}]}), true),
            (json!({"messages": [{"id": "other", "context": {"id": ID}}]}), false),
            (json!({"errors": [{"code": 1000}]}), false),
        ] {
            assert_eq!(chosen.fits(body.to_string().as_bytes()), fits, "{body}");
        }
    }
}
