//! `type: image`, `audio`, `video`, `document`, `sticker` (spec/messages.md §2.2): a file by id or by link.
//! Whether the file exists and may be sent as this is looked at later ([`crate::media`]).

use estafet_model::ApiError;

use super::{
    interactive::URL,
    shape::{Member, Path, Shape, TEXT, optional, required, up_to},
};
use crate::json::Json;

/// The types.
pub(super) const KINDS: [&str; 5] = ["image", "audio", "video", "document", "sticker"];

const ID: Member = required("id", TEXT);
const LINK: Member = required("link", URL);
const PROVIDER: Member = optional("provider", Shape::Object(&[required("name", TEXT)]));
const CAPTION: Member = optional("caption", up_to(1024));
const FILENAME: Member = optional("filename", up_to(240));

static BY_ID: Shape = Shape::Object(&[ID]);
static BY_LINK: Shape = Shape::Object(&[LINK, PROVIDER]);
static SHOWN_BY_ID: Shape = Shape::Object(&[ID, CAPTION]);
static SHOWN_BY_LINK: Shape = Shape::Object(&[LINK, PROVIDER, CAPTION]);
static DOCUMENT_BY_ID: Shape = Shape::Object(&[ID, CAPTION, FILENAME]);
static DOCUMENT_BY_LINK: Shape = Shape::Object(&[LINK, PROVIDER, CAPTION, FILENAME]);

/// The members the file of a message has. With both an id and a link the id counts.
pub(super) fn shape(kind: &str, value: &Json<'_>) -> &'static Shape {
    of_kind(kind, has(value, "id"))
}

fn of_kind(kind: &str, by_id: bool) -> &'static Shape {
    match (kind, by_id) {
        ("image" | "video", true) => &SHOWN_BY_ID,
        ("image" | "video", false) => &SHOWN_BY_LINK,
        ("document", true) => &DOCUMENT_BY_ID,
        ("document", false) => &DOCUMENT_BY_LINK,
        (_, true) => &BY_ID,
        (_, false) => &BY_LINK,
    }
}

/// The members of a file of this kind, by id and by link.
pub(super) fn shapes(kind: &str) -> impl Iterator<Item = &'static Shape> {
    [true, false].map(|by_id| of_kind(kind, by_id)).into_iter()
}

/// For strict numbers: an id or a link, not both.
pub(super) fn one_source(kind: &str, value: &Json<'_>) -> Result<(), ApiError> {
    if KINDS.contains(&kind) && has(value, "id") && has(value, "link") {
        return Err(Path::Root(kind).invalid("must have an id or a link, not both"));
    }
    Ok(())
}

fn has(value: &Json<'_>, member: &str) -> bool {
    matches!(value, Json::Object(object) if object.get(member).is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::KINDS;
    use crate::message::testing::{accepts, canonical, codes, request, sent};

    #[test]
    fn a_file_is_named_by_id_or_by_link() {
        for kind in KINDS {
            accepts(
                kind,
                [
                    json!({"id": "f043afd0-f0ae-4b9c-ab3d-696fb4c8cd68"}),
                    json!({"link": "http://example.org/a"}),
                    json!({"link": "https://example.org/a", "provider": {"name": "p"}}),
                ],
            );
            codes(
                kind,
                [
                    (json!({}), 1008, format!("{kind}.link").as_str()),
                    (json!({"caption": "c"}), 1008, &format!("{kind}.link")),
                    (json!({"id": ""}), 1008, &format!("{kind}.id")),
                    (json!({"id": 5}), 1009, &format!("{kind}.id")),
                    (json!({"link": "file:///etc/passwd"}), 1009, &format!("{kind}.link")),
                    (json!({"link": "https://example.org/a", "provider": "p"}), 1009, &format!("{kind}.provider")),
                    (json!({"link": "https://example.org/a", "provider": {}}), 1008, &format!("{kind}.provider.name")),
                    (json!("f043afd0"), 1009, kind),
                ],
            );
        }
    }

    #[test]
    fn of_an_id_and_a_link_the_id_counts_and_strict_numbers_refuse_both() {
        let both = json!({"id": "1", "link": "https://example.org/a.jpg", "provider": {"name": "p"}});
        assert_eq!(canonical("image", both.clone()), json!({"id": "1"}));
        let strict = sent(&request("image", both), true).unwrap_err();
        assert_eq!(
            (strict.code.number(), strict.details.as_ref()),
            (1009, "Parameter 'image' must have an id or a link, not both")
        );
    }

    #[test]
    fn captions_are_for_what_is_seen_and_file_names_for_documents() {
        let caption = json!({"id": "1", "caption": "é".repeat(1024)});
        for kind in ["image", "video", "document"] {
            accepts(kind, [caption.clone()]);
            codes(kind, [(json!({"id": "1", "caption": "é".repeat(1025)}), 1009, format!("{kind}.caption").as_str())]);
        }
        for kind in ["audio", "sticker"] {
            assert_eq!(canonical(kind, caption.clone()), json!({"id": "1"}));
            assert_eq!(sent(&request(kind, caption.clone()), true).unwrap_err().code.number(), 1010);
        }
        accepts("document", [json!({"id": "1", "filename": "f".repeat(240)})]);
        codes("document", [(json!({"id": "1", "filename": "f".repeat(241)}), 1009, "document.filename")]);
        assert_eq!(canonical("image", json!({"id": "1", "filename": "f"})), json!({"id": "1"}));
    }
}
