//! The header of an interactive message: a text, or media by `id` or `link`. Whether a medium exists
//! is not looked at here. Whatever is wrong with the structure is 2036, a long text is 1009.

use estafet_model::{ApiError, Code};

use super::{
    super::shape::{Member, Path, Phase, Shape, TEXT, members_in_phase, optional, required, up_to},
    URL,
};
use crate::json::{Json, Object};

/// What a header may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::message) enum Kind {
    Text,
    Image,
    Video,
    Document,
}

/// Of messages that may have any header.
pub(super) const ANY: Shape = Shape::Header(&[Kind::Text, Kind::Image, Kind::Video, Kind::Document]);
/// Of messages that may have a text only.
pub(super) const TEXT_ONLY: Shape = Shape::Header(&[Kind::Text]);
/// Of messages that may have none.
pub(super) const NONE: Shape = Shape::Header(&[]);

/// Name of the type, members with a text or a link, and with an id.
type Layout = (&'static str, Kind, &'static [Member], &'static [Member]);

static LAYOUTS: [Layout; 4] = [
    ("text", Kind::Text, WITH_TEXT, WITH_TEXT),
    ("image", Kind::Image, &[TYPE, required("image", BY_LINK)], &[TYPE, required("image", BY_ID)]),
    ("video", Kind::Video, &[TYPE, required("video", BY_LINK)], &[TYPE, required("video", BY_ID)]),
    ("document", Kind::Document, &[TYPE, required("document", DOCUMENT_BY_LINK)], &[TYPE, required("document", DOCUMENT_BY_ID)]),
];

const TYPE: Member = required("type", TEXT);
const WITH_TEXT: &[Member] = &[TYPE, required("text", up_to(60))];
const PROVIDER: Member = optional("provider", Shape::Object(&[required("name", TEXT)]));
const BY_ID: Shape = Shape::Object(&[required("id", TEXT)]);
const BY_LINK: Shape = Shape::Object(&[required("link", URL), PROVIDER]);
const DOCUMENT_BY_ID: Shape = Shape::Object(&[required("id", TEXT), FILENAME]);
const DOCUMENT_BY_LINK: Shape = Shape::Object(&[required("link", URL), PROVIDER, FILENAME]);
const FILENAME: Member = optional("filename", up_to(240));

/// The types among the allowed ones, each with the members it may have.
pub(in crate::message) fn layouts(allowed: &[Kind]) -> impl Iterator<Item = (&'static str, [&'static [Member]; 2])> {
    LAYOUTS.iter().filter(|(_, kind, ..)| allowed.contains(kind)).map(|(name, _, by_link, by_id)| (*name, [*by_link, *by_id]))
}

