//! `estafet callbacks`: callbacks that wait, were given up or were delivered, on a running server, as its administrator.

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use estafet_model::WaId;
use estafet_runtime::Clock;
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};

use crate::{api::Api, output::line};

const WAITING: &str = "/v1/estafet/callbacks";
const DEAD: &str = "/v1/estafet/callbacks/dead-letters";
const REPLAY: &str = "/v1/estafet/callbacks/replay";

#[derive(Debug, Args)]
pub(crate) struct CallbacksArgs {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: CallbacksCommand,
}

/// A server, and who asks it.
#[derive(Debug, Args)]
pub(crate) struct Server {
    /// Address of the API.
    #[arg(long, env = "ESTAFET_URL", default_value = "http://127.0.0.1:9090", global = true)]
    url: String,
    /// An administrator.
    #[arg(long, env = "ESTAFET_USER", default_value = "admin", global = true)]
    user: String,
    /// The administrator's password.
    #[arg(long, env = "ESTAFET_PASSWORD", hide_env_values = true, default_value = "", hide_default_value = true, global = true)]
    password: String,
}

impl Server {
    /// The server, to which later calls are those of the administrator.
    pub(crate) async fn log_in(&self) -> anyhow::Result<Api> {
        let mut api = Api::new(&self.url)?;
        api.log_in(&self.user, &self.password).await?;
        Ok(api)
    }

    /// The server, to which later calls are those of nobody.
    pub(crate) fn anonymous(&self) -> anyhow::Result<Api> {
        Api::new(&self.url)
    }

    /// The password that was given; empty without one.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }
}

#[derive(Debug, Subcommand)]
enum CallbacksCommand {
    /// List the callbacks that wait for their receiver.
    List {
        #[command(flatten)]
        selection: Selection,
        /// Print JSON, one callback a line.
        #[arg(long)]
        json: bool,
    },
    /// Post delivered callbacks once more, as far as `webhooks.keep_delivered` keeps them: the same bytes, those of a
    /// contact in their order.
    Replay(Moving),
    /// Callbacks that were given up.
    #[command(subcommand)]
    DeadLetter(LetterCommand),
}

#[derive(Debug, Subcommand)]
enum LetterCommand {
    /// List them.
    List {
        #[command(flatten)]
        selection: Selection,
        /// Print JSON, one callback a line.
        #[arg(long)]
        json: bool,
    },
    /// Put them back into the queue, those of a contact in their order.
    Requeue(Moving),
    /// Remove them for good.
    Drop(Moving),
}

#[derive(Debug, Args)]
struct Selection {
    /// From this moment on: seconds since 1970, or how long ago (90s, 15m, 2h, 3d).
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this moment.
    #[arg(long, value_name = "TIME", visible_alias = "to")]
    until: Option<String>,
    /// Of this contact.
    #[arg(long)]
    contact: Option<WaId>,
    /// For this receiver: main, or a name of `webhooks.endpoints`.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// About this message.
    #[arg(long, value_name = "ID", visible_alias = "id")]
    message_id: Option<String>,
}

#[derive(Debug, Args)]
struct Moving {
    #[command(flatten)]
    selection: Selection,
    /// All there are, if nothing else selects.
    #[arg(long)]
    all: bool,
    /// List what it would be, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: CallbacksArgs) -> anyhow::Result<()> {
    let api = args.server.log_in().await?;
    match args.command {
        CallbacksCommand::List { selection, json } => list(&api, WAITING, &selection, json).await,
        CallbacksCommand::DeadLetter(LetterCommand::List { selection, json }) => list(&api, DEAD, &selection, json).await,
        CallbacksCommand::Replay(moving) => move_callbacks(&api, "replay", &moving).await,
        CallbacksCommand::DeadLetter(LetterCommand::Requeue(moving)) => move_callbacks(&api, "requeue", &moving).await,
        CallbacksCommand::DeadLetter(LetterCommand::Drop(moving)) => move_callbacks(&api, "drop", &moving).await,
    }
}

