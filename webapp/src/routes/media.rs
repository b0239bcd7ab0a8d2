//! `/v1/media`: upload, download, delete (spec/media.md §1, §2).

use std::{ops::Range, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use estafet_media::mime;
use estafet_model::{ApiError, Code};
use estafet_store::MediaRow;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::json;

use super::{Call, messages::ready};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    media::Source,
    request::check_encoding,
};

/// Most of a refused body that is read and forgotten.
const FORGOTTEN: u64 = 128 << 20;

pub(super) async fn upload(app: Arc<App>, mut call: Call) -> Outcome {
    let number = call.tenant()?.number;
    let patience = Duration::from_millis(app.config.limits.body_timeout_ms);
    let headers = call.parts.headers.clone();
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Err(error) = ready(&app).and_then(|()| check_encoding(&headers)) {
        forget(&headers, &mut call.body, patience).await;
        return Err(error.into());
    }
    if text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok()).is_some_and(|length| app.files.is_too_large(length)) {
        forget(&headers, &mut call.body, patience).await;
        return Err(app.files.too_large().into());
    }
    let body = std::mem::replace(&mut call.body, Body::empty());
    let content_type = text(header::CONTENT_TYPE);
    let row = if content_type.is_some_and(|value| mime::essence(value) == "multipart/form-data") {
        let (content_type, mut part) = file_part(content_type.unwrap_or_default(), body, patience).await?;
        app.files.take(number, content_type.as_deref(), &mut part).await?
    } else {
        let mut plain = Plain { body, patience };
        match app.files.take(number, content_type, &mut plain).await {
            Ok(id) => id,
            Err(error) => {
                forget(&headers, &mut plain.body, patience).await;
                return Err(error.into());
            }
        }
    };
    app.metrics.uploaded(row.size);
    Ok(Answer::ok(&json!({ "media": [{ "id": row.id }] })))
}

/// Reads what is left of a refused body: who still writes when the connection closes may never see the answer.
async fn forget(headers: &HeaderMap, body: &mut Body, patience: Duration) {
    // Who asked first has not sent it.
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut left = FORGOTTEN;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) else { return };
            left = rest;
        }
    };
    // A body that takes longer is cut off.
    let _ = tokio::time::timeout(patience, reading).await;
}

fn too_slow() -> ApiError {
    ApiError::new(Code::InvalidRequest, "The request body did not arrive in time")
}

fn broken_off() -> ApiError {
    ApiError::new(Code::InvalidRequest, "The request body broke off")
}

/// The body is the file.
struct Plain {
    body: Body,
    patience: Duration,
}

impl Source for Plain {
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await.map_err(|_| too_slow())?;
            let Some(frame) = frame else { return Ok(None) };
            // Trailers are of no use here.
            match frame.map_err(|_| broken_off())?.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            }
        }
    }
}

/// The file is a part of a form, as the Cloud API has it.
struct Part {
    field: multer::Field<'static>,
    patience: Duration,
}

impl Source for Part {
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let chunk = tokio::time::timeout(self.patience, self.field.chunk()).await.map_err(|_| too_slow())?;
            match chunk.map_err(|_| broken_off())? {
                Some(data) if data.is_empty() => {}
                data => return Ok(data),
            }
        }
    }
}

/// The part `file` of a form and its type.
async fn file_part(content_type: &str, body: Body, patience: Duration) -> Result<(Option<String>, Part), ApiError> {
    let malformed = || ApiError::new(Code::InvalidRequest, "The form is malformed");
    let boundary = multer::parse_boundary(content_type).map_err(|_| malformed())?;
    let mut form = multer::Multipart::new(body.into_data_stream(), boundary);
    loop {
        let field = tokio::time::timeout(patience, form.next_field()).await.map_err(|_| too_slow())?.map_err(|_| malformed())?;
        let Some(field) = field else { return Err(ApiError::missing("file")) };
        if field.name() == Some("file") {
            let content_type = field.content_type().map(ToString::to_string);
            return Ok((content_type, Part { field, patience }));
        }
    }
}

pub(super) async fn download(app: Arc<App>, mut call: Call) -> Outcome {
    ready(&app)?;
    let number = call.tenant()?.number;
    let id = call.path_parameter().await.unwrap_or_default();
    let Some(row) = app.files.find(number, &id).await? else { return Ok(not_found()) };
    let Ok(range) = range(&call.parts.headers, row.size) else { return Ok(unsatisfiable(&row)) };
    let (status, bytes) = match &range {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
        None => (StatusCode::OK, 0..row.size),
    };
    let Some(stream) = app.files.read(number, &row, bytes.clone()).await? else { return Ok(not_found()) };
    app.metrics.downloads(bytes.end - bytes.start);
    let mut response = Response::new(Body::from_stream(stream.boxed()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, value(&row.mime_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.end - bytes.start));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, value(&format!("\"{}\"", hexadecimal(&row.sha256))));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(range) = range {
        headers.insert(header::CONTENT_RANGE, value(&format!("bytes {}-{}/{}", range.start, range.end - 1, row.size)));
    }
    Ok(Answer::whole(response))
}

pub(super) async fn delete(app: Arc<App>, mut call: Call) -> Outcome {
    ready(&app)?;
    let number = call.tenant()?.number;
    let id = call.path_parameter().await.unwrap_or_default();
    if app.files.remove(number, &id).await? {
        Ok(Answer::nothing())
    } else {
        Err(ApiError::new(Code::NotFound, "No such file").into())
    }
}

fn not_found() -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    Answer::whole(response)
}

fn unsatisfiable(row: &MediaRow) -> Answer {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{}", row.size)) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Answer::whole(response)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// No byte of the file is in the range.
#[derive(Debug, PartialEq, Eq)]
struct Unsatisfiable;

/// The one range a request asks for. Several ranges, other units and nonsense are as good as none (RFC 9110 §14.2).
fn range(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, Unsatisfiable> {
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes="));
    let Some((first, last)) = asked.filter(|text| !text.contains(',')).and_then(|text| text.trim().split_once('-')) else {
        return Ok(None);
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..size.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(count)) if first.is_empty() => size.saturating_sub(count)..size,
        _ => return Ok(None),
    };
    if range.is_empty() { Err(Unsatisfiable) } else { Ok(Some(range)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_served_and_nonsense_is_no_range() {
        let asked = |text: &str| range(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]), 100);
        for (text, expected) in [
            ("bytes=0-0", Ok(Some(0..1))),
            ("bytes=10-19", Ok(Some(10..20))),
            ("bytes=90-", Ok(Some(90..100))),
            ("bytes=90-1000", Ok(Some(90..100))),
            ("bytes=0-18446744073709551615", Ok(Some(0..100))),
            ("bytes=-5", Ok(Some(95..100))),
            ("bytes=-500", Ok(Some(0..100))),
            ("bytes=100-", Err(Unsatisfiable)),
            ("bytes=-0", Err(Unsatisfiable)),
            ("bytes=5-4", Ok(None)),
            ("bytes=0-1,3-4", Ok(None)),
            ("bytes=x-y", Ok(None)),
            ("items=0-1", Ok(None)),
        ] {
            assert_eq!(asked(text), expected, "{text}");
        }
        assert_eq!(range(&HeaderMap::new(), 100), Ok(None));
    }
}
