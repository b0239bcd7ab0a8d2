//! Receipts as a lattice: the set of statuses a message has reached only grows (spec/webhooks.md §6).

use serde::{Deserialize, Serialize};

/// One status of one outgoing message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The upstream has it.
    Sent,
    /// A phone has it.
    Delivered,
    /// A person saw it.
    Read,
    /// It will never arrive; final.
    Failed,
    /// It arrived, but shows something that is not to be had: a product of the catalogue.
    Warning,
}

impl Status {
    /// Every status, in order.
    pub const ALL: [Self; 5] = [Self::Sent, Self::Delivered, Self::Read, Self::Failed, Self::Warning];

    /// The word of the On-Premises API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Warning => "warning",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The statuses a message has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StatusSet(u8);

impl StatusSet {
    /// Accepted, nothing more.
    pub const EMPTY: Self = Self(0);

    /// A set as stored.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b1_1111)
    }

    /// The bits to store.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether `status` was reached.
    pub const fn contains(self, status: Status) -> bool {
        self.0 & status.bit() != 0
    }

    /// Whether the upstream has answered for the message, either way.
    pub const fn is_settled(self) -> bool {
        self.0 != 0
    }

    /// Adds `status`; says whether that is news. After `failed` nothing is.
    pub fn advance(&mut self, status: Status) -> bool {
        if self.contains(status) || self.contains(Status::Failed) {
            return false;
        }
        if status == Status::Failed && self.0 & (Status::Delivered.bit() | Status::Read.bit()) != 0 {
            return false;
        }
        self.0 |= status.bit();
        true
    }

    /// The furthest status reached; a warning is none on the way.
    pub fn furthest(self) -> Option<Status> {
        Status::ALL.into_iter().rev().find(|s| *s != Status::Warning && self.contains(*s))
    }
}

/// What a phone says of a template that it cannot show. The API has no code of its own for it: the business is told
/// [`Code::MessageGenericError`](crate::Code::MessageGenericError) with [`STRUCTURE_UNAVAILABLE_TITLE`].
pub const STRUCTURE_UNAVAILABLE: u16 = 5001;

/// The title of such a failure (spec/templates.md §5).
pub const STRUCTURE_UNAVAILABLE_TITLE: &str = "structure unavailable: Client could not display highly structured message (HSM)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_news_once_and_never_regresses() {
        let mut set = StatusSet::EMPTY;
        assert!(set.advance(Status::Sent));
        assert!(set.advance(Status::Read));
        assert!(set.advance(Status::Delivered), "a late callback is still sent");
        assert!(!set.advance(Status::Delivered));
        assert!(!set.advance(Status::Failed), "delivered messages do not fail");
        assert_eq!(set.furthest(), Some(Status::Read));
    }

    #[test]
    fn failed_is_final() {
        let mut set = StatusSet::EMPTY;
        assert!(set.advance(Status::Sent) && set.advance(Status::Failed));
        assert!(Status::ALL.into_iter().all(|s| !set.advance(s)));
        assert_eq!(StatusSet::from_bits(set.bits()), set);
    }

    #[test]
    fn r88_a_warning_is_news_once_and_says_nothing_of_how_far_a_message_came() {
        let mut set = StatusSet::EMPTY;
        assert!(set.advance(Status::Sent) && set.advance(Status::Warning) && !set.advance(Status::Warning));
        assert_eq!(set.furthest(), Some(Status::Sent));
        assert!(set.advance(Status::Delivered) && set.advance(Status::Read));
        assert_eq!((set.furthest(), StatusSet::from_bits(set.bits())), (Some(Status::Read), set));
    }
}
