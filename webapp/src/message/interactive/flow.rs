//! `interactive.type: flow`: opens a WhatsApp Flow, named by id or by name. What the flow is given
//! (`flow_action_payload.data`) is kept as it came.

use estafet_model::{ApiError, Code};

use super::{
    super::shape::{Characters, Member, Path, Phase, Shape, TEXT, optional, required},
    BODY, FOOTER, TYPE, header,
};
use crate::json::Object;

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::ANY),
    BODY,
    FOOTER,
    required(
        "action",
        Shape::Object(&[
            required("name", Shape::Word(&["flow"])),
            required("parameters", Shape::Ruled(PARAMETERS, one_flow_is_named)),
        ]),
    ),
]);

const PARAMETERS: &[Member] = &[
    required("flow_message_version", Shape::Word(&["3"])),
    optional("flow_token", TEXT),
    optional("flow_id", TEXT),
    optional("flow_name", TEXT),
    required("flow_cta", Shape::Text(20, Characters::NoEmoji)),
    optional("mode", Shape::Word(&["published", "draft"])),
    optional("flow_action", Shape::Word(&["navigate", "data_exchange"])),
    optional("flow_action_payload", Shape::Object(&[optional("screen", TEXT), optional("data", Shape::Free)])),
];

fn one_flow_is_named(phase: Phase, parameters: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    match (phase, parameters.get("flow_id").is_some(), parameters.get("flow_name").is_some()) {
        (Phase::Required, false, false) => {
            Err(ApiError::new(Code::ParameterMissing, format!("Parameter '{path}' must have flow_id or flow_name")))
        }
        (Phase::Types, true, true) => Err(path.member("flow_name").invalid("is not possible together with flow_id")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::message::testing::{accepts, canonical, codes, with};

    fn flow() -> Value {
        json!({"type": "flow", "body": {"text": "b"}, "action": {"name": "flow", "parameters": {
            "flow_message_version": "3", "flow_token": "t", "flow_id": "1", "flow_cta": "Book!", "mode": "draft",
            "flow_action": "navigate",
            "flow_action_payload": {"screen": "FIRST", "data": {"n": 1.5, "list": [null, true, {"deep": "x"}]}}}}})
    }

    #[test]
    fn what_a_flow_is_given_travels_whole() {
        assert_eq!(canonical("interactive", flow()), flow());
        let path = "/action/parameters";
        let by_name =
            with(&with(&flow(), &format!("{path}/flow_id"), json!(null)), &format!("{path}/flow_name"), json!("booking"));
        accepts(
            "interactive",
            [
                by_name,
                with(&flow(), &format!("{path}/flow_cta"), json!("c".repeat(20))),
                with(&flow(), &format!("{path}/flow_action"), json!("data_exchange")),
                with(&flow(), &format!("{path}/flow_action_payload"), json!(null)),
            ],
        );
    }

    #[test]
    fn members_of_a_flow_are_checked() {
        for (member, value, code) in [
            ("flow_message_version", json!(null), 1008),
            ("flow_message_version", json!("2"), 1009),
            ("flow_cta", json!(null), 1008),
            ("flow_cta", json!("c".repeat(21)), 1009),
            ("flow_cta", json!("Book 😀"), 2017),
            ("mode", json!("test"), 1009),
            ("flow_action", json!("open"), 1009),
            ("flow_token", json!(5), 1009),
            ("flow_name", json!("booking"), 1009),
            ("flow_action_payload", json!([]), 1009),
        ] {
            let place = format!("interactive.action.parameters.{member}");
            codes("interactive", [(with(&flow(), &format!("/action/parameters/{member}"), value), code, &*place)]);
        }
        codes(
            "interactive",
            [
                (with(&flow(), "/action/parameters/flow_id", json!(null)), 1008, "interactive.action.parameters"),
                (
                    with(&flow(), "/action/parameters/flow_action_payload/data", json!({"a": ["\u{0}"]})),
                    1009,
                    "interactive.action.parameters.flow_action_payload.data",
                ),
            ],
        );
    }
}
