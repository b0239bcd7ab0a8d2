//! Every type of message that needs no media, there and back: what the API accepts is what the phone shows,
//! what a phone writes is what the callback tells (spec/messages.md §2, spec/webhooks.md §4).

use estafet_harness::environment::estafet_binary;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{KERRY, World};

/// `(type, content)` of messages that travel whole.
fn outgoing() -> Vec<(&'static str, Value)> {
    let interactive = |kind: &str, action: Value| json!({ "type": kind, "body": { "text": "Größe? 😀" }, "footer": { "text": "f" }, "action": action });
    let rows = json!([{ "id": "1", "title": "One", "description": "the first" }, { "id": "2", "title": "Two" }]);
    let mut list = interactive("list", json!({ "button": "Menu", "sections": [{ "rows": rows }] }));
    list["header"] = json!({ "type": "text", "text": "Today" });
    let sections = json!([{ "title": "s", "product_items": [{ "product_retailer_id": "2" }] }]);
    let mut products = interactive("product_list", json!({ "catalog_id": "1", "sections": sections }));
    products["header"] = json!({ "type": "text", "text": "Today" });
    let mut buttons = interactive("button", json!({ "buttons": [{ "type": "reply", "reply": { "id": "y", "title": "Yes" } }] }));
    buttons["header"] = json!({ "type": "text", "text": "Today" });
    let flow = json!({ "flow_message_version": "3", "flow_token": "t", "flow_id": "1", "flow_cta": "Book",
        "flow_action": "navigate", "flow_action_payload": { "screen": "A", "data": { "n": [1, 2.5, null, "x"] } } });
    let mut ask = interactive("location_request_message", json!({ "name": "send_location" }));
    ask.as_object_mut().expect("an object").remove("footer");
    let action = |name: &str, parameters: Value| interactive(name, json!({ "name": name, "parameters": parameters }));
    vec![
        ("location", json!({ "longitude": "-122.42", "latitude": 37.75, "name": "Pier", "address": "Bay 1" })),
        (
            "contacts",
            json!([{ "name": { "formatted_name": "Ana Lee", "first_name": "Ana" }, "birthday": "2012-08-18",
            "phones": [{ "phone": "+1 650 555 1234", "type": "WORK", "wa_id": "16505551234" }] }]),
        ),
        ("interactive", buttons),
        ("interactive", list),
        ("interactive", interactive("product", json!({ "catalog_id": "1", "product_retailer_id": "2" }))),
        ("interactive", products),
        ("interactive", action("catalog_message", json!({ "thumbnail_product_retailer_id": "2" }))),
        ("interactive", ask),
        ("interactive", action("flow", flow)),
        ("interactive", action("cta_url", json!({ "display_text": "See", "url": "https://example.org/" }))),
        ("interactive", action("address_message", json!({ "country": "IN", "values": { "name": "Ana" } }))),
    ]
}

#[tokio::test]
async fn what_is_sent_is_what_the_phone_shows_for_every_type() -> anyhow::Result<()> {
    let world = World::start().await?;
    let quoted = world.admin.phone_sends_text(KERRY, "hello?").await?;
    world.sink.wait_for_message(&quoted).await?;
    let mut expected = Vec::new();
    let mut last = String::new();
    for (kind, content) in outgoing() {
        let mut message = json!({ "type": kind, "context": { "message_id": quoted }, "biz_opaque_callback_data": "order 7" });
        message[kind] = content;
        expected.push(message.clone());
        for (name, value) in [("to", json!(KERRY)), ("recipient_type", json!("individual")), ("unknown", json!({ "x": 1 }))] {
            message[name] = value;
        }
        last = world.admin.send(&message).await?;
    }
    for emoji in ["👍🏽", ""] {
        let reaction = json!({ "type": "reaction", "reaction": { "message_id": quoted, "emoji": emoji } });
        expected.push(reaction.clone());
        let mut message = reaction;
        message["to"] = json!(KERRY);
        last = world.admin.send(&message).await?;
    }
    world.sink.wait_for_status(&last, "read").await?;
    let shown: Vec<Value> = world.admin.inbox(KERRY).await?.messages.into_iter().map(|message| message.content).collect();
    assert_eq!(shown, expected);
    Ok(())
}

