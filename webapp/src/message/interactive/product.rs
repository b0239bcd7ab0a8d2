//! `interactive.type: product`: one product of a catalog. Body and footer are optional, a header is
//! not possible. Whether the catalog has the product is the upstream's to say.

use super::{
    super::shape::{Shape, TEXT, optional, required},
    BODY_MEMBERS, FOOTER, TYPE, header,
};

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::NONE),
    optional("body", Shape::Object(BODY_MEMBERS)),
    FOOTER,
    required("action", Shape::Object(&[required("catalog_id", TEXT), required("product_retailer_id", TEXT)])),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{accepts, codes, with};

    #[test]
    fn a_product_needs_its_catalog_and_itself_and_no_body() {
        let product = json!({"type": "product", "action": {"catalog_id": "1", "product_retailer_id": "2"}});
        accepts("interactive", [product.clone(), with(&product, "/body", json!({"text": "b"}))]);
        codes(
            "interactive",
            [
                (with(&product, "/action/catalog_id", json!(null)), 1008, "interactive.action.catalog_id"),
                (with(&product, "/action/product_retailer_id", json!("")), 1008, "interactive.action.product_retailer_id"),
                (with(&product, "/action/catalog_id", json!(1)), 1009, "interactive.action.catalog_id"),
                (with(&product, "/body", json!({})), 1008, "interactive.body.text"),
            ],
        );
    }
}
