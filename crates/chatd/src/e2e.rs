//! End-to-end encryption with Olm (vodozemac).

use bytes::Bytes;

/// An encrypted message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// 0: opens a session; 1: within one.
    pub kind: u8,
    /// Ciphertext.
    pub ciphertext: Bytes,
}

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
