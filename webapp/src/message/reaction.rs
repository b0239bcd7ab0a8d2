//! `type: reaction` (spec/messages.md §2.6): to a message of ours or of the user. An empty emoji
//! takes the reaction back.

use estafet_model::MessageId;

use super::shape::{Shape, present, up_to};

/// Longest emoji in code points; the longest in use, flags of regions and families, have ten.
const EMOJI: usize = 32;

pub(super) static SHAPE: Shape = Shape::Object(&[
    present("message_id", Shape::Form(|text| text.parse::<MessageId>().is_ok(), "is not the id of a known message")),
    present("emoji", up_to(EMOJI)),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{accepts, canonical, codes, request};

    const ID: &str = "ABGGFlA5FpafAgo6tHcNmNjXmuSf";

    #[test]
    fn a_reaction_is_an_emoji_or_none_to_an_id_of_ours() {
        accepts(
            "reaction",
            [json!({"message_id": ID, "emoji": "😀"}), json!({"message_id": "gBGGFlA5FpafAgkOuJbRq54qwbM", "emoji": "👩‍👩‍👧‍👦"})],
        );
        let removal = json!({"message_id": ID, "emoji": ""});
        assert_eq!(canonical("reaction", removal.clone()), removal);
    }

    #[test]
    fn unknown_messages_and_missing_members_are_refused() {
        codes(
            "reaction",
            [
                (json!({"emoji": "😀"}), 1008, "reaction.message_id"),
                (json!({"message_id": ID}), 1008, "reaction.emoji"),
                (json!({"message_id": "wamid.HBgLMTYzMTU1NTEyMzQ", "emoji": "😀"}), 1009, "reaction.message_id"),
                (json!({"message_id": "", "emoji": "😀"}), 1009, "reaction.message_id"),
                (json!({"message_id": 5, "emoji": "😀"}), 1009, "reaction.message_id"),
                (json!({"message_id": ID, "emoji": 5}), 1009, "reaction.emoji"),
                (json!({"message_id": ID, "emoji": "😀".repeat(33)}), 1009, "reaction.emoji"),
            ],
        );
    }

    #[test]
    fn a_reaction_quotes_nothing() {
        let mut quoting = request("reaction", json!({"message_id": ID, "emoji": "😀"}));
        quoting["context"] = json!({"message_id": ID});
        let lenient = crate::message::testing::sent(&quoting, false).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&lenient.body).unwrap().get("context"), None);
        let strict = crate::message::testing::sent(&quoting, true).unwrap_err();
        assert_eq!((strict.code.number(), strict.details.as_ref()), (1010, "Parameter 'context' is not required"));
    }
}
