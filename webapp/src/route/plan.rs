//! What to do after each try of one request: answer, retry, hold, or give up (pure).
//!
//! Rules (reliability.md §6.9): `NOT_OWNER` with a hint is retried once at the hint, then held for
//! the map push; a broken stream is retried with the same id, which is harmless (I4); everything
//! together stays within the hold budget, measured from the first failure. What is refused after
//! a request left this process and was never answered is a 504 that says so (I9).

use std::time::Duration;

use estafet_model::{ApiError, Code};
use tokio::time::Instant;

/// What became of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The map names no owner.
    NoOwner,
    /// The owner's stream is not up.
    NoStream,
    /// The node is not the owner; it may know who is.
    NotOwner {
        /// The address of the owner, if known.
        hint: Option<String>,
    },
    /// The stream broke or the owner changed before the answer came.
    Broken {
        /// Whether the request had left this process.
        sent: bool,
    },
    /// The line to the owner is full.
    QueueFull,
    /// No answer in time.
    TimedOut {
        /// Whether the request had left this process.
        sent: bool,
    },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Try at this address.
    RetryAt(String),
    /// Wait for a change, at most this long, and try again.
    Hold(Duration),
    /// Answer this.
    GiveUp(ApiError),
}

/// First and longest distance between two tries of a held request without any news.
const FIRST_NAP: Duration = Duration::from_millis(5);
const LONGEST_NAP: Duration = Duration::from_millis(200);

/// The course of one request.
#[derive(Debug)]
pub struct Plan {
    budget: Duration,
    held_until: Option<Instant>,
    nap: Duration,
    hint_used: bool,
    in_doubt: bool,
}

impl Plan {
    /// A request that may be held for `budget`.
    pub fn new(budget: Duration) -> Self {
        Self { budget, held_until: None, nap: FIRST_NAP, hint_used: false, in_doubt: false }
    }

    /// Decides after a try that brought no answer.
    pub fn next(&mut self, missed: Missed, now: Instant) -> Step {
        match missed {
            // At the first try the edge says so at once; whoever has waited through a handoff keeps
            // waiting, since all the others come back at the same moment.
            Missed::QueueFull if self.held_until.is_none() => {
                return self.give_up(ApiError::new(Code::Overloaded, "Too many messages are waiting"));
            }
            Missed::TimedOut { sent } => {
                self.in_doubt |= sent;
                return self.give_up(ApiError::new(Code::Overloaded, "The message could not be handed over in time"));
            }
            Missed::Broken { sent } => self.in_doubt |= sent,
            Missed::NotOwner { hint: Some(hint) } if !self.hint_used => {
                self.hint_used = true;
                return Step::RetryAt(hint);
            }
            _ => {}
        }
        let until = *self.held_until.get_or_insert(now + self.budget);
        if now >= until {
            return self.give_up(match missed {
                Missed::QueueFull => ApiError::new(Code::Overloaded, "Too many messages are waiting"),
                Missed::NotOwner { .. } => ApiError::new(Code::NotPrimaryCoreapp, "The shard is moving, try again"),
                _ => ApiError::new(Code::NotReady, "No coreapp serves the recipient at the moment, try again"),
            });
        }
        let nap = self.nap.min(until - now);
        self.nap = (self.nap * 2).min(LONGEST_NAP);
        Step::Hold(nap)
    }

    /// The answer when no more requests can be held.
    pub fn too_many_held(&self) -> ApiError {
        self.doubt(ApiError::new(Code::NotPrimaryCoreapp, "Too many requests wait for a shard that is moving"))
    }

    fn give_up(&self, error: ApiError) -> Step {
        Step::GiveUp(self.doubt(error))
    }

    fn doubt(&self, error: ApiError) -> ApiError {
        if self.in_doubt {
            ApiError::new(Code::Generic, "No answer came in time; the message may have been stored and may still be sent")
                .with_status(504)
        } else {
            error
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_secs(2);

    fn gave_up(step: Step) -> (u16, u16) {
        match step {
            Step::GiveUp(error) => (error.status(), error.code.number()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hint_is_followed_once_and_then_the_map_is_waited_for() {
        let (mut plan, now) = (Plan::new(BUDGET), Instant::now());
        let not_owner = || Missed::NotOwner { hint: Some("core-1".into()) };
        assert_eq!(plan.next(not_owner(), now), Step::RetryAt("core-1".into()));
        assert_eq!(plan.next(not_owner(), now), Step::Hold(FIRST_NAP));
        assert_eq!(gave_up(plan.next(not_owner(), now + BUDGET)), (503, 1018));
    }

    #[test]
    fn holding_ends_with_the_budget_however_often_it_is_interrupted() {
        let (mut plan, start) = (Plan::new(BUDGET), Instant::now());
        let mut now = start;
        while let Step::Hold(nap) = plan.next(Missed::NoOwner, now) {
            assert!(!nap.is_zero() && nap <= LONGEST_NAP);
            now += nap;
        }
        assert_eq!(now, start + BUDGET);
        assert_eq!(gave_up(plan.next(Missed::NoOwner, now)), (503, 1011));
    }

    #[test]
    fn a_full_line_refuses_newcomers_and_lets_held_requests_wait() {
        let (mut plan, now) = (Plan::new(BUDGET), Instant::now());
        assert!(matches!(plan.next(Missed::NoStream, now), Step::Hold(_)));
        assert!(matches!(plan.next(Missed::QueueFull, now), Step::Hold(_)));
        assert_eq!(gave_up(plan.next(Missed::QueueFull, now + BUDGET)), (503, 1016));
        assert_eq!(gave_up(Plan::new(BUDGET).next(Missed::QueueFull, now)), (503, 1016));
    }

    #[test]
    fn an_unanswered_request_that_left_is_in_doubt() {
        let now = Instant::now();
        assert_eq!(gave_up(Plan::new(BUDGET).next(Missed::TimedOut { sent: true }, now)), (504, 1000));
        assert_eq!(gave_up(Plan::new(BUDGET).next(Missed::TimedOut { sent: false }, now)), (503, 1016));
        let mut broken = Plan::new(BUDGET);
        assert!(matches!(broken.next(Missed::Broken { sent: true }, now), Step::Hold(_)));
        assert_eq!(gave_up(broken.next(Missed::NoStream, now + BUDGET)), (504, 1000));
    }
}
