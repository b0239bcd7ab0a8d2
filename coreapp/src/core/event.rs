//! Callback bodies (spec/webhooks.md §3, §6, §7), rendered once and posted byte-identical at every try.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use estafet_model::{Code, MessageId, Status, WaId, message_id::Direction};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::peer::Identity;

/// One status of one message.
#[derive(Clone, Copy, Debug)]
pub struct StatusEvent<'a> {
    /// Id from the send answer.
    pub message_id: &'a str,
    /// The user the message was for.
    pub recipient: WaId,
    /// The status.
    pub status: Status,
    /// When it was reached, milliseconds since 1970.
    pub at_ms: i64,
    /// Another title than the code's.
    pub title: Option<&'a str>,
    /// For `failed`: why.
    pub error: Option<(Code, &'a str)>,
    /// The page that explains errors, if there is one.
    pub errors_url: Option<&'a str>,
    /// The conversation the message counts in, unless switched off.
    pub conversation: Option<Conversation<'a>>,
}

/// The conversation of a status.
#[derive(Clone, Copy, Debug)]
pub struct Conversation<'a> {
    /// Its id.
    pub id: &'a str,
    /// When it ends, seconds since 1970; only told with `sent`.
    pub expires_at: i64,
}

#[derive(Serialize)]
struct StatusBody<'a> {
    statuses: [StatusEntry<'a>; 1],
}

#[derive(Serialize)]
struct StatusEntry<'a> {
    id: &'a str,
    recipient_id: WaId,
    status: &'static str,
    timestamp: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<ConversationEntry<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing: Option<Pricing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[ErrorEntry<'a>; 1]>,
}

#[derive(Serialize)]
struct ConversationEntry<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_timestamp: Option<String>,
    origin: Origin,
}

#[derive(Serialize)]
struct Origin {
    r#type: &'static str,
}

#[derive(Serialize)]
struct Pricing {
    pricing_model: &'static str,
    billable: bool,
    category: &'static str,
}

#[derive(Serialize)]
struct ErrorEntry<'a> {
    code: u16,
    title: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    href: Option<String>,
}

impl<'a> ErrorEntry<'a> {
    /// `href` is the page `errors_url` at the code.
    fn new(code: Code, details: &'a str, errors_url: Option<&str>) -> Self {
        let href = errors_url.map(|url| format!("{url}#{}", code.number()));
        Self { code: code.number(), title: code.title(), details, href }
    }
}

/// The only conversations of the open network: users who talk to a business.
const CATEGORY: &str = "service";

/// The body that tells a status.
pub fn status(event: &StatusEvent<'_>) -> Bytes {
    let pricing = event.conversation.map(|_| Pricing { pricing_model: "CBP", billable: false, category: CATEGORY });
    let conversation = event.conversation.map(|conversation| ConversationEntry {
        id: conversation.id,
        expiration_timestamp: (event.status == Status::Sent).then(|| conversation.expires_at.to_string()),
        origin: Origin { r#type: CATEGORY },
    });
    let errors = event.error.map(|(code, details)| {
        let title = event.title.unwrap_or(code.title());
        [ErrorEntry { title, ..ErrorEntry::new(code, details, event.errors_url) }]
    });
    to_bytes(&StatusBody {
        statuses: [StatusEntry {
            id: event.message_id,
            recipient_id: event.recipient,
            status: event.status.as_str(),
            timestamp: seconds(event.at_ms),
            r#type: "message",
            conversation,
            pricing,
            errors,
        }],
    })
}

/// The message that a user takes back with this one, if it is one of theirs.
pub fn revoked(user: WaId, content: &[u8]) -> Option<MessageId> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
        revoke: Revoked<'a>,
    }
    #[derive(Deserialize)]
    struct Revoked<'a> {
        #[serde(borrow)]
        message_id: Cow<'a, str>,
    }
    let content: Content<'_> = serde_json::from_slice(content).ok()?;
    let id: MessageId = content.revoke.message_id.parse().ok()?;
    (content.kind == "revoke" && id.direction() == Direction::Incoming && id.phone() == user).then_some(id)
}

