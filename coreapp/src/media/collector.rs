//! Removes files that nobody has used for 30 days, if `garbagecollector_enable.media` is on; it is off by default
//! (spec/media.md §6). The owner of a number's first shard does it, at random moments some hours apart.
//!
//! Accepting a message counts as use, so a file that a queued message needs goes with it only after 30 days.
//! Bytes that an upload left without a row or without a name, because its process died, are removed after a day,
//! always.

use std::time::Duration;

use estafet_model::WaId;
use rand::RngExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Courier;
use crate::settings::Versioned;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// How long a file stays unused.
const UNUSED_MS: i64 = 30 * DAY_MS;
/// How long bytes may wait for their row.
const UNNAMED_MS: i64 = DAY_MS;
/// Rows removed with one statement.
const AT_ONCE: u32 = 1000;
/// Pause between two collections, in seconds.
const PAUSE_S: std::ops::Range<u64> = 2 * 3600..6 * 3600;

/// The end of a collection that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Files that were removed.
    pub removed: u64,
    /// Whether it came to its end; else something failed, which is in the log.
    pub is_complete: bool,
}

impl Courier {
    /// Collects now and then until the shard is over.
    pub(crate) async fn collect_now_and_then(self, number: WaId, settings: watch::Receiver<Versioned>, over: CancellationToken) {
        loop {
            let pause = Duration::from_secs(rand::rng().random_range(PAUSE_S));
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let is_on = settings.borrow().settings.garbagecollector_enable.media;
            let mut count = 0;
            if let Err(error) = self.collect(number, is_on, &mut count).await {
                tracing::warn!(%number, error, "unused files could not be removed");
            }
            if count > 0 {
                tracing::info!(%number, count, "unused files removed");
            }
        }
    }

    /// Removes files that were not used for 30 days, whatever the settings say, and what nobody can see.
    pub(crate) async fn collect_now(&self, number: WaId) -> Collected {
        let mut removed = 0;
        let problem = self.collect(number, true, &mut removed).await.err();
        if let Some(problem) = &problem {
            tracing::warn!(%number, problem, "unused files could not be removed");
        }
        Collected { removed, is_complete: problem.is_none() }
    }

    /// Removes what may go, and counts it.
    async fn collect(&self, number: WaId, is_on: bool, count: &mut u64) -> Result<(), String> {
        let now_ms = self.0.clock.now_ms();
        if is_on {
            self.remove_unused(number, now_ms - UNUSED_MS, count).await?;
        }
        let left = self.0.blobs.remove_left(number, now_ms - UNNAMED_MS).await;
        *count += left.map_err(|error| error.to_string())?;
        for (id, written_at_ms) in self.0.blobs.list(number).await.map_err(|error| error.to_string())? {
            let is_old = now_ms - written_at_ms > UNNAMED_MS;
            if is_old && self.0.store.media(number, id).await.map_err(|error| error.to_string())?.is_none() {
                self.0.blobs.delete(number, id).await.map_err(|error| error.to_string())?;
                *count += 1;
            }
        }
        Ok(())
    }

    async fn remove_unused(&self, number: WaId, before_ms: i64, count: &mut u64) -> Result<(), String> {
        loop {
            let removed = self.0.store.delete_unused_media(number, before_ms, AT_ONCE).await;
            let removed = removed.map_err(|error| error.to_string())?;
            if removed.is_empty() {
                return Ok(());
            }
            for id in removed {
                self.0.blobs.delete(number, id).await.map_err(|error| error.to_string())?;
                *count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use estafet_media::{Blobs, guard::Policy};
    use estafet_runtime::{Clock, Tasks};
    use estafet_store::{MediaRow, MediaStore as _, Store as _};
    use estafet_upstream::chat::ChatUpstream;
    use uuid::Uuid;

    use super::*;

    async fn write(blobs: &Blobs, number: WaId) -> Uuid {
        let id = Uuid::new_v4();
        blobs.create(number, id).await.unwrap().finish().await.unwrap();
        id
    }

    #[tokio::test]
    async fn r123_files_stay_by_default_and_go_after_thirty_unused_days_when_asked_for() {
        estafet_runtime::install_crypto();
        let (directory, number): (_, WaId) = (tempfile::tempdir().unwrap(), "15550000001".parse().unwrap());
        let store = Arc::new(estafet_store::SqliteStore::memory().await.unwrap());
        store.migrate().await.unwrap();
        let blobs = Blobs::directory(&directory.path().join("media")).unwrap();
        // Within the day in which bytes may wait for their row, and long after the rows below.
        let now_ms = Clock::system().now_ms();
        let upstream = Arc::new(ChatUpstream::new(Vec::new(), None, Tasks::new()));
        let courier = Courier::new(store.clone(), blobs.clone(), upstream, Clock::manual(now_ms), Policy::default()).unwrap();
        let mut ids = Vec::new();
        for used_at_ms in [now_ms - 365 * DAY_MS, now_ms - UNUSED_MS - 1000, now_ms - UNUSED_MS] {
            let id = write(&blobs, number).await;
            let (mime_type, sha256) = ("image/jpeg".to_owned(), [0; 32]);
            let row = MediaRow { id, mime_type, sha256, size: 0, created_at_ms: 0, used_at_ms };
            store.put_media(number, &row).await.unwrap();
            ids.push(id);
        }
        let unnamed = write(&blobs, number).await;
        let mut count = 0;
        courier.collect(number, false, &mut count).await.unwrap();
        assert_eq!((count, blobs.list(number).await.unwrap().len()), (0, 4));
        // Asked for, it does not matter whether it is on.
        assert_eq!(courier.collect_now(number).await, Collected { removed: 2, is_complete: true });
        let mut left: Vec<Uuid> = blobs.list(number).await.unwrap().into_iter().map(|(id, _)| id).collect();
        let mut expected = vec![ids[2], unnamed];
        left.sort_unstable();
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert!(store.media(number, ids[0]).await.unwrap().is_none());
    }
}
