//! Files of messages: what is sent is left with the network, encrypted; what is received is fetched and stored.
//!
//! Both are jobs beside the shards. A message waits for its file in its slot ([`crate::core::outbox`]), a callback
//! in its lane, so nothing is overtaken and nobody else waits. Jobs decide nothing that lasts: after a crash the
//! new owner does them again, and ends at the same message or callback.

mod collector;
mod inbound;
mod outbound;

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use estafet_media::{
    Blobs, ByteStream,
    blobs::Writer,
    guard::{self, Fetcher, Policy, SystemResolver},
};
use estafet_model::WaId;
use estafet_runtime::{Backoff, Clock};
use estafet_store::SharedStore;
use estafet_upstream::{
    BlobStream, Upstream,
    attachment::{Attachment, FileKey, Opener, Plain, Sealer},
};
use futures::StreamExt as _;
use lru::LruCache;
use opentelemetry::{KeyValue, metrics::Counter};
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

pub use collector::Collected;
pub(crate) use inbound::{KIND, waits};

/// Files on their way at a time, in one process; each takes less than 2 MiB.
const AT_A_TIME: usize = 16;
/// Files whose encrypted copy at the network is known.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// A copy is used again for so long; the network keeps it for 14 days, and the phone may be late.
const USED_AGAIN_MS: i64 = 24 * 3600 * 1000;

/// Moves files. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Courier(Arc<Parts>);

struct Parts {
    store: SharedStore,
    blobs: Blobs,
    upstream: Arc<dyn Upstream>,
    clock: Clock,
    fetcher: Fetcher,
    places: Semaphore,
    copies: Mutex<LruCache<(WaId, Uuid), (Attachment, i64)>>,
    links: Counter<u64>,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Courier(..)")
    }
}

impl Courier {
    pub(crate) fn new(
        store: SharedStore,
        blobs: Blobs,
        upstream: Arc<dyn Upstream>,
        clock: Clock,
        links: Policy,
    ) -> Result<Self, guard::Error> {
        let fetcher = Fetcher::new(Arc::new(SystemResolver), links)?;
        let (places, copies) = (Semaphore::new(AT_A_TIME), Mutex::new(LruCache::new(REMEMBERED)));
        let meter = estafet_runtime::metrics::meter("coreapp");
        let links = meter.u64_counter("media_links").with_description("Links of messages, by result").build();
        Ok(Self(Arc::new(Parts { store, blobs, upstream, clock, fetcher, places, copies, links })))
    }

    fn known_copy(&self, number: WaId, id: Uuid) -> Option<Attachment> {
        let copies = self.0.copies.lock().unwrap_or_else(PoisonError::into_inner).get(&(number, id)).cloned();
        let (copy, left_at_ms) = copies?;
        (self.0.clock.now_ms() - left_at_ms < USED_AGAIN_MS).then_some(copy)
    }

    fn count_link(&self, result: &'static str) {
        self.0.links.add(1, &[KeyValue::new("result", result)]);
    }

    fn remember(&self, number: WaId, id: Uuid, copy: &Attachment) {
        let entry = (copy.clone(), self.0.clock.now_ms());
        self.0.copies.lock().unwrap_or_else(PoisonError::into_inner).put((number, id), entry);
    }
}

/// The wait before something that failed for now is tried again.
fn patience() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(10))
}

/// Encrypts a stream while it is read; what the plain bytes were arrives in the second half when all is read.
fn sealed(plain: ByteStream, key: &FileKey) -> (BlobStream, mpsc::Receiver<Plain>) {
    let (told, seen) = mpsc::channel(1);
    let state = Some((plain, Sealer::new(key), told));
    let stream = futures::stream::unfold(state, |state| async move {
        let (mut plain, mut sealer, told) = state?;
        match plain.next().await {
            Some(Ok(piece)) => Some((Ok(sealer.push(&piece)), Some((plain, sealer, told)))),
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                let (rest, seen) = sealer.finish();
                // The channel has room for the one thing that is ever sent.
                let _ = told.try_send(seen);
                Some((Ok(rest), None))
            }
        }
    });
    (stream.boxed(), seen)
}

/// Decrypts a stream into the store, at most so many bytes; what they were.
async fn opened(mut sealed: BlobStream, key: &FileKey, writer: &mut Writer, most: u64) -> io::Result<Plain> {
    let mut opener = Opener::new(key);
    while let Some(piece) = sealed.next().await {
        let piece = opener.push(&piece?).map_err(damaged)?;
        if writer.size() + piece.len() as u64 > most {
            return Err(io::ErrorKind::InvalidData.into());
        }
        writer.write(piece).await.map_err(io::Error::other)?;
    }
    let (rest, plain) = opener.finish().map_err(damaged)?;
    writer.write(rest).await.map_err(io::Error::other)?;
    Ok(plain)
}

fn damaged(error: estafet_upstream::attachment::Damaged) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