impl Selection {
    fn members(&self) -> anyhow::Result<Map<String, Value>> {
        let now_s = Clock::system().now_ms() / 1000;
        let mut members = Map::new();
        for (name, text) in [("from", &self.from), ("until", &self.until)] {
            if let Some(text) = text {
                let at =
                    moment(text, now_s).with_context(|| format!("--{name} {text}: seconds since 1970, or 90s, 15m, 2h, 3d"))?;
                members.insert(name.to_owned(), json!(at.to_string()));
            }
        }
        if let Some(contact) = self.contact {
            members.insert("contact".to_owned(), json!(contact.to_string()));
        }
        if let Some(endpoint) = &self.endpoint {
            members.insert("endpoint".to_owned(), json!(endpoint));
        }
        if let Some(id) = &self.message_id {
            members.insert("message_id".to_owned(), json!(id));
        }
        Ok(members)
    }
}

/// Seconds since 1970.
fn moment(text: &str, now_s: i64) -> Option<i64> {
    let (digits, unit) =
        text.split_at(text.len() - text.chars().last().filter(char::is_ascii_alphabetic).map_or(0, char::len_utf8));
    let count: i64 = digits.parse().ok().filter(|count| *count >= 0)?;
    let ago = match unit {
        "" => return Some(count),
        "s" => count,
        "m" => count.checked_mul(60)?,
        "h" => count.checked_mul(3600)?,
        "d" => count.checked_mul(24 * 3600)?,
        _ => return None,
    };
    Some(now_s.saturating_sub(ago).max(0))
}

async fn list(api: &Api, path: &str, selection: &Selection, as_json: bool) -> anyhow::Result<()> {
    let mut members = selection.members()?;
    if !as_json {
        line(HEADING)?;
    }
    loop {
        let mut url = Url::parse("http://server")?.join(path)?;
        url.query_pairs_mut().extend_pairs(members.iter().map(|(name, value)| (name, value.as_str().unwrap_or_default())));
        let answer = api.get(&format!("{path}?{}", url.query().unwrap_or_default())).await?;
        for callback in answer.get("callbacks").and_then(Value::as_array).into_iter().flatten() {
            line(&if as_json { callback.to_string() } else { row(callback) })?;
        }
        let Some(next) = answer.get("next") else { return Ok(()) };
        members.insert("after".to_owned(), next.clone());
    }
}

const HEADING: &str = "ID                       TIMESTAMP    CONTACT          KIND             ENDPOINT         REASON";

fn row(callback: &Value) -> String {
    let text = |name: &str| callback.get(name).and_then(Value::as_str).unwrap_or("-");
    let columns = ["id", "timestamp", "contact", "kind", "endpoint", "reason"].map(text);
    let [id, timestamp, contact, kind, endpoint, reason] = columns;
    format!("{id:<24} {timestamp:<12} {contact:<16} {kind:<16} {endpoint:<16} {reason}")
}

async fn move_callbacks(api: &Api, action: &str, moving: &Moving) -> anyhow::Result<()> {
    let mut members = moving.selection.members()?;
    if members.is_empty() && !moving.all {
        bail!("say which: --from, --until, --contact, --message-id, --endpoint, or --all");
    }
    let path = if action == "replay" { REPLAY } else { DEAD };
    if path == DEAD {
        members.insert("action".to_owned(), json!(action));
    }
    members.insert("all".to_owned(), json!(moving.all));
    members.insert("dry_run".to_owned(), json!(moving.dry_run));
    if moving.dry_run && !moving.json {
        line(HEADING)?;
    }
    let mut matched = 0;
    loop {
        let answer = api.call(Method::POST, path, Some(&Value::Object(members.clone()))).await?;
        matched += answer.get("matched").and_then(Value::as_u64).unwrap_or_default();
        for callback in answer.get("callbacks").and_then(Value::as_array).into_iter().flatten() {
            line(&if moving.json { callback.to_string() } else { row(callback) })?;
        }
        let Some(next) = answer.get("next") else { break };
        members.insert("after".to_owned(), next.clone());
    }
    line(&if moving.json {
        json!({ "action": action, "matched": matched, "dry_run": moving.dry_run }).to_string()
    } else if moving.dry_run {
        format!("{action}: {matched} callbacks, nothing was changed")
    } else {
        format!("{action}: {matched} callbacks")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_seconds_or_how_long_ago() {
        for (text, at) in [("1700000000", 1_700_000_000), ("90s", 1_710), ("15m", 900), ("0d", 1_800), ("2h", 0)] {
            assert_eq!(moment(text, 1_800), Some(at), "{text}");
        }
        for text in ["", "h", "-5m", "5w", "tomorrow", "9223372036854775807d", "5\u{e9}"] {
            assert_eq!(moment(text, 1_800), None, "{text}");
        }
    }
}
