//! `/v1/settings/application` (spec/settings.md §1).

use std::sync::Arc;

use estafet_model::{ApiError, Code, settings::patch};
use serde_json::{Map, Value, json};

use super::{Call, certificates::authorities};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    json,
};

pub(super) async fn read(app: Arc<App>, call: Call) -> Outcome {
    let tenant = call.tenant()?;
    let settings = tenant.settings.read().await?;
    let number = app.config.registered.then_some(tenant.number);
    Ok(Answer::ok(&json!({ "settings": { "application": patch::render(&settings, number) } })))
}

pub(super) async fn change(app: Arc<App>, mut call: Call) -> Outcome {
    if let Some(body) = call.optional_json(&app).await? {
        let change = object(&body)?;
        if !change.is_empty() {
            check_authorities(&change)?;
            call.tenant()?.settings.change(&change).await?;
        }
    }
    Ok(Answer::nothing())
}

pub(super) async fn reset(_: Arc<App>, call: Call) -> Outcome {
    call.tenant()?.settings.reset().await?;
    Ok(Answer::nothing())
}

/// Certificates in a change must be such; the model cannot tell.
fn check_authorities(change: &Map<String, Value>) -> Result<(), ApiError> {
    let endpoints = change.get("webhooks").and_then(|webhooks| webhooks.get("endpoints")).and_then(Value::as_array);
    for (index, endpoint) in endpoints.into_iter().flatten().enumerate() {
        if let Some(ca) = endpoint.get("ca").and_then(Value::as_str).filter(|ca| !ca.is_empty()) {
            authorities(&format!("webhooks.endpoints[{index}].ca"), ca.as_bytes())?;
        }
    }
    Ok(())
}

pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match json::parse(body)? {
        Value::Object(change) => Ok(change),
        _ => Err(ApiError::new(Code::ParameterMissing, "The request body must be a JSON object")),
    }
}
