//! Templates as the network serves them to phones, and what a phone makes of a message that names one. Pure.
//!
//! A message carries names and parameters only; the text is here. A phone that finds no template, or parameters that
//! do not fit its places, cannot show the message and says so.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// The templates of the network.
#[derive(Clone, Debug, Default)]
pub struct Templates(HashMap<Name, Vec<Value>>);

/// Namespace, name, language.
type Name = (String, String, String);

impl Templates {
    /// Reads a list, `{"templates":[{"namespace","name","language","components":[...]}]}`, in the layout of the Cloud
    /// API; what is no template is left out.
    pub fn read(list: &Value) -> Self {
        let entry = |entry: &Value| Some((name_of(entry, entry["language"].as_str()?)?, entry["components"].as_array()?.clone()));
        Self(list["templates"].as_array().into_iter().flatten().filter_map(entry).collect())
    }

    /// What a person sees of a template message; `None` if it cannot be shown.
    pub fn render(&self, content: &Value) -> Option<Value> {
        let message = &content["template"];
        let components = self.0.get(&name_of(message, message.pointer("/language/code")?.as_str()?)?)?;
        let given = Given(message["components"].as_array().map(Vec::as_slice).unwrap_or_default());
        let mut shown = Map::new();
        for component in components {
            let text = component["text"].as_str().unwrap_or_default();
            let (part, value) = match component["type"].as_str()?.to_ascii_uppercase().as_str() {
                "HEADER" => ("header", header(component, text, given.of("header"))?),
                "BODY" => ("body", json!(fill(text, given.of("body"))?)),
                "FOOTER" => ("footer", json!(text)),
                "BUTTONS" => {
                    let buttons = component["buttons"].as_array()?.iter().enumerate();
                    ("buttons", buttons.map(|(index, label)| button(label, given.button(index))).collect::<Option<_>>()?)
                }
                _ => return None,
            };
            shown.insert(part.to_owned(), value);
        }
        Some(Value::Object(shown))
    }
}

fn name_of(of: &Value, language: &str) -> Option<Name> {
    Some((of["namespace"].as_str()?.to_owned(), of["name"].as_str()?.to_owned(), language.to_owned()))
}

/// The components of a message.
#[derive(Clone, Copy)]
struct Given<'a>(&'a [Value]);

impl<'a> Given<'a> {
    /// The parameters of a part.
    fn of(self, kind: &str) -> &'a [Value] {
        parameters(self.0.iter().find(|component| component["type"] == kind))
    }

    /// The parameters of a button.
    fn button(self, index: usize) -> &'a [Value] {
        let index = index.to_string();
        parameters(self.0.iter().find(|component| component["type"] == "button" && component["index"] == index.as_str()))
    }
}

fn parameters(component: Option<&Value>) -> &[Value] {
    component.and_then(|component| component["parameters"].as_array()).map(Vec::as_slice).unwrap_or_default()
}

fn header(component: &Value, text: &str, given: &[Value]) -> Option<Value> {
    match component["format"].as_str() {
        None | Some("TEXT" | "text") => Some(json!({ "type": "text", "text": fill(text, given)? })),
        Some(format) => given.first().filter(|file| file["type"] == format.to_ascii_lowercase().as_str()).cloned(),
    }
}

/// A text with the parameters in its places, `{{1}}` and so on; `None` unless there are as many as places.
fn fill(text: &str, given: &[Value]) -> Option<String> {
    let (mut filled, mut rest, mut places) = (String::with_capacity(text.len()), text, 0);
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((place, after)) = after.split_once("}}") else { break };
        let number: usize = place.trim().parse().ok()?;
        filled.push_str(before);
        filled.push_str(shown(given.get(number.checked_sub(1)?)?)?);
        (rest, places) = (after, places.max(number));
    }
    filled.push_str(rest);
    (places == given.len()).then_some(filled)
}

/// What stands in a text for a parameter.
fn shown(parameter: &Value) -> Option<&str> {
    match parameter["type"].as_str()? {
        "text" => parameter["text"].as_str(),
        kind @ ("currency" | "date_time") => parameter[kind]["fallback_value"].as_str(),
        _ => None,
    }
}

