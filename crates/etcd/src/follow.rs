//! A copy of the keys below a prefix that comes right again after every gap.
//!
//! The keys are listed, then watched from the revision after the listing, so nothing falls between. A watch that
//! says nothing for a while is asked for a sign of life; without one, and after every break, refusal or compaction,
//! the keys are listed again.

use std::{collections::BTreeMap, sync::Arc};

use estafet_runtime::Tasks;
use etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse, WatchStream};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{Error, Network, Session, Timing, session::within};

/// Keys without their prefix, and their values.
pub type Copied = BTreeMap<String, Vec<u8>>;

/// Tells the keys below `prefix` after every listing and every change. Runs until it is dropped.
pub async fn follow(network: &dyn Network, timing: Timing, prefix: &str, tasks: &Tasks, told: &watch::Sender<Arc<Copied>>) {
    let mut backoff = timing.backoff(prefix);
    loop {
        match follow_once(network, timing, prefix, tasks, told).await {
            Ok(()) => backoff.reset(),
            Err(error) => tracing::debug!(prefix, %error, "keys cannot be followed"),
        }
        sleep(backoff.next_delay()).await;
    }
}

/// From one listing to the end of its watch.
async fn follow_once(
    network: &dyn Network,
    timing: Timing,
    prefix: &str,
    tasks: &Tasks,
    told: &watch::Sender<Arc<Copied>>,
) -> Result<(), Error> {
    let mut session = Session::open(network, timing, tasks).await?;
    let listed = session.get("list keys", prefix, GetOptions::new().with_prefix()).await?;
    let revision = listed.header().map_or(0, |header| header.revision());
    let mut copied = Copied::new();
    for kv in listed.kvs() {
        copied.insert(name(prefix, kv.key()), kv.value().to_vec());
    }
    told.send_replace(Arc::new(copied.clone()));
    let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
    let mut watch = session.watch(prefix, options).await?;
    loop {
        let Some(said) = next(&mut watch, timing).await? else { return Ok(()) };
        if said.canceled() || said.compact_revision() > 0 {
            tracing::debug!(prefix, reason = said.cancel_reason(), "a watch was ended, listing again");
            return Ok(());
        }
        if apply(&mut copied, prefix, &said) {
            told.send_replace(Arc::new(copied.clone()));
        }
    }
}

/// What the watch says next; asks for a sign of life when it says nothing.
async fn next(watch: &mut WatchStream, timing: Timing) -> Result<Option<WatchResponse>, Error> {
    match timeout(timing.trust, watch.message()).await {
        Ok(said) => said.map_err(|source| Error::Etcd { what: "watch", source: Box::new(source) }),
        Err(_) => {
            within(timing.deadline, "sign of life of a watch", async {
                watch.request_progress().await?;
                watch.message().await
            })
            .await
        }
    }
}

/// Whether anything changed.
fn apply(copied: &mut Copied, prefix: &str, said: &WatchResponse) -> bool {
    for event in said.events() {
        let Some(kv) = event.kv() else { continue };
        match event.event_type() {
            EventType::Put => drop(copied.insert(name(prefix, kv.key()), kv.value().to_vec())),
            EventType::Delete => drop(copied.remove(&name(prefix, kv.key()))),
        }
    }
    !said.events().is_empty()
}

fn name(prefix: &str, key: &[u8]) -> String {
    String::from_utf8_lossy(key.strip_prefix(prefix.as_bytes()).unwrap_or(key)).into_owned()
}
