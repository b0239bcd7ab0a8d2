//! Reads request bodies: the type of the content, the cap in bytes, and the time it may take.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
};
use bytes::{Bytes, BytesMut};
use estafet_model::{ApiError, Code};
use http_body_util::BodyExt as _;

/// Reads the body of a JSON endpoint.
pub(crate) async fn json_body(headers: &HeaderMap, body: Body, limit: usize, time: Duration) -> Result<Bytes, ApiError> {
    check_type(headers)?;
    any_body(headers, body, limit, time).await
}

/// Reads a body of any type.
pub(crate) async fn any_body(headers: &HeaderMap, body: Body, limit: usize, time: Duration) -> Result<Bytes, ApiError> {
    check_encoding(headers)?;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    tokio::time::timeout(time, collect(body, limit))
        .await
        .unwrap_or_else(|_| Err(ApiError::new(Code::InvalidRequest, "The request body did not arrive in time")))
}

/// A body is taken as it is: what a compressed one grows to would have to be capped apart.
pub(crate) fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        true => Ok(()),
        false => Err(ApiError::new(Code::InvalidRequest, "Content-Encoding is not supported").with_status(415)),
    }
}

/// Missing types are tolerated, clearly different ones are not.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(value) = headers.get(header::CONTENT_TYPE) {
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let json = essence.eq_ignore_ascii_case(b"application/json")
            || essence.to_ascii_lowercase().ends_with(b"+json")
            // What `curl -d` sends when nobody says otherwise; clients were written with it.
            || essence.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
            || essence.is_empty();
        if !json {
            return Err(ApiError::new(Code::InvalidRequest, "Content-Type must be application/json"));
        }
    }
    Ok(())
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let Some(first) = next_chunk(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(too_large(limit));
    }
    let Some(second) = next_chunk(&mut body).await? else { return Ok(first) };
    let mut all = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        if all.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        all.extend_from_slice(&chunk);
        next = next_chunk(&mut body).await?;
    }
    Ok(all.freeze())
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::new(Code::InvalidRequest, "The request body broke off"))?;
        // Trailers are of no use here.
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(Code::ParameterInvalid, format!("The request body is larger than {limit} bytes")).with_status(413)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))])
    }

    #[test]
    fn json_and_untyped_bodies_pass_and_others_name_the_header() {
        for value in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json", ""] {
            assert!(check_type(&typed(value)).is_ok(), "{value}");
        }
        assert!(check_type(&HeaderMap::new()).is_ok());
        for value in ["text/plain", "multipart/form-data; boundary=x", "image/jpeg", "text/json-ish"] {
            let error = check_type(&typed(value)).unwrap_err();
            assert_eq!((error.code, error.status()), (Code::InvalidRequest, 400), "{value}");
            assert!(error.details.contains("Content-Type"));
        }
    }

    #[test]
    fn every_encoding_but_identity_is_refused() {
        let encoded = |values: &[&'static str]| {
            let headers = values.iter().map(|value| (header::CONTENT_ENCODING, HeaderValue::from_static(value)));
            let mut map = HeaderMap::new();
            map.extend(headers.map(|(name, value)| (Some(name), value)));
            check_encoding(&map).map_err(|error| error.status())
        };
        for values in [&[][..], &["identity"], &["Identity"]] {
            assert_eq!(encoded(values), Ok(()), "{values:?}");
        }
        for values in [&["gzip"][..], &["br"], &["identity, gzip"], &["identity", "gzip"]] {
            assert_eq!(encoded(values), Err(415), "{values:?}");
        }
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_passes() {
        let time = Duration::from_secs(1);
        let read = |length: usize| json_body(&EMPTY, Body::from(vec![b'x'; length]), 1000, time);
        static EMPTY: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
        assert_eq!(read(1000).await.unwrap().len(), 1000);
        assert_eq!(read(1001).await.unwrap_err().status(), 413);
    }
}