fn button(label: &Value, given: &[Value]) -> Option<Value> {
    let given_as =
        |kind: &str| given.first().filter(|parameter| parameter["type"] == kind).map(|parameter| parameter[kind].clone());
    let text = label["text"].as_str().unwrap_or_default();
    let (kind, does, value) = match label["type"].as_str()?.to_ascii_uppercase().as_str() {
        // Without a payload the label comes back.
        "QUICK_REPLY" => ("quick_reply", "payload", given_as("payload").unwrap_or_else(|| json!(text))),
        "URL" => ("url", "url", json!(fill(label["url"].as_str()?, given)?)),
        "PHONE_NUMBER" => ("phone_number", "phone_number", label["phone_number"].clone()),
        "COPY_CODE" => ("copy_code", "coupon_code", given_as("coupon_code")?),
        "FLOW" => ("flow", "action", given_as("action").unwrap_or_default()),
        "CATALOG" => ("catalog", "action", given_as("action").unwrap_or_default()),
        "MPM" => ("mpm", "action", given_as("action").unwrap_or_default()),
        _ => return None,
    };
    // Apps write this label themselves.
    let text = if kind == "copy_code" && text.is_empty() { "Copy code" } else { text };
    Some(json!({ "type": kind, "text": text, does: value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates() -> Templates {
        let plain = json!({ "namespace": "ns", "name": "plain", "language": "en_US", "status": "APPROVED", "components": [
            { "type": "BODY", "text": "Hi {{1}}, it comes {{ 2 }}. {{1}}!" } ] });
        let rich = json!({ "namespace": "ns", "name": "rich", "language": "id", "components": [
            { "type": "HEADER", "format": "IMAGE" }, { "type": "BODY", "text": "Halo" }, { "type": "FOOTER", "text": "Bye" },
            { "type": "BUTTONS", "buttons": [
                { "type": "QUICK_REPLY", "text": "Ya" },
                { "type": "URL", "text": "Track", "url": "https://example.org/t/{{1}}" },
                { "type": "PHONE_NUMBER", "text": "Call", "phone_number": "+15550001234" },
                { "type": "COPY_CODE", "text": "" }, { "type": "FLOW", "text": "Go" } ] } ] });
        Templates::read(&json!({ "templates": [plain, rich, { "name": "broken" }, 5] }))
    }

    fn message(name: &str, language: &str, components: Value) -> Value {
        json!({ "type": "template", "template": { "namespace": "ns", "name": name,
            "language": { "policy": "deterministic", "code": language }, "components": components } })
    }

    fn body(parameters: &[Value]) -> Value {
        json!([{ "type": "body", "parameters": parameters }])
    }

    fn text(text: &str) -> Value {
        json!({ "type": "text", "text": text })
    }

    #[test]
    fn r179_a_phone_makes_the_text_from_its_template_and_the_parameters() {
        let money = json!({ "type": "currency", "currency": { "fallback_value": "$1", "code": "USD", "amount_1000": 1000 } });
        let shown = templates().render(&message("plain", "en_US", body(&[text("{{2}}"), money])));
        assert_eq!(shown, Some(json!({ "body": "Hi {{2}}, it comes $1. {{2}}!" })));
        let button = |index: &str, parameter: Value| json!({ "type": "button", "index": index, "parameters": [parameter] });
        let components = json!([
            { "type": "header", "parameters": [{ "type": "image", "image": { "blob": "b" } }] },
            button("1", text("a1")),
            button("3", json!({ "type": "coupon_code", "coupon_code": "SAVE" })),
        ]);
        let expected = json!({
            "header": { "type": "image", "image": { "blob": "b" } }, "body": "Halo", "footer": "Bye",
            "buttons": [
                { "type": "quick_reply", "text": "Ya", "payload": "Ya" },
                { "type": "url", "text": "Track", "url": "https://example.org/t/a1" },
                { "type": "phone_number", "text": "Call", "phone_number": "+15550001234" },
                { "type": "copy_code", "text": "Copy code", "coupon_code": "SAVE" },
                { "type": "flow", "text": "Go", "action": null } ] });
        assert_eq!(templates().render(&message("rich", "id", components)), Some(expected));
    }

    #[test]
    fn r176_what_does_not_fit_a_template_cannot_be_shown() {
        let two = [text("a"), text("b")];
        let templates = templates();
        for (message, why) in [
            (message("none", "en_US", body(&two)), "no such template"),
            (message("plain", "id", body(&two)), "not in this language"),
            (message("plain", "en_US", body(&two[..1])), "too few parameters"),
            (message("plain", "en_US", body(&[two.as_slice(), &[text("c")]].concat())), "too many parameters"),
            (message("plain", "en_US", body(&[text("a"), json!({ "type": "payload", "payload": "b" })])), "another kind"),
            (message("rich", "id", json!([])), "no picture"),
            (json!({ "type": "template" }), "no name"),
        ] {
            assert_eq!(templates.render(&message), None, "{why}");
        }
    }
}
