//! Callback bodies (spec/webhooks.md §3, §6, §7), rendered once and posted byte-identical at every try.

use bytes::Bytes;
use estafet_model::{Code, Status, WaId};
use serde::Serialize;
use serde_json::{Map, Value, json};

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
    /// For `failed`: why.
    pub error: Option<(Code, &'a str)>,
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
    title: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
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
    let errors = event.error.map(|(code, details)| [ErrorEntry { code: code.number(), title: code.title(), details }]);
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

/// The body that tells an incoming message. `content` is the message as the phone wrote it: an
/// object with `type` and the member named like it; what is no such object becomes `unknown`.
pub fn inbound(sender: WaId, profile_name: &str, id: &str, at_ms: i64, content: &[u8]) -> Bytes {
    let mut message = match serde_json::from_slice(content) {
        Ok(Value::Object(content)) if is_known(&content) => content,
        _ => unknown(),
    };
    let is_system = message.get("type").is_some_and(|t| t == "system");
    message.insert("from".to_owned(), json!(sender));
    message.insert("id".to_owned(), json!(id));
    message.insert("timestamp".to_owned(), json!(seconds(at_ms)));
    let mut body = Map::new();
    if !is_system {
        body.insert("contacts".to_owned(), json!([contact(sender, profile_name)]));
    }
    body.insert("messages".to_owned(), json!([message]));
    to_bytes(&body)
}

/// The body that tells a condition which concerns no message.
pub fn error(code: Code, details: &str) -> Bytes {
    to_bytes(&json!({ "errors": [{ "code": code.number(), "title": code.title(), "details": details }] }))
}

fn contact(sender: WaId, profile_name: &str) -> Value {
    if profile_name.is_empty() {
        json!({ "wa_id": sender })
    } else {
        json!({ "profile": { "name": profile_name }, "wa_id": sender })
    }
}

/// Types a phone may send (spec/webhooks.md §4).
const INBOUND_TYPES: [&str; 14] = [
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
    "system",
];

fn is_known(content: &Map<String, Value>) -> bool {
    content
        .get("type")
        .and_then(Value::as_str)
        .is_some_and(|kind| INBOUND_TYPES.contains(&kind) && content.get(kind).is_some_and(|member| !member.is_null()))
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
            error: None,
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
    fn an_incoming_text_names_its_contact() {
        let body = inbound(sender(), "Kerry", "ABGG", 1_518_694_235_000, br#"{"type":"text","text":{"body":"hi"}}"#);
        assert_eq!(
            parse(&body),
            json!({"contacts": [{"profile": {"name": "Kerry"}, "wa_id": "16315551234"}],
                "messages": [{"from": "16315551234", "id": "ABGG", "timestamp": "1518694235", "type": "text", "text": {"body": "hi"}}]})
        );
    }

    #[test]
    fn what_cannot_be_understood_arrives_as_unknown() {
        for content in [&b"not json"[..], b"[]", br#"{"type":"poll","poll":{}}"#, br#"{"type":"text"}"#, b"\xff"] {
            let body = parse(&inbound(sender(), "", "ABGG", 0, content));
            assert_eq!(body["messages"][0]["type"], "unknown");
            assert_eq!(body["messages"][0]["errors"][0]["code"], 501);
            assert_eq!(body["contacts"], json!([{"wa_id": "16315551234"}]));
        }
    }

    #[test]
    fn conditions_of_the_number_are_errors_at_the_top() {
        let body = parse(&error(Code::Generic, "Conflict: multiple instances with the same number detected"));
        assert_eq!(body["errors"][0]["code"], 1000);
        assert_eq!(body["errors"][0]["title"], "Generic error");
    }
}
