//! The Noise transport.

use zeroize::Zeroizing;

/// A static key (private half), 32 bytes; never shown, wiped when dropped.
#[derive(Clone)]
pub struct StaticKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticKey(..)")
    }
}

impl StaticKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(*vodozemac::Curve25519SecretKey::new().to_bytes()))
    }

    /// Takes the stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes to store. Secret: encrypt them at rest.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        let secret = vodozemac::Curve25519SecretKey::from_slice(&self.0);
        vodozemac::Curve25519PublicKey::from(&secret).to_bytes()
    }
}
