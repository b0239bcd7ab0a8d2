//! `estafet phone`: the simulated phones of a sandbox.

use anyhow::{Context as _, bail};
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
        PhoneCommand::Send(args) => send(&api, args).await,
        PhoneCommand::Inbox { number, json } => inbox(&api, number, json).await,
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
    let content = content(args)?;
    let answer = api.call(Method::POST, &format!("/sandbox/phones/{from}/messages"), Some(&content)).await?;
    line(answer.get("id").and_then(Value::as_str).context("the sandbox gave no id")?)
}

/// The message a phone is to write, in the layout of an incoming message.
fn content(args: PhoneSendArgs) -> anyhow::Result<Value> {
    let mut content = match args {
        PhoneSendArgs { text: Some(body), .. } => json!({ "type": "text", "text": { "body": body } }),
        PhoneSendArgs { location: Some(place), .. } => {
            let (latitude, longitude) = place.split_once(',').context("--location takes LAT,LON")?;
            let latitude: f64 = latitude.trim().parse().context("latitude is not a number")?;
            let longitude: f64 = longitude.trim().parse().context("longitude is not a number")?;
            if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
                bail!("latitude is -90 to 90 and longitude -180 to 180");
            }
            json!({ "type": "location", "location": { "latitude": latitude, "longitude": longitude } })
        }
        PhoneSendArgs { button: Some(payload), .. } => {
            json!({ "type": "button", "button": { "payload": payload, "text": payload } })
        }
        PhoneSendArgs { reaction: Some(emoji), ref context, .. } => {
            let message_id = context.clone().context("--reaction needs --context ID")?;
            let mut reaction = json!({ "message_id": message_id });
            if !emoji.is_empty() {
                reaction["emoji"] = json!(emoji);
            }
            return Ok(json!({ "type": "reaction", "reaction": reaction }));
        }
        PhoneSendArgs { content: Some(ref text), .. } => serde_json::from_str(text).context("--content is not JSON")?,
        _ => bail!("nothing to send"),
    };
    if let Some(id) = args.context {
        content["context"] = json!({ "id": id });
    }
    Ok(content)
}

async fn inbox(api: &Api, number: WaId, as_json: bool) -> anyhow::Result<()> {
    let inbox = api.get(&format!("/sandbox/phones/{number}/inbox")).await?;
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
        let shown = match content.pointer("/text/body").and_then(Value::as_str) {
            Some(body) => body.to_owned(),
            None => content.get(&kind).cloned().unwrap_or(content).to_string(),
        };
        let from = message.get("from").and_then(Value::as_str).unwrap_or("-");
        line(&format!("{from}  {kind}  {shown}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> anyhow::Result<Value> {
        let cli = Cli::try_parse_from(["estafet", "phone", "send", "--from", "15550001001"].iter().chain(args))?;
        let Command::Phone(PhoneArgs { command: PhoneCommand::Send(args), .. }) = cli.command else { bail!("not a send") };
        content(args)
    }

    #[test]
    fn phones_write_every_kind_the_options_name() {
        assert_eq!(parse(&["hello"]).unwrap(), json!({"type": "text", "text": {"body": "hello"}}));
        assert_eq!(parse(&["--location", "-6.2,106.8"]).unwrap()["location"], json!({"latitude": -6.2, "longitude": 106.8}));
        let button = parse(&["--button", "YES", "--context", "gBEG"]).unwrap();
        assert_eq!(button, json!({"type": "button", "button": {"payload": "YES", "text": "YES"}, "context": {"id": "gBEG"}}));
        let reaction = parse(&["--reaction", "👍", "--context", "gBEG"]).unwrap();
        assert_eq!(reaction["reaction"], json!({"message_id": "gBEG", "emoji": "👍"}));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["--location", "99,0"]).is_err());
        assert!(parse(&["--reaction", "👍"]).is_err());
        assert!(parse(&["a", "--button", "b"]).is_err());
    }
}
