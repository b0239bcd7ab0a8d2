//! Templates as files and the control interface write them: the layout of the Cloud API's list of
//! message templates, so that a list of an account can be pasted, with the namespace added.
//!
//! ```json
//! { "namespace": "my_shop",
//!   "templates": [ { "name": "order_update", "language": "en_US", "status": "APPROVED",
//!     "components": [ { "type": "HEADER", "format": "IMAGE" },
//!                     { "type": "BODY", "text": "Hello {{1}}" },
//!                     { "type": "FOOTER", "text": "Bye" },
//!                     { "type": "BUTTONS", "buttons": [ { "type": "QUICK_REPLY", "text": "Yes" } ] } ] } ] }
//! ```
//!
//! Members that say nothing about sending (`id`, `category`, `example`, ...) are ignored. A refusal
//! names the entry; a list is taken whole or not at all.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    language::Language,
    model::{Action, Button, Header, MediaKind, Status, Template},
    pattern::Pattern,
};

/// Longest name, in characters.
const NAME_LIMIT: usize = 512;
/// Longest namespace, in bytes.
const NAMESPACE_LIMIT: usize = 128;
/// Most buttons of a template.
const BUTTON_LIMIT: usize = 10;
/// Longest label of a button, in characters.
const LABEL_LIMIT: usize = 25;

/// Why a list of templates is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is no such list.
    #[error("not a list of templates: {0}")]
    List(serde_json::Error),
    /// A template of the list is at fault.
    #[error("template {position}{name}: {why}")]
    Entry {
        /// Its place in the list, from 1.
        position: usize,
        /// Its name in parentheses, if it has one.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// A list of templates.
#[derive(Deserialize)]
struct List {
    namespace: Option<String>,
    #[serde(alias = "data")]
    templates: Vec<Value>,
}

/// A template as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(default)]
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) language: String,
    #[serde(default = "approved")]
    pub(crate) status: String,
    components: Vec<Component>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Component {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    buttons: Vec<ButtonEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ButtonEntry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number: Option<String>,
}

fn approved() -> String {
    "APPROVED".to_owned()
}

/// Reads a list of templates, or a single one.
pub(crate) fn read(text: &[u8]) -> Result<Vec<Template>, Error> {
    let value: Value = serde_json::from_slice(text).map_err(Error::List)?;
    let list = if value.get("name").is_some() {
        List { namespace: None, templates: vec![value] }
    } else {
        serde_json::from_value(value).map_err(Error::List)?
    };
    let namespace = list.namespace.unwrap_or_default();
    list.templates.into_iter().enumerate().map(|(index, entry)| read_entry(index, entry, &namespace)).collect()
}

fn read_entry(index: usize, entry: Value, namespace: &str) -> Result<Template, Error> {
    let name = entry.get("name").and_then(Value::as_str).map(|name| format!(" ({name})")).unwrap_or_default();
    let refused = |why| Error::Entry { position: index + 1, name: name.clone(), why };
    let mut entry: Entry = serde_json::from_value(entry).map_err(|error| refused(error.to_string()))?;
    if entry.namespace.is_empty() {
        namespace.clone_into(&mut entry.namespace);
    }
    template(entry).map_err(refused)
}

/// Checks a template.
fn template(entry: Entry) -> Result<Template, String> {
    if entry.namespace.is_empty() || entry.namespace.len() > NAMESPACE_LIMIT {
        return Err(format!("a namespace of 1 to {NAMESPACE_LIMIT} bytes is needed"));
    }
    if !is_name(&entry.name) {
        return Err(format!("the name must have 1 to {NAME_LIMIT} of a-z, 0-9 and _"));
    }
    let language = Language::parse(&entry.language).ok_or_else(|| format!("`{}` is not a language", entry.language))?;
    let status = status(&entry.status)?;
    let (mut header, mut body, mut footer, mut buttons) = (None, None, None, None);
    for component in &entry.components {
        let text = || component.text.clone().filter(|text| !text.is_empty()).ok_or("has no text");
        let told = |why| format!("{}: {why}", component.kind.to_ascii_lowercase());
        let twice = match component.kind.to_ascii_uppercase().as_str() {
            "HEADER" => header.replace(read_header(component).map_err(told)?).is_some(),
            "BODY" => body.replace(text().map_err(str::to_owned).and_then(|text| read_body(&text)).map_err(told)?).is_some(),
            "FOOTER" => footer.replace(text().map_err(str::to_owned).and_then(read_footer).map_err(told)?).is_some(),
            "BUTTONS" => buttons.replace(read_buttons(&component.buttons)?).is_some(),
            other => return Err(format!("`{other}` is not a component")),
        };
        if twice {
            return Err(told("comes up twice".to_owned()));
        }
    }
    let body = body.ok_or("a body is needed")?;
    Ok(Template { language, status, header, body, footer, buttons: buttons.unwrap_or_default(), entry })
}

