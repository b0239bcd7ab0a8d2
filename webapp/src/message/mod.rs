//! What a client may send, and what travels on: pure checks in the order of spec/messages.md §4,
//! one file for each message type.
//!
//! [`accept`] turns a request into the canonical JSON that is end-to-end encrypted later. Types
//! of the original that are not built yet are refused with 1009 and said to be missing.

mod text;

use estafet_model::{ApiError, Code, WaId};
use serde::Serialize;

use crate::json::{Object, parse_object};

/// Longest `biz_opaque_callback_data`, in characters.
const OPAQUE_LIMIT: usize = 512;
/// Longest id of a quoted message, in characters; ids of ours have at most 36.
const QUOTED_ID_LIMIT: usize = 128;

/// Types of the original that come later.
const LATER: [&str; 11] =
    ["image", "audio", "video", "document", "sticker", "location", "contacts", "interactive", "template", "hsm", "reaction"];

/// Members any message may have, besides the one named like its type.
const COMMON: [&str; 9] = [
    "to",
    "type",
    "recipient_type",
    "preview_url",
    "context",
    "ttl",
    "biz_opaque_callback_data",
    "messaging_product",
    "recipient_identity_key_hash",
];

/// How requests are judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The number that sends.
    pub(crate) sender: WaId,
    /// Refuse unknown members (1010).
    pub(crate) strict: bool,
}

/// A message that may be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// `to`, as it was written.
    pub(crate) input: String,
    /// Whom it is for.
    pub(crate) recipient: WaId,
    /// Canonical JSON.
    pub(crate) body: Vec<u8>,
}

/// The canonical form.
#[derive(Serialize)]
struct Canonical<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    content: Content<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Context<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<&'a str>,
}

/// What is particular to a type.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(text::Text<'a>),
}

#[derive(Serialize)]
struct Context<'a> {
    message_id: &'a str,
}

/// Checks the body of `POST /v1/messages`.
pub(crate) fn accept(body: &[u8], rules: Rules) -> Result<Accepted, ApiError> {
    let request = parse_object(body)?;
    let input = request.required_text("to", "to")?;
    recipient_type(&request)?;
    let kind = request.text("type", "type")?.unwrap_or("text");
    let content = match kind {
        "text" => Content::Text(text::read(&request)?),
        "voice" => return Err(ApiError::invalid("type", "voice is for incoming messages only, send audio instead")),
        later if LATER.contains(&later) => {
            if request.get(later).is_none() {
                return Err(object_missing(later));
            }
            return Err(ApiError::invalid("type", format_args!("{later} is not available in this version")));
        }
        _ => return Err(ApiError::invalid("type", "is not a known message type")),
    };
    let canonical = Canonical {
        kind: "text",
        content,
        context: context(&request)?,
        biz_opaque_callback_data: short_text(&request, "biz_opaque_callback_data", OPAQUE_LIMIT)?,
    };
    product(&request)?;
    if rules.strict {
        no_others(&request, kind)?;
    }
    let recipient = WaId::from_input(input).map_err(|why| ApiError::invalid("to", why))?;
    if recipient == rules.sender {
        return Err(ApiError::new(Code::BadUser, "A number cannot send to itself"));
    }
    let mut body = Vec::with_capacity(body.len());
    serde_json::to_writer(&mut body, &canonical).expect("strings and booleans always serialise");
    Ok(Accepted { input: input.to_owned(), recipient, body })
}

/// The refusal when the member named like the type is absent.
fn object_missing(kind: &str) -> ApiError {
    ApiError::new(Code::ParameterMissing, format!("Parameter '{kind}' is mandatory for type '{kind}'"))
}

fn recipient_type(request: &Object<'_>) -> Result<(), ApiError> {
    let refused = || ApiError::new(Code::InvalidRecipientType, "Parameter 'recipient_type' must be individual");
    match request.text("recipient_type", "recipient_type").map_err(|_| refused())? {
        None | Some("individual") => Ok(()),
        Some(_) => Err(refused()),
    }
}

fn context<'a>(request: &'a Object<'_>) -> Result<Option<Context<'a>>, ApiError> {
    let Some(context) = request.object("context", "context")? else { return Ok(None) };
    let message_id = context.required_text("message_id", "context.message_id")?;
    if message_id.is_empty() || message_id.chars().count() > QUOTED_ID_LIMIT {
        return Err(ApiError::invalid("context.message_id", "is not a message id"));
    }
    Ok(Some(Context { message_id }))
}

fn short_text<'a>(request: &'a Object<'_>, name: &str, longest: usize) -> Result<Option<&'a str>, ApiError> {
    match request.text(name, name)? {
        Some(text) if text.chars().count() > longest => {
            Err(ApiError::invalid(name, format_args!("must not be longer than {longest} characters")))
        }
        text => Ok(text),
    }
}

fn product(request: &Object<'_>) -> Result<(), ApiError> {
    match request.text("messaging_product", "messaging_product")? {
        None | Some("whatsapp") => Ok(()),
        Some(_) => Err(ApiError::invalid("messaging_product", "must be whatsapp")),
    }
}

