//! Who is asking: credentials in, a [`Caller`] or a constant refusal out (spec/auth-and-users.md §6-8).
//!
//! Verified tokens are remembered by their text, so the hot path costs two hash look-ups and no
//! signature; expiry, logout and deletion are looked at on every request all the same.

pub(crate) mod accounts;
pub(crate) mod hasher;
pub(crate) mod password;
pub(crate) mod throttle;
pub(crate) mod token;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use axum::http::{HeaderMap, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use estafet_model::{ApiError, Code};
use estafet_store::Role;
use subtle::ConstantTimeEq as _;

use token::{Claims, Signer};

/// Tokens remembered; a few hundred bytes each.
const REMEMBERED: usize = 4096;

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nobody is asked.
    Open,
    /// Any account.
    Account,
    /// The administrator.
    Admin,
    /// Any account, or the API key.
    AccountOrKey,
}

/// Who is calling.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Nobody, or somebody with the API key.
    Anonymous,
    /// An account, with the claims of its token.
    Account(Role, Arc<Claims>),
}

/// Who presents credentials.
pub(crate) enum Identified {
    /// Nobody needs to, or somebody with the API key.
    Anonymous,
    /// The bearer of a genuine token, whatever became of it since.
    Token(Arc<Claims>),
}

/// The one refusal of bad credentials (S1: constant).
pub(crate) fn denied() -> ApiError {
    ApiError::new(Code::AccessDenied, "Invalid credentials")
}

/// The refusal of a role.
pub(crate) fn forbidden() -> ApiError {
    ApiError::new(Code::AccessDenied, "This account may not do that").with_status(403)
}

/// Checks credentials.
pub(crate) struct Gate {
    signer: Signer,
    api_key: Option<String>,
    verified: RwLock<HashMap<Box<str>, Arc<Claims>>>,
}

impl Gate {
    pub(crate) fn new(signer: Signer, api_key: Option<String>) -> Self {
        Self { signer, api_key, verified: RwLock::default() }
    }

    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Finds out who presents the credentials; whether the account still honours a token is not
    /// decided here.
    pub(crate) fn identify(&self, access: Access, headers: &HeaderMap) -> Result<Identified, ApiError> {
        if access == Access::Open {
            return Ok(Identified::Anonymous);
        }
        let credentials = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(denied)?;
        if let Some(key) = scheme(credentials, "apikey") {
            let allowed = access == Access::AccountOrKey && self.is_api_key(key);
            return if allowed { Ok(Identified::Anonymous) } else { Err(denied()) };
        }
        let token = scheme(credentials, "bearer").ok_or_else(denied)?;
        self.claims(token).map(Identified::Token).ok_or_else(denied)
    }

    fn is_api_key(&self, key: &str) -> bool {
        self.api_key.as_ref().is_some_and(|ours| ours.as_bytes().ct_eq(key.as_bytes()).into())
    }

    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.verified.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(token) {
            return Some(claims.clone());
        }
        let claims = Arc::new(self.signer.verify(token)?);
        let mut verified = self.verified.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(token.into(), claims.clone());
        Some(claims)
    }
}

/// User name and password of Basic credentials.
pub(crate) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let credentials = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let decoded = STANDARD.decode(scheme(credentials, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// What follows the scheme, if it is `wanted`.
fn scheme<'a>(credentials: &'a str, wanted: &str) -> Option<&'a str> {
    let (scheme, rest) = credentials.trim_start().split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn authorization(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap())])
    }

    #[test]
    fn basic_credentials_end_at_the_first_colon() {
        let encoded = STANDARD.encode("admin:a:b:c");
        assert_eq!(basic(&authorization(&format!("basic {encoded}"))), Some(("admin".into(), "a:b:c".into())));
    }

    #[test]
    fn garbled_basic_credentials_are_none() {
        let not_utf8 = STANDARD.encode([0xff, b':', 0xfe]);
        let no_colon = STANDARD.encode("admin");
        for value in ["", "Basic", "Basic ", "Basic %%%", "Bearer x", &format!("Basic {not_utf8}"), &format!("Basic {no_colon}")]
        {
            assert_eq!(basic(&authorization(value)), None, "{value}");
        }
        assert_eq!(basic(&HeaderMap::new()), None);
    }
}
