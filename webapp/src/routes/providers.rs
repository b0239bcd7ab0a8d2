//! `/v1/settings/application/media/providers` (spec/media.md §4): whose credentials links may need.
//!
//! Secrets are never given back (I10).

use std::sync::Arc;

use estafet_model::{ApiError, Code};
use estafet_store::ProviderRow;
use serde_json::{Value, json};

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
    error::store_failure,
    json::{Json, Object, parse as parse_json},
};

/// Longest name, in characters.
const NAME_LIMIT: usize = 200;
/// What stands for a secret.
const MASK: &str = "********";

pub(super) async fn list(app: Arc<App>, call: Call) -> Outcome {
    let rows = app.store.media_providers(call.tenant()?.number).await;
    let rows = rows.map_err(|error| store_failure("read media providers", &error))?;
    let providers: Vec<Value> = rows.iter().map(|row| masked(serde_json::from_str(&row.body).unwrap_or_default())).collect();
    Ok(Answer::ok(&json!({ "settings": { "application": { "media": { "providers": providers } } } })))
}

pub(super) async fn put(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.json(&app).await?;
    let number = call.tenant()?.number;
    for row in parse(&body)? {
        let stored = app.store.put_media_provider(number, &row).await;
        stored.map_err(|error| store_failure("store a media provider", &error))?;
    }
    Ok(Answer::nothing())
}

pub(super) async fn delete(app: Arc<App>, mut call: Call) -> Outcome {
    let name = call.path_parameter().await.unwrap_or_default();
    let removed = app.store.delete_media_provider(call.tenant()?.number, &name).await;
    match removed.map_err(|error| store_failure("remove a media provider", &error))? {
        true => Ok(Answer::nothing()),
        false => Err(ApiError::new(Code::NotFound, "No such media provider").into()),
    }
}

fn parse(body: &[u8]) -> Result<Vec<ProviderRow>, ApiError> {
    match parse_json(body)? {
        Json::List(entries) if !entries.is_empty() => entries.iter().map(provider).collect(),
        _ => Err(ApiError::new(Code::ParameterMissing, "The request body must be an array with a provider")),
    }
}

fn provider(entry: &Json<'_>) -> Result<ProviderRow, ApiError> {
    let Json::Object(entry) = entry else { return Err(ApiError::invalid("[0]", "must be an object")) };
    let name = entry.required_text("name", "name")?;
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if name.is_empty() || name.len() > NAME_LIMIT || !is_name(name) {
        return Err(ApiError::invalid("name", format_args!("must have 1 to {NAME_LIMIT} of A-Z, a-z, 0-9, _ and -")));
    }
    if entry.required_text("type", "type")? != "www" {
        return Err(ApiError::invalid("type", "must be www"));
    }
    let config = entry.object("config", "config")?.ok_or_else(|| ApiError::missing("config"))?;
    let body = json!({ "name": name, "type": "www", "config": credentials(config)? });
    Ok(ProviderRow { name: name.to_owned(), body: body.to_string() })
}

/// Exactly one of `basic` and `bearer`.
fn credentials(config: &Object<'_>) -> Result<Value, ApiError> {
    let (basic, bearer) = (config.object("basic", "config.basic")?, config.text("bearer", "config.bearer")?);
    match (basic, bearer) {
        (Some(_), Some(_)) => Err(ApiError::invalid("config", "must have basic or bearer, not both")),
        (None, None) => Err(ApiError::missing("config.basic")),
        (None, Some(token)) => Ok(json!({ "bearer": header_value("config.bearer", token)? })),
        (Some(basic), None) => {
            let part = |name: &str| {
                let path = format!("config.basic.{name}");
                header_value(&path, basic.required_text(name, &path)?).map(str::to_owned)
            };
            Ok(json!({ "basic": { "username": part("username")?, "password": part("password")? } }))
        }
    }
}

/// It becomes part of a header.
fn header_value<'a>(path: &str, text: &'a str) -> Result<&'a str, ApiError> {
    if text.is_empty() {
        Err(ApiError::missing(path))
    } else if text.chars().any(char::is_control) {
        Err(ApiError::invalid(path, "must not contain control characters"))
    } else {
        Ok(text)
    }
}

/// A provider without its secrets.
fn masked(mut provider: Value) -> Value {
    for secret in ["/config/bearer", "/config/basic/password"] {
        if let Some(value) = provider.pointer_mut(secret) {
            *value = json!(MASK);
        }
    }
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_has_a_name_a_type_and_one_kind_of_credentials() {
        let config = json!({"bearer": "tok"});
        for (body, code) in [
            (json!([{"name": "a-B_1", "type": "www", "config": config}]), None),
            (json!([{"name": "b", "type": "www", "config": {"basic": {"username": "u", "password": "p"}}}]), None),
            (json!({"name": "a"}), Some(1008)),
            (json!([]), Some(1008)),
            (json!(["a"]), Some(1009)),
            (json!([{"type": "www", "config": config}]), Some(1008)),
            (json!([{"name": "a b", "type": "www", "config": config}]), Some(1009)),
            (json!([{"name": "a".repeat(201), "type": "www", "config": config}]), Some(1009)),
            (json!([{"name": "a", "config": config}]), Some(1008)),
            (json!([{"name": "a", "type": "ftp", "config": config}]), Some(1009)),
            (json!([{"name": "a", "type": "www"}]), Some(1008)),
            (json!([{"name": "a", "type": "www", "config": {}}]), Some(1008)),
            (
                json!([{"name": "a", "type": "www", "config": {"bearer": "t", "basic": {"username": "u", "password": "p"}}}]),
                Some(1009),
            ),
            (json!([{"name": "a", "type": "www", "config": {"basic": {"username": "u"}}}]), Some(1008)),
            (json!([{"name": "a", "type": "www", "config": {"bearer": "t\r\nX: y"}}]), Some(1009)),
        ] {
            let result = parse(body.to_string().as_bytes());
            assert_eq!(result.err().map(|error| error.code.number()), code, "{body}");
        }
    }

    #[test]
    fn secrets_are_not_given_back() {
        for config in [json!({"bearer": "canary"}), json!({"basic": {"username": "u", "password": "canary"}})] {
            let shown = masked(json!({"name": "a", "type": "www", "config": config})).to_string();
            assert!(!shown.contains("canary") && shown.contains(MASK), "{shown}");
        }
    }
}
