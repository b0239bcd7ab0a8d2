//! `/v1/stats/app`, `/v1/stats/db` and `/v1/metrics` (spec/health-and-stats.md §2 to §5).

use std::sync::Arc;

use estafet_model::{ApiError, Code};
use estafet_proto::v1::Stat;
use estafet_store::Counts;
use serde_json::{Map, Value, json};

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
    exposition::{Format, Metric, Sample, to_json, to_text},
};

/// What the coreapps have counted for the number since they started. Asked of them, not of the database.
pub(super) async fn of_coreapps(app: Arc<App>, call: Call) -> Outcome {
    let format = asked(&call)?;
    let nodes = app.router.stats(call.tenant()?.number).await;
    let nodes: Vec<Node> = nodes
        .into_iter()
        .map(|(address, told)| match told {
            Some(told) => Node { name: told.node, told: Ok(told.stats.into_iter().map(metric).collect()) },
            None => Node { name: address.clone(), told: Err(not_running(&address)) },
        })
        .collect();
    render(&app, "app", format, &nodes)
}

/// What the database holds for the number, counted at most once in half a minute.
pub(super) async fn of_database(app: Arc<App>, call: Call) -> Outcome {
    let format = asked(&call)?;
    let counts = call.tenant()?.census.read().await?;
    let nodes = [Node { name: app.config.node.clone(), told: Ok(of_counts(&counts)) }];
    render(&app, "db", format, &nodes)
}

/// What this replica has served.
pub(super) async fn of_webapp(app: Arc<App>, call: Call) -> Outcome {
    let format = asked(&call)?;
    Ok(metrics(&app, format))
}

/// `/metrics`: our own, for all numbers of the process, unless one of the forms of the original is asked for.
pub(super) async fn ours_or_of_webapp(app: Arc<App>, call: Call) -> Outcome {
    Ok(match Format::asked(call.parts.uri.query())? {
        Some(format) => metrics(&app, format),
        None => Answer::text(PROMETHEUS, estafet_runtime::metrics::render()),
    })
}

const PROMETHEUS: &str = "text/plain; version=0.0.4";

fn asked(call: &Call) -> Result<Format, ApiError> {
    Ok(Format::asked(call.parts.uri.query())?.unwrap_or(Format::Json))
}

fn metrics(app: &App, format: Format) -> Answer {
    let metrics = app.metrics.served().metrics();
    match format {
        Format::Json => Answer::ok(&json!({ "metrics": to_json(&metrics) })),
        Format::Prometheus => Answer::text(PROMETHEUS, to_text(&[(None, &metrics)])),
    }
}

/// One process and what it told.
struct Node {
    name: String,
    told: Result<Vec<Metric>, ApiError>,
}

/// A single instance shows its metrics at once, a cluster one level down, by node.
fn render(app: &App, part: &str, format: Format, nodes: &[Node]) -> Outcome {
    let in_cluster = app.config.multiconnect;
    if format == Format::Prometheus {
        let told = nodes.iter().filter_map(|node| Some((in_cluster.then_some(&*node.name), node.told.as_deref().ok()?)));
        return Ok(Answer::text(PROMETHEUS, to_text(&told.collect::<Vec<_>>())));
    }
    let shown = if in_cluster {
        let member = |node: &Node| (node.name.clone(), node.told.as_deref().map_or_else(errors, to_json));
        Value::Object(nodes.iter().map(member).collect::<Map<_, _>>())
    } else {
        match nodes.first() {
            Some(Node { told: Ok(metrics), .. }) => to_json(metrics),
            Some(Node { told: Err(error), .. }) => return Err(error.clone().into()),
            None => return Err(not_running("no coreapp is known").into()),
        }
    };
    Ok(Answer::ok(&json!({ "stats": { part: shown } })))
}

fn not_running(address: &str) -> ApiError {
    ApiError::new(Code::Internal, format!("Connection timed out. Please check if wacore is running: {address}"))
}

/// What stands for a process that does not answer.
pub(super) fn errors(error: &ApiError) -> Value {
    json!({ "errors": [{ "code": error.code.number(), "title": error.code.title(), "details": error.details }] })
}

fn metric(stat: Stat) -> Metric {
    let sample = |sample: estafet_proto::v1::StatSample| Sample {
        labels: sample.labels.into_iter().map(|label| (label.name, label.value)).collect(),
        value: sample.value,
    };
    let data = stat.data.into_iter().map(sample).collect();
    Metric { name: stat.name, is_counter: stat.is_counter, help: stat.help, data }
}

fn of_counts(counts: &Counts) -> Vec<Metric> {
    let typed = |name: &str, help: &str, values: [(&str, u64); 2]| Metric {
        data: values
            .map(|(kind, value)| Sample { labels: vec![("type".to_owned(), kind.to_owned())], value: value as f64 })
            .into(),
        ..Metric::one(name, false, help, 0.0)
    };
    let contacts = [("whatsapp_user", counts.contacts), ("non_whatsapp_user", counts.strangers)];
    let one = |name, help, value: u64| Metric::one(name, false, help, value as f64);
    vec![
        typed("db_contacts", "Current number of contacts in DB", contacts),
        one("db_message_receipts", "Current number of message receipts in DB", counts.receipts),
        typed("db_messages", "Current number of messages in DB", [("outgoing", counts.outgoing), ("incoming", counts.incoming)]),
        one("db_pending_callbacks", "Current number of callbacks in DB that are not acknowledged", counts.pending_callbacks),
        one("db_pending_messages", "Current number of messages in DB that are not sent", counts.pending_messages),
    ]
}
