//! `interactive.type: location_request_message`: asks where the user is. A header is not possible;
//! a footer is dropped, or refused by strict numbers.

use super::{
    super::shape::{Shape, optional, required},
    BODY, TYPE, header,
};

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::NONE),
    BODY,
    required("action", Shape::Object(&[required("name", Shape::Word(&["send_location"]))])),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{canonical, codes, request, sent, with};

    #[test]
    fn a_request_for_a_location_has_a_body_and_nothing_around_it() {
        let ask = json!({"type": "location_request_message", "body": {"text": "Where?"}, "action": {"name": "send_location"}});
        let footed = with(&ask, "/footer", json!({"text": "f"}));
        assert_eq!(canonical("interactive", footed.clone()), ask);
        assert_eq!(sent(&request("interactive", footed), true).unwrap_err().code.number(), 1010);
        codes(
            "interactive",
            [
                (with(&ask, "/action/name", json!("location")), 1009, "interactive.action.name"),
                (with(&ask, "/action", json!({})), 1008, "interactive.action.name"),
            ],
        );
    }
}
