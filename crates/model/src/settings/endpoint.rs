//! Further receivers of a number's callbacks (`webhooks.endpoints`, docs/callbacks.md), an extension: each has a name, a
//! URL, what it wants to hear and what it needs to be shown. Every change names them all; one that keeps its name keeps
//! its queue.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    patch::{APP_SECRET, Policy, SIGNING_SECRET, callback_url, integer, object, secret, unknown},
    secret::{MASK, Secret},
};
use crate::{ApiError, EndpointId};

/// Further receivers a number may have.
pub const MOST: usize = 7;
/// Name of the receiver of `webhooks.url`.
pub const MAIN: &str = "main";
/// Headers of one receiver.
const MOST_HEADERS: usize = 16;
/// Longest name of a receiver and of a header.
const LONGEST_NAME: usize = 32;
/// Longest PEM bundle, in bytes.
const LONGEST_CA: usize = 256 * 1024;
/// Headers that say how a request travels or who signed it; they are not to be chosen.
const OURS: [&str; 8] = ["connection", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "upgrade"];

/// What callbacks tell of: the member at the top of their bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Incoming messages.
    Messages,
    /// What became of sent ones.
    Statuses,
    /// Conditions of the number.
    Errors,
}

/// A further receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// What is stored for it is known by this. Not a member of the API.
    pub id: EndpointId,
    /// Its name, unique for the number.
    pub name: String,
    /// Where its callbacks are sent.
    pub url: String,
    /// What it wants to hear; everything if this is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Topic>,
    /// Headers it is sent, such as `Authorization`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Certificates it may have beside those of the system, PEM. `None`: those of all receivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Signs its callbacks with `X-Hub-Signature-256`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_secret: Option<Secret>,
    /// Signs its callbacks with the headers of Standard Webhooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<Secret>,
    /// Milliseconds it may take to answer. `None`: as for all receivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl Endpoint {
    /// Whether it hears of this.
    pub fn wants(&self, topic: Topic) -> bool {
        self.events.is_empty() || self.events.contains(&topic)
    }
}

/// Reads `webhooks.endpoints`. Those that keep their name keep their id; others get one that was never given before,
/// counted in `last`.
pub(super) fn read(before: &[Endpoint], last: &mut EndpointId, value: &Value, policy: Policy) -> Result<Vec<Endpoint>, ApiError> {
    const PATH: &str = "webhooks.endpoints";
    if value.is_null() {
        return Ok(Vec::new());
    }
    let list = value.as_array().ok_or_else(|| ApiError::invalid(PATH, "must be a list"))?;
    if list.len() > MOST {
        return Err(ApiError::invalid(PATH, format!("must not have more than {MOST} receivers")));
    }
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        let endpoint = one(before, value, &path, policy)?;
        if endpoints.iter().any(|other| other.name == endpoint.name) {
            return Err(ApiError::invalid(&format!("{path}.name"), "is the name of another receiver"));
        }
        endpoints.push(endpoint);
    }
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.id == EndpointId::MAIN) {
        *last = last.next().ok_or_else(|| ApiError::invalid(PATH, "were changed too often"))?;
        endpoint.id = *last;
    }
    Ok(endpoints)
}

