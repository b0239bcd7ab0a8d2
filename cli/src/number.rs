//! `estafet number`: the numbers of a cluster and their shard counts, in the message database.
//!
//! Masters and webapps see a change within a second, without a restart; a change of the shard count is made while
//! messages flow (docs/numbers.md).

use anyhow::bail;
use estafet_model::{Layout, ShardCount, WaId};
use estafet_runtime::Clock;
use estafet_store::{NumberRow, SharedStore};
use serde_json::{Value, json};

use crate::{
    args::{Misconfigured, NumberAction, NumberArgs},
    output::line,
};

pub(crate) async fn run(args: NumberArgs) -> anyhow::Result<()> {
    let store = crate::database::open(&args.database_url, "estafet-number").await?;
    match args.action {
        NumberAction::Add { number, shards, host } => add(&store, number, count(shards)?, host.as_deref()).await,
        NumberAction::List { json } => list(&store, json).await,
        NumberAction::Remove { number } => remove(&store, number).await,
        NumberAction::Reshard { number, shards } => reshard(&store, number, count(shards)?).await,
    }
}

fn count(shards: u32) -> anyhow::Result<ShardCount> {
    ShardCount::new(shards).ok_or_else(|| Misconfigured(vec![format!("{shards} shards: a power of two, 1 to 256")]).into())
}

async fn known(store: &SharedStore, number: WaId) -> anyhow::Result<Option<NumberRow>> {
    Ok(store.numbers().await?.into_iter().find(|row| row.number == number))
}

async fn add(store: &SharedStore, number: WaId, count: ShardCount, host: Option<&str>) -> anyhow::Result<()> {
    let host = host.map(host_name).transpose()?;
    let row = NumberRow::new(number, count, host, Clock::system().now_ms());
    if store.add_number(&row).await? {
        return line(&format!("{number} added with {} shards", count.get()));
    }
    match known(store, number).await? {
        Some(_) => bail!("{number} is there already"),
        None => bail!("another number has the host name {}", row.host.unwrap_or_default()),
    }
}

/// A name as requests bring it, without port.
fn host_name(text: &str) -> anyhow::Result<String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) {
        return Err(Misconfigured(vec![format!("--host {text}: a host name without port")]).into());
    }
    Ok(name)
}

async fn list(store: &SharedStore, as_json: bool) -> anyhow::Result<()> {
    let rows = store.numbers().await?;
    line(&if as_json { Value::from(rows.iter().map(as_value).collect::<Vec<_>>()).to_string() } else { table(&rows) })
}

fn as_value(row: &NumberRow) -> Value {
    json!({
        "number": row.number,
        "host": row.host,
        "shards": row.layout.count().get(),
        "wanted_shards": row.wanted.get(),
        "phase": row.layout.phase(),
        "next_shards": row.layout.next().map(ShardCount::get),
        "created_at_ms": row.created_at_ms,
    })
}

/// The numbers as a table a person reads.
fn table(rows: &[NumberRow]) -> String {
    let mut out = format!("{:<16} {:>6} {:<24} HOST", "NUMBER", "SHARDS", "CHANGE");
    for row in rows {
        let change = match row.layout {
            _ if row.is_settled() => "-".to_owned(),
            Layout::Stable(_) => format!("to {}: waits", row.wanted.get()),
            Layout::Prepare { to, .. } => format!("to {}: {} prepared", row.wanted.get(), to.get()),
            Layout::Switch { to, .. } => format!("to {}: switching to {}", row.wanted.get(), to.get()),
        };
        let host = row.host.as_deref().unwrap_or("-");
        out += &format!("\n{:<16} {:>6} {change:<24} {host}", row.number.to_string(), row.layout.count().get());
    }
    out
}

async fn remove(store: &SharedStore, number: WaId) -> anyhow::Result<()> {
    if store.remove_number(number).await? {
        return line(&format!("{number} removed; its messages, users and settings stay in the database"));
    }
    match known(store, number).await? {
        Some(_) => bail!("the shard count of {number} is changing, try again when it is done"),
        None => bail!("there is no number {number}"),
    }
}

async fn reshard(store: &SharedStore, number: WaId, count: ShardCount) -> anyhow::Result<()> {
    if store.want_shards(number, count).await? {
        return line(&format!("{number} is brought to {} shards; `estafet number list` shows how far it is", count.get()));
    }
    match known(store, number).await? {
        Some(row) => bail!("the change of {number} to {} shards is under way, try again when it is done", row.wanted.get()),
        None => bail!("there is no number {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_a_row_that_tells_what_changes() {
        let number = "15550000001".parse().unwrap();
        let four = count(4).unwrap();
        let mut row = NumberRow::new(number, four, Some("one.example".to_owned()), 0);
        let last = |row: &NumberRow| table(std::slice::from_ref(row)).lines().nth(1).unwrap().to_owned();
        assert_eq!(last(&row).split_whitespace().collect::<Vec<_>>(), ["15550000001", "4", "-", "one.example"]);
        row.wanted = count(16).unwrap();
        assert!(last(&row).contains("to 16: waits"));
        row.layout = Layout::Switch { from: four, to: count(8).unwrap() };
        assert!(last(&row).contains("to 16: switching to 8"));
        assert_eq!(as_value(&row)["phase"], "switch");
    }

    #[test]
    fn host_names_are_kept_as_they_are_compared() {
        assert_eq!(host_name("One.Example.").unwrap(), "one.example");
        for wrong in ["", "one:80", "a b", "http://x"] {
            assert!(host_name(wrong).unwrap_err().is::<Misconfigured>(), "{wrong}");
        }
        assert!(count(3).unwrap_err().is::<Misconfigured>() && count(256).is_ok());
    }
}