/// Whether a text may be the name of a template.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_LIMIT).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn status(word: &str) -> Result<Status, String> {
    Ok(match word.to_ascii_uppercase().as_str() {
        "APPROVED" => Status::Approved,
        "REJECTED" => Status::Rejected,
        "PAUSED" => Status::Paused,
        "DISABLED" => Status::Disabled,
        "PENDING" | "IN_APPEAL" | "PENDING_DELETION" | "DELETED" | "LIMIT_EXCEEDED" | "ARCHIVED" => Status::NotApproved,
        _ => return Err(format!("`{word}` is not a status")),
    })
}

fn read_header(component: &Component) -> Result<Header, String> {
    let kind = match component.format.as_deref().unwrap_or("TEXT").to_ascii_uppercase().as_str() {
        "TEXT" => {
            let text = component.text.as_deref().filter(|text| !text.is_empty()).ok_or("has no text")?;
            if text.chars().count() > super::HEADER_LIMIT {
                return Err(format!("is longer than {} characters", super::HEADER_LIMIT));
            }
            let pattern = Pattern::parse(text).map_err(|error| error.to_string())?;
            return match pattern.count() {
                0 | 1 => Ok(Header::Text(pattern)),
                _ => Err("has more than one parameter".to_owned()),
            };
        }
        "IMAGE" => MediaKind::Image,
        "VIDEO" => MediaKind::Video,
        "DOCUMENT" => MediaKind::Document,
        other => return Err(format!("format `{other}` is not supported")),
    };
    Ok(Header::Media(kind))
}

fn read_body(text: &str) -> Result<Pattern, String> {
    if text.chars().count() > super::BODY_LIMIT {
        return Err(format!("is longer than {} characters", super::BODY_LIMIT));
    }
    Pattern::parse(text).map_err(|error| error.to_string())
}

fn read_footer(text: String) -> Result<String, String> {
    if text.chars().count() > super::FOOTER_LIMIT {
        return Err(format!("is longer than {} characters", super::FOOTER_LIMIT));
    }
    match Pattern::parse(&text) {
        Ok(pattern) if pattern.count() == 0 => Ok(text),
        _ => Err("must not have parameters".to_owned()),
    }
}

fn read_buttons(buttons: &[ButtonEntry]) -> Result<Vec<Button>, String> {
    if !(1..=BUTTON_LIMIT).contains(&buttons.len()) {
        return Err(format!("buttons: 1 to {BUTTON_LIMIT} are needed"));
    }
    let told = |(index, button)| read_button(button).map_err(|why| format!("button {index}: {why}"));
    buttons.iter().enumerate().map(told).collect()
}

fn read_button(button: &ButtonEntry) -> Result<Button, String> {
    let action = match button.kind.to_ascii_uppercase().as_str() {
        "QUICK_REPLY" => Action::QuickReply,
        "URL" => url_action(button.url.as_deref().ok_or("has no url")?)?,
        "PHONE_NUMBER" => Action::Call(phone_number(button.phone_number.as_deref().ok_or("has no phone_number")?)?),
        "COPY_CODE" => Action::CopyCode,
        "FLOW" => Action::Flow,
        "CATALOG" => Action::Catalog,
        "MPM" => Action::Products,
        other => return Err(format!("type `{other}` is not supported")),
    };
    // Apps write the label of this one themselves.
    let text = if button.text.is_empty() && action == Action::CopyCode { "Copy code" } else { &button.text };
    if !(1..=LABEL_LIMIT).contains(&text.chars().count()) {
        return Err(format!("the text must have 1 to {LABEL_LIMIT} characters"));
    }
    Ok(Button { text: text.to_owned(), action })
}

fn url_action(url: &str) -> Result<Action, String> {
    if url.chars().count() > super::URL_LIMIT {
        return Err(format!("the url is longer than {} characters", super::URL_LIMIT));
    }
    let pattern = Pattern::parse(url).map_err(|error| error.to_string())?;
    let (has_suffix, prefix) = match pattern.count() {
        0 => (false, url),
        _ => (true, pattern.prefix().ok_or("the parameter of a url must be at its end")?),
    };
    if !super::is_web_address(prefix) {
        return Err(format!("`{url}` is not an http or https address"));
    }
    Ok(Action::Url { prefix: prefix.to_owned(), has_suffix })
}

