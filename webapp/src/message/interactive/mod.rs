//! `type: interactive` (spec/messages.md §2.5): the kinds, each described in a file of its own.

mod address;
mod button;
mod catalog;
mod cta_url;
mod flow;
pub(super) mod header;
mod list;
mod location_request;
mod product;
mod product_list;

use std::collections::HashSet;

use estafet_model::ApiError;

use super::shape::{Member, Path, Shape, TEXT, optional, required, up_to};
use crate::json::{Json, Object};

static KINDS: [(&str, &Shape); 9] = [
    ("button", &button::SHAPE),
    ("list", &list::SHAPE),
    ("product", &product::SHAPE),
    ("product_list", &product_list::SHAPE),
    ("catalog_message", &catalog::SHAPE),
    ("location_request_message", &location_request::SHAPE),
    ("flow", &flow::SHAPE),
    ("cta_url", &cta_url::SHAPE),
    ("address_message", &address::SHAPE),
];

/// Every kind with its description.
pub(super) fn kinds() -> impl Iterator<Item = (&'static str, &'static Shape)> {
    KINDS.iter().copied()
}

/// The description of the kind that `interactive.type` names.
pub(super) fn shape(interactive: &Json<'_>) -> Result<&'static Shape, ApiError> {
    let Json::Object(interactive) = interactive else {
        return Err(ApiError::invalid("interactive", "must be an object"));
    };
    let wanted = interactive.required_text("type", "interactive.type")?;
    match KINDS.iter().find(|(name, _)| *name == wanted) {
        Some((_, shape)) => Ok(shape),
        None => Err(ApiError::invalid("interactive.type", "is not a known kind of interactive message")),
    }
}

/// The member that selected the kind.
const TYPE: Member = required("type", TEXT);
/// The text of every kind but `product`.
const BODY: Member = required("body", Shape::Object(BODY_MEMBERS));
/// The text below it.
const FOOTER: Member = optional("footer", Shape::Object(&[required("text", up_to(60))]));

const BODY_MEMBERS: &[Member] = &[required("text", up_to(1024))];

/// Any http or https address.
pub(super) const URL: Shape = Shape::Form(is_a_url, "must be an http or https URL");

fn is_a_url(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// The objects in a list member of an object, with their paths' last steps.
fn objects<'a, 'b>(object: &'a Object<'b>, list: &str) -> impl Iterator<Item = (usize, &'a Object<'b>)> {
    let items = match object.get(list) {
        Some(Json::List(items)) => items.as_slice(),
        _ => &[],
    };
    items.iter().enumerate().filter_map(|(n, item)| match item {
        Json::Object(object) => Some((n, object)),
        _ => None,
    })
}

/// With several sections, each has a title (1008).
fn sections_have_titles(action: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    if objects(action, "sections").count() < 2 {
        return Ok(());
    }
    match objects(action, "sections").find(|(_, section)| is_empty(section.get("title"))) {
        None => Ok(()),
        Some((n, _)) => Err(path.member("sections").item(n).member("title").missing()),
    }
}

fn is_empty(value: Option<&Json<'_>>) -> bool {
    match value {
        None => true,
        Some(Json::Text(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// Texts that must differ within a message.
#[derive(Default)]
struct Distinct<'a>(HashSet<&'a str>);

impl<'a> Distinct<'a> {
    /// Refuses a text that was seen before (1009).
    fn add(&mut self, object: &'a Object<'_>, name: &str, path: &Path<'_>) -> Result<(), ApiError> {
        match object.get(name) {
            Some(Json::Text(text)) if !self.0.insert(text) => Err(path.member(name).invalid("must be unique")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{accepts, codes, with};

    #[test]
    fn the_kind_is_named_and_known() {
        codes(
            "interactive",
            [
                (json!({"body": {"text": "b"}}), 1008, "interactive.type"),
                (json!({"type": 5}), 1009, "interactive.type"),
                (json!({"type": "carousel"}), 1009, "interactive.type"),
                (json!([]), 1009, "interactive"),
                (json!(null), 1008, "interactive"),
            ],
        );
    }

    #[test]
    fn bodies_and_footers_have_their_lengths() {
        let ask = json!({"type": "location_request_message", "body": {"text": "Where?"}, "action": {"name": "send_location"}});
        let list = json!({"type": "list", "body": {"text": "b"}, "action": {"button": "Menu", "sections": [
            {"rows": [{"id": "1", "title": "One"}]}]}});
        accepts(
            "interactive",
            [with(&ask, "/body/text", json!("😀".repeat(1024))), with(&list, "/footer", json!({"text": "f".repeat(60)}))],
        );
        codes(
            "interactive",
            [
                (with(&ask, "/body", json!(null)), 1008, "interactive.body"),
                (with(&ask, "/body/text", json!(null)), 1008, "interactive.body.text"),
                (with(&ask, "/body/text", json!("")), 1008, "interactive.body.text"),
                (with(&ask, "/body", json!("Where?")), 1009, "interactive.body"),
                (with(&ask, "/body/text", json!("😀".repeat(1025))), 1009, "interactive.body.text"),
                (with(&list, "/footer", json!({"text": "f".repeat(61)})), 1009, "interactive.footer.text"),
                (with(&list, "/footer", json!({})), 1008, "interactive.footer.text"),
                (with(&list, "/action", json!(null)), 1008, "interactive.action"),
            ],
        );
    }
}
