//! `interactive.type: catalog_message`: the whole catalog, with a product's picture if one is named.

use super::{
    super::shape::{Shape, TEXT, optional, required},
    BODY, FOOTER, TYPE, header,
};

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::ANY),
    BODY,
    FOOTER,
    required(
        "action",
        Shape::Object(&[
            required("name", Shape::Word(&["catalog_message"])),
            optional("parameters", Shape::Object(&[optional("thumbnail_product_retailer_id", TEXT)])),
        ]),
    ),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{accepts, canonical, codes, with};

    #[test]
    fn a_catalog_is_named_and_its_thumbnail_is_a_choice() {
        let catalog = json!({"type": "catalog_message", "body": {"text": "b"}, "action": {"name": "catalog_message"}});
        let thumbnail = with(&catalog, "/action/parameters", json!({"thumbnail_product_retailer_id": "2"}));
        assert_eq!(canonical("interactive", thumbnail.clone()), thumbnail);
        accepts("interactive", [catalog.clone(), with(&catalog, "/action/parameters", json!({}))]);
        codes(
            "interactive",
            [
                (with(&catalog, "/action/name", json!(null)), 1008, "interactive.action.name"),
                (with(&catalog, "/action/name", json!("flow")), 1009, "interactive.action.name"),
                (with(&catalog, "/action/parameters", json!("2")), 1009, "interactive.action.parameters"),
            ],
        );
    }
}
