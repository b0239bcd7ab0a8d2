//! `interactive.type: button`: 1 to 3 reply buttons with ids and titles of their own.

use estafet_model::{ApiError, Code};

use super::{
    super::shape::{Characters, List, Path, Phase, Shape, optional, required, up_to},
    BODY, Distinct, FOOTER, TYPE, header, objects,
};
use crate::json::{Json, Object};

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::ANY),
    BODY,
    FOOTER,
    required("action", Shape::Ruled(&[required("buttons", Shape::List(&BUTTONS))], replies_differ)),
]);

static BUTTONS: List = List {
    item: Shape::Object(&[
        required("type", Shape::Word(&["reply"])),
        required("reply", Shape::Object(&[required("id", up_to(256)), required("title", Shape::Text(20, Characters::Plain))])),
    ]),
    at_least: 1,
    at_most: 3,
    code: Code::ParameterInvalid,
};

fn replies_differ(phase: Phase, action: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    if phase != Phase::Lengths {
        return Ok(());
    }
    let (mut ids, mut titles) = (Distinct::default(), Distinct::default());
    let list = path.member("buttons");
    for (n, button) in objects(action, "buttons") {
        let item = list.item(n);
        if let Some(Json::Object(reply)) = button.get("reply") {
            ids.add(reply, "id", &item.member("reply"))?;
            titles.add(reply, "title", &item.member("reply"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::message::testing::{accepts, canonical, codes, with};

    fn buttons(count: usize) -> Value {
        let buttons: Vec<Value> =
            (0..count).map(|n| json!({"type": "reply", "reply": {"id": n.to_string(), "title": format!("Yes{n}")}})).collect();
        json!({"type": "button", "body": {"text": "Choose"}, "action": {"buttons": buttons}})
    }

    const FIRST: &str = "interactive.action.buttons[0]";

    #[test]
    fn one_to_three_buttons_may_be_sent() {
        accepts("interactive", [buttons(1), buttons(3)]);
        codes(
            "interactive",
            [(buttons(0), 1009, "interactive.action.buttons"), (buttons(4), 1009, "interactive.action.buttons")],
        );
        let mut given = buttons(2);
        given["action"]["x"] = json!(1);
        given["action"]["buttons"][0]["x"] = json!(1);
        assert_eq!(canonical("interactive", given), buttons(2));
    }

    #[test]
    fn ids_and_titles_have_lengths_and_differ() {
        let title = "/action/buttons/0/reply/title";
        let id = "/action/buttons/0/reply/id";
        accepts(
            "interactive",
            [
                with(&buttons(2), title, json!("日".repeat(20))),
                with(&buttons(2), id, json!("i".repeat(256))),
                with(&buttons(2), title, json!("snake_case *")),
            ],
        );
        codes(
            "interactive",
            [
                (with(&buttons(2), title, json!("t".repeat(21))), 1009, &*format!("{FIRST}.reply.title")),
                (with(&buttons(2), id, json!("i".repeat(257))), 1009, &*format!("{FIRST}.reply.id")),
                (with(&buttons(2), title, json!("Yes1")), 1009, "interactive.action.buttons[1].reply.title"),
                (with(&buttons(2), id, json!("1")), 1009, "interactive.action.buttons[1].reply.id"),
                (with(&buttons(2), title, json!("")), 1008, &*format!("{FIRST}.reply.title")),
                (with(&buttons(2), title, json!(5)), 1009, &*format!("{FIRST}.reply.title")),
                (with(&buttons(2), id, json!(null)), 1008, &*format!("{FIRST}.reply.id")),
                (with(&buttons(2), "/action/buttons/0/type", json!("url")), 1009, &*format!("{FIRST}.type")),
                (with(&buttons(2), "/action/buttons/0/reply", json!("Yes")), 1009, &*format!("{FIRST}.reply")),
                (with(&buttons(2), "/action/buttons/0", json!("Yes")), 1009, FIRST),
                (with(&buttons(2), "/action/buttons", json!({})), 1009, "interactive.action.buttons"),
                (with(&buttons(2), "/action", json!({})), 1008, "interactive.action.buttons"),
            ],
        );
    }

    #[test]
    fn emoji_and_markup_in_titles_are_2017_but_length_comes_first() {
        let title = "/action/buttons/0/reply/title";
        let place = format!("{FIRST}.reply.title");
        codes(
            "interactive",
            [
                (with(&buttons(1), title, json!("Yes 👍")), 2017, &*place),
                (with(&buttons(1), title, json!("*Yes*")), 2017, &*place),
                (with(&buttons(1), title, json!("👍".repeat(20))), 2017, &*place),
                (with(&buttons(1), title, json!("👍".repeat(21))), 1009, &*place),
            ],
        );
    }

    #[test]
    fn checks_come_in_the_documented_order() {
        let mut wrong = buttons(4);
        wrong["action"]["buttons"][0]["reply"]["title"] = json!("👍".repeat(21));
        wrong["header"] = json!({"type": "text"});
        wrong["footer"] = json!({});
        codes("interactive", [(wrong.clone(), 1008, "interactive.footer.text")]);
        wrong["footer"] = json!(null);
        codes("interactive", [(wrong.clone(), 2036, "interactive.header.text")]);
        wrong["header"] = json!(null);
        codes("interactive", [(wrong.clone(), 1009, "interactive.action.buttons")]);
        wrong["action"]["buttons"].as_array_mut().unwrap().pop();
        codes("interactive", [(wrong.clone(), 1009, "interactive.action.buttons[0].reply.title")]);
        wrong["action"]["buttons"][0]["reply"]["title"] = json!("👍");
        codes("interactive", [(wrong, 2017, "interactive.action.buttons[0].reply.title")]);
    }
}
