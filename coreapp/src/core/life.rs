//! The life of a shard on this node.
//!
//!     (warm) --epoch--> Acquiring --loaded--> Active --drain--------------------> Draining --empty--> Released
//!                           \                  ^  \_hand off_> Quieting -> HandingOff --raised--------^  ^
//!                            \                 \___given up_______/____________/                        /
//!                             \_________________ a newer epoch was seen _______________________________/
//!
//! `Active` and `Quieting` accept; `HandingOff` holds what is asked until it is known who answers it. `Released` is final
//! for an epoch: the node writes and sends nothing more under it (**I2**). What is warm has no epoch yet
//! ([`super::handoff::Standbys`]).

use estafet_model::Epoch;

/// Where a shard stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The epoch is ours; nothing is accepted yet.
    Acquiring,
    /// Accepting, sending, delivering.
    Active,
    /// What runs is finished, nothing new is taken.
    Draining,
    /// Accepting; nothing new is sent or posted, answers to what was are waited for.
    Quieting,
    /// What is being written is finished, what is asked waits; then the epoch is raised for another node.
    HandingOff,
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
    /// The epoch was raised for another node, here.
    HandedOff {
        /// That node's epoch.
        epoch: Epoch,
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
        if matches!(self, Self::Acquiring | Self::Active | Self::Quieting | Self::HandingOff) {
            *self = Self::Draining;
        }
    }

    /// Asked to hand the shard to another node; says whether that begins.
    pub fn hand_off(&mut self) -> bool {
        let begins = *self == Self::Active;
        if begins {
            *self = Self::Quieting;
        }
        begins
    }

    /// Quiet enough to be handed off.
    pub fn quiet(&mut self) {
        if *self == Self::Quieting {
            *self = Self::HandingOff;
        }
    }

    /// Whether the shard is being handed to another node.
    pub fn is_handing_off(self) -> bool {
        matches!(self, Self::Quieting | Self::HandingOff)
    }

    /// The other node did not get it.
    pub fn keep(&mut self) {
        if self.is_handing_off() {
            *self = Self::Active;
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
        matches!(self, Self::Active | Self::Quieting)
    }

    /// Whether anything new is sent or posted.
    pub fn delivers(self) -> bool {
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
    fn a_handoff_begins_once_and_what_is_not_handed_off_goes_on() {
        let mut life = Life::Acquiring;
        assert!(!life.hand_off(), "nothing is loaded yet");
        life.loaded();
        assert!(life.hand_off() && !life.hand_off() && life.accepts() && !life.delivers());
        life.keep();
        assert!(life.delivers() && life.hand_off());
        life.quiet();
        assert!(life.is_handing_off() && !life.accepts());
        life.keep();
        assert!(life.accepts() && life.hand_off());
        life.quiet();
        life.superseded(Reason::HandedOff { epoch: Epoch::new(2) });
        life.keep();
        assert_eq!(life.released(), Some(Reason::HandedOff { epoch: Epoch::new(2) }));
    }

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
