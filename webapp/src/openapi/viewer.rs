//! `/openapi.json`, and Swagger UI at `/docs/`: for everybody, since it tells nothing about this server that its
//! source does not, and from this server alone, which its headers make the browser enforce.

use std::sync::{Arc, LazyLock};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use estafet_model::{ApiError, Code};
use utoipa_swagger_ui::Config;

use crate::answer::{Answer, Outcome};

/// Nothing from elsewhere. The viewer sets styles of elements and draws pictures of its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The validator would be asked at its authors' server.
static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::new(["../openapi.json"]).validator_url("none").try_it_out_enabled(true)));

/// The document.
pub(crate) fn document(text: Bytes) -> Answer {
    Answer::text("application/json", text)
}

/// A file of the viewer; without a name its page. `path` is the one of the request.
pub(crate) fn file(path: &str, name: &str) -> Outcome {
    if name.is_empty() && !path.ends_with('/') {
        // Its files are beside it.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("docs/"));
        return Ok(Answer::whole(response));
    }
    let found = utoipa_swagger_ui::serve(name, CONFIG.clone()).map_err(|error| {
        tracing::error!(%error, "a file of the viewer could not be made");
        ApiError::new(Code::Internal, "The file could not be read")
    })?;
    let Some(found) = found else { return Err(ApiError::new(Code::NotFound, "No such file").into()) };
    let mut response = Response::new(Body::from(found.bytes.into_owned()));
    let kind = HeaderValue::from_str(&found.content_type).unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600")),
    ];
    response.headers_mut().extend(headers);
    Ok(Answer::whole(response))
}