fn no_others(request: &Object<'_>, kind: &str) -> Result<(), ApiError> {
    match request.names().find(|name| *name != kind && !COMMON.contains(name)) {
        None => Ok(()),
        Some(name) => Err(ApiError::new(Code::ParameterNotRequired, format!("Parameter '{name}' is not required"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RULES: fn() -> Rules = || Rules { sender: "15550000001".parse().unwrap(), strict: false };

    fn sent(request: Value) -> Result<Accepted, ApiError> {
        accept(request.to_string().as_bytes(), RULES())
    }

    fn canonical(request: Value) -> Value {
        serde_json::from_slice(&sent(request).unwrap().body).unwrap()
    }

    fn code(request: Value) -> u16 {
        sent(request).unwrap_err().code.number()
    }

    #[test]
    fn the_canonical_body_holds_what_was_given_and_nothing_else() {
        let plain = json!({"type": "text", "text": {"body": "hi"}});
        assert_eq!(canonical(json!({"to": "16315551234", "text": {"body": "hi"}})), plain);
        assert_eq!(
            canonical(json!({"to": "16315551234", "text": {"body": "hi", "x": 1}, "messaging_product": "whatsapp", "y": 2})),
            plain
        );
        assert_eq!(
            canonical(json!({"to": "16315551234", "type": "text", "text": {"body": "hi"}, "preview_url": true,
                "context": {"message_id": "gBGGFlA5FpafAgkOuJbRq54qwbM"}, "biz_opaque_callback_data": "order 7"})),
            json!({"type": "text", "text": {"body": "hi"}, "preview_url": true,
                "context": {"message_id": "gBGGFlA5FpafAgkOuJbRq54qwbM"}, "biz_opaque_callback_data": "order 7"})
        );
        let inner = json!({"to": "16315551234", "text": {"body": "hi", "preview_url": true}});
        assert_eq!(canonical(inner)["preview_url"], json!(true));
        let off = json!({"to": "16315551234", "text": {"body": "hi", "preview_url": true}, "preview_url": false});
        assert_eq!(canonical(off).get("preview_url"), None);
    }

    #[test]
    fn the_input_is_kept_and_the_wa_id_found() {
        let accepted = sent(json!({"to": "+55 82 99988-7766", "text": {"body": "hi"}})).unwrap();
        assert_eq!((accepted.input.as_str(), accepted.recipient.to_string().as_str()), ("+55 82 99988-7766", "558299887766"));
    }

    #[test]
    fn refusals_have_the_codes_of_the_table() {
        let text = || json!({"body": "hi"});
        for (request, expected) in [
            (json!({"text": text()}), 1008),
            (json!({"to": null, "text": text()}), 1008),
            (json!({"to": 16315551234u64, "text": text()}), 1009),
            (json!({"to": "bogus", "text": text()}), 1009),
            (json!({"to": "15550000001", "text": text()}), 1021),
            (json!({"to": "+1 555 000 0001", "text": text()}), 1021),
            (json!({"to": "16315551234", "recipient_type": "group", "text": text()}), 1002),
            (json!({"to": "no-group-id", "recipient_type": "group", "text": text()}), 1002),
            (json!({"to": "16315551234", "recipient_type": 5, "text": text()}), 1002),
            (json!({"to": "16315551234", "type": "telepathy", "telepathy": {}}), 1009),
            (json!({"to": "16315551234", "type": "voice", "voice": {"id": "x"}}), 1009),
            (json!({"to": "16315551234", "type": "image", "image": {"id": "x"}}), 1009),
            (json!({"to": "16315551234", "type": "image"}), 1008),
            (json!({"to": "16315551234", "type": 5}), 1009),
            (json!({"to": "16315551234", "type": "text"}), 1008),
            (json!({"to": "16315551234", "text": "hi"}), 1009),
            (json!({"to": "16315551234", "text": {}}), 1008),
            (json!({"to": "16315551234", "text": {"body": ""}}), 1008),
            (json!({"to": "16315551234", "text": {"body": 5}}), 1009),
            (json!({"to": "16315551234", "text": {"body": "a\u{0}b"}}), 1009),
            (json!({"to": "16315551234", "text": {"body": "a".repeat(4097)}}), 1001),
            (json!({"to": "16315551234", "text": text(), "preview_url": "true"}), 1009),
            (json!({"to": "16315551234", "text": {"body": "hi", "preview_url": 1}}), 1009),
            (json!({"to": "16315551234", "text": text(), "context": "id"}), 1009),
            (json!({"to": "16315551234", "text": text(), "context": {}}), 1008),
            (json!({"to": "16315551234", "text": text(), "context": {"message_id": ""}}), 1009),
            (json!({"to": "16315551234", "text": text(), "biz_opaque_callback_data": "a".repeat(513)}), 1009),
            (json!({"to": "16315551234", "text": text(), "messaging_product": "pigeon"}), 1009),
        ] {
            assert_eq!(code(request.clone()), expected, "{request}");
        }
    }

    #[test]
    fn a_missing_recipient_is_said_in_the_words_of_the_original() {
        assert_eq!(sent(json!({"type": "text"})).unwrap_err().details, "Parameter 'to' is mandatory.");
        let missing = sent(json!({"to": "16315551234", "type": "text"})).unwrap_err();
        assert_eq!(missing.details, "Parameter 'text' is mandatory for type 'text'");
    }

    #[test]
    fn a_text_is_measured_in_code_points() {
        assert!(sent(json!({"to": "16315551234", "text": {"body": "😀".repeat(4096)}})).is_ok());
        assert_eq!(code(json!({"to": "16315551234", "text": {"body": "😀".repeat(4097)}})), 1001);
    }

    #[test]
    fn strict_numbers_refuse_members_they_do_not_know() {
        let request = json!({"to": "16315551234", "text": {"body": "hi"}, "colour": "red"}).to_string();
        let strict = accept(request.as_bytes(), Rules { strict: true, ..RULES() }).unwrap_err();
        assert_eq!(strict.code, Code::ParameterNotRequired);
        assert!(accept(request.as_bytes(), RULES()).is_ok());
    }
}
