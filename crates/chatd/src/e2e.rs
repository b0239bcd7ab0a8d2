//! End-to-end encryption with Olm (vodozemac): accounts, and ratchets that hold the sessions with one peer.
//!
//! A business account publishes only its identity key and one fallback key. Phones that write first
//! use the fallback key, which is reusable, so the account **never changes** after its creation: the
//! shards of a number share it on any node without locking or storing it again. Phones hand out
//! one-time keys, so a phone's account changes and is stored with each change.
//!
//! Everything is stored by the caller, in the transaction of the message it belongs to; a ratchet that
//! was advanced but not stored is as if it had never been. A replayed message does not decrypt twice.
//! Secrets have no `Debug`, and vodozemac wipes its keys when they are dropped.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use vodozemac::{
    Curve25519PublicKey, Curve25519SecretKey,
    olm::{self, AccountPickle, OlmMessage, PreKeyMessage, Session, SessionConfig, SessionPickle},
};

/// Sessions a ratchet keeps for one peer; more than one only after both sides opened one at once or after a retry.
const MAX_SESSIONS: usize = 4;

/// One-time keys that may be out and unused; above it the fallback key is handed out, so that
/// someone who only fetches keys cannot grow the account without end.
const MAX_OPEN_KEYS: usize = 100;

/// First byte of everything serialised here.
const FORMAT: u8 = 1;

/// Why a message or a stored state was not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A public key is not 32 bytes, or is a point that yields no secret.
    #[error("invalid key")]
    Key,
    /// Not an Olm message.
    #[error("malformed message")]
    Malformed,
    /// No session fits, and the message cannot open one.
    #[error("no session for this message")]
    NoSession,
    /// A session fits, but the message is forged, damaged, replayed or too old.
    #[error("message does not decrypt")]
    Decrypt,
    /// Stored bytes are not ours.
    #[error("stored state is damaged")]
    State,
}

/// An encrypted message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// 0: opens a session; 1: within one.
    pub kind: u8,
    /// Ciphertext.
    pub ciphertext: Bytes,
}

impl Sealed {
    fn parse(&self) -> Result<OlmMessage, Error> {
        OlmMessage::from_parts(usize::from(self.kind), &self.ciphertext).map_err(|_| Error::Malformed)
    }
}

/// A Curve25519 identity key.
pub type IdentityKey = [u8; 32];

/// What a user's phone publishes so that others can open a session to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyBundle {
    /// Curve25519 identity key, 32 bytes.
    pub identity_key: Bytes,
    /// One-time (or fallback) key, 32 bytes.
    pub one_time_key: Bytes,
}

/// What a business number publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeys {
    /// Curve25519 identity key.
    pub identity_key: Bytes,
    /// Ed25519 signing key.
    pub signing_key: Bytes,
    /// Reusable key for phones that write first.
    pub fallback_key: Bytes,
    /// Signature of `fallback_key`.
    pub fallback_signature: Bytes,
}

impl PublicKeys {
    /// Whether the fallback key is signed by the signing key.
    pub fn is_signed(&self) -> bool {
        let check = || {
            let key = <[u8; 32]>::try_from(&*self.signing_key).ok()?;
            let key = vodozemac::Ed25519PublicKey::from_slice(&key).ok()?;
            let signature = vodozemac::Ed25519Signature::from_slice(&self.fallback_signature).ok()?;
            key.verify(&self.fallback_key, &signature).ok()
        };
        self.identity_key.len() == 32 && self.fallback_key.len() == 32 && check().is_some()
    }

    /// The keys a phone opens a session to the number with.
    pub fn bundle(&self) -> KeyBundle {
        KeyBundle { identity_key: self.identity_key.clone(), one_time_key: self.fallback_key.clone() }
    }
}

/// Identity of a business number or of a phone.
pub struct Account {
    inner: olm::Account,
    /// vodozemac shows a fallback key only until it is marked as published.
    fallback_key: Curve25519PublicKey,
}

#[derive(Serialize, Deserialize)]
struct StoredAccount {
    account: AccountPickle,
    fallback_key: Curve25519PublicKey,
}

