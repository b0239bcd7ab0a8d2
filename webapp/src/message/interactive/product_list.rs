//! `interactive.type: product_list`: at most 30 products in 1 to 10 sections, under a text header.

use estafet_model::{ApiError, Code};

use super::{
    super::shape::{List, Path, Phase, Shape, TEXT, optional, required, up_to},
    BODY, FOOTER, TYPE, header, objects, sections_have_titles,
};
use crate::json::Object;

const MOST_PRODUCTS: usize = 30;

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    required("header", header::TEXT_ONLY),
    BODY,
    FOOTER,
    required("action", Shape::Ruled(&[required("catalog_id", TEXT), required("sections", Shape::List(&SECTIONS))], products_fit)),
]);

static SECTIONS: List = List {
    item: Shape::Object(&[optional("title", up_to(24)), required("product_items", Shape::List(&PRODUCTS))]),
    at_least: 1,
    at_most: 10,
    code: Code::SectionCount,
};

static PRODUCTS: List = List {
    item: Shape::Object(&[required("product_retailer_id", TEXT)]),
    at_least: 1,
    at_most: MOST_PRODUCTS,
    code: Code::ProductCount,
};

fn products_fit(phase: Phase, action: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    match phase {
        Phase::Required => sections_have_titles(action, path),
        Phase::Counts => {
            let products: usize = objects(action, "sections").map(|(_, section)| objects(section, "product_items").count()).sum();
            if products > MOST_PRODUCTS {
                let why = format_args!("must have at most {MOST_PRODUCTS} products in all");
                return Err(path.member("sections").refused(Code::ProductCount, why));
            }
            Ok(())
        }
        Phase::Types | Phase::Lengths | Phase::Characters => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::message::testing::{accepts, canonical, codes, with};

    /// A list with so many products in each section.
    fn products(counts: &[usize]) -> Value {
        let mut sections = Vec::new();
        for (n, count) in counts.iter().enumerate() {
            let items: Vec<Value> = (0..*count).map(|m| json!({"product_retailer_id": format!("{n}-{m}")})).collect();
            sections.push(json!({"title": format!("Section {n}"), "product_items": items}));
        }
        json!({"type": "product_list", "header": {"type": "text", "text": "h"}, "body": {"text": "b"},
            "action": {"catalog_id": "1", "sections": sections}})
    }

    #[test]
    fn up_to_thirty_products_in_ten_sections_may_be_sent() {
        accepts("interactive", [products(&[30]), products(&[3; 10]), products(&[1, 29])]);
        assert_eq!(canonical("interactive", products(&[1, 2])), products(&[1, 2]));
        codes(
            "interactive",
            [
                (products(&[31]), 2023, "interactive.action.sections[0].product_items"),
                (products(&[15, 16]), 2023, "interactive.action.sections"),
                (products(&[1, 0]), 2023, "interactive.action.sections[1].product_items"),
                (products(&[]), 2015, "interactive.action.sections"),
                (products(&[1; 11]), 2015, "interactive.action.sections"),
            ],
        );
    }

    #[test]
    fn header_catalog_and_titles_are_needed() {
        let list = products(&[1, 1]);
        let item = "/action/sections/0/product_items/0";
        codes(
            "interactive",
            [
                (with(&list, "/header", json!(null)), 1008, "interactive.header"),
                (with(&list, "/header", json!({"type": "image", "image": {"id": "1"}})), 2036, "interactive.header.type"),
                (with(&list, "/action/catalog_id", json!(null)), 1008, "interactive.action.catalog_id"),
                (with(&list, "/action/sections/0/title", json!(null)), 1008, "interactive.action.sections[0].title"),
                (with(&list, "/action/sections/0/title", json!("t".repeat(25))), 1009, "interactive.action.sections[0].title"),
                (with(&list, item, json!("1")), 1009, "interactive.action.sections[0].product_items[0]"),
                (with(&list, item, json!({})), 1008, "interactive.action.sections[0].product_items[0].product_retailer_id"),
            ],
        );
    }
}
