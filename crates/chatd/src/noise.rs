//! The Noise transport.

/// A static key (private half), 32 bytes; never shown.
#[derive(Clone)]
pub struct StaticKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticKey(..)")
    }
}

impl StaticKey {
    /// Takes the stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}
