//! `estafet phone`: the simulated phones of a sandbox.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use estafet_media::{Kind, mime};
use estafet_model::WaId;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    api::Api,
    args::{PhoneArgs, PhoneCommand, PhoneSendArgs},
    output::line,
};

pub(crate) async fn run(args: PhoneArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target.url)?;
    match args.command {
        PhoneCommand::List { json } => list(&api, json).await,
        PhoneCommand::Add { number, name } => {
            api.call(Method::POST, "/sandbox/phones", Some(&json!({ "number": number, "name": name }))).await?;
            line(&format!("{number} is on the network"))
        }
        PhoneCommand::Set { number, mode } => {
            api.call(Method::PUT, &format!("/sandbox/phones/{number}/mode"), Some(&json!({ "mode": mode }))).await?;
            line(&format!("{number}: {mode}"))
        }
        PhoneCommand::Network { customer_window: None } => {
            line(&serde_json::to_string_pretty(&api.get("/sandbox/network").await?)?)
        }
        PhoneCommand::Network { customer_window: Some(window) } => {
            let seconds: Option<u32> = match window.as_str() {
                "off" => None,
                seconds => Some(seconds.parse().context("--customer-window takes seconds, or off")?),
            };
            let rules = api.call(Method::PUT, "/sandbox/network", Some(&json!({ "customer_window_s": seconds }))).await?;
            line(&serde_json::to_string_pretty(&rules)?)
        }
        PhoneCommand::NewIdentity { number } => {
            api.call(Method::POST, &format!("/sandbox/phones/{number}/identity"), None).await?;
            line(&format!("{number} has new keys"))
        }
        PhoneCommand::ChangeNumber { number, new_number } => {
            let body = json!({ "number": new_number });
            api.call(Method::PUT, &format!("/sandbox/phones/{number}/number"), Some(&body)).await?;
            line(&format!("{number} is {new_number} now"))
        }
        PhoneCommand::Delete { number, message_id } => {
            api.call(Method::DELETE, &format!("/sandbox/phones/{number}/messages/{message_id}"), None).await?;
            line(&format!("{message_id} is deleted"))
        }
        PhoneCommand::Send(args) => send(&api, *args).await,
        PhoneCommand::Inbox { number, cautious, json } => inbox(&api, number, cautious, json).await,
        PhoneCommand::Sent { number } => {
            let sent = api.get(&format!("/sandbox/phones/{number}/sent")).await?;
            line(&serde_json::to_string_pretty(&sent)?)
        }
    }
}

async fn list(api: &Api, as_json: bool) -> anyhow::Result<()> {
    let answer = api.get("/sandbox/phones").await?;
    if as_json {
        return line(&serde_json::to_string_pretty(&answer)?);
    }
    let phones = answer.get("phones").unwrap_or(&answer).as_array().cloned().unwrap_or_default();
    line(&format!("{:<16} {:<8} NAME", "NUMBER", "MODE"))?;
    for phone in phones {
        let text = |key: &str| phone.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        line(&format!("{:<16} {:<8} {}", text("number"), text("mode"), text("name")))?;
    }
    Ok(())
}

async fn send(api: &Api, args: PhoneSendArgs) -> anyhow::Result<()> {
    let from = args.from;
    let content = match file(&args) {
        Some((kind, path)) => with_file(api, kind, path, &args).await?,
        None => content(args)?,
    };
    let answer = api.call(Method::POST, &format!("/sandbox/phones/{from}/messages"), Some(&content)).await?;
    line(answer.get("id").and_then(Value::as_str).context("the sandbox gave no id")?)
}

/// The file to be sent and what it is sent as.
fn file(args: &PhoneSendArgs) -> Option<(Kind, &Path)> {
    let options = [
        (Kind::Image, &args.image),
        (Kind::Audio, &args.audio),
        (Kind::Voice, &args.voice),
        (Kind::Video, &args.video),
        (Kind::Document, &args.document),
        (Kind::Sticker, &args.sticker),
    ];
    options.into_iter().find_map(|(kind, path)| Some((kind, path.as_deref()?)))
}

/// Leaves a file with the network; the message that names it.
async fn with_file(api: &Api, kind: Kind, path: &Path, args: &PhoneSendArgs) -> anyhow::Result<Value> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mime_type = mime::of_extension(name).unwrap_or("application/octet-stream");
    ensure!(kind.takes(mime_type), "{}: a file of type {mime_type} is no {kind}", path.display());
    let mut media = api.upload("/sandbox/files", mime_type, path).await?;
    if let Some(caption) = &args.caption {
        media["caption"] = json!(caption);
    }
    if kind == Kind::Document {
        media["filename"] = json!(name);
    }
    let mut content = json!({ "type": kind.as_str(), kind.as_str(): media });
    if let Some(context) = &args.context {
        content["context"] = json!({ "id": context });
    }
    Ok(content)
}