/// One receiver; a new one has the id of the main one until it gets its own.
fn one(before: &[Endpoint], value: &Value, path: &str, policy: Policy) -> Result<Endpoint, ApiError> {
    let members = object(path, value)?;
    let at = |member: &str| format!("{path}.{member}");
    let name = members.get("name").ok_or_else(|| ApiError::missing(&at("name")))?;
    let name = name.as_str().filter(|name| is_name(name));
    let rule = "must be 1 to 32 of a-z, 0-9, - and _, and not main";
    let name = name.ok_or_else(|| ApiError::invalid(&at("name"), rule))?;
    let url = callback_url(&at("url"), members.get("url").unwrap_or(&Value::Null), policy)?;
    let url = url.ok_or_else(|| ApiError::missing(&at("url")))?;
    let before = before.iter().find(|endpoint| endpoint.name == name);
    let mut endpoint = Endpoint {
        id: before.map_or(EndpointId::MAIN, |before| before.id),
        name: name.to_owned(),
        url,
        events: Vec::new(),
        headers: BTreeMap::new(),
        ca: None,
        app_secret: before.and_then(|before| before.app_secret.clone()),
        signing_secret: before.and_then(|before| before.signing_secret.clone()),
        timeout_ms: None,
    };
    for (member, value) in members {
        let path = at(member);
        match member.as_str() {
            "name" | "url" => {}
            "events" => endpoint.events = topics(&path, value)?,
            "headers" => endpoint.headers = headers(&path, value, before)?,
            "ca" => endpoint.ca = bundle(&path, value)?,
            "app_secret" => secret(&mut endpoint.app_secret, &path, value, Secret::app, APP_SECRET)?,
            "signing_secret" => secret(&mut endpoint.signing_secret, &path, value, Secret::standard, SIGNING_SECRET)?,
            "timeout_ms" if value.is_null() => {}
            "timeout_ms" => endpoint.timeout_ms = Some(integer(&path, value, 100, 60_000)?),
            _ => unknown(&path, policy)?,
        }
    }
    for (member, secret) in [("app_secret", &mut endpoint.app_secret), ("signing_secret", &mut endpoint.signing_secret)] {
        if !members.contains_key(member) {
            *secret = None;
        }
    }
    Ok(endpoint)
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    (1..=LONGEST_NAME).contains(&name.len()) && name != MAIN && name.bytes().all(fits)
}

fn topics(path: &str, value: &Value) -> Result<Vec<Topic>, ApiError> {
    let wrong = || ApiError::invalid(path, "must be a list of messages, statuses and errors");
    if value.is_null() {
        return Ok(Vec::new());
    }
    let mut topics: Vec<Topic> = Vec::<Topic>::deserialize(value).map_err(|_| wrong())?;
    topics.sort_unstable();
    topics.dedup();
    Ok(topics)
}

fn headers(path: &str, value: &Value, before: Option<&Endpoint>) -> Result<BTreeMap<String, Secret>, ApiError> {
    if value.is_null() {
        return Ok(BTreeMap::new());
    }
    let members = object(path, value)?;
    if members.len() > MOST_HEADERS {
        return Err(ApiError::invalid(path, format!("must not be more than {MOST_HEADERS}")));
    }
    let mut headers = BTreeMap::new();
    for (name, value) in members {
        let path = format!("{path}.{name}");
        let name = name.to_ascii_lowercase();
        if !is_header(&name) {
            return Err(ApiError::invalid(&path, "is no header that may be chosen"));
        }
        let value = value.as_str().ok_or_else(|| ApiError::invalid(&path, "must be a string"))?;
        let known = || before.and_then(|before| before.headers.get(&name)).cloned();
        let secret = if value == MASK { known() } else { Secret::header(value) };
        let secret = secret.ok_or_else(|| ApiError::invalid(&path, "must be 1 to 1024 visible ASCII characters"))?;
        headers.insert(name, secret);
    }
    Ok(headers)
}

/// Whether a header, in lower case, may be chosen.
fn is_header(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_ours = OURS.contains(&name) || name.starts_with("webhook-") || name == "x-hub-signature-256";
    (1..=2 * LONGEST_NAME).contains(&name.len()) && name.bytes().all(is_token) && !is_ours
}

fn bundle(path: &str, value: &Value) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text.len() <= LONGEST_CA => Ok(Some(text.clone())),
        _ => Err(ApiError::invalid(path, "must be certificates in PEM form, at most 256 KiB")),
    }
}

