//! `interactive.type: cta_url`: a button that opens a URL, in the shape of the Cloud API.

use super::{
    super::shape::{Shape, optional, required, up_to},
    BODY, FOOTER, TYPE, URL, header,
};

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::ANY),
    BODY,
    FOOTER,
    required(
        "action",
        Shape::Object(&[
            required("name", Shape::Word(&["cta_url"])),
            required("parameters", Shape::Object(&[required("display_text", up_to(20)), required("url", URL)])),
        ]),
    ),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{accepts, canonical, codes, with};

    #[test]
    fn a_link_has_a_text_and_an_address() {
        let link = json!({"type": "cta_url", "body": {"text": "b"}, "action": {"name": "cta_url", "parameters": {
            "display_text": "See dates", "url": "https://example.org/?a=b"}}});
        assert_eq!(canonical("interactive", link.clone()), link);
        let (text, url) = ("/action/parameters/display_text", "/action/parameters/url");
        accepts("interactive", [with(&link, text, json!("t".repeat(20))), with(&link, url, json!("http://10.0.0.1:80"))]);
        codes(
            "interactive",
            [
                (with(&link, text, json!("t".repeat(21))), 1009, "interactive.action.parameters.display_text"),
                (with(&link, text, json!(null)), 1008, "interactive.action.parameters.display_text"),
                (with(&link, url, json!(null)), 1008, "interactive.action.parameters.url"),
                (with(&link, url, json!("example.org")), 1009, "interactive.action.parameters.url"),
                (with(&link, url, json!("javascript:alert(1)")), 1009, "interactive.action.parameters.url"),
            ],
        );
    }
}