/// The body that tells that a user deleted a message they had sent.
pub fn deleted(message_id: &MessageId, user: WaId, at_ms: i64) -> Bytes {
    to_bytes(&StatusBody {
        statuses: [StatusEntry {
            id: &message_id.to_string(),
            recipient_id: user,
            status: "deleted",
            timestamp: seconds(at_ms),
            r#type: "message",
            conversation: None,
            pricing: None,
            errors: None,
        }],
    })
}

/// An identity as callbacks show it.
pub fn identity(identity: &Identity) -> Value {
    json!({
        "acknowledged": identity.acknowledged,
        "created_timestamp": identity.since_ms,
        "hash": STANDARD.encode(identity.hash()),
    })
}

/// The body that tells `business` of an incoming message. `content` is the message as the phone wrote it:
/// an object with `type` and the member named like it; what is no such object becomes `unknown`. `known` is the
/// sender's identity, where it is told.
pub fn inbound(
    business: WaId,
    sender: WaId,
    profile_name: &str,
    id: &str,
    at_ms: i64,
    known: Option<&Identity>,
    content: &[u8],
) -> Bytes {
    let mut message = match serde_json::from_slice(content) {
        Ok(Value::Object(content)) if is_known(&content) => content,
        _ => unknown(),
    };
    settle(&mut message, business, sender);
    // Who the sender is, is not the sender's to say.
    message.remove("identity");
    if let Some(known) = known {
        message.insert("identity".to_owned(), identity(known));
    }
    head(&mut message, sender, id, at_ms);
    to_bytes(&json!({ "contacts": [contact(sender, profile_name)], "messages": [message] }))
}

/// The body that tells of something that happened to a user (spec/webhooks.md §5).
pub fn system(user: WaId, id: &str, at_ms: i64, content: &Value) -> Bytes {
    let mut message = content.as_object().cloned().unwrap_or_default();
    head(&mut message, user, id, at_ms);
    to_bytes(&json!({ "messages": [message] }))
}

/// The members every message has.
fn head(message: &mut Map<String, Value>, sender: WaId, id: &str, at_ms: i64) {
    message.insert("from".to_owned(), json!(sender));
    message.insert("id".to_owned(), json!(id));
    message.insert("timestamp".to_owned(), json!(seconds(at_ms)));
}

/// The body that tells a condition which concerns no message.
pub fn error(code: Code, details: &str, errors_url: Option<&str>) -> Bytes {
    to_bytes(&json!({ "errors": [ErrorEntry::new(code, details, errors_url)] }))
}

/// The body that tells the end of a collection of media (spec/health-and-stats.md §6).
pub fn media_collected(removed: u64, is_complete: bool, errors_url: Option<&str>) -> Bytes {
    let status = if is_complete { "complete" } else { "failed" };
    let mut gc = Map::from_iter([("items_deleted".to_owned(), json!(removed)), ("status".to_owned(), json!(status))]);
    if !is_complete {
        let error = ErrorEntry::new(Code::Internal, "Could not delete media files", errors_url);
        gc.insert("errors".to_owned(), json!([error]));
    }
    to_bytes(&json!({ "services": [{ "media": { "gc": gc } }] }))
}

fn contact(sender: WaId, profile_name: &str) -> Value {
    if profile_name.is_empty() {
        json!({ "wa_id": sender })
    } else {
        json!({ "profile": { "name": profile_name }, "wa_id": sender })
    }
}

/// Types a phone may send (spec/webhooks.md §4). Only the network and we make `system`.
const INBOUND_TYPES: [&str; 13] = [
    "text",
    "image",
    "video",
    "audio",
    "voice",
    "document",
    "sticker",
    "location",
    "contacts",
    "button",
    "interactive",
    "order",
    "reaction",
];

