//! What is kept of a user: the identity that is known, and the end-to-end sessions with it (spec/contacts.md §2).
//!
//! Both are one row and written together, so sessions never belong to another identity than the one the business
//! could hear of. The row begins with a format of its own; one that was written before identities were kept is only
//! a ratchet, and the identity is learnt with the next keys or the next message.

use estafet_upstream::e2e::{self, IdentityKey, Ratchet};
use sha2::{Digest as _, Sha256};

/// First byte of a row with an identity. A ratchet alone begins with 1.
const FORMAT: u8 = 2;

/// Bytes of the hash that names an identity.
pub const HASH_LEN: usize = 8;

/// The identity of a user, as the business knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The key of the phone.
    pub key: IdentityKey,
    /// Since when it is known, milliseconds since 1970.
    pub since_ms: i64,
    /// Whether the business accepts it. The first one of a user is accepted by itself.
    pub acknowledged: bool,
}

impl Identity {
    /// The name of the identity: the first bytes of the key's SHA-256.
    pub fn hash(&self) -> [u8; HASH_LEN] {
        let digest = Sha256::digest(self.key);
        std::array::from_fn(|i| digest[i])
    }
}

/// What is kept of one user.
#[derive(Debug, Default)]
pub struct Peer {
    identity: Option<Identity>,
    /// Sessions with that identity; `None` until one is opened.
    pub ratchet: Option<Ratchet>,
}

impl Peer {
    /// The identity, if it is known.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether the business has exchanged anything with the user.
    pub fn is_known(&self) -> bool {
        self.identity.is_some() || self.ratchet.is_some()
    }

    /// Whether the identity changed and the business has not accepted that.
    pub fn is_held(&self) -> bool {
        self.identity.is_some_and(|identity| !identity.acknowledged)
    }

    /// Whether `key` is another identity than the one that is known.
    pub fn differs(&self, key: &IdentityKey) -> bool {
        self.identity.is_some_and(|identity| identity.key != *key)
    }

    /// Takes the identity the user has now. The first one is accepted; another one is `acknowledged` or not, and
    /// ends the sessions, since nobody can read what is sent over them any more.
    pub fn observe(&mut self, key: IdentityKey, now_ms: i64, acknowledged: bool) {
        match self.identity {
            Some(known) if known.key == key => {}
            Some(_) => {
                self.identity = Some(Identity { key, since_ms: now_ms, acknowledged });
                self.ratchet = None;
            }
            None => self.identity = Some(Identity { key, since_ms: now_ms, acknowledged: true }),
        }
    }

    /// The business accepts the identity with this hash; `false`: it is not the present one.
    pub fn acknowledge(&mut self, hash: &[u8]) -> bool {
        match &mut self.identity {
            Some(identity) if identity.hash() == *hash => {
                identity.acknowledged = true;
                true
            }
            _ => false,
        }
    }

    /// The row to store; `None` while nothing is known. Secret, like the sessions in it.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let ratchet = self.ratchet.as_ref().map(Ratchet::to_bytes);
        let Some(identity) = &self.identity else { return ratchet };
        let mut row = vec![FORMAT, u8::from(identity.acknowledged)];
        row.extend_from_slice(&identity.since_ms.to_be_bytes());
        row.extend_from_slice(&identity.key);
        row.extend(ratchet.unwrap_or_default());
        Some(row)
    }

    /// What was stored.
    pub fn from_bytes(row: &[u8]) -> Result<Self, e2e::Error> {
        let [FORMAT, acknowledged, rest @ ..] = row else {
            return Ok(Self { identity: None, ratchet: Some(Ratchet::from_bytes(row)?) });
        };
        let (since_ms, rest) = rest.split_first_chunk().ok_or(e2e::Error::State)?;
        let (key, ratchet) = rest.split_first_chunk().ok_or(e2e::Error::State)?;
        let identity = Identity { key: *key, since_ms: i64::from_be_bytes(*since_ms), acknowledged: *acknowledged != 0 };
        let ratchet = if ratchet.is_empty() { None } else { Some(Ratchet::from_bytes(ratchet)?) };
        Ok(Self { identity: Some(identity), ratchet })
    }
}

#[cfg(test)]
mod tests {
    use estafet_upstream::e2e::Account;

    use super::*;

    fn ratchet() -> Ratchet {
        Ratchet::outbound(&Account::new(), &Account::new().take_bundle()).unwrap()
    }

    fn reread(peer: &Peer) -> Peer {
        Peer::from_bytes(&peer.to_bytes().unwrap()).unwrap()
    }

    #[test]
    fn the_first_identity_is_accepted_and_a_changed_one_ends_the_sessions() {
        let mut peer = Peer { ratchet: Some(ratchet()), ..Peer::default() };
        peer.observe([1; 32], 10, false);
        assert!(!peer.is_held() && peer.ratchet.is_some() && peer.differs(&[2; 32]) && !peer.differs(&[1; 32]));
        peer.observe([1; 32], 20, false);
        assert_eq!(peer.identity().unwrap().since_ms, 10, "nothing new");
        peer.observe([2; 32], 30, false);
        assert!(peer.is_held() && peer.ratchet.is_none());
        peer.observe([3; 32], 40, true);
        assert!(!peer.is_held());
    }

    #[test]
    fn only_the_present_identity_can_be_acknowledged() {
        let mut peer = Peer::default();
        assert!(!peer.acknowledge(&[0; 8]));
        peer.observe([1; 32], 0, false);
        let first = peer.identity().unwrap().hash();
        peer.observe([2; 32], 0, false);
        assert!(!peer.acknowledge(&first) && !peer.acknowledge(b"") && peer.is_held());
        let second = peer.identity().unwrap().hash();
        assert!(peer.acknowledge(&second) && !peer.is_held());
    }

    #[test]
    fn a_row_comes_back_with_and_without_sessions_and_from_before_identities() {
        let mut peer = Peer::default();
        assert_eq!(peer.to_bytes(), None);
        peer.observe([1; 32], 0, false);
        peer.observe([2; 32], 1_800_000_000_123, false);
        assert_eq!((reread(&peer).identity(), reread(&peer).ratchet.is_none()), (peer.identity(), true));
        peer.ratchet = Some(ratchet());
        assert!(reread(&peer).ratchet.is_some() && reread(&peer).is_held());
        let old = Peer { identity: None, ratchet: Some(ratchet()) };
        assert!(reread(&old).identity().is_none() && reread(&old).ratchet.is_some());
        for damaged in [&b""[..], &[FORMAT], &[FORMAT, 1, 0], &[FORMAT; 42], &[FORMAT; 60]] {
            let read = Peer::from_bytes(damaged);
            assert_eq!(read.is_ok(), damaged.len() == 42, "{damaged:?}");
        }
    }
}