impl Account {
    /// A new identity with a fallback key.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let mut inner = olm::Account::new();
        inner.generate_fallback_key();
        let fallback_key = inner.fallback_key().into_values().next().expect("a fallback key was just generated");
        inner.mark_keys_as_published();
        Self { inner, fallback_key }
    }

    /// The account to store. Secret: encrypt it at rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&StoredAccount { account: self.inner.pickle(), fallback_key: self.fallback_key })
    }

    /// The account as it was stored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let stored: StoredAccount = decode(bytes)?;
        Ok(Self { inner: olm::Account::from_pickle(stored.account), fallback_key: stored.fallback_key })
    }

    /// What others may know of a business account.
    pub fn public_keys(&self) -> PublicKeys {
        PublicKeys {
            identity_key: self.identity_key(),
            signing_key: Bytes::copy_from_slice(self.inner.ed25519_key().as_bytes()),
            fallback_key: key_bytes(&self.fallback_key),
            fallback_signature: Bytes::copy_from_slice(&self.inner.sign(self.fallback_key.as_bytes()).to_bytes()),
        }
    }

    /// The Curve25519 identity key.
    pub fn identity_key(&self) -> Bytes {
        key_bytes(&self.inner.curve25519_key())
    }

    /// One-time keys that were handed out and not used; when it changes, the account must be stored.
    pub fn open_keys(&self) -> usize {
        self.inner.stored_one_time_key_count()
    }

    /// Hands out a one-time key (for phones). The account has changed and must be stored before the key is used.
    pub fn take_bundle(&mut self) -> KeyBundle {
        let key = if self.open_keys() < MAX_OPEN_KEYS {
            let created = self.inner.generate_one_time_keys(1).created;
            self.inner.mark_keys_as_published();
            created.first().copied()
        } else {
            None
        };
        KeyBundle { identity_key: self.identity_key(), one_time_key: key_bytes(&key.unwrap_or(self.fallback_key)) }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account(..)")
    }
}

/// All Olm sessions with one peer, the one that worked last first.
pub struct Ratchet {
    /// Never empty.
    sessions: Vec<Session>,
}

impl Ratchet {
    /// Opens a session to a peer whose keys were fetched.
    pub fn outbound(account: &Account, bundle: &KeyBundle) -> Result<Self, Error> {
        Ok(Self { sessions: vec![open(account, bundle)?] })
    }

    /// Opens another session to the same peer, which is used from now on; the older ones still
    /// decrypt what is on its way. For retries.
    pub fn renew(&mut self, account: &Account, bundle: &KeyBundle) -> Result<(), Error> {
        self.adopt(open(account, bundle)?);
        Ok(())
    }

    /// Takes the first message of a peer we have no session with.
    pub fn inbound(account: &mut Account, sealed: &Sealed, identity_key: &[u8]) -> Result<(Self, Vec<u8>), Error> {
        let OlmMessage::PreKey(message) = sealed.parse()? else { return Err(Error::NoSession) };
        let (session, plaintext) = accept(account, &message, identity_key)?;
        Ok((Self { sessions: vec![session] }, plaintext))
    }

    /// Encrypts with the session that worked last. The ratchet has changed and must be stored before the message is sent.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Sealed {
        let session = self.sessions.first_mut().expect("a ratchet is made with a session and never loses its last");
        let message = session.encrypt(plaintext).expect("keys of the peer were checked when the session was opened or advanced");
        let (kind, ciphertext) = message.to_parts();
        Sealed { kind: kind as u8, ciphertext: ciphertext.into() }
    }

    /// Decrypts a message of the peer. A message that opens a session we do not know adds it.
    pub fn decrypt(&mut self, account: &mut Account, sealed: &Sealed, identity_key: &[u8]) -> Result<Vec<u8>, Error> {
        let message = sealed.parse()?;
        if let OlmMessage::PreKey(opening) = &message {
            return self.decrypt_opening(account, opening, identity_key);
        }
        for at in 0..self.sessions.len() {
            if let Ok(plaintext) = self.sessions[at].decrypt(&message) {
                self.sessions[..=at].rotate_right(1);
                return Ok(plaintext);
            }
        }
        Err(Error::Decrypt)
    }

    fn decrypt_opening(&mut self, account: &mut Account, opening: &PreKeyMessage, identity_key: &[u8]) -> Result<Vec<u8>, Error> {
        let keys = opening.session_keys();
        if keys.identity_key != key(identity_key)? {
            return Err(Error::Key);
        }
        // A known session must not be opened again: the fallback key would let a replay through.
        match self.sessions.iter().position(|session| session.session_keys() == keys) {
            Some(at) => {
                let message = OlmMessage::PreKey(opening.clone());
                let plaintext = self.sessions[at].decrypt(&message).map_err(|_| Error::Decrypt)?;
                self.sessions[..=at].rotate_right(1);
                Ok(plaintext)
            }
            None => {
                let (session, plaintext) = accept(account, opening, identity_key)?;
                self.adopt(session);
                Ok(plaintext)
            }
        }
    }

    fn adopt(&mut self, session: Session) {
        self.sessions.insert(0, session);
        self.sessions.truncate(MAX_SESSIONS);
    }

    /// The ratchet to store. Secret: encrypt it at rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.sessions.iter().map(Session::pickle).collect::<Vec<_>>())
    }

    /// The ratchet as it was stored.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let pickles: Vec<SessionPickle> = decode(bytes)?;
        if pickles.is_empty() || pickles.len() > MAX_SESSIONS {
            return Err(Error::State);
        }
        Ok(Self { sessions: pickles.into_iter().map(Session::from_pickle).collect() })
    }
}

