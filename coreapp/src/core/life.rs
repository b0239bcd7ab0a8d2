//! The life of a shard on this node.
//!
//!     Acquiring --loaded--> Active --drain--> Draining --empty--> Released
//!         \____________________\______ a newer epoch was seen ______^
//!
//! Only `Active` accepts. `Released` is final for an epoch: the node writes and sends nothing more
//! under it (**I2**).

/// Where a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The epoch is ours; nothing is accepted yet.
    Acquiring,
    /// Accepting, sending, delivering.
    Active,
    /// What runs is finished, nothing new is taken.
    Draining,
    /// Over.
    Released(Reason),
}

/// Why a shard was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Asked to, and everything that ran is finished.
    Drained,
    /// The database has a newer epoch.
    Fenced,
    /// The sequence numbers of the epoch are used up.
    Exhausted,
    /// The upstream has seen a newer epoch.
    StaleUpstream {
        /// That epoch.
        highest: u64,
    },
}

impl Life {
    /// The shard's state is loaded.
    pub fn loaded(&mut self) {
        if *self == Self::Acquiring {
            *self = Self::Active;
        }
    }

    /// Asked to let go in an orderly way.
    pub fn drain(&mut self) {
        if matches!(self, Self::Acquiring | Self::Active) {
            *self = Self::Draining;
        }
    }

    /// Nothing runs any more.
    pub fn idle(&mut self) {
        if *self == Self::Draining {
            *self = Self::Released(Reason::Drained);
        }
    }

    /// A newer epoch was seen.
    pub fn superseded(&mut self, reason: Reason) {
        if !matches!(self, Self::Released(_)) {
            *self = Self::Released(reason);
        }
    }

    /// Whether new requests are taken.
    pub fn accepts(self) -> bool {
        self == Self::Active
    }

    /// Why it is over, if it is.
    pub fn released(self) -> Option<Reason> {
        match self {
            Self::Released(reason) => Some(reason),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superseded_shard_never_comes_back() {
        let mut life = Life::Acquiring;
        life.loaded();
        assert!(life.accepts());
        life.superseded(Reason::Fenced);
        life.loaded();
        life.drain();
        life.idle();
        assert_eq!(life, Life::Released(Reason::Fenced));
        assert!(!life.accepts());
    }
}
