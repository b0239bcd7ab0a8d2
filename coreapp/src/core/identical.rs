//! Messages with the content of an earlier one to the same recipient, within a window that a number may set
//! (`identical_messages`): counted, and refused if the settings say so.
//!
//! What was sent is remembered in memory, the latest [`REMEMBERED`] of a shard: what is forgotten counts as new, and a new
//! owner knows nothing. So a message may be taken again too early, and none is refused that was not sent before. A
//! request that a webapp repeats has the id of the first one, and is none of these.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use estafet_model::{ApiError, Code, IdKey, WaId, settings::IdenticalMessages};
use lru::LruCache;
use xxhash_rust::xxh64::xxh64;

/// Contents remembered: about 6 MiB for a shard, once they are there.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// What was sent, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Content {
    recipient: WaId,
    /// Of the canonical body; two, so that different bodies are not taken for one.
    hash: [u64; 2],
}

/// The message that had it last.
#[derive(Clone, Copy, Debug)]
struct Earlier {
    id_key: IdKey,
    at: Instant,
}

/// A message that was looked at and may be accepted.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Looked {
    content: Option<Content>,
    /// Whether the same was sent within the window.
    pub is_repeated: bool,
}

/// What a shard accepted lately.
#[derive(Debug, Default)]
pub struct Identical {
    /// Made when the settings want it.
    seen: Option<LruCache<Content, Earlier>>,
}

impl Identical {
    /// Compares a message with what was accepted; an error if it is not to be accepted.
    pub fn look(
        &mut self,
        rule: IdenticalMessages,
        (recipient, id_key): (WaId, IdKey),
        body: &[u8],
        now: Instant,
    ) -> Result<Looked, ApiError> {
        let Some(window) = rule.window.map(Duration::from_secs) else {
            self.seen = None;
            return Ok(Looked { content: None, is_repeated: false });
        };
        let content = Content { recipient, hash: [xxh64(body, 1), xxh64(body, 2)] };
        let seen = self.seen.get_or_insert_with(|| LruCache::new(REMEMBERED));
        let earlier = seen.get(&content).filter(|earlier| earlier.id_key != id_key);
        let wait = earlier.and_then(|earlier| (earlier.at + window).checked_duration_since(now)).filter(|wait| !wait.is_zero());
        match wait {
            Some(wait) if rule.refuse => {
                let details = "The same message was sent to this recipient before";
                Err(ApiError::new(Code::TooManyRequests, details).retry_after(wait))
            }
            _ => Ok(Looked { content: Some(content), is_repeated: wait.is_some() }),
        }
    }

    /// The message was accepted under this id.
    pub fn accepted(&mut self, looked: Looked, id_key: IdKey, now: Instant) {
        if let (Some(content), Some(seen)) = (looked.content, &mut self.seen) {
            seen.put(content, Earlier { id_key, at: now });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: IdenticalMessages = IdenticalMessages { window: Some(3600), refuse: true };

    fn user(i: u64) -> WaId {
        WaId::from_u64(15_550_001_000 + i).unwrap()
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    /// Sends one; whether it counts as repeated, or when it may be tried again.
    fn send(
        identical: &mut Identical,
        rule: IdenticalMessages,
        (to, id): (u64, u8),
        body: &str,
        now: Instant,
    ) -> Result<bool, u32> {
        let id_key = IdKey([id; 9]);
        let looked = identical.look(rule, (user(to), id_key), body.as_bytes(), now);
        let looked = looked.map_err(|error| error.retry_after_s.unwrap_or(0))?;
        identical.accepted(looked, id_key, now);
        Ok(looked.is_repeated)
    }

    #[test]
    fn r85_the_same_again_is_refused_within_the_window_and_another_text_or_recipient_is_not() {
        let (mut identical, t0) = (Identical::default(), start());
        let after = |seconds| t0 + Duration::from_secs(seconds);
        assert_eq!(send(&mut identical, HOUR, (1, 1), "hi", t0), Ok(false));
        assert_eq!(send(&mut identical, HOUR, (1, 2), "hi", after(10)), Err(3590));
        assert_eq!(send(&mut identical, HOUR, (1, 3), "hi!", after(10)), Ok(false));
        assert_eq!(send(&mut identical, HOUR, (2, 4), "hi", after(10)), Ok(false));
        assert_eq!(send(&mut identical, HOUR, (1, 5), "hi", after(3599)), Err(1), "what was refused moves nothing");
        assert_eq!(send(&mut identical, HOUR, (1, 6), "hi", after(3600)), Ok(false));
        assert_eq!(send(&mut identical, HOUR, (1, 7), "hi", after(3601)), Err(3599));
    }

    #[test]
    fn r85_without_refusal_the_same_again_is_only_noticed_and_without_a_window_not_even_that() {
        let (mut identical, t0) = (Identical::default(), start());
        let counting = IdenticalMessages { refuse: false, ..HOUR };
        for (id, repeated) in [(1, false), (2, true), (3, true)] {
            assert_eq!(send(&mut identical, counting, (1, id), "hi", t0), Ok(repeated));
        }
        let off = IdenticalMessages { window: None, refuse: true };
        assert_eq!(send(&mut identical, off, (1, 4), "hi", t0), Ok(false));
        assert_eq!(send(&mut identical, HOUR, (1, 5), "hi", t0), Ok(false), "nothing is remembered meanwhile");
    }

    #[test]
    fn r85_a_request_that_is_repeated_under_its_id_is_the_same_message() {
        let (mut identical, t0) = (Identical::default(), start());
        for _ in 0..2 {
            assert_eq!(send(&mut identical, HOUR, (1, 1), "hi", t0), Ok(false));
        }
    }

    #[test]
    fn r85_memory_is_bounded_and_what_is_forgotten_counts_as_new() {
        let (mut identical, t0) = (Identical::default(), start());
        for i in 0..=REMEMBERED.get() as u64 {
            assert_eq!(send(&mut identical, HOUR, (i, 1), "hi", t0), Ok(false));
        }
        assert_eq!(identical.seen.as_ref().map(LruCache::len), Some(REMEMBERED.get()));
        assert_eq!(send(&mut identical, HOUR, (0, 2), "hi", t0), Ok(false));
        assert!(send(&mut identical, HOUR, (REMEMBERED.get() as u64, 2), "hi", t0).is_err());
    }
}
