//! `interactive.type: address_message`: asks for a postal address, in India and Singapore. Values,
//! saved addresses and errors differ by country and are kept as they came.

use estafet_model::Code;

use super::{
    super::shape::{List, Member, Shape, optional, required},
    BODY, FOOTER, TYPE, header,
};

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::ANY),
    BODY,
    FOOTER,
    required(
        "action",
        Shape::Object(&[required("name", Shape::Word(&["address_message"])), required("parameters", Shape::Object(PARAMETERS))]),
    ),
]);

const PARAMETERS: &[Member] = &[
    required("country", Shape::Word(&["IN", "SG"])),
    optional("values", Shape::Free),
    optional("saved_addresses", Shape::List(&SAVED)),
    optional("validation_errors", Shape::Free),
];

static SAVED: List = List { item: Shape::Free, at_least: 0, at_most: usize::MAX, code: Code::ParameterInvalid };

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{canonical, codes, with};

    #[test]
    fn an_address_is_asked_for_in_a_country_that_has_the_form() {
        let ask = json!({"type": "address_message", "body": {"text": "b"}, "action": {"name": "address_message", "parameters": {
            "country": "IN", "values": {"name": "Ana"}, "saved_addresses": [{"id": "a", "value": {"city": "Delhi"}}],
            "validation_errors": {"in_pin_code": "wrong"}}}});
        assert_eq!(canonical("interactive", ask.clone()), ask);
        codes(
            "interactive",
            [
                (with(&ask, "/action/parameters/country", json!(null)), 1008, "interactive.action.parameters.country"),
                (with(&ask, "/action/parameters/country", json!("FR")), 1009, "interactive.action.parameters.country"),
                (with(&ask, "/action/parameters/values", json!([])), 1009, "interactive.action.parameters.values"),
                (
                    with(&ask, "/action/parameters/saved_addresses/0", json!("a")),
                    1009,
                    "interactive.action.parameters.saved_addresses[0]",
                ),
            ],
        );
    }
}
