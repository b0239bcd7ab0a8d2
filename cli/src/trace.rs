//! `estafet trace`: the timeline of one message, from a running server, as its administrator.

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use crate::{callbacks::Server, output::line};

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// Id of the message, outgoing or incoming.
    #[arg(value_name = "MESSAGE_ID")]
    id: String,
    #[command(flatten)]
    server: Server,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: TraceArgs) -> anyhow::Result<()> {
    let api = args.server.log_in().await?;
    let id = percent_encoding(&args.id);
    let answer = api.get(&format!("/v1/estafet/messages/{id}/trace")).await?;
    let trace = answer.get("trace").context("the answer has no trace")?;
    line(&if args.json { trace.to_string() } else { table(trace) })
}

/// Ids are base64url; whatever else is written there stays one part of the path.
fn percent_encoding(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
    id.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The steps with their distance from the first, what was waited for, and how long.
fn table(trace: &Value) -> String {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_i64);
    let steps: Vec<&Value> = trace.get("steps").and_then(Value::as_array).into_iter().flatten().collect();
    let start = steps.iter().filter_map(|step| number(step, "at_ms")).min().unwrap_or_default();
    let mut out = format!(
        "{} message {}, contact {}\n{:>14} {:>12}  {:<18} {}",
        text(trace, "direction"),
        text(trace, "id"),
        text(trace, "contact"),
        "AT",
        "WAITED",
        "FOR",
        "STEP"
    );
    for step in steps {
        let awaited = step.get("awaited").is_some_and(|awaited| awaited == true);
        let at =
            number(step, "at_ms").filter(|_| !awaited).map_or_else(|| "-".to_owned(), |at| format!("+{}", seconds(at - start)));
        let waited = number(step, "waited_ms").map_or_else(|| "-".to_owned(), seconds);
        out += &format!("\n{at:>14} {waited:>12}  {:<18} {}", text(step, "wait"), what(step, awaited));
    }
    if let Some(longest) = trace.get("longest_wait").filter(|longest| longest.is_object()) {
        let waited = number(longest, "waited_ms").map_or_else(|| "-".to_owned(), seconds);
        out += &format!("\nlongest wait: {}, {waited}", text(longest, "wait"));
        for (name, before) in [("endpoint", " "), ("about", ", callback about ")] {
            if let Some(value) = longest.get(name).and_then(Value::as_str) {
                out += &format!("{before}{value}");
            }
        }
        if longest.get("awaited").is_some_and(|awaited| awaited == true) {
            out += ", still waiting";
        }
    }
    if trace.get("keeps_delivered_callbacks").is_some_and(|keeps| keeps == false) {
        out += "\ncallbacks that were taken are not shown: webhooks.keep_delivered is off";
    }
    out
}

fn what(step: &Value, awaited: bool) -> String {
    let text = |name: &str| step.get(name).and_then(Value::as_str);
    let mut what = text("step").unwrap_or("-").to_owned();
    if let (Some(about), Some(endpoint)) = (text("about"), text("endpoint")) {
        what += &format!(": {about}, by {endpoint}");
    }
    if let Some(reason) = text("reason") {
        what += &format!(" ({reason})");
    }
    if awaited { format!("not yet {what}") } else { what }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_each_step_with_its_wait_and_names_the_longest() {
        let table = table(&json!({"id": "gBGG", "direction": "outgoing", "contact": "16315551234", "steps": [
            {"step": "made", "at_ms": 1_000},
            {"step": "accepted", "at_ms": 1_012, "wait": "routing", "waited_ms": 12},
            {"step": "callback given up", "at_ms": 2_000, "wait": "receiver", "waited_ms": 900, "about": "sent", "endpoint": "main", "reason": "answered 500"},
            {"step": "delivered", "at_ms": 90_012, "wait": "phone", "waited_ms": 89_000, "awaited": true}],
            "longest_wait": {"wait": "phone", "until": "delivered", "waited_ms": 89_000, "awaited": true},
            "keeps_delivered_callbacks": false}));
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["+0.000", "s", "-", "-", "made"]);
        assert_eq!(lines[3], ["+0.012", "s", "0.012", "s", "routing", "accepted"]);
        assert_eq!(lines[4].join(" "), "+1.000 s 0.900 s receiver callback given up: sent, by main (answered 500)");
        assert_eq!(lines[5].join(" "), "- 89.000 s phone not yet delivered");
        assert_eq!(lines[6].join(" "), "longest wait: phone, 89.000 s, still waiting");
        assert!(lines[7].join(" ").contains("keep_delivered"));
    }

    #[test]
    fn an_id_stays_one_part_of_the_path() {
        assert_eq!(percent_encoding("gBGG-_="), "gBGG-_=");
        assert_eq!(percent_encoding("../users?x"), "..%2Fusers%3Fx");
    }
}