impl fmt::Debug for Ratchet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ratchet(..)")
    }
}

fn open(account: &Account, bundle: &KeyBundle) -> Result<Session, Error> {
    let (identity, one_time) = (key(&bundle.identity_key)?, key(&bundle.one_time_key)?);
    account.inner.create_outbound_session(SessionConfig::version_1(), identity, one_time).map_err(|_| Error::Key)
}

fn accept(account: &mut Account, opening: &PreKeyMessage, identity_key: &[u8]) -> Result<(Session, Vec<u8>), Error> {
    // vodozemac checks this key only when we answer, when it would be too late to refuse the message.
    if Curve25519SecretKey::new().diffie_hellman(&opening.message().ratchet_key()).is_none() {
        return Err(Error::Key);
    }
    let created = account.inner.create_inbound_session(SessionConfig::version_1(), key(identity_key)?, opening);
    created.map(|created| (created.session, created.plaintext)).map_err(|error| match error {
        olm::SessionCreationError::MissingOneTimeKey(_) => Error::NoSession,
        olm::SessionCreationError::Decryption(_) => Error::Decrypt,
        _ => Error::Key,
    })
}

fn key(bytes: &[u8]) -> Result<Curve25519PublicKey, Error> {
    Curve25519PublicKey::from_slice(bytes).map_err(|_| Error::Key)
}

fn key_bytes(key: &Curve25519PublicKey) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