fn is_known(content: &Map<String, Value>) -> bool {
    let Some(kind) = content.get("type").and_then(Value::as_str).filter(|kind| INBOUND_TYPES.contains(kind)) else {
        return false;
    };
    match (kind, content.get(kind)) {
        ("contacts", Some(member)) => member.is_array(),
        ("interactive", Some(member)) => is_known_reply(member),
        (_, Some(member)) => member.is_object(),
        (_, None) => false,
    }
}

/// Replies to interactive messages are of the kinds a business knows.
fn is_known_reply(interactive: &Value) -> bool {
    let kind = interactive.get("type").and_then(Value::as_str).unwrap_or_default();
    ["button_reply", "list_reply", "nfm_reply"].contains(&kind) && interactive.get(kind).is_some_and(Value::is_object)
}

/// Gives members that a phone may leave out or send empty the form callbacks have.
fn settle(message: &mut Map<String, Value>, business: WaId, sender: WaId) {
    if let Some(Value::Object(context)) = message.get_mut("context")
        && let Some(Ok(quoted)) = context.get("id").and_then(Value::as_str).map(str::parse::<MessageId>)
    {
        let author = if quoted.direction() == Direction::Outgoing { business } else { sender };
        context.entry("from").or_insert_with(|| json!(author));
    }
    if let Some(Value::Object(button)) = message.get_mut("button") {
        button.entry("payload").or_insert(Value::Null);
    }
    // A reaction that was taken back has no emoji.
    if let Some(Value::Object(reaction)) = message.get_mut("reaction")
        && reaction.get("emoji").is_some_and(|emoji| emoji.is_null() || emoji == "")
    {
        reaction.remove("emoji");
    }
}

fn unknown() -> Map<String, Value> {
    let error = json!({
        "code": Code::TypeNotSupported.number(),
        "title": "Unknown message type",
        "details": "Message type is not currently supported",
    });
    Map::from_iter([("type".to_owned(), json!("unknown")), ("errors".to_owned(), json!([error]))])
}

fn seconds(at_ms: i64) -> String {
    at_ms.div_euclid(1000).to_string()
}