/// Makes a phone write with `estafet phone send`; the id of its message.
async fn phone_sends(world: &World, options: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(estafet_binary()?);
    command.args(["phone", "send", "--url", world.admin.base_url(), "--from", KERRY]).args(options);
    let output = command.output().await?;
    anyhow::ensure!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[tokio::test]
async fn what_a_phone_writes_is_what_the_callback_tells_for_every_type() -> anyhow::Result<()> {
    let world = World::start().await?;
    let sent = world.admin.send_text(KERRY, "a question").await?;
    let order = json!({ "catalog_id": "1", "text": "soon", "product_items": [
        { "product_retailer_id": "2", "quantity": 1, "item_price": 9.5, "currency": "IDR" }] });
    let contacts = json!([{ "name": { "formatted_name": "Ana Lee", "first_name": "Ana" }, "phones": [{ "phone": "1" }] }]);
    let (order_text, contacts_text) = (order.to_string(), contacts.to_string());
    let null_payload = json!({ "type": "button", "button": { "payload": null, "text": "Yes" } });
    let null_payload_text = null_payload.to_string();
    let interactive = |kind: &str, reply: Value| json!({ "type": kind, kind: reply });
    let flow = json!({ "name": "flow", "body": "Sent", "response_json": r#"{"seats":2}"# });
    let unknown = json!([{ "code": 501, "title": "Unknown message type", "details": "Message type is not currently supported" }]);
    let table: Vec<(Vec<&str>, &str, &str, Value)> = vec![
        (vec!["hello"], "text", "text", json!({ "body": "hello" })),
        (vec!["--location", "-6.2,106.8"], "location", "location", json!({ "latitude": -6.2, "longitude": 106.8 })),
        (vec!["--contacts", &contacts_text], "contacts", "contacts", contacts),
        (vec!["--button", "YES"], "button", "button", json!({ "payload": "YES", "text": "YES" })),
        (vec!["--content", &null_payload_text], "button", "button", null_payload["button"].clone()),
        (
            vec!["--button-reply", "y:Yes"],
            "interactive",
            "interactive",
            interactive("button_reply", json!({ "id": "y", "title": "Yes" })),
        ),
        (
            vec!["--list-reply", "1:One:the first"],
            "interactive",
            "interactive",
            interactive("list_reply", json!({ "id": "1", "title": "One", "description": "the first" })),
        ),
        (vec!["--flow-reply", r#"{"seats":2}"#], "interactive", "interactive", interactive("nfm_reply", flow)),
        (vec!["--order", &order_text], "order", "order", order),
        (vec!["--reaction", "👍"], "reaction", "reaction", json!({ "message_id": sent, "emoji": "👍" })),
        (vec!["--reaction", ""], "reaction", "reaction", json!({ "message_id": sent })),
        (vec!["--unsupported"], "unknown", "errors", unknown),
    ];
    for (options, kind, member, content) in table {
        let id = phone_sends(&world, &[options.as_slice(), &["--context", &sent]].concat()).await?;
        let event = world.sink.wait_for_message(&id).await?.event;
        let mut message = json!({ "from": KERRY, "id": id, "type": kind, "timestamp": event["messages"][0]["timestamp"] });
        message[member] = content;
        if !["reaction", "unknown"].contains(&kind) {
            message["context"] = json!({ "from": world.sandbox.ready().business_number, "id": sent });
        }
        let contacts = json!([{ "profile": { "name": "Kerry" }, "wa_id": KERRY }]);
        assert_eq!(event, json!({ "contacts": contacts, "messages": [message] }), "{options:?}");
    }
    Ok(())
}