fn phone_number(number: &str) -> Result<String, String> {
    let digits = number.strip_prefix('+').unwrap_or(number);
    let fits = (3..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if fits { Ok(number.to_owned()) } else { Err(format!("`{number}` is not a phone number")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(template: Value) -> String {
        match read(json!({ "namespace": "ns", "templates": [template] }).to_string().as_bytes()) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_list_of_the_cloud_api_can_be_pasted() {
        let list = json!({ "namespace": "ns", "paging": {}, "data": [ { "id": "1", "category": "UTILITY", "quality_score": {},
            "name": "a", "language": "pt_BR", "status": "PAUSED", "components": [
                { "type": "HEADER", "format": "DOCUMENT", "example": {} },
                { "type": "BODY", "text": "Hi {{1}}", "example": { "body_text": [["Ana"]] } },
                { "type": "FOOTER", "text": "Bye" },
                { "type": "BUTTONS", "buttons": [
                    { "type": "PHONE_NUMBER", "text": "Call", "phone_number": "+15550001234" },
                    { "type": "COPY_CODE", "example": ["X"] },
                    { "type": "FLOW", "text": "Go", "flow_id": "1" } ] } ] } ] });
        let templates = read(list.to_string().as_bytes()).unwrap();
        let [template] = templates.as_slice() else { panic!("one template") };
        assert_eq!((template.entry.namespace.as_str(), template.status), ("ns", Status::Paused));
        assert_eq!((template.header.as_ref(), template.body.count()), (Some(&Header::Media(MediaKind::Document)), 1));
        assert_eq!(template.buttons[0].action, Action::Call("+15550001234".to_owned()));
    }

    #[test]
    fn a_single_template_is_a_list_of_one() {
        let one = br#"{"namespace":"ns","name":"a","language":"en","components":[{"type":"body","text":"Hi"}]}"#;
        assert_eq!(read(one).unwrap().len(), 1);
    }

    #[test]
    fn refusals_name_the_entry_and_what_is_wrong_with_it() {
        let with = |components: Value| json!({ "name": "a", "language": "en", "components": components });
        let body = || json!({ "type": "BODY", "text": "Hi" });
        let button = |button: Value| with(json!([body(), { "type": "BUTTONS", "buttons": [button] }]));
        for (template, why) in [
            (with(json!([body()])), "fine"),
            (json!({ "name": "A", "language": "en", "components": [body()] }), "template 1 (A): the name must have"),
            (json!({ "name": "a", "language": "x", "components": [body()] }), "template 1 (a): `x` is not a language"),
            (json!({ "name": "a", "language": "en", "status": "x", "components": [body()] }), "`x` is not a status"),
            (json!({ "language": "en", "components": [body()] }), "template 1: missing field `name`"),
            (with(json!([])), "a body is needed"),
            (with(json!([body(), body()])), "body: comes up twice"),
            (with(json!([{ "type": "BODY", "text": "" }])), "body: has no text"),
            (with(json!([{ "type": "BODY", "text": "a".repeat(1025) }])), "body: is longer than 1024"),
            (with(json!([{ "type": "BODY", "text": "{{2}}" }])), "body: {{1}} is missing"),
            (with(json!([body(), { "type": "FOOTER", "text": "{{1}}" }])), "footer: must not have parameters"),
            (with(json!([body(), { "type": "HEADER", "text": "{{1}}{{2}}" }])), "header: has more than one parameter"),
            (with(json!([body(), { "type": "HEADER", "text": "a".repeat(61) }])), "header: is longer than 60"),
            (with(json!([body(), { "type": "HEADER", "format": "GIF" }])), "header: format `GIF` is not supported"),
            (with(json!([body(), { "type": "STAMP" }])), "`STAMP` is not a component"),
            (with(json!([body(), { "type": "BUTTONS" }])), "buttons: 1 to 10"),
            (button(json!({ "type": "URL", "text": "Go" })), "button 0: has no url"),
            (button(json!({ "type": "URL", "text": "Go", "url": "ftp://x/" })), "not an http or https address"),
            (button(json!({ "type": "URL", "text": "Go", "url": "https://x/{{1}}/y" })), "must be at its end"),
            (button(json!({ "type": "URL", "text": "Go", "url": "a".repeat(2001) })), "the url is longer than 2000"),
            (button(json!({ "type": "PHONE_NUMBER", "text": "Go", "phone_number": "call me" })), "not a phone number"),
            (button(json!({ "type": "QUICK_REPLY", "text": "a".repeat(26) })), "1 to 25 characters"),
            (button(json!({ "type": "LEVER", "text": "Go" })), "type `LEVER` is not supported"),
        ] {
            let told = told(template.clone());
            assert!(told.contains(why), "{template}: {told}");
        }
        assert!(read(b"{}").unwrap_err().to_string().starts_with("not a list of templates: missing field `templates`"));
        assert!(read(b"[").is_err());
    }

    #[test]
    fn a_template_needs_a_namespace_of_its_own_or_of_the_list() {
        let list = br#"{"templates":[{"name":"a","language":"en","components":[{"type":"BODY","text":"Hi"}]}]}"#;
        assert!(read(list).unwrap_err().to_string().contains("a namespace"));
    }
}