/// Puts the mask in the place of what is secret, and leaves out what is not a member of the API.
pub(super) fn conceal(shown: &mut Value) {
    for endpoint in shown.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        endpoint.remove("id");
        for name in ["app_secret", "signing_secret"] {
            endpoint.entry(name).and_modify(|secret| *secret = MASK.into());
        }
        let headers = endpoint.get_mut("headers").and_then(Value::as_object_mut);
        headers.into_iter().flatten().for_each(|(_, value)| *value = MASK.into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Settings, patch};
    use super::*;

    const STANDARD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn set(current: &Settings, endpoints: Value) -> Result<Settings, ApiError> {
        let change = json!({"webhooks": {"endpoints": endpoints}});
        patch::apply(current, change.as_object().unwrap(), Policy::default())
    }

    fn ids(settings: &Settings) -> Vec<(&str, u16)> {
        settings.webhooks.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint.id.get())).collect()
    }

    #[test]
    fn a_receiver_that_keeps_its_name_keeps_its_queue_and_no_queue_is_given_twice() {
        let (a, b) = (json!({"name": "a", "url": "https://a.example/"}), json!({"name": "b", "url": "https://b.example/"}));
        let first = set(&Settings::default(), json!([a, b])).unwrap();
        assert_eq!(ids(&first), [("a", 1), ("b", 2)]);
        let moved = json!({"name": "b", "url": "https://c.example/"});
        let second = set(&first, json!([moved])).unwrap();
        assert_eq!(ids(&second), [("b", 2)]);
        assert_eq!(ids(&set(&second, json!([a, b])).unwrap()), [("a", 3), ("b", 2)]);
        let none = set(&second, json!(null)).unwrap();
        assert_eq!(none.webhooks.endpoints, []);
        assert_eq!(ids(&set(&none.reset(), json!([b])).unwrap()), [("b", 3)], "not even after a reset");
    }

    #[test]
    fn what_is_secret_is_not_shown_and_the_mask_changes_nothing() {
        let endpoint = json!({"name": "a", "url": "https://a.example/", "events": ["errors", "statuses", "errors"],
            "headers": {"Authorization": "Bearer token", "X-Team": "one"}, "ca": "PEM",
            "app_secret": "0123456789abcdef", "signing_secret": STANDARD, "timeout_ms": "500"});
        let one = set(&Settings::default(), json!([endpoint])).unwrap();
        let shown = patch::render(&one, None)["webhooks"].clone();
        assert_eq!(
            shown["endpoints"],
            json!([{"name": "a", "url": "https://a.example/", "events": ["statuses", "errors"],
                "headers": {"authorization": MASK, "x-team": MASK}, "ca": "PEM",
                "app_secret": MASK, "signing_secret": MASK, "timeout_ms": 500}])
        );
        assert!(shown.get("last_endpoint").is_none());
        assert_eq!(set(&one, shown["endpoints"].clone()).unwrap(), one);
        let less = set(&one, json!([{"name": "a", "url": "https://a.example/"}])).unwrap();
        let less = &less.webhooks.endpoints[0];
        assert_eq!((&less.app_secret, &less.signing_secret, less.headers.len()), (&None, &None, 0));
        assert!(less.wants(Topic::Messages) && !one.webhooks.endpoints[0].wants(Topic::Messages));
    }

    #[test]
    fn wrong_receivers_are_refused_with_their_path() {
        let with = |member: &str, value: Value| {
            let mut endpoint = json!({"name": "a", "url": "https://a.example/"});
            endpoint[member] = value;
            json!([endpoint])
        };
        let many: Vec<Value> = (0..8).map(|n| json!({"name": format!("n{n}"), "url": "https://a.example/"})).collect();
        for (endpoints, path) in [
            (json!({}), "webhooks.endpoints"),
            (json!(many), "webhooks.endpoints"),
            (json!(["https://a.example/"]), "webhooks.endpoints[0]"),
            (with("name", json!("Main Street")), "webhooks.endpoints[0].name"),
            (with("name", json!("main")), "webhooks.endpoints[0].name"),
            (with("url", json!("http://a.example/")), "webhooks.endpoints[0].url"),
            (with("events", json!(["reads"])), "webhooks.endpoints[0].events"),
            (with("headers", json!({"Host": "b.example"})), "webhooks.endpoints[0].headers.Host"),
            (with("headers", json!({"X-A": "two\r\nlines"})), "webhooks.endpoints[0].headers.X-A"),
            (with("headers", json!({"X-A": MASK})), "webhooks.endpoints[0].headers.X-A"),
            (with("ca", json!(5)), "webhooks.endpoints[0].ca"),
            (with("app_secret", json!("short")), "webhooks.endpoints[0].app_secret"),
            (with("timeout_ms", json!(5)), "webhooks.endpoints[0].timeout_ms"),
            (
                json!([{"name": "a", "url": "https://a.example/"}, {"name": "a", "url": "https://b.example/"}]),
                "webhooks.endpoints[1].name",
            ),
        ] {
            let error = set(&Settings::default(), endpoints.clone()).expect_err(&endpoints.to_string());
            assert_eq!(error.code, crate::Code::ParameterInvalid, "{endpoints}");
            assert!(error.details.contains(&format!("'{path}'")), "{endpoints}: {}", error.details);
        }
        let error = set(&Settings::default(), json!([{"name": "a"}])).unwrap_err();
        assert_eq!(error.code, crate::Code::ParameterMissing);
    }
}
