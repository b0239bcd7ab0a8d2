//! How much of a number, and of one conversation, is taken in a time; and what the network must be told of a message
//! for limits of its own.
//!
//! Both rates are buckets that fill evenly (GCRA): of each only the moment is kept at which it would be full again.
//! A shard has its share of the number's rate, by its part of the slots, so that nobody has to be asked. The
//! buckets of conversations are kept in memory, the latest ones only: what is forgotten counts as full, and a new owner
//! begins with full buckets. So a limit is never stricter than it says.

use std::{
    borrow::Cow,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use estafet_model::{ApiError, Code, ShardCount, WaId};
use lru::LruCache;
use serde::Deserialize;

/// Conversations whose buckets are kept: about 4 MiB for a shard, once they are there.
const CONVERSATIONS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// A bucket's size and how fast it fills.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Time between two at an even pace.
    interval: Duration,
    /// How far ahead of that pace one may be.
    ahead: Duration,
}

impl Rate {
    /// So many in a time, and so many at once; `None` if nothing is limited.
    fn new(count: u32, time: Duration, burst: u32) -> Option<Self> {
        let interval = time.checked_div(count)?;
        Some(Self { interval, ahead: interval.saturating_mul(burst.max(1) - 1) })
    }

    /// Takes one out of a bucket that is full again at `full_at`; the new moment, or how long it is empty.
    fn take(&self, full_at: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let from = full_at.map_or(now, |full_at| full_at.max(now));
        match from.saturating_duration_since(now).checked_sub(self.ahead) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(from + self.interval),
        }
    }
}

/// The limits of one shard.
#[derive(Debug)]
pub struct Limits {
    number: Option<Rate>,
    number_full_at: Option<Instant>,
    pair: Option<Rate>,
    pairs: LruCache<WaId, Instant>,
}

/// What is limited, for [`Limits::new`]; 0 in a time means no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Messages of the number in a second.
    pub number_per_second: u32,
    /// Messages of the number at once.
    pub number_burst: u32,
    /// Messages to one recipient in a minute.
    pub pair_per_minute: u32,
    /// Messages to one recipient at once.
    pub pair_burst: u32,
}

impl Limits {
    /// The limits of a shard of `count`.
    pub fn new(allowed: Allowed, count: ShardCount) -> Self {
        let shards = u32::from(count.get());
        let share = Duration::from_secs(1).saturating_mul(shards);
        let pair = Rate::new(allowed.pair_per_minute, Duration::from_secs(60), allowed.pair_burst);
        Self {
            number: Rate::new(allowed.number_per_second, share, allowed.number_burst.div_ceil(shards)),
            number_full_at: None,
            pairs: LruCache::new(if pair.is_some() { CONVERSATIONS } else { NonZeroUsize::MIN }),
            pair,
        }
    }

    /// Takes a message to `recipient` out of both buckets, or out of none.
    pub fn admit(&mut self, recipient: WaId, now: Instant) -> Result<(), ApiError> {
        let refused =
            |details: &'static str| move |wait: Duration| ApiError::new(Code::TooManyRequests, details).retry_after(wait);
        let pair = match self.pair {
            Some(rate) => {
                let full_at = rate.take(self.pairs.get(&recipient).copied(), now);
                Some(full_at.map_err(refused("Too many messages to this recipient"))?)
            }
            None => None,
        };
        if let Some(rate) = self.number {
            let full_at = rate.take(self.number_full_at, now).map_err(refused("Too many messages of this number"))?;
            self.number_full_at = Some(full_at);
        }
        if let Some(full_at) = pair {
            self.pairs.put(recipient, full_at);
        }
        Ok(())
    }
}

/// Whether a message is made from a template, which the network cannot see for itself.
pub fn is_template(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind<'a> {
        #[serde(borrow, rename = "type")]
        kind: Cow<'a, str>,
    }
    serde_json::from_slice(body).is_ok_and(|Kind { kind }| kind == "template" || kind == "hsm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(i: u64) -> WaId {
        WaId::from_u64(15_550_001_000 + i).unwrap()
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn admitted(limits: &mut Limits, users: impl Iterator<Item = u64>, now: Instant) -> usize {
        users.filter(|i| limits.admit(user(*i), now).is_ok()).count()
    }

    #[test]
    fn without_limits_everything_is_taken() {
        let mut limits = Limits::new(Allowed::default(), ShardCount::ONE);
        assert_eq!(admitted(&mut limits, std::iter::repeat_n(1, 10_000), start()), 10_000);
    }

    #[test]
    fn one_recipient_gets_a_burst_and_then_an_even_pace_and_others_are_not_held_up() {
        let allowed = Allowed { pair_per_minute: 10, pair_burst: 45, ..Allowed::default() };
        let (mut limits, now) = (Limits::new(allowed, ShardCount::ONE), start());
        assert_eq!(admitted(&mut limits, std::iter::repeat_n(1, 100), now), 45);
        let refused = limits.admit(user(1), now).unwrap_err();
        assert_eq!((refused.status(), refused.retry_after_s), (429, Some(6)), "the next one fits in six seconds");
        assert_eq!(admitted(&mut limits, 2..102, now), 100);
        let later = now + Duration::from_secs(60);
        assert_eq!(admitted(&mut limits, std::iter::repeat_n(1, 100), later), 10, "one in six seconds");
        assert_eq!(admitted(&mut limits, std::iter::repeat_n(1, 100), later + Duration::from_secs(3600)), 45);
    }

    #[test]
    fn a_shard_has_its_share_of_the_number_s_rate() {
        let allowed = Allowed { number_per_second: 80, number_burst: 160, ..Allowed::default() };
        for (count, burst, pace) in [(1, 160, 80), (4, 40, 20)] {
            let (mut limits, now) = (Limits::new(allowed, ShardCount::new(count).unwrap()), start());
            assert_eq!(admitted(&mut limits, 0..1000, now), burst);
            assert_eq!(admitted(&mut limits, 0..1000, now + Duration::from_secs(1)), pace);
        }
    }

    #[test]
    fn what_one_limit_refuses_the_other_does_not_count() {
        let allowed = Allowed { number_per_second: 1, number_burst: 2, pair_per_minute: 1, pair_burst: 1 };
        let (mut limits, now) = (Limits::new(allowed, ShardCount::ONE), start());
        assert!(limits.admit(user(1), now).is_ok());
        assert!((0..10).all(|_| limits.admit(user(1), now).is_err()), "the recipient had enough");
        assert!(limits.admit(user(2), now).is_ok(), "and the number was not charged for it");
        assert!(limits.admit(user(3), now).is_err());
        assert!(limits.admit(user(3), now + Duration::from_secs(1)).is_ok(), "nor the recipient for the number");
    }

    #[test]
    fn only_templates_are_told_as_such() {
        assert!(is_template(br#"{"to":"1","type":"template","template":{}}"#) && is_template(br#"{"type":"hsm"}"#));
        for other in [&br#"{"type":"text","text":{"body":"template"}}"#[..], br#"{"template":{}}"#, b"", b"[]", b"\xff"] {
            assert!(!is_template(other));
        }
    }
}
