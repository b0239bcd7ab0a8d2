//! Request rates of a number at this replica: one bucket for messages, one for the rest (spec/messages.md §5).

use std::num::NonZeroU32;

use estafet_model::{ApiError, Code};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config::Limits;

/// Which bucket an endpoint draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `POST /v1/messages`.
    Messages,
    /// Everything else.
    Others,
    /// Health, metrics: never limited.
    Free,
}

/// The buckets.
pub(crate) struct Limiter {
    messages: DefaultDirectRateLimiter,
    others: DefaultDirectRateLimiter,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            messages: bucket(limits.messages_per_second, limits.messages_burst),
            others: bucket(limits.others_per_second, limits.others_burst),
        }
    }

    /// Takes one request out of its bucket.
    pub(crate) fn admit(&self, class: Class) -> Result<(), ApiError> {
        let bucket = match class {
            Class::Free => return Ok(()),
            Class::Messages => &self.messages,
            Class::Others => &self.others,
        };
        bucket.check().map_err(|_| ApiError::new(Code::TooManyRequests, "The request rate is over its limit"))
    }
}

fn bucket(per_second: u32, burst: u32) -> DefaultDirectRateLimiter {
    let at_least_one = |value| NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN);
    RateLimiter::direct(Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_a_bucket_of_its_own() {
        let limits =
            Limits { messages_per_second: 1, messages_burst: 2, others_per_second: 1, others_burst: 1, ..Limits::default() };
        let limiter = Limiter::new(&limits);
        assert!(limiter.admit(Class::Messages).is_ok() && limiter.admit(Class::Messages).is_ok());
        assert_eq!(limiter.admit(Class::Messages).unwrap_err().status(), 429);
        assert!(limiter.admit(Class::Others).is_ok());
        assert!((0..1000).all(|_| limiter.admit(Class::Free).is_ok()));
    }
}
