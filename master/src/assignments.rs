//! What the leader decided, in etcd for people, tools and the next leader: `assign/<number>/<count>/<shard>` and
//! `map_rev`, a count of the changes.
//!
//! One writer beside everything else: it takes the newest picture there is, compares it with what is stored and
//! writes the difference, at most [`BATCH`] keys in a transaction. Each transaction is conditional on the leader's
//! key and on the `map_rev` that was read, so neither a deposed leader nor a write that arrives late can undo a newer
//! one. With etcd away nothing waits for it; when etcd is back the difference is written. The database stays the
//! authority (**I2**).

use std::{collections::BTreeMap, sync::Arc};

use etcd_client::{Compare, CompareOp, GetOptions, TxnOp, TxnOpResponse};
use serde::Serialize;
use tokio::{sync::watch, time::sleep};

use crate::{
    core::{Core, placement::ShardKey},
    election::{Error, Guard},
};

/// Keys in one transaction; etcd takes 128 operations, if nobody says otherwise.
const BATCH: usize = 100;

/// Names of shards (`<number>/<count>/<shard>`), and what is stored for each.
type Entries = BTreeMap<String, String>;

/// What should be stored.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In whose name.
    term: i64,
    entries: Entries,
}

/// Value of a key.
#[derive(Serialize)]
struct Assignment<'a> {
    owner: &'a str,
    epoch: u32,
}

impl Wanted {
    /// What the core knows as a leader; `None` before it has read the owners, or if it does not lead.
    pub fn of(core: &Core) -> Option<Self> {
        let entry = |(key, owner, epoch): (&ShardKey, &String, estafet_model::Epoch)| {
            let assignment = Assignment { owner, epoch: epoch.get() };
            let value = serde_json::to_string(&assignment).expect("a string and a number are JSON");
            (format!("{}/{}/{}", key.0, key.1.get(), key.2.get()), value)
        };
        Some(Self { term: core.term()?, entries: core.assignments()?.map(entry).collect() })
    }
}

/// What is stored, as far as known.
#[derive(Debug)]
struct Stored {
    entries: Entries,
    map_rev: u64,
    /// Revision of the last write of `map_rev`; 0: none.
    seen: i64,
}

/// The next changes: new values, and keys that are to go.
fn batch(stored: &Entries, wanted: &Entries) -> Vec<(String, Option<String>)> {
    let puts = wanted.iter().filter(|(key, value)| stored.get(*key) != Some(value));
    let puts = puts.map(|(key, value)| (key.clone(), Some(value.clone())));
    let deletes = stored.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), None));
    puts.chain(deletes).take(BATCH).collect()
}

/// Keeps the keys below `prefix` as the pictures of this leadership say, whose first term is `term`. Returns when
/// the leadership is over.
pub async fn publish(guard: Guard, prefix: &str, term: i64, mut wanted: watch::Receiver<Option<Arc<Wanted>>>) {
    let mut backoff = guard.timing().backoff(prefix);
    let mut writer = Writer { guard, prefix, stored: None };
    loop {
        let newest = wanted.borrow_and_update().clone().filter(|wanted| wanted.term >= term);
        let written = match &newest {
            Some(wanted) => writer.write(&wanted.entries).await,
            None => Ok(false),
        };
        match written {
            // There may be more.
            Ok(true) => backoff.reset(),
            Ok(false) => {
                backoff.reset();
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Err(Error::Lost) => return,
            Err(error) => {
                tracing::debug!(%error, "assignments are not written to etcd");
                writer.stored = None;
                sleep(backoff.next_delay()).await;
            }
        }
    }
}

struct Writer<'a> {
    guard: Guard,
    prefix: &'a str,
    stored: Option<Stored>,
}

impl Writer<'_> {
    /// Writes some of what differs; `false`: nothing does.
    async fn write(&mut self, wanted: &Entries) -> Result<bool, Error> {
        let stored = match &mut self.stored {
            Some(stored) => stored,
            None => self.stored.insert(read(&mut self.guard, self.prefix).await?),
        };
        let changes = batch(&stored.entries, wanted);
        if changes.is_empty() {
            return Ok(false);
        }
        let map_rev = stored.map_rev.saturating_add(1);
        let mut writes = vec![TxnOp::put(map_rev_key(self.prefix), map_rev.to_string(), None)];
        writes.extend(changes.iter().map(|(name, value)| {
            let key = format!("{}{name}", assign_prefix(self.prefix));
            match value {
                Some(value) => TxnOp::put(key, value.as_str(), None),
                None => TxnOp::delete(key, None),
            }
        }));
        let unchanged = Compare::mod_revision(map_rev_key(self.prefix), CompareOp::Equal, stored.seen);
        match self.guard.write(vec![unchanged], writes).await? {
            Some(revision) => {
                (stored.map_rev, stored.seen) = (map_rev, revision);
                for (name, value) in changes {
                    match value {
                        Some(value) => stored.entries.insert(name, value),
                        None => stored.entries.remove(&name),
                    };
                }
            }
            // A write whose answer was lost took place: what is stored is read again.
            None => self.stored = None,
        }
        Ok(true)
    }
}

async fn read(guard: &mut Guard, prefix: &str) -> Result<Stored, Error> {
    let assign = assign_prefix(prefix);
    let gets = vec![TxnOp::get(assign.as_str(), Some(GetOptions::new().with_prefix())), TxnOp::get(map_rev_key(prefix), None)];
    let mut stored = Stored { entries: Entries::new(), map_rev: 0, seen: 0 };
    for (place, answer) in guard.read(gets).await?.into_iter().enumerate() {
        let TxnOpResponse::Get(got) = answer else { continue };
        for kv in got.kvs() {
            let (key, value) = (String::from_utf8_lossy(kv.key()), String::from_utf8_lossy(kv.value()));
            if place == 0 {
                stored.entries.insert(key.strip_prefix(&assign).unwrap_or(&key).to_owned(), value.into_owned());
            } else {
                (stored.map_rev, stored.seen) = (value.parse().unwrap_or_default(), kv.mod_revision());
            }
        }
    }
    Ok(stored)
}

fn assign_prefix(prefix: &str) -> String {
    format!("{prefix}/assign/")
}

fn map_rev_key(prefix: &str) -> String {
    format!("{prefix}/map_rev")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: impl IntoIterator<Item = (u32, u32)>) -> Entries {
        pairs.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_batch_holds_what_differs_and_no_more_than_etcd_takes() {
        let stored = entries([(1, 1), (2, 2), (3, 3)]);
        assert!(batch(&stored, &stored).is_empty());
        let wanted = entries([(1, 1), (2, 9), (4, 4)]);
        let change = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(batch(&stored, &wanted), [change("2", Some("9")), change("4", Some("4")), change("3", None)]);
        let many = entries((0..1_000).map(|n| (n, n)));
        assert_eq!(batch(&Entries::new(), &many).len(), BATCH);
    }

    #[test]
    fn batch_after_batch_the_stored_becomes_the_wanted() {
        let (mut stored, wanted) = (entries((0..500).map(|n| (n, 0))), entries((250..750).map(|n| (n, n % 3))));
        let mut batches = 0;
        while stored != wanted {
            for (key, value) in batch(&stored, &wanted) {
                match value {
                    Some(value) => stored.insert(key, value),
                    None => stored.remove(&key),
                };
            }
            batches += 1;
            assert!(batches <= 8, "no end");
        }
    }
}