/// The message a phone is to write, in the layout of an incoming message.
fn content(args: PhoneSendArgs) -> anyhow::Result<Value> {
    let context = args.context.clone();
    let mut content = match args {
        PhoneSendArgs { text: Some(body), .. } => json!({ "type": "text", "text": { "body": body } }),
        PhoneSendArgs { location: Some(place), .. } => location(&place)?,
        PhoneSendArgs { button: Some(payload), .. } => {
            json!({ "type": "button", "button": { "payload": payload, "text": payload } })
        }
        PhoneSendArgs { button_reply: Some(reply), .. } => {
            let (id, title) = reply.split_once(':').context("--button-reply takes ID:TITLE")?;
            interactive("button_reply", &json!({ "id": id, "title": title }))
        }
        PhoneSendArgs { list_reply: Some(reply), .. } => interactive("list_reply", &list_reply(&reply)?),
        PhoneSendArgs { flow_reply: Some(text), .. } => {
            let answers: Value = serde_json::from_str(&text).context("--flow-reply is not JSON")?;
            interactive("nfm_reply", &json!({ "name": "flow", "body": "Sent", "response_json": answers.to_string() }))
        }
        PhoneSendArgs { order: Some(text), .. } => {
            let order: Value = serde_json::from_str(&text).context("--order is not JSON")?;
            ensure!(order.is_object(), "--order takes a JSON object");
            json!({ "type": "order", "order": order })
        }
        PhoneSendArgs { contacts: Some(text), .. } => {
            let contacts: Value = serde_json::from_str(&text).context("--contacts is not JSON")?;
            ensure!(contacts.is_array(), "--contacts takes a JSON array");
            json!({ "type": "contacts", "contacts": contacts })
        }
        PhoneSendArgs { unsupported: true, .. } => json!({ "type": "poll", "poll": {} }),
        PhoneSendArgs { reaction: Some(emoji), .. } => {
            return Ok(reaction(&emoji, &context.context("--reaction needs --context ID")?));
        }
        PhoneSendArgs { content: Some(text), .. } => serde_json::from_str(&text).context("--content is not JSON")?,
        _ => bail!("nothing to send"),
    };
    if let Some(id) = context {
        ensure!(content.is_object(), "--content takes a JSON object");
        content["context"] = json!({ "id": id });
    }
    Ok(content)
}

fn location(place: &str) -> anyhow::Result<Value> {
    let (latitude, longitude) = place.split_once(',').context("--location takes LAT,LON")?;
    let latitude: f64 = latitude.trim().parse().context("latitude is not a number")?;
    let longitude: f64 = longitude.trim().parse().context("longitude is not a number")?;
    if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
        bail!("latitude is -90 to 90 and longitude -180 to 180");
    }
    Ok(json!({ "type": "location", "location": { "latitude": latitude, "longitude": longitude } }))
}

fn interactive(kind: &str, reply: &Value) -> Value {
    json!({ "type": "interactive", "interactive": { "type": kind, kind: reply } })
}

fn list_reply(reply: &str) -> anyhow::Result<Value> {
    let mut parts = reply.splitn(3, ':');
    let (Some(id), Some(title)) = (parts.next(), parts.next()) else { bail!("--list-reply takes ID:TITLE[:DESCRIPTION]") };
    let mut row = json!({ "id": id, "title": title });
    if let Some(description) = parts.next() {
        row["description"] = json!(description);
    }
    Ok(row)
}

fn reaction(emoji: &str, message_id: &str) -> Value {
    let mut reaction = json!({ "message_id": message_id });
    if !emoji.is_empty() {
        reaction["emoji"] = json!(emoji);
    }
    json!({ "type": "reaction", "reaction": reaction })
}

async fn inbox(api: &Api, number: WaId, cautious: bool, as_json: bool) -> anyhow::Result<()> {
    let inbox = api.get(&format!("/sandbox/phones/{number}/inbox?cautious={cautious}")).await?;
    if as_json {
        return line(&serde_json::to_string_pretty(&inbox)?);
    }
    let messages = inbox.get("messages").and_then(Value::as_array).cloned().unwrap_or_default();
    if messages.is_empty() {
        line(&format!("{number} has received nothing"))?;
    }
    for message in messages {
        let content = message.get("content").cloned().unwrap_or_default();
        let kind = content.get("type").and_then(Value::as_str).unwrap_or("unknown").to_owned();
        let body = content.pointer("/text/body").or_else(|| content.pointer("/rendered/body"));
        let shown = match body.and_then(Value::as_str) {
            Some(body) => format!("{body}{}", around(&content["rendered"])),
            None => content.get(&kind).cloned().unwrap_or(content).to_string(),
        };
        let from = message.get("from").and_then(Value::as_str).unwrap_or("-");
        line(&format!("{from}  {kind}  {shown}"))?;
    }
    Ok(())
}

