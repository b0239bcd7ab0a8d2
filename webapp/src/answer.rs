//! The envelope of every answer (spec/auth-and-users.md §2) and the map from errors to HTTP.
//!
//! Rendering happens here only: `meta` is made once, `errors` never travels with success, 503
//! and 429 carry `Retry-After`, 401 carries `WWW-Authenticate`, 415 `Accept-Encoding`.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use estafet_model::ApiError;
use serde::Serialize;

/// Longest `details`, in characters (S29).
const DETAILS_LIMIT: usize = 256;

/// A successful answer: a JSON object still without `meta`.
pub(crate) struct Answer {
    status: StatusCode,
    payload: Payload,
}

enum Payload {
    Object(Vec<u8>),
    Text(&'static str, Bytes),
    Whole(Box<Response>),
}

impl Answer {
    /// 200 with the members of `payload`, which must serialise to an object.
    pub(crate) fn ok(payload: &impl Serialize) -> Self {
        Self::with(StatusCode::OK, payload)
    }

    /// 201 with the members of `payload`.
    pub(crate) fn created(payload: &impl Serialize) -> Self {
        Self::with(StatusCode::CREATED, payload)
    }

    /// 200 with nothing but `meta`.
    pub(crate) fn nothing() -> Self {
        Self { status: StatusCode::OK, payload: Payload::Object(b"{}".to_vec()) }
    }

    /// 200 with a text of its own type, without the envelope.
    pub(crate) fn text(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, payload: Payload::Text(content_type, text.into()) }
    }

    /// An answer of its own form, without the envelope.
    pub(crate) fn whole(response: Response) -> Self {
        Self { status: response.status(), payload: Payload::Whole(Box::new(response)) }
    }

    fn with(status: StatusCode, payload: &impl Serialize) -> Self {
        let mut body = Vec::with_capacity(256);
        serde_json::to_writer(&mut body, payload).expect("payloads have string keys and a Vec takes any length");
        Self { status, payload: Payload::Object(body) }
    }
}

/// A refusal, with the time to wait if that is not the usual second.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) error: ApiError,
    pub(crate) retry_after: Option<u64>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        let retry_after = error.retry_after_s.map(u64::from);
        Self { error, retry_after }
    }
}

/// What handlers return.
pub(crate) type Outcome = Result<Answer, Refusal>;

/// Renders answers for one version.
#[derive(Clone)]
pub(crate) struct Renderer {
    /// `"meta":{...}}`, closing the envelope.
    tail: Bytes,
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [ErrorEntry<'a>; 1],
}

#[derive(Serialize)]
struct ErrorEntry<'a> {
    code: u16,
    title: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: Cow<'a, str>,
}

impl Renderer {
    pub(crate) fn new(version: &str) -> Self {
        let version = serde_json::Value::from(version);
        Self { tail: format!(r#""meta":{{"version":{version},"api_status":"stable"}}}}"#).into() }
    }

    pub(crate) fn outcome(&self, outcome: Outcome) -> Response {
        match outcome {
            Ok(Answer { status, payload: Payload::Object(body) }) => self.envelope(status, body),
            Ok(Answer { status, payload: Payload::Text(content_type, text) }) => respond(status, content_type, text),
            Ok(Answer { payload: Payload::Whole(response), .. }) => *response,
            Err(refusal) => self.refusal(&refusal),
        }
    }

    pub(crate) fn error(&self, error: ApiError) -> Response {
        self.refusal(&error.into())
    }

    /// The body of an error answer on its own, for places below HTTP.
    pub(crate) fn error_body(&self, error: &ApiError) -> Vec<u8> {
        let entry = ErrorEntry { code: error.code.number(), title: error.code.title(), details: shorten(&error.details) };
        self.close(serde_json::to_vec(&Errors { errors: [entry] }).expect("strings and numbers always serialise"))
    }

    fn refusal(&self, refusal: &Refusal) -> Response {
        let status = StatusCode::from_u16(refusal.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = respond(status, JSON, self.error_body(&refusal.error));
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            // Only encodings are refused so, and only this one is taken.
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(refusal.retry_after.unwrap_or(1)));
            }
            _ => {}
        }
        response
    }

    fn envelope(&self, status: StatusCode, body: Vec<u8>) -> Response {
        respond(status, JSON, self.close(body))
    }

    /// Puts `meta` into the object that `body` holds.
    fn close(&self, mut body: Vec<u8>) -> Vec<u8> {
        debug_assert!(body.starts_with(b"{") && body.ends_with(b"}"));
        body.pop();
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(&self.tail);
        body
    }
}

const JSON: &str = "application/json";

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn shorten(details: &str) -> Cow<'_, str> {
    match details.char_indices().nth(DETAILS_LIMIT) {
        None => Cow::Borrowed(details),
        Some((end, _)) => Cow::Borrowed(&details[..end]),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use estafet_model::Code;

    use super::*;

    #[test]
    fn meta_closes_every_envelope() {
        let renderer = Renderer::new("v2.57.1");
        let meta = r#""meta":{"version":"v2.57.1","api_status":"stable"}}"#;
        assert_eq!(renderer.close(b"{}".to_vec()), format!("{{{meta}").into_bytes());
        assert_eq!(renderer.close(br#"{"a":1}"#.to_vec()), format!(r#"{{"a":1,{meta}"#).into_bytes());
    }

    #[test]
    fn details_are_cut_at_a_character_boundary() {
        let renderer = Renderer::new("v2.57.1");
        let body = renderer.error_body(&ApiError::new(Code::ParameterInvalid, "é".repeat(1000)));
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["errors"][0]["details"].as_str().unwrap().chars().count(), DETAILS_LIMIT);
    }

    #[test]
    fn statuses_carry_the_headers_they_promise() {
        let renderer = Renderer::new("v2.57.1");
        let busy = renderer.error(ApiError::new(Code::Overloaded, ""));
        assert_eq!((busy.status().as_u16(), &busy.headers()["retry-after"]), (503, &HeaderValue::from_static("1")));
        let denied = renderer.error(ApiError::new(Code::AccessDenied, "Invalid credentials"));
        assert_eq!((denied.status().as_u16(), &denied.headers()["www-authenticate"]), (401, &HeaderValue::from_static("Bearer")));
        let throttled = renderer.outcome(Err(Refusal { error: ApiError::new(Code::TooManyRequests, ""), retry_after: Some(42) }));
        assert_eq!(throttled.headers()["retry-after"], "42");
        let known = renderer.error(ApiError::new(Code::TooManyRequests, "").retry_after(Duration::from_millis(6001)));
        assert_eq!(known.headers()["retry-after"], "7");
    }
}
