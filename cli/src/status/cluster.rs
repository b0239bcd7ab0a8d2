//! The status of a cluster, as a master knows it: leader, nodes, shards.

use std::collections::HashMap;

use anyhow::{Context as _, anyhow};
use estafet_proto::v1::{ClusterStatus, GatewayStatus, NodeHealth, NodeTrouble, NumberState, Reach, reach};
use estafet_tls::Transport;
use serde_json::{Value, json};

/// Asks the masters until the leader is found; without a leader, whoever answered tells what it knows.
pub(crate) async fn ask(transport: &Transport, masters: &[String]) -> anyhow::Result<Value> {
    let (mut any, mut failure) = (None, None);
    for master in masters {
        match estafet_master::status_over(transport, master).await {
            Ok(status) if status.term > 0 => return Ok(json(&status, Some(master))),
            Ok(status) => any = Some(status),
            Err(status) => failure = Some(anyhow!("{master}: {}", status.message())),
        }
    }
    match any {
        Some(status) => Ok(json(&status, None)),
        None => Err(failure.context("--masters: at least one address")?.context("no master answers")),
    }
}

/// What a master said, joined: each shard with its owner, connection and backlog.
fn json(status: &ClusterStatus, leader: Option<&String>) -> Value {
    // Of two reports of a shard the one with the higher epoch counts: the other's owner is about to let go.
    let mut states: HashMap<(u64, u32, u32), &NumberState> = HashMap::new();
    for state in &status.states {
        let known = states.entry((state.number, state.shard_count, state.shard)).or_insert(state);
        if known.epoch < state.epoch {
            *known = state;
        }
    }
    let names: HashMap<&str, &str> = status.nodes.iter().map(|node| (node.address.as_str(), node.node.as_str())).collect();
    let mut shards = Vec::new();
    for entry in &status.shards {
        let Some(owned) = &entry.ownership else { continue };
        let state = states.get(&(owned.number, owned.shard_count, owned.shard)).filter(|state| state.epoch == owned.epoch);
        shards.push(json!({
            "number": owned.number.to_string(),
            "shard": owned.shard,
            "shard_count": owned.shard_count,
            "owner": names.get(entry.address.as_str()).copied().unwrap_or(entry.address.as_str()),
            "epoch": owned.epoch,
            "connection": state.map(|state| connection(state.gateway_status())),
            "outbox": state.map(|state| state.outbox),
            "callbacks": state.map(|state| state.callbacks),
        }));
    }
    let nodes = status.nodes.iter().map(|node| {
        json!({
            "node": node.node,
            "address": node.address,
            "health": health(node.health()),
            "draining": node.draining,
            "shards": node.holdings,
            "version": node.version,
            "troubles": node.troubles().map(trouble).collect::<Vec<_>>(),
            "network": reached(node.network.as_ref()),
            "database": reached(node.database.as_ref()),
        })
    });
    let registered = status.registered.iter().map(|node| {
        json!({
            "id": node.id,
            "role": node.role,
            "address": node.address,
            "boot": node.boot,
            "version": node.version,
        })
    });
    let failing = status.failing.iter().filter_map(|failing| {
        let shard = failing.ownership.as_ref()?;
        Some(json!({
            "number": shard.number.to_string(),
            "shard": shard.shard,
            "shard_count": shard.shard_count,
            "epoch": shard.epoch,
            "failures": failing.failures,
            "retry_in_ms": failing.retry_in_ms,
        }))
    });
    json!({
        "leader": leader,
        "term": status.term,
        "nodes": nodes.collect::<Vec<_>>(),
        "shards": shards,
        "failing": failing.collect::<Vec<_>>(),
        "registered": registered.collect::<Vec<_>>(),
    })
}

fn connection(status: GatewayStatus) -> &'static str {
    match status {
        GatewayStatus::Connected => "connected",
        GatewayStatus::Connecting => "connecting",
        GatewayStatus::Uninitialized => "uninitialized",
        GatewayStatus::Unregistered => "unregistered",
        GatewayStatus::Disconnected | GatewayStatus::Unspecified => "disconnected",
    }
}

fn health(health: NodeHealth) -> &'static str {
    match health {
        NodeHealth::Alive => "alive",
        NodeHealth::Suspect => "suspect",
        NodeHealth::Dead => "dead",
        NodeHealth::Unspecified => "unknown",
    }
}

fn trouble(trouble: NodeTrouble) -> &'static str {
    match trouble {
        NodeTrouble::Unreached => "not reached by webapps",
        NodeTrouble::NoNetwork => "no network",
        NodeTrouble::NoDatabase => "no database",
        NodeTrouble::Quarantined => "quarantined",
        NodeTrouble::Unspecified => "unknown",
    }
}

/// Whether a node reaches something, and for how many milliseconds that has been so; null if it does not know.
fn reached(reach: Option<&Reach>) -> Value {
    match reach.and_then(|reach| reach.state.as_ref()) {
        Some(reach::State::WellMs(ms)) => json!({ "reached": true, "for_ms": ms }),
        Some(reach::State::LostMs(ms)) => json!({ "reached": false, "for_ms": ms }),
        None => Value::Null,
    }
}