/// MessagePack: compact, and able to carry vodozemac's tagged enums, which postcard is not.
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(FORMAT);
    rmp_serde::encode::write(&mut out, value).expect("writing to memory does not fail");
    out
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, Error> {
    let [FORMAT, body @ ..] = bytes else { return Err(Error::State) };
    rmp_serde::from_slice(body).map_err(|_| Error::State)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reloaded(ratchet: &Ratchet) -> Ratchet {
        Ratchet::from_bytes(&ratchet.to_bytes()).unwrap()
    }

    /// A business and a phone with a session between them, in both directions.
    fn pair() -> (Account, Ratchet, Account, Ratchet) {
        let (mut business, mut phone) = (Account::new(), Account::new());
        let mut out = Ratchet::outbound(&business, &phone.take_bundle()).unwrap();
        let first = out.encrypt(b"one");
        let (mut back, plaintext) = Ratchet::inbound(&mut phone, &first, &business.identity_key()).unwrap();
        assert_eq!(plaintext, b"one");
        let reply = back.encrypt(b"two");
        assert_eq!(out.decrypt(&mut business, &reply, &phone.identity_key()).unwrap(), b"two");
        (business, out, phone, back)
    }

    #[test]
    fn sessions_and_accounts_survive_being_stored() {
        let (business, mut out, phone, mut back) = pair();
        let mut phone = Account::from_bytes(&phone.to_bytes()).unwrap();
        assert_eq!(
            Account::from_bytes(&business.to_bytes()).unwrap().public_keys().fallback_key,
            business.public_keys().fallback_key
        );
        for round in 0..20u8 {
            (out, back) = (reloaded(&out), reloaded(&back));
            let sealed = out.encrypt(&[round; 100]);
            assert_eq!(sealed.kind, 1);
            assert_eq!(back.decrypt(&mut phone, &sealed, &business.identity_key()).unwrap(), [round; 100]);
        }
        assert!(out.to_bytes().len() < 1500, "{} bytes", out.to_bytes().len());
    }

    #[test]
    fn a_phone_that_writes_first_leaves_the_business_account_unchanged() {
        let (mut business, phone) = (Account::new(), Account::new());
        let before = business.to_bytes();
        let keys = business.public_keys();
        assert!(keys.is_signed());
        for _ in 0..3 {
            let mut out = Ratchet::outbound(&phone, &keys.bundle()).unwrap();
            let (_, plaintext) = Ratchet::inbound(&mut business, &out.encrypt(b"hi"), &phone.identity_key()).unwrap();
            assert_eq!(plaintext, b"hi");
        }
        assert_eq!(business.to_bytes(), before);
    }

    #[test]
    fn both_sides_may_open_a_session_at_once() {
        let (mut business, mut phone) = (Account::new(), Account::new());
        let mut out = Ratchet::outbound(&business, &phone.take_bundle()).unwrap();
        let mut back = Ratchet::outbound(&phone, &business.public_keys().bundle()).unwrap();
        let (a, b) = (out.encrypt(b"a"), back.encrypt(b"b"));
        assert_eq!(back.decrypt(&mut phone, &a, &business.identity_key()).unwrap(), b"a");
        assert_eq!(out.decrypt(&mut business, &b, &phone.identity_key()).unwrap(), b"b");
        for _ in 0..3 {
            let (a, b) = (out.encrypt(b"a"), back.encrypt(b"b"));
            assert_eq!(back.decrypt(&mut phone, &a, &business.identity_key()).unwrap(), b"a");
            assert_eq!(out.decrypt(&mut business, &b, &phone.identity_key()).unwrap(), b"b");
        }
    }

    #[test]
    fn a_renewed_session_takes_over_and_the_old_one_still_decrypts() {
        let (mut business, mut out, mut phone, mut back) = pair();
        let late = back.encrypt(b"late");
        out.renew(&business, &phone.take_bundle()).unwrap();
        let opening = out.encrypt(b"again");
        assert_eq!(opening.kind, 0);
        assert_eq!(back.decrypt(&mut phone, &opening, &business.identity_key()).unwrap(), b"again");
        assert_eq!(out.decrypt(&mut business, &late, &phone.identity_key()).unwrap(), b"late");
        for _ in 0..10 {
            out.renew(&business, &phone.take_bundle()).unwrap();
        }
        assert_eq!(out.sessions.len(), MAX_SESSIONS);
    }

    #[test]
    fn replays_are_refused_even_over_the_reusable_key() {
        let (mut business, phone) = (Account::new(), Account::new());
        let mut out = Ratchet::outbound(&phone, &business.public_keys().bundle()).unwrap();
        let first = out.encrypt(b"hi");
        let (mut back, _) = Ratchet::inbound(&mut business, &first, &phone.identity_key()).unwrap();
        assert_eq!(back.decrypt(&mut business, &first, &phone.identity_key()), Err(Error::Decrypt));
    }

    #[test]
    fn a_key_is_usable_once_and_unused_ones_are_bounded() {
        let (business, mut phone) = (Account::new(), Account::new());
        let bundle = phone.take_bundle();
        let mut first = Ratchet::outbound(&business, &bundle).unwrap();
        let mut second = Ratchet::outbound(&business, &bundle).unwrap();
        assert!(Ratchet::inbound(&mut phone, &first.encrypt(b"1"), &business.identity_key()).is_ok());
        assert_eq!(Ratchet::inbound(&mut phone, &second.encrypt(b"2"), &business.identity_key()).err(), Some(Error::NoSession));
        let keys: Vec<_> = (0..200).map(|_| phone.take_bundle().one_time_key).collect();
        assert_eq!(keys[199], phone.public_keys().fallback_key);
        assert!(phone.to_bytes().len() < 20_000);
    }

    #[test]
    fn damaged_input_is_an_error() {
        let (business, mut out, mut phone, mut back) = pair();
        let identity = business.identity_key();
        let sealed = out.encrypt(b"payload");
        for at in 0..sealed.ciphertext.len() {
            let mut bytes = sealed.ciphertext.to_vec();
            bytes[at] ^= 1;
            let damaged = Sealed { kind: 1, ciphertext: bytes.into() };
            assert!(reloaded(&back).decrypt(&mut phone, &damaged, &identity).is_err(), "byte {at}");
            let cut = Sealed { kind: 0, ciphertext: sealed.ciphertext.slice(..at) };
            assert!(back.decrypt(&mut phone, &cut, &identity).is_err());
        }
        assert_eq!(back.decrypt(&mut phone, &sealed, &identity).unwrap(), b"payload");
        assert_eq!(back.decrypt(&mut phone, &Sealed { kind: 9, ciphertext: Bytes::new() }, &identity), Err(Error::Malformed));
        let stored = back.to_bytes();
        assert!((0..stored.len()).all(|at| Ratchet::from_bytes(&stored[..at]).is_err()));
        let zero = KeyBundle { identity_key: Bytes::from_static(&[0; 32]), one_time_key: Bytes::from_static(&[0; 32]) };
        assert_eq!(Ratchet::outbound(&business, &zero).err(), Some(Error::Key));
    }

    fn sendable<T: Send>() {}

    #[test]
    fn state_moves_between_threads_and_never_shows_secrets() {
        sendable::<Account>();
        sendable::<Ratchet>();
        let (business, out, ..) = pair();
        assert_eq!(format!("{business:?} {out:?}"), "Account(..) Ratchet(..)");
    }
}