fn to_bytes(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("maps with string keys become JSON").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender() -> WaId {
        "16315551234".parse().unwrap()
    }

    fn business() -> WaId {
        "15550000001".parse().unwrap()
    }

    /// A message of [`sender`] whose identity is not told.
    fn told(name: &str, id: &str, at_ms: i64, content: &[u8]) -> Bytes {
        inbound(business(), sender(), name, id, at_ms, None, content)
    }

    fn parse(body: &Bytes) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn statuses_have_the_documented_layout_with_string_timestamps() {
        let conversation = Some(Conversation { id: "c1", expires_at: 1_518_781_100 });
        let event = StatusEvent {
            message_id: "gBGG",
            recipient: sender(),
            status: Status::Sent,
            at_ms: 1_518_694_700_999,
            title: None,
            error: None,
            errors_url: None,
            conversation,
        };
        assert_eq!(
            parse(&status(&event)),
            json!({"statuses": [{"id": "gBGG", "recipient_id": "16315551234", "status": "sent", "timestamp": "1518694700",
                "type": "message",
                "conversation": {"id": "c1", "expiration_timestamp": "1518781100", "origin": {"type": "service"}},
                "pricing": {"pricing_model": "CBP", "billable": false, "category": "service"}}]})
        );
        let failed = StatusEvent {
            status: Status::Failed,
            conversation: None,
            error: Some((Code::UserNotValid, "not on the network")),
            ..event
        };
        assert_eq!(
            parse(&status(&failed)),
            json!({"statuses": [{"id": "gBGG", "recipient_id": "16315551234", "status": "failed", "timestamp": "1518694700",
                "type": "message", "errors": [{"code": 1013, "title": "User is not valid", "details": "not on the network"}]}]})
        );
    }

    #[test]
    fn r88_only_a_message_of_one_s_own_can_be_taken_back() {
        let own = MessageId::incoming(sender(), [3; 10]);
        let revoke = |id: &str| revoked(sender(), json!({"type": "revoke", "revoke": {"message_id": id}}).to_string().as_bytes());
        assert_eq!(revoke(&own.to_string()), Some(own));
        assert_eq!(revoke(&MessageId::incoming(business(), [3; 10]).to_string()), None);
        assert_eq!(revoke("gBGGFlA5FpafAgkOuJbRq54qwbM"), None, "a message of the business");
        for other in ["", "{}", r#"{"type":"text","text":{"body":"revoke"}}"#, r#"{"type":"revoke","revoke":{}}"#] {
            assert_eq!(revoked(sender(), other.as_bytes()), None, "{other}");
        }
        let id = own.to_string();
        let told = json!({"statuses": [{"id": id, "recipient_id": "16315551234", "status": "deleted",
            "timestamp": "1518694235", "type": "message"}]});
        assert_eq!(parse(&deleted(&own, sender(), 1_518_694_235_999)), told);
    }

    #[test]
    fn an_incoming_text_names_its_contact() {
        let body = told("Kerry", "ABGG", 1_518_694_235_000, br#"{"type":"text","text":{"body":"hi"}}"#);
        assert_eq!(
            parse(&body),
            json!({"contacts": [{"profile": {"name": "Kerry"}, "wa_id": "16315551234"}],
                "messages": [{"from": "16315551234", "id": "ABGG", "timestamp": "1518694235", "type": "text", "text": {"body": "hi"}}]})
        );
    }

    #[test]
    fn every_type_without_media_arrives_as_it_was_written() {
        for (kind, content) in [
            ("location", json!({"latitude": 38.98, "longitude": -131.94, "name": "Sea"})),
            ("contacts", json!([{"name": {"formatted_name": "Ana Lee", "first_name": "Ana"}}])),
            ("button", json!({"payload": "YES", "text": "Yes"})),
            ("button", json!({"payload": null, "text": "Yes"})),
            ("interactive", json!({"type": "button_reply", "button_reply": {"id": "1", "title": "Yes"}})),
            ("interactive", json!({"type": "list_reply", "list_reply": {"id": "1", "title": "One", "description": "d"}})),
            ("interactive", json!({"type": "nfm_reply", "nfm_reply": {"name": "flow", "body": "Sent", "response_json": "{}"}})),
            ("order", json!({"catalog_id": "1", "product_items": [{"product_retailer_id": "2", "quantity": 1}], "text": "t"})),
            ("reaction", json!({"message_id": "gBGG", "emoji": "👍"})),
        ] {
            let mut written = json!({"type": kind, "context": {"id": "gBGG", "from": "15550000001"}});
            written[kind] = content;
            let mut expected = written.clone();
            for (member, value) in [("from", "16315551234"), ("id", "ABGG"), ("timestamp", "1518694235")] {
                expected[member] = json!(value);
            }
            let body = parse(&told("Kerry", "ABGG", 1_518_694_235_000, written.to_string().as_bytes()));
            assert_eq!(body["messages"], json!([expected]));
            assert_eq!(body["contacts"], json!([{"profile": {"name": "Kerry"}, "wa_id": "16315551234"}]));
        }
    }

    #[test]
    fn a_reaction_taken_back_has_no_emoji_and_a_button_always_a_payload() {
        let message = |content: Value| parse(&told("", "ABGG", 0, content.to_string().as_bytes()))["messages"][0].clone();
        for emoji in [json!(""), json!(null)] {
            let removed = message(json!({"type": "reaction", "reaction": {"message_id": "gBGG", "emoji": emoji}}));
            assert_eq!(removed["reaction"], json!({"message_id": "gBGG"}));
        }
        let button = message(json!({"type": "button", "button": {"text": "Yes"}}));
        assert_eq!(button["button"], json!({"payload": null, "text": "Yes"}));
    }

    #[test]
    fn a_reply_names_the_author_of_what_it_quotes() {
        for (context, expected) in [
            (json!({"id": "gBGGFlA5FpafAgkOuJbRq54qwbM"}), json!("15550000001")),
            (json!({"id": "ABGGFlA5FpafAgo6tHcNmNjXmuSf"}), json!("16315551234")),
            (json!({"id": "gBGGFlA5FpafAgkOuJbRq54qwbM", "from": "1"}), json!("1")),
            (json!({"id": "foreign"}), Value::Null),
            (json!({"forwarded": true}), Value::Null),
        ] {
            let content = json!({"type": "text", "text": {"body": "hi"}, "context": context}).to_string();
            let body = parse(&told("", "ABGG", 0, content.as_bytes()));
            assert_eq!(body["messages"][0]["context"]["from"], expected, "{content}");
        }
    }

    #[test]
    fn what_cannot_be_understood_arrives_as_unknown() {
        let contents = [
            &b"not json"[..],
            b"[]",
            br#"{"type":"poll","poll":{}}"#,
            br#"{"type":"unsupported"}"#,
            br#"{"type":"system","system":{"type":"user_changed_number","new_wa_id":"1"}}"#,
            br#"{"type":"text"}"#,
            br#"{"type":"text","text":null}"#,
            br#"{"type":"location","location":"here"}"#,
            br#"{"type":"contacts","contacts":{}}"#,
            br#"{"type":"interactive","interactive":{"type":"carousel_reply","carousel_reply":{}}}"#,
            br#"{"type":"interactive","interactive":{"type":"list_reply"}}"#,
            b"\xff",
        ];
        for content in contents {
            let body = parse(&told("", "ABGG", 0, content));
            assert_eq!(body["messages"][0]["type"], "unknown");
            assert_eq!(body["messages"][0]["errors"][0]["code"], 501);
            assert_eq!(body["contacts"], json!([{"wa_id": "16315551234"}]));
        }
    }

    #[test]
    fn the_end_of_a_collection_tells_what_was_removed_and_whether_something_failed() {
        let complete = json!({"services": [{"media": {"gc": {"items_deleted": 3, "status": "complete"}}}]});
        assert_eq!(parse(&media_collected(3, true, None)), complete);
        let error = json!({"code": 1014, "title": "Internal error", "details": "Could not delete media files"});
        let failed = json!({"services": [{"media": {"gc": {"items_deleted": 1, "status": "failed", "errors": [error]}}}]});
        assert_eq!(parse(&media_collected(1, false, None)), failed);
    }

    #[test]
    fn conditions_of_the_number_are_errors_at_the_top() {
        let details = "Conflict: multiple instances with the same number detected";
        let plain = json!({"code": 1000, "title": "Generic error", "details": details});
        assert_eq!(parse(&error(Code::Generic, details, None)), json!({"errors": [plain]}));
        let explained = parse(&error(Code::Generic, details, Some("https://example.org/errors")));
        assert_eq!(explained["errors"][0]["href"], "https://example.org/errors#1000");
    }

    #[test]
    fn the_identity_of_a_sender_is_ours_to_tell() {
        let mut peer = crate::core::peer::Peer::default();
        peer.observe([7; 32], 1_602_532_300_000, false);
        let content = br#"{"type":"text","text":{"body":"hi"},"identity":{"hash":"forged","acknowledged":true}}"#;
        let body = parse(&inbound(business(), sender(), "", "ABGG", 0, peer.identity(), content));
        assert_eq!(
            body["messages"][0]["identity"],
            json!({"acknowledged": true, "created_timestamp": 1_602_532_300_000_i64, "hash": "S7Bvjk46dxU="})
        );
        assert!(parse(&told("", "ABGG", 0, content))["messages"][0].get("identity").is_none());
    }

    #[test]
    fn notices_have_no_contacts() {
        let content = json!({"type": "system", "system": {"type": "user_changed_number", "new_wa_id": "16315559999"}});
        assert_eq!(
            parse(&system(sender(), "ABGG", 1_602_532_300_000, &content)),
            json!({"messages": [{"from": "16315551234", "id": "ABGG", "timestamp": "1602532300", "type": "system",
                "system": {"type": "user_changed_number", "new_wa_id": "16315559999"}}]})
        );
    }
}