/// What a node lacks or suffers from, in a cell.
fn plight(node: &Value) -> String {
    let lost = ["network", "database"].into_iter().filter(|need| node[need]["reached"] == false);
    let lost = lost.map(|need| format!("no {need} for {} s", node[need]["for_ms"].as_u64().unwrap_or_default() / 1000));
    let named = node["troubles"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let named = named.filter(|name| !name.starts_with("no ")).map(str::to_owned);
    let all: Vec<String> = lost.chain(named).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

/// The status as tables a person reads.
pub(crate) fn table(status: &Value) -> String {
    let cell = |value: &Value, key: &str| match &value[key] {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Null | Value::String(_) => "-".to_owned(),
        other => other.to_string(),
    };
    let rows = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    let mut out = match status["leader"].as_str() {
        Some(leader) => format!("leader {leader}   term {}", status["term"]),
        None => "no master leads; this is what one of them knows".to_owned(),
    };
    out += &format!(
        "\n\n{:<16} {:<22} {:<8} {:<9} {:>6} {:<10} TROUBLE",
        "NODE", "ADDRESS", "HEALTH", "DRAINING", "SHARDS", "VERSION"
    );
    for node in rows("nodes") {
        let cells = ["node", "address", "health", "draining", "shards", "version"].map(|key| cell(&node, key));
        let [name, address, health, draining, shards, version] = cells;
        let plight = plight(&node);
        out += &format!("\n{name:<16} {address:<22} {health:<8} {draining:<9} {shards:>6} {version:<10} {plight}");
    }
    out += &format!(
        "\n\n{:<16} {:<8} {:<16} {:>6} {:<13} {:>8} {:>10}",
        "NUMBER", "SHARD", "OWNER", "EPOCH", "CONNECTION", "OUTBOX", "CALLBACKS"
    );
    for shard in rows("shards") {
        let cells = ["number", "shard", "shard_count", "owner", "epoch", "connection", "outbox", "callbacks"];
        let [number, place, count, owner, epoch, connection, outbox, callbacks] = cells.map(|key| cell(&shard, key));
        let place = format!("{place}/{count}");
        out += &format!("\n{number:<16} {place:<8} {owner:<16} {epoch:>6} {connection:<13} {outbox:>8} {callbacks:>10}");
    }
    let failing = rows("failing");
    if !failing.is_empty() {
        out += &format!("\n\n{:<16} {:<8} {:>8} {:>12}", "CANNOT START", "SHARD", "FAILURES", "NEXT TRY IN");
    }
    for shard in failing {
        let cells = ["number", "shard", "shard_count", "failures"].map(|key| cell(&shard, key));
        let ([number, place, count, failures], seconds) =
            (cells, shard["retry_in_ms"].as_u64().unwrap_or_default().div_ceil(1000));
        let place = format!("{place}/{count}");
        out += &format!("\n{number:<16} {place:<8} {failures:>8} {seconds:>10} s");
    }
    out += &format!("\n\n{:<22} {:<8} {:<22} {:<10}", "REGISTERED IN ETCD", "ROLE", "ADDRESS", "VERSION");
    for node in rows("registered") {
        let [id, role, address, version] = ["id", "role", "address", "version"].map(|key| cell(&node, key));
        out += &format!("\n{id:<22} {role:<8} {address:<22} {version:<10}");
    }
    out
}

#[cfg(test)]
mod tests {
    use estafet_proto::v1::{FailingShard, MapEntry, NodeStatus, Ownership, RegisteredNode};

    use super::*;

    fn status() -> ClusterStatus {
        let number = 15_550_000_001;
        let ownership = |shard, epoch| Some(Ownership { number, shard, shard_count: 2, epoch });
        let state = |shard, epoch, outbox| NumberState {
            number,
            shard,
            shard_count: 2,
            epoch,
            outbox,
            callbacks: 1,
            arrived: 0,
            gateway_status: GatewayStatus::Connected.into(),
        };
        let address = "10.0.0.7:6250".to_owned();
        ClusterStatus {
            term: 42,
            nodes: vec![NodeStatus {
                node: "coreapp-0".to_owned(),
                address: address.clone(),
                health: NodeHealth::Alive.into(),
                draining: false,
                holdings: 2,
                version: "0.1.0".to_owned(),
                troubles: vec![NodeTrouble::Unreached.into(), NodeTrouble::NoNetwork.into()],
                network: Some(Reach { state: Some(reach::State::LostMs(7_400)) }),
                database: Some(Reach { state: Some(reach::State::WellMs(7_400)) }),
                ..NodeStatus::default()
            }],
            failing: vec![FailingShard { ownership: ownership(1, 9), failures: 4, retry_in_ms: 700 }],
            shards: vec![
                MapEntry { ownership: ownership(0, 3), address: address.clone() },
                MapEntry { ownership: ownership(1, 9), address: "10.0.0.8:6250".to_owned() },
            ],
            states: vec![state(0, 3, 7), state(0, 2, 500), state(1, 8, 9)],
            registered: vec![RegisteredNode {
                id: "coreapp-0".to_owned(),
                role: "coreapp".to_owned(),
                address: "10.0.0.7:6250".to_owned(),
                boot: "00".repeat(16),
                version: "0.1.0".to_owned(),
            }],
        }
    }

    #[test]
    fn a_shard_shows_its_owner_by_name_and_the_backlog_of_its_epoch() {
        let table = table(&json(&status(), Some(&"127.0.0.1:6260".to_owned())));
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["leader", "127.0.0.1:6260", "term", "42"]);
        let trouble = "no network for 7 s, not reached by webapps";
        assert_eq!(rows[3][..6], ["coreapp-0", "10.0.0.7:6250", "alive", "false", "2", "0.1.0"]);
        assert_eq!(rows[3][6..].join(" "), trouble);
        assert_eq!(rows[6], ["15550000001", "0/2", "coreapp-0", "3", "connected", "7", "1"]);
        // Its owner is not known by name yet, and what was reported is of an earlier epoch.
        assert_eq!(rows[7], ["15550000001", "1/2", "10.0.0.8:6250", "9", "-", "-", "-"]);
        assert_eq!(rows[10], ["15550000001", "1/2", "4", "1", "s"]);
        assert_eq!(rows[13], ["coreapp-0", "coreapp", "10.0.0.7:6250", "0.1.0"]);
    }
}
