//! Bearer tokens: JWT, HS256, opaque to clients (spec/auth-and-users.md §3).
//!
//! A token names the account, its generation and the millisecond of its issue; whether the account
//! still honours it is decided in [`super::accounts`]. The header is a constant and compared as
//! such, so no other algorithm can be talked into.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use estafet_model::WaId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// `{"alg":"HS256","typ":"JWT"}` in base64url.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// Longest token looked at.
const MAX_LENGTH: usize = 1024;

/// Bytes of the signing key.
pub(crate) const KEY_LENGTH: usize = 32;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// Name of the account.
    pub(crate) user: String,
    /// Seconds of issue and expiry, as JWT readers expect them.
    pub(crate) iat: i64,
    pub(crate) exp: i64,
    /// Random id: two logins in one moment differ, and single tokens can be revoked.
    #[serde(rename = "wa:rand")]
    pub(crate) id: String,
    /// Milliseconds of issue, for the logout watermark.
    pub(crate) iat_ms: i64,
    /// Generation of the account.
    #[serde(rename = "gen")]
    pub(crate) generation: i64,
    /// The business number it is for.
    #[serde(rename = "wa:number", default, skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<WaId>,
}

impl Claims {
    /// Whether the token has not expired.
    pub(crate) fn is_current(&self, now_ms: i64) -> bool {
        self.exp.saturating_mul(1000) > now_ms
    }
}

/// Signs and verifies.
#[derive(Clone)]
pub(crate) struct Signer {
    keyed: Hmac<Sha256>,
}

impl Signer {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self { keyed: Hmac::new_from_slice(key).expect("HMAC takes keys of any length") }
    }

    /// The token for `claims`.
    pub(crate) fn sign(&self, claims: &Claims) -> String {
        let payload = serde_json::to_vec(claims).expect("claims are strings and numbers");
        let mut token = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(payload));
        let mut mac = self.keyed.clone();
        mac.update(token.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        token.push('.');
        token.push_str(&signature);
        token
    }

    /// The claims of a token of ours, whatever its age.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > MAX_LENGTH {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let payload = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let mut mac = self.keyed.clone();
        mac.update(signed.as_bytes());
        mac.verify_slice(&signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            user: "admin".into(),
            iat: 1_800_000_000,
            exp: 1_800_604_800,
            id: "r".into(),
            iat_ms: 1_800_000_000_123,
            generation: -7,
            number: WaId::from_u64(15_550_000_001).ok(),
        }
    }

    #[test]
    fn a_token_has_three_parts_and_comes_back_whole() {
        let signer = Signer::new(&[7; KEY_LENGTH]);
        let token = signer.sign(&claims());
        assert_eq!(token.split('.').filter(|part| !part.is_empty()).count(), 3);
        assert_eq!(signer.verify(&token), Some(claims()));
    }

    #[test]
    fn every_changed_byte_voids_a_token() {
        let signer = Signer::new(&[7; KEY_LENGTH]);
        let token = signer.sign(&claims());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(signer.verify(std::str::from_utf8(&bytes).unwrap()), None, "byte {at}");
        }
        assert_eq!(Signer::new(&[8; KEY_LENGTH]).verify(&token), None);
    }

    #[test]
    fn other_algorithms_and_garbage_are_refused() {
        let signer = Signer::new(&[7; KEY_LENGTH]);
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims()).unwrap());
        let none = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        for token in ["", ".", "..", "abc.def.ghi", &none, &format!("{HEADER}.{payload}."), &"A".repeat(1_000_000)] {
            assert_eq!(signer.verify(token), None, "{token:.40}");
        }
    }
}
