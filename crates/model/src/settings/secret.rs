//! A setting nobody reads back: it is stored and used, `GET` shows asterisks and `Debug` shows nothing (**I10**).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// What stands for a secret in answers. Sent back in a change it leaves the secret as it is.
pub const MASK: &str = "********";

/// Prefix of a Standard Webhooks secret; base64 of the key follows.
const STANDARD_PREFIX: &str = "whsec_";

/// A secret text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// An app secret as Meta gives them, or of one's own making: 16 to 256 visible ASCII characters.
    pub fn app(text: &str) -> Option<Self> {
        let fits = (16..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// A Standard Webhooks secret: `whsec_` and the base64 of 24 to 64 bytes.
    pub fn standard(text: &str) -> Option<Self> {
        let secret = Self(text.to_owned());
        secret.standard_key().is_some().then_some(secret)
    }

    /// The value of a header: 1 to 1024 visible ASCII characters, and spaces between them.
    pub fn header(text: &str) -> Option<Self> {
        let is_visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let fits = (1..=1024).contains(&text.len()) && text.trim() == text && text.bytes().all(is_visible);
        fits.then(|| Self(text.to_owned()))
    }

    /// The key of a Standard Webhooks secret.
    pub fn standard_key(&self) -> Option<Vec<u8>> {
        let key = STANDARD.decode(self.0.strip_prefix(STANDARD_PREFIX)?).ok()?;
        (24..=64).contains(&key.len()).then_some(key)
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_of_sufficient_length_pass() {
        assert!(Secret::app("0123456789abcdef").is_some());
        for text in ["", "short", "with space 0123456789", "0123456789abcde\u{e9}"] {
            assert!(Secret::app(text).is_none(), "{text}");
        }
        assert!(Secret::standard("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_some());
        for text in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_AAAA", "whsec_***"] {
            assert!(Secret::standard(text).is_none(), "{text}");
        }
        assert!(Secret::header("Bearer a b").is_some());
        for text in ["", " ", " a", "a\n", "\u{e9}", &"a".repeat(1025)] {
            assert!(Secret::header(text).is_none(), "{text}");
        }
    }

    #[test]
    fn debug_output_tells_nothing() {
        assert!(!format!("{:?}", Secret::app("0123456789abcdef")).contains("0123"));
    }
}
