//! `/v1/messages`: send, and mark as read (spec/messages.md §1, §7).

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use bytes::Bytes;
use estafet_model::{ApiError, Code, MessageId, Slot, WaId, message_id::Direction};
use estafet_proto::v1::{MarkRead, Submit, request::Action};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
    json::parse_object,
    message::{self, Accepted},
    route::Reply,
};

#[derive(Serialize)]
struct Sent<'a> {
    contacts: [Contact<'a>; 1],
    messages: [Message; 1],
}

#[derive(Serialize)]
struct Contact<'a> {
    input: &'a str,
    wa_id: WaId,
}

#[derive(Serialize)]
struct Message {
    id: String,
}

pub(super) async fn send(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.json(&app).await?;
    ready(&app)?;
    let caller_key = caller_key(&call.parts.headers)?;
    let tenant = call.tenant()?;
    let accepted = judge(&app, tenant.number, &body).await?;
    app.files.check(tenant.number, &estafet_media::reference::find(&accepted.body)).await?;
    if accepted.asked_fallback {
        app.metrics.asked_fallback();
    }
    if app.config.legacy_contact_check && !tenant.contacts.is_known_valid(accepted.recipient).await {
        return Err(ApiError::new(Code::NotFound, "unknown contact").into());
    }
    let (key_hash, fingerprint) = match caller_key {
        Some(key) => (digest(&[&accepted.recipient.as_u64().to_be_bytes(), &key]), digest(&[&body])),
        None => (Bytes::new(), Bytes::new()),
    };
    let submitted_at_ms = app.clock.now_ms();
    let key = app.next_id(submitted_at_ms);
    let submit = Submit {
        recipient: accepted.recipient.as_u64(),
        id_key: Bytes::copy_from_slice(&key.0),
        body: accepted.body.into(),
        submitted_at_ms,
        key_hash,
        fingerprint,
    };
    let slot = Slot::of(accepted.recipient);
    // A send that was repeated has the id of the first one.
    let key = match app.router.call(tenant.number, slot, Action::Submit(submit)).await? {
        Reply::Done(Some(stored)) => stored,
        _ => key,
    };
    Ok(Answer::created(&Sent {
        contacts: [Contact { input: &accepted.input, wa_id: accepted.recipient }],
        messages: [Message { id: MessageId::outgoing(accepted.recipient, key).to_string() }],
    }))
}

/// Checks a message; a template message by newer templates if those at hand are old or refuse it.
async fn judge(app: &App, sender: WaId, body: &[u8]) -> Result<Accepted, ApiError> {
    let now_ms = app.clock.now_ms();
    let templates = app.templates.current();
    let judged = message::accept(body, app.message_rules(sender, &templates));
    let is_old = app.templates.is_old(now_ms);
    if judged.is_ok() && !is_old {
        return judged;
    }
    let Some(namespace) = message::template_namespace(body) else { return judged };
    let is_refused = judged.as_ref().is_err_and(|error| templates.may_refuse(&namespace, error.code));
    if !is_refused && !is_old {
        return judged;
    }
    match app.templates.renewed(&templates, &namespace, is_refused, now_ms).await {
        Some(newer) => message::accept(body, app.message_rules(sender, &newer)),
        None => judged,
    }
}

/// Names a send, so that repeating it within a day is harmless (an extension).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest key, bytes.
const KEY_LIMIT: usize = 255;

fn caller_key(headers: &HeaderMap) -> Result<Option<Vec<u8>>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(key), None) if (1..=KEY_LIMIT).contains(&key.len()) => Ok(Some(key.as_bytes().to_vec())),
        (Some(_), None) => Err(ApiError::invalid("Idempotency-Key", format_args!("must have 1 to {KEY_LIMIT} bytes"))),
        (Some(_), Some(_)) => Err(ApiError::invalid("Idempotency-Key", "must be given once")),
    }
}

/// The first 16 bytes of a SHA-256.
fn digest(parts: &[&[u8]]) -> Bytes {
    let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
    Bytes::copy_from_slice(&hash[..16])
}

pub(super) async fn mark(app: Arc<App>, mut call: Call) -> Outcome {
    let id = call.path_parameter().await;
    let body = call.json(&app).await?;
    ready(&app)?;
    match parse_object(&body)?.required_text("status", "status")? {
        "read" => {}
        _ => return Err(ApiError::invalid("status", "must be read").into()),
    }
    // Foreign, opaque ids would need a look-up; no message of theirs is stored yet.
    let unknown = || ApiError::new(Code::NotFound, "No such message");
    let message_id = id.ok_or_else(unknown)?;
    let parsed: MessageId = message_id.parse().map_err(|_| unknown())?;
    if parsed.direction() == Direction::Outgoing {
        return Err(ApiError::invalid("message-id", "is the id of an outgoing message").into());
    }
    app.router.call(call.tenant()?.number, Slot::of(parsed.phone()), Action::MarkRead(MarkRead { message_id })).await?;
    Ok(Answer::nothing())
}

/// Before registration nothing can be sent.
pub(super) fn ready(app: &App) -> Result<(), ApiError> {
    if app.config.registered { Ok(()) } else { Err(ApiError::new(Code::NotReady, "The number is not registered")) }
}
