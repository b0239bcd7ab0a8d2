//! What a client may send, and what travels on: pure checks in the order of spec/messages.md §4,
//! one file for each message type.
//!
//! [`accept`] turns a request into the canonical JSON that is end-to-end encrypted later: the
//! On-Premises form without members nobody knows. Texts are read by hand, as most messages are
//! texts; the other types are described by data ([`shape`]).

mod characters;
mod contacts;
mod hsm;
mod interactive;
mod location;
mod media;
mod reaction;
pub(crate) mod schema;
mod shape;
mod template;
mod text;

use estafet_model::{ApiError, Code, WaId};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use self::shape::{Kept, Path, not_required};
use crate::{
    json::{Object, parse_object},
    template::Library,
};

/// Longest `biz_opaque_callback_data`, in characters.
const OPAQUE_LIMIT: usize = 512;
/// Longest id of a quoted message, in characters; ids of ours have at most 36.
const QUOTED_ID_LIMIT: usize = 128;

/// Types described by data.
const DESCRIBED: [&str; 9] =
    ["image", "audio", "video", "document", "sticker", "location", "contacts", "interactive", "reaction"];

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
pub(crate) struct Rules<'a> {
    /// The number that sends.
    pub(crate) sender: WaId,
    /// Refuse unknown members (1010).
    pub(crate) strict: bool,
    /// The templates that may be sent.
    pub(crate) templates: &'a Library,
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
    /// It is a template message with the policy `fallback`.
    pub(crate) asked_fallback: bool,
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
    Described(Described<'a>),
    Template(Box<template::Filled<'a>>),
}

/// The member named like the type.
struct Described<'a> {
    kind: &'static str,
    content: Kept<'a>,
}

impl Serialize for Described<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.kind, &self.content)?;
        map.end()
    }
}

#[derive(Serialize)]
struct Context<'a> {
    message_id: &'a str,
}

/// Checks the body of `POST /v1/messages`.
pub(crate) fn accept(body: &[u8], rules: Rules<'_>) -> Result<Accepted, ApiError> {
    let request = parse_object(body)?;
    let input = request.required_text("to", "to")?;
    recipient_type(&request)?;
    let kind = request.text("type", "type")?.unwrap_or("text");
    let (kind, content) = content(&request, kind, rules.templates)?;
    let context = context(&request)?.filter(|_| may_quote(kind));
    let canonical = Canonical {
        kind,
        content,
        context,
        biz_opaque_callback_data: short_text(&request, "biz_opaque_callback_data", OPAQUE_LIMIT)?,
    };
    product(&request)?;
    if rules.strict {
        no_others(&request, &canonical)?;
    }
    let recipient = WaId::from_input(input).map_err(|why| ApiError::invalid("to", why))?;
    if recipient == rules.sender {
        return Err(ApiError::new(Code::BadUser, "A number cannot send to itself"));
    }
    let mut body = Vec::with_capacity(body.len());
    serde_json::to_writer(&mut body, &canonical).expect("strings and booleans always serialise");
    let asked_fallback = matches!(&canonical.content, Content::Template(filled) if filled.asked_fallback());
    Ok(Accepted { input: input.to_owned(), recipient, body, asked_fallback })
}

/// The namespace that a template message names; `None` for what is no such message.
pub(crate) fn template_namespace(body: &[u8]) -> Option<String> {
    let request = parse_object(body).ok()?;
    let kind = request.text("type", "type").ok()??;
    let template = matches!(kind, "template" | "hsm").then(|| request.object(kind, kind).ok()?).flatten()?;
    template.text("namespace", "namespace").ok()?.map(str::to_owned)
}

/// Reads the member named like the type.
fn content<'a>(request: &'a Object<'_>, kind: &str, templates: &Library) -> Result<(&'static str, Content<'a>), ApiError> {
    match kind {
        "text" => return Ok(("text", Content::Text(text::read(request)?))),
        "template" => return Ok(("template", Content::Template(template::read(request, templates)?.into()))),
        "hsm" => return Ok(("template", Content::Template(hsm::read(request, templates)?.into()))),
        _ => {}
    }
    if let Some(kind) = DESCRIBED.into_iter().find(|described| *described == kind) {
        return Ok((kind, Content::Described(described(request, kind)?)));
    }
    if kind == "voice" {
        return Err(ApiError::invalid("type", "voice is for incoming messages only, send audio instead"));
    }
    Err(ApiError::invalid("type", "is not a known message type"))
}

fn described<'a>(request: &'a Object<'_>, kind: &'static str) -> Result<Described<'a>, ApiError> {
    let value = request.get(kind).ok_or_else(|| object_missing(kind))?;
    let shape = match kind {
        "location" => &location::SHAPE,
        "contacts" => &contacts::SHAPE,
        "reaction" => &reaction::SHAPE,
        "interactive" => interactive::shape(value)?,
        _ => media::shape(kind, value),
    };
    shape.check(value, &Path::Root(kind))?;
    Ok(Described { kind, content: Kept { shape, value } })
}

