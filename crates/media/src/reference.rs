//! Where a message in canonical form names files: its own, or that of its header. Pure.

use serde_json::{Map, Value};

use crate::Kind;

/// Beginning of the canonical form of a text, which names none: most messages need not be parsed.
const TEXT: &[u8] = br#"{"type":"text""#;

/// A file a message names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// What it is sent as.
    pub kind: Kind,
    /// An uploaded file. If it is absent, there is a link.
    pub id: Option<String>,
    /// Where it is fetched from.
    pub link: Option<String>,
    /// Whose credentials the link needs.
    pub provider: Option<String>,
    /// The place, as refusals write it.
    pub path: String,
}

/// The files a message names; of those named at two places (a template and its rendering) one.
pub fn find(body: &[u8]) -> Vec<Reference> {
    if body.starts_with(TEXT) {
        return Vec::new();
    }
    let Ok(message) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let mut found: Vec<Reference> = Vec::new();
    for (kind, pointer) in places(&message) {
        let Some(media) = message.pointer(&pointer).and_then(Value::as_object) else { continue };
        let reference = read(kind, &pointer, media);
        if !found.iter().any(|known| (known.kind, &known.id, &known.link) == (kind, &reference.id, &reference.link)) {
            found.push(reference);
        }
    }
    found
}

fn read(kind: Kind, pointer: &str, media: &Map<String, Value>) -> Reference {
    let text = |name: &str| media.get(name).and_then(Value::as_str).map(str::to_owned);
    let provider = media.get("provider").and_then(|provider| provider.get("name")).and_then(Value::as_str).map(str::to_owned);
    let id = text("id");
    Reference { kind, link: text("link").filter(|_| id.is_none()), id, provider, path: pointer[1..].replace('/', ".") }
}

/// Puts something else in the place of every file a message names.
pub fn replace(body: &[u8], mut with: impl FnMut(&Reference, &mut Map<String, Value>)) -> Vec<u8> {
    let Ok(mut message) = serde_json::from_slice::<Value>(body) else { return body.to_vec() };
    for (kind, pointer) in places(&message) {
        if let Some(media) = message.pointer_mut(&pointer).and_then(Value::as_object_mut) {
            let reference = read(kind, &pointer, media);
            with(&reference, media);
        }
    }
    message.to_string().into_bytes()
}

/// Kinds and JSON pointers of the files in a message.
fn places(message: &Value) -> Vec<(Kind, String)> {
    let word = |value: &Value| value.as_str().and_then(Kind::from_word);
    let header = |prefix: &str| {
        let header = message.pointer(prefix)?;
        let kind = word(header.get("type")?)?;
        Some((kind, format!("{prefix}/{kind}")))
    };
    match message.get("type").and_then(Value::as_str) {
        Some("interactive") => header("/interactive/header").into_iter().collect(),
        Some("template") => {
            let components = message.pointer("/template/components").and_then(Value::as_array).map_or(0, Vec::len);
            let parameters = (0..components).map(|n| format!("/template/components/{n}/parameters/0"));
            parameters.filter_map(|prefix| header(&prefix)).chain(header("/rendered/header")).collect()
        }
        Some(other) => Kind::from_word(other).map(|kind| (kind, format!("/{other}"))).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(message: &Value) -> Vec<(Kind, Option<String>, Option<String>)> {
        find(message.to_string().as_bytes()).into_iter().map(|r| (r.kind, r.id, r.link)).collect()
    }

    #[test]
    fn files_are_found_wherever_a_message_may_name_one() {
        let id = Some("7".to_owned());
        for (message, kind) in [
            (json!({"type": "image", "image": {"id": "7"}}), Kind::Image),
            (json!({"type": "sticker", "sticker": {"id": "7", "link": "x"}}), Kind::Sticker),
            (json!({"type": "interactive", "interactive": {"header": {"type": "video", "video": {"id": "7"}}}}), Kind::Video),
            (
                json!({"type": "template", "template": {"components": [
                    {"type": "header", "parameters": [{"type": "document", "document": {"id": "7"}}]},
                    {"type": "body", "parameters": [{"type": "text", "text": "t"}]}]},
                    "rendered": {"header": {"type": "document", "document": {"id": "7"}}}}),
                Kind::Document,
            ),
        ] {
            assert_eq!(found(&message), [(kind, id.clone(), None)], "{message}");
        }
        for none in [
            json!({"type": "text", "text": {"body": "b"}}),
            json!({"type": "interactive", "interactive": {"header": {"type": "text", "text": "t"}}}),
            json!([]),
            json!({"type": "image"}),
        ] {
            assert_eq!(found(&none), [], "{none}");
        }
    }

    #[test]
    fn every_place_is_replaced() {
        let message = json!({"type": "template", "template": {"components": [
            {"type": "header", "parameters": [{"type": "image", "image": {"link": "l", "provider": {"name": "p"}}}]}]},
            "rendered": {"header": {"type": "image", "image": {"link": "l"}}}});
        let replaced = replace(message.to_string().as_bytes(), |reference, media| {
            assert_eq!((reference.kind, reference.link.as_deref()), (Kind::Image, Some("l")));
            media.clear();
            media.insert("key".to_owned(), json!("k"));
        });
        let replaced: Value = serde_json::from_slice(&replaced).unwrap();
        assert_eq!(replaced.pointer("/template/components/0/parameters/0/image"), Some(&json!({"key": "k"})));
        assert_eq!(replaced.pointer("/rendered/header/image"), Some(&json!({"key": "k"})));
    }
}
