//! Requests to send a message, and the templates they are compared with.

use std::sync::LazyLock;

use estafet_chatd::templates::Templates as Phone;
use estafet_model::{ApiError, WaId};
use estafet_webapp::probes::{Templates, accept};
use serde_json::Value;

/// What the canonical form may have beyond the request: names of members that have a default.
const ADDED: usize = 64;
/// What a person may see at most, in characters.
const SHOWN: [(&str, usize); 3] = [("/header/text", 60), ("/body", 1024), ("/footer", 60)];

static SAMPLES: LazyLock<Templates> = LazyLock::new(Templates::samples);

/// A request that is refused says why, and is the caller's fault. What travels on is JSON of a known type, not larger
/// than what came (numbers may be written out), and accepted as it is when it is sent again.
pub fn message(data: &[u8]) {
    for strict in [false, true] {
        match accept(data, strict, &SAMPLES) {
            Err(error) => is_refusal(&error),
            Ok((recipient, body)) => {
                assert!(body.len() <= 4 * data.len() + ADDED, "it grew");
                is_settled(recipient, parsed(&body));
            }
        }
    }
}

fn is_settled(recipient: WaId, body: Value) {
    let mut request = body.clone();
    request["to"] = Value::from(recipient.to_string());
    let (to, again) = accept(request.to_string().as_bytes(), true, &SAMPLES)
        .unwrap_or_else(|error| panic!("{request} is not accepted again: {error}"));
    assert_eq!((to, parsed(&again)), (recipient, body), "canonical twice");
}

/// The first line is a list of templates, the rest a request. What is accepted can be shown by a phone that knows the
/// templates, and keeps the limits, whatever the parameters are.
pub fn template(data: &[u8]) {
    let (list, request) = super::line_and_rest(data);
    let Ok(templates) = Templates::read(list) else { return };
    match accept(request, false, &templates) {
        Err(error) => is_refusal(&error),
        Ok((_, body)) => {
            let body = parsed(&body);
            if body["type"] == "template" {
                let shown = Phone::read(&templates.known).render(&body);
                let shown = shown.unwrap_or_else(|| panic!("no phone can show {body} of {}", templates.known));
                for (place, most) in SHOWN {
                    let text = shown.pointer(place).and_then(Value::as_str).unwrap_or_default();
                    assert!(text.chars().count() <= most, "{place} is too long: {shown}");
                }
            }
        }
    }
}

fn parsed(body: &[u8]) -> Value {
    let body: Value = serde_json::from_slice(body).expect("what travels on is JSON");
    assert!(body["type"].is_string(), "{body}");
    body
}

fn is_refusal(error: &ApiError) {
    assert!((400..500).contains(&error.status()), "{error}");
    assert!(!error.details.is_empty(), "{error}");
}