/// The members a header has, going by its type. A medium with both an id and a link is the id's.
pub(in crate::message) fn members(allowed: &[Kind], header: &Object<'_>) -> Result<&'static [Member], ApiError> {
    let refused = |why: &'static str| ApiError::new(Code::InvalidHeader, why);
    if allowed.is_empty() {
        return Err(refused("Parameter 'interactive.header' is not possible for this type"));
    }
    let kind = match header.get("type") {
        Some(Json::Text(kind)) => kind.as_ref(),
        _ => return Err(refused("Parameter 'interactive.header.type' must be given")),
    };
    let has_id = matches!(header.get(kind), Some(Json::Object(media)) if media.get("id").is_some());
    let Some((_, kind, by_link, by_id)) = LAYOUTS.iter().find(|(name, ..)| *name == kind) else {
        return Err(refused("Parameter 'interactive.header.type' must be text, image, video or document"));
    };
    if !allowed.contains(kind) {
        return Err(refused("Parameter 'interactive.header.type' is not possible for this type"));
    }
    Ok(if has_id { by_id } else { by_link })
}

/// For strict numbers: a medium has an id or a link, not both.
pub(in crate::message) fn one_source(header: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    let Some(Json::Text(kind)) = header.get("type") else { return Ok(()) };
    match header.get(kind) {
        Some(Json::Object(media)) if media.get("id").is_some() && media.get("link").is_some() => {
            Err(path.member(kind).invalid("must have an id or a link, not both"))
        }
        _ => Ok(()),
    }
}

pub(in crate::message) fn in_phase(allowed: &[Kind], phase: Phase, header: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    if phase == Phase::Required {
        return Ok(());
    }
    let members = members(allowed, header)?;
    if phase == Phase::Types {
        let structure = |error| ApiError { code: Code::InvalidHeader, ..error };
        members_in_phase(members, Phase::Required, header, path).map_err(structure)?;
        return members_in_phase(members, phase, header, path).map_err(structure);
    }
    members_in_phase(members, phase, header, path)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::message::testing::{accepts, canonical, codes, sent, with};

    fn button(header: Value) -> Value {
        json!({"type": "button", "header": header, "body": {"text": "b"},
            "action": {"buttons": [{"type": "reply", "reply": {"id": "1", "title": "Ok"}}]}})
    }

    #[test]
    fn texts_and_media_by_id_or_link_are_headers() {
        let headers = [
            json!({"type": "text", "text": "😀".repeat(60)}),
            json!({"type": "image", "image": {"id": "7d0b"}}),
            json!({"type": "image", "image": {"link": "https://example.org/a.jpg", "provider": {"name": "p"}}}),
            json!({"type": "video", "video": {"link": "http://example.org/a.mp4"}}),
            json!({"type": "document", "document": {"link": "https://example.org/a.pdf", "filename": "a.pdf"}}),
        ];
        for header in headers {
            assert_eq!(canonical("interactive", button(header.clone()))["header"], header);
        }
        accepts("interactive", [button(json!(null))]);
        let kept = canonical("interactive", button(json!({"type": "image", "text": "t", "image": {"id": "1", "caption": "c"}})));
        assert_eq!(kept["header"], json!({"type": "image", "image": {"id": "1"}}));
    }

    #[test]
    fn of_an_id_and_a_link_the_id_counts_and_strict_numbers_refuse_both() {
        let both = button(json!({"type": "image", "image": {"id": "1", "link": "https://example.org/a.jpg"}}));
        assert_eq!(canonical("interactive", both.clone())["header"]["image"], json!({"id": "1"}));
        let request = crate::message::testing::request("interactive", both);
        let strict = sent(&request, true).unwrap_err();
        assert_eq!(
            (strict.code.number(), strict.details.as_ref()),
            (1009, "Parameter 'interactive.header.image' must have an id or a link, not both")
        );
    }

    #[test]
    fn other_structures_are_2036_and_long_texts_1009() {
        for header in [
            json!("h"),
            json!([]),
            json!({}),
            json!({"type": "text"}),
            json!({"type": "text", "text": ""}),
            json!({"type": "text", "text": {"body": "h"}}),
            json!({"type": "text", "image": {"id": "1"}}),
            json!({"type": "image"}),
            json!({"type": "image", "image": {}}),
            json!({"type": "image", "image": {"id": ""}}),
            json!({"type": "image", "image": {"link": "a.jpg"}}),
            json!({"type": "image", "image": {"link": "file:///etc/passwd"}}),
            json!({"type": "audio", "audio": {"id": "1"}}),
            json!({"type": 5}),
        ] {
            codes("interactive", [(button(header), 2036, "interactive.header")]);
        }
        codes("interactive", [(button(json!({"type": "text", "text": "h".repeat(61)})), 1009, "interactive.header.text")]);
    }

    #[test]
    fn some_kinds_take_texts_only_and_some_nothing() {
        let text = json!({"type": "text", "text": "h"});
        let image = json!({"type": "image", "image": {"id": "1"}});
        let list = json!({"type": "list", "body": {"text": "b"}, "action": {"button": "Menu", "sections": [
            {"rows": [{"id": "1", "title": "One"}]}]}});
        let product = json!({"type": "product", "action": {"catalog_id": "1", "product_retailer_id": "2"}});
        let ask = json!({"type": "location_request_message", "body": {"text": "b"}, "action": {"name": "send_location"}});
        accepts("interactive", [with(&list, "/header", text.clone()), product.clone(), ask.clone()]);
        codes(
            "interactive",
            [
                (with(&list, "/header", image), 2036, "interactive.header.type"),
                (with(&product, "/header", text.clone()), 2036, "interactive.header"),
                (with(&ask, "/header", text), 2036, "interactive.header"),
            ],
        );
    }
}
