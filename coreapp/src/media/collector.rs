//! Removes files that nobody has used for 30 days, if `garbagecollector_enable.media` is on; it is off by default
//! (spec/media.md §6). The owner of a number's first shard does it, at random moments some hours apart.
//!
//! Accepting a message counts as use, so a file that a queued message needs goes with it only after 30 days.
//! Bytes that an upload left without a row, because its process died, are removed after a day, always.

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
            match self.collect(number, is_on).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(%number, count, "unused files removed"),
                Err(error) => tracing::warn!(%number, error, "unused files could not be removed"),
            }
        }
    }

    /// Removes what may go; how many files.
    async fn collect(&self, number: WaId, is_on: bool) -> Result<u64, String> {
        let now_ms = self.0.clock.now_ms();
        let mut count = if is_on { self.remove_unused(number, now_ms - UNUSED_MS).await? } else { 0 };
        for (id, written_at_ms) in self.0.blobs.list(number).await.map_err(|error| error.to_string())? {
            let is_old = now_ms - written_at_ms > UNNAMED_MS;
            if is_old && self.0.store.media(number, id).await.map_err(|error| error.to_string())?.is_none() {
                count += 1;
                self.0.blobs.delete(number, id).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(count)
    }

    async fn remove_unused(&self, number: WaId, before_ms: i64) -> Result<u64, String> {
        let mut count = 0;
        loop {
            let removed = self.0.store.delete_unused_media(number, before_ms, AT_ONCE).await;
            let removed = removed.map_err(|error| error.to_string())?;
            if removed.is_empty() {
                return Ok(count);
            }
            for id in removed {
                count += 1;
                self.0.blobs.delete(number, id).await.map_err(|error| error.to_string())?;
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
        assert_eq!(courier.collect(number, false).await, Ok(0));
        assert_eq!(blobs.list(number).await.unwrap().len(), 4);
        assert_eq!(courier.collect(number, true).await, Ok(2));
        let mut left: Vec<Uuid> = blobs.list(number).await.unwrap().into_iter().map(|(id, _)| id).collect();
        let mut expected = vec![ids[2], unnamed];
        left.sort_unstable();
        expected.sort_unstable();
        assert_eq!(left, expected);
        assert!(store.media(number, ids[0]).await.unwrap().is_none());
    }
}
