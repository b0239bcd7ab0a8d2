//! The receivers of a number's callbacks. Each has a number of its own that is never given to another one, so what
//! is stored for a receiver that was removed can never be taken for a new one's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A receiver of callbacks of one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointId(u16);

impl EndpointId {
    /// The one of `webhooks.url`.
    pub const MAIN: Self = Self(0);

    /// An endpoint as stored.
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The value.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The endpoint made after this one; `None` when all numbers were given away.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