/// Reactions name their message themselves.
fn may_quote(kind: &str) -> bool {
    kind != "reaction"
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

/// Strict numbers refuse what is not used (1010).
fn no_others(request: &Object<'_>, message: &Canonical<'_>) -> Result<(), ApiError> {
    let kind = message.kind;
    let member = if let Content::Template(filled) = &message.content { filled.member() } else { kind };
    let is_used = |name: &str| name == member || COMMON.contains(&name) && (name != "context" || may_quote(kind));
    if let Some(name) = request.names().find(|name| !is_used(name)) {
        return Err(not_required(&Path::Root(name)));
    }
    let known: &[(&str, &[&str])] = match kind {
        "text" => &[("text", &["body", "preview_url"]), ("context", &["message_id"])],
        _ => &[("context", &["message_id"])],
    };
    for (member, names) in known {
        let Some(object) = request.object(member, member)? else { continue };
        if let Some(name) = object.names().find(|name| !names.contains(name)) {
            return Err(not_required(&Path::Root(member).member(name)));
        }
    }
    match &message.content {
        Content::Text(_) => Ok(()),
        Content::Described(Described { content, .. }) => {
            media::one_source(kind, content.value)?;
            content.shape.no_strangers(content.value, &Path::Root(kind))
        }
        Content::Template(_) => Ok(()),
    }
}

/// What the tests of the types share.
#[cfg(test)]
mod testing {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::template::sampled;

    /// A request of a type.
    pub(super) fn request(kind: &str, content: Value) -> Value {
        json!({"to": "16315551234", "type": kind, kind: content})
    }

    pub(super) fn sent(request: &Value, strict: bool) -> Result<Accepted, ApiError> {
        accept(request.to_string().as_bytes(), Rules { sender: "15550000001".parse().unwrap(), strict, templates: &samples() })
    }

    pub(super) fn samples() -> Arc<Library> {
        sampled(true).current()
    }

    /// What travels on under the name of the type.
    pub(super) fn canonical(kind: &str, content: Value) -> Value {
        let body: Value = serde_json::from_slice(&sent(&request(kind, content), false).unwrap().body).unwrap();
        assert_eq!((body["type"].as_str(), body.as_object().unwrap().len()), (Some(kind), 2), "{body}");
        body[kind].clone()
    }

    /// These travel on unchanged, also from strict numbers.
    pub(super) fn accepts(kind: &str, contents: impl IntoIterator<Item = Value>) {
        for content in contents {
            let body = sent(&request(kind, content.clone()), true).unwrap_or_else(|error| panic!("{content}: {error}")).body;
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(without_nulls(&body[kind]), without_nulls(&content));
        }
    }

    /// These are refused with a code, at a place.
    pub(super) fn codes<'a>(kind: &str, table: impl IntoIterator<Item = (Value, u16, &'a str)>) {
        for (content, code, place) in table {
            let error = sent(&request(kind, content.clone()), false).map(|_| ()).expect_err(&content.to_string());
            assert_eq!(error.code.number(), code, "{content}: {error}");
            let said = error.details.split('\'').nth(1).unwrap_or_default();
            assert!(said == place || code == 2036 && said.starts_with(place), "{content}: {error}, not {place}");
        }
    }

    /// The same with one value replaced or added; `null` stands for absent.
    pub(super) fn with(content: &Value, pointer: &str, value: Value) -> Value {
        let mut changed = content.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match changed.pointer_mut(parent).unwrap() {
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
            object => object[name] = value,
        }
        changed
    }

    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Array(items) => items.iter().map(without_nulls).collect(),
            Value::Object(members) => {
                let given = members.iter().filter(|(_, value)| !value.is_null());
                Value::Object(given.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
            }
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;

    static NO_TEMPLATES: LazyLock<Library> = LazyLock::new(Library::default);
    const RULES: fn() -> Rules<'static> =
        || Rules { sender: "15550000001".parse().unwrap(), strict: false, templates: &NO_TEMPLATES };

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

    #[test]
    fn strict_numbers_name_the_unknown_member_at_any_depth() {
        let place = json!({"longitude": 1, "latitude": 2});
        let card = json!([{"name": {"formatted_name": "Ana Lee", "first_name": "Ana"}, "phones": [{"phone": "1", "ext": 5}]}]);
        for (request, member) in [
            (json!({"to": "16315551234", "text": {"body": "hi", "colour": "red"}}), "text.colour"),
            (json!({"to": "16315551234", "text": {"body": "hi"}, "context": {"message_id": "x", "y": 1}}), "context.y"),
            (json!({"to": "16315551234", "type": "location", "location": place, "text": {"body": "hi"}}), "text"),
            (json!({"to": "16315551234", "type": "contacts", "contacts": card}), "contacts[0].phones[0].ext"),
        ] {
            let strict = testing::sent(&request, true).unwrap_err();
            assert_eq!((strict.code.number(), strict.details), (1010, format!("Parameter '{member}' is not required").into()));
            assert!(testing::sent(&request, false).is_ok(), "{request}");
        }
    }
}