/// What a template shows besides its body.
fn around(rendered: &Value) -> String {
    let mut shown = String::new();
    if let Some(header) = rendered.get("header") {
        let kind = header["type"].as_str().unwrap_or_default();
        let file = ["link", "id", "mime_type"].iter().find_map(|name| header[kind][*name].as_str());
        shown += &format!("  header: {}", header["text"].as_str().or(file).unwrap_or(kind));
    }
    if let Some(footer) = rendered["footer"].as_str() {
        shown += &format!("  footer: {footer}");
    }
    for button in rendered["buttons"].as_array().into_iter().flatten() {
        shown += &format!("  [{}]", button["text"].as_str().unwrap_or_default());
    }
    shown
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> anyhow::Result<Value> {
        let cli = Cli::try_parse_from(["estafet", "phone", "send", "--from", "15550001001"].iter().chain(args))?;
        let Command::Phone(phone) = cli.command else { bail!("not about phones") };
        let PhoneCommand::Send(args) = phone.command else { bail!("not a send") };
        content(*args)
    }

    #[test]
    fn phones_write_every_kind_the_options_name() {
        assert_eq!(parse(&["hello"]).unwrap(), json!({"type": "text", "text": {"body": "hello"}}));
        assert_eq!(parse(&["--location", "-6.2,106.8"]).unwrap()["location"], json!({"latitude": -6.2, "longitude": 106.8}));
        let button = parse(&["--button", "YES", "--context", "gBEG"]).unwrap();
        assert_eq!(button, json!({"type": "button", "button": {"payload": "YES", "text": "YES"}, "context": {"id": "gBEG"}}));
        let reaction = parse(&["--reaction", "👍", "--context", "gBEG"]).unwrap();
        assert_eq!(reaction["reaction"], json!({"message_id": "gBEG", "emoji": "👍"}));
        let removed = parse(&["--reaction", "", "--context", "gBEG"]).unwrap();
        assert_eq!(removed, json!({"type": "reaction", "reaction": {"message_id": "gBEG"}}));
        assert_eq!(parse(&["--unsupported"]).unwrap()["type"], "poll");
        let contacts = json!([{"name": {"formatted_name": "Ana"}}]);
        assert_eq!(parse(&["--contacts", &contacts.to_string()]).unwrap(), json!({"type": "contacts", "contacts": contacts}));
        let order = json!({"catalog_id": "1", "product_items": []});
        assert_eq!(parse(&["--order", &order.to_string()]).unwrap(), json!({"type": "order", "order": order}));
    }

    #[test]
    fn replies_to_interactive_messages_have_their_layout() {
        let button = parse(&["--button-reply", "1:Yes: now", "--context", "gBEG"]).unwrap();
        let expected = json!({"type": "button_reply", "button_reply": {"id": "1", "title": "Yes: now"}});
        assert_eq!(button, json!({"type": "interactive", "interactive": expected, "context": {"id": "gBEG"}}));
        let row = |reply: &str| parse(&["--list-reply", reply]).unwrap()["interactive"]["list_reply"].clone();
        assert_eq!(row("7:Seven"), json!({"id": "7", "title": "Seven"}));
        assert_eq!(row("7:Seven:a:b"), json!({"id": "7", "title": "Seven", "description": "a:b"}));
        let flow = parse(&["--flow-reply", r#"{ "seats": 2 }"#]).unwrap();
        let reply = json!({"name": "flow", "body": "Sent", "response_json": r#"{"seats":2}"#});
        assert_eq!(flow["interactive"], json!({"type": "nfm_reply", "nfm_reply": reply}));
    }

    #[test]
    fn a_template_is_shown_as_a_person_sees_it() {
        assert_eq!(around(&Value::Null), "");
        let rendered = json!({"header": {"type": "image", "image": {"link": "https://example.org/a.jpg"}}, "body": "Hi",
            "footer": "Bye", "buttons": [{"type": "quick_reply", "text": "Yes", "payload": "YES"}]});
        assert_eq!(around(&rendered), "  header: https://example.org/a.jpg  footer: Bye  [Yes]");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--location", "99,0"]).is_err());
        assert!(parse(&["--reaction", "👍"]).is_err());
        assert!(parse(&["a", "--button", "b"]).is_err());
        assert!(parse(&["a", "--unsupported"]).is_err());
        assert!(parse(&["--button-reply", "1"]).is_err());
        assert!(parse(&["--list-reply", "1"]).is_err());
        assert!(parse(&["--flow-reply", "{"]).is_err());
        assert!(parse(&["--order", "[]"]).is_err());
        assert!(parse(&["--contacts", "{}"]).is_err());
        assert!(parse(&["--content", "5", "--context", "gBEG"]).is_err());
    }
}
