//! `estafet status`: shards, owners, epochs, backlog and connections.

use std::time::Duration;

use estafet_runtime::Tasks;
use estafet_tls::Role;
use serde_json::Value;

use crate::{api::Api, args::StatusArgs, output::line};

pub(crate) mod cluster;

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.target.url)?;
    let tasks = Tasks::new();
    let transport = crate::cluster::transport(&args.tls, Role::Operator, None, None, &tasks)?;
    loop {
        let text = if args.masters.is_empty() {
            let status = api.get("/sandbox/status").await?;
            if args.json { status.to_string() } else { table(&status) }
        } else {
            let status = cluster::ask(&transport, &args.masters).await?;
            if args.json { status.to_string() } else { cluster::table(&status) }
        };
        line(&text)?;
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The status as a table a person reads.
fn table(status: &Value) -> String {
    let text = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let mut out = format!(
        "number {}   node {}   database {}   phones {}\n{:<8} {:<16} {:>6} {:<13} {:>8} {:>10}",
        text(status, "number"),
        text(status, "node"),
        text(status, "database"),
        text(status, "phones"),
        "SHARD",
        "OWNER",
        "EPOCH",
        "CONNECTION",
        "OUTBOX",
        "CALLBACKS"
    );
    for shard in status.get("shards").and_then(Value::as_array).into_iter().flatten() {
        out += &format!(
            "\n{:<8} {:<16} {:>6} {:<13} {:>8} {:>10}",
            format!("{}/{}", text(shard, "shard"), text(shard, "shard_count")),
            text(shard, "owner"),
            text(shard, "epoch"),
            text(shard, "connection"),
            text(shard, "outbox"),
            text(shard, "callbacks"),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_is_a_row() {
        let status = serde_json::json!({"number": "15550000001", "node": "sandbox", "database": "sqlite", "phones": 10, "shards": [
            {"shard": 0, "shard_count": 2, "owner": "sandbox", "epoch": 3, "connection": "connected", "outbox": 7, "callbacks": 1}]});
        let table = table(&status);
        let row = table.lines().nth(2).unwrap();
        assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["0/2", "sandbox", "3", "connected", "7", "1"]);
    }
}
