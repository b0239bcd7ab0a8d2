//! The routes of the API, from [`table`]: path, method, who may call it, which rate it draws from, handler, description
//! ([`openapi`]). One file a resource; extract, validate, route, render (spec/auth-and-users.md §6).

mod callbacks;
mod certificates;
mod contacts;
mod health;
mod identity;
mod login;
mod media;
mod messages;
mod profile;
mod providers;
mod services;
mod settings;
pub(crate) mod shards;
mod stats;
mod table;
mod trace;
mod users;

use std::{future::Future, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts as _, Path, Request, State},
    http::{HeaderName, HeaderValue, Method, header::CONTENT_TYPE, request::Parts},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::{MethodFilter, MethodRouter, on},
};
use bytes::Bytes;
use estafet_model::{ApiError, Code};
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;

use crate::{
    answer::{Answer, Outcome},
    app::{Admission, App},
    auth::{self, Access, Caller},
    config::Config,
    http::Peer,
    limiter::Class,
    numbers::Tenant,
    openapi::{self, Row},
    request,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest `X-Request-ID` that is echoed.
const REQUEST_ID_LIMIT: usize = 128;

/// A request that may be served.
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) parts: Parts,
    tenant: Result<Arc<Tenant>, ApiError>,
    body: Body,
}

impl Call {
    /// The number the request is for.
    pub(crate) fn tenant(&self) -> Result<&Arc<Tenant>, ApiError> {
        self.tenant.as_ref().map_err(Clone::clone)
    }

    /// The body of a JSON endpoint.
    pub(crate) async fn json(&mut self, app: &App) -> Result<Bytes, ApiError> {
        let limits = &app.config.limits;
        let body = std::mem::replace(&mut self.body, Body::empty());
        if !self.parts.headers.contains_key(CONTENT_TYPE) {
            app.metrics.untyped();
        }
        request::json_body(&self.parts.headers, body, limits.body_bytes, Duration::from_millis(limits.body_timeout_ms)).await
    }

    /// The body of an endpoint that takes plain text, whatever type it is said to have.
    pub(crate) async fn text(&mut self, app: &App) -> Result<Bytes, ApiError> {
        let limits = &app.config.limits;
        let body = std::mem::replace(&mut self.body, Body::empty());
        request::any_body(&self.parts.headers, body, limits.body_bytes, Duration::from_millis(limits.body_timeout_ms)).await
    }

    /// The body of an endpoint that works without one: `None` if there is none, whatever its type.
    pub(crate) async fn optional_json(&mut self, app: &App) -> Result<Option<Bytes>, ApiError> {
        if hyper::body::Body::is_end_stream(&self.body) {
            return Ok(None);
        }
        let body = self.json(app).await?;
        Ok((!body.trim_ascii().is_empty()).then_some(body))
    }

    /// The variable part of the path; `None` if it is not text.
    pub(crate) async fn path_parameter(&mut self) -> Option<String> {
        let Path(value) = Path::<String>::from_request_parts(&mut self.parts, &()).await.ok()?;
        Some(value)
    }

    /// Where the request came from.
    pub(crate) fn address(&self) -> IpAddr {
        self.parts.extensions.get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |Peer(peer)| peer.ip())
    }
}

/// All routes.
pub(crate) fn router(app: Arc<App>, extra: Option<Router>) -> Router {
    let mut router = Router::new();
    for (path, methods) in table::table(&app.config) {
        let served = methods.into_iter().fold(MethodRouter::new(), |served, (name, access, class, handler, _)| {
            // Every method of the table has a filter.
            let filter = MethodFilter::try_from(name).unwrap_or(MethodFilter::GET);
            served.merge(method(filter, path, access, class, move |app, call| handler(app, call)))
        });
        router = router.route(path, served.clone());
        if path != "/" {
            router = router.route(&format!("{path}/"), served);
        }
    }
    let router = router.fallback(unknown_path).method_not_allowed_fallback(unknown_method).with_state(app.clone());
    let router = match extra {
        Some(extra) => router.merge(extra.layer(from_fn_with_state(app.clone(), loopback_only))),
        None => router,
    };
    let renderer = app.renderer.clone();
    let panicked = move |_: Box<dyn std::any::Any + Send>| {
        renderer.error(ApiError::new(Code::Generic, "The request could not be completed")).map(axum::body::Body::new)
    };
    router.layer(CatchPanicLayer::custom(panicked)).layer(from_fn(with_request_id))
}

/// The OpenAPI document of all routes.
pub(crate) fn document(config: &Config) -> OpenApi {
    let rows = table::table(config).into_iter().flat_map(|(path, methods)| {
        methods.into_iter().map(move |(method, access, class, _, describe)| Row {
            path,
            method,
            access,
            class,
            description: describe(),
        })
    });
    openapi::document(rows, &config.version)
}

type Handler = Arc<dyn Fn(Arc<App>, Call) -> futures::future::BoxFuture<'static, Outcome> + Send + Sync>;

fn handler<F, Fut>(function: F) -> Handler
where
    F: Fn(Arc<App>, Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(move |app, call| Box::pin(function(app, call)))
}

/// One method of one path: admit, handle, render, measure.
fn method<F, Fut>(filter: MethodFilter, path: &'static str, access: Access, class: Class, handle: F) -> MethodRouter<Arc<App>>
where
    F: Fn(Arc<App>, Call) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    on(filter, move |State(app): State<Arc<App>>, request: Request| async move {
        let started = Instant::now();
        let _in_progress = app.metrics.served().begin();
        let (parts, body) = request.into_parts();
        let method = method_name(&parts.method);
        let outcome = match app.admit(access, class, &parts.headers).await {
            Ok(Admission { caller, tenant }) => handle(app.clone(), Call { caller, parts, tenant, body }).await,
            Err(error) => Err(error.into()),
        };
        let response = app.renderer.outcome(outcome);
        app.metrics.answered(path, method, response.status().as_u16(), started.elapsed());
        response
    })
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

async fn root(_: Arc<App>, _: Call) -> Outcome {
    Ok(Answer::text("application/json", "{}"))
}

async fn unknown_path(State(app): State<Arc<App>>, request: Request) -> Response {
    unknown(&app, request.method(), 404)
}

async fn unknown_method(State(app): State<Arc<App>>, request: Request) -> Response {
    unknown(&app, request.method(), 405)
}

fn unknown(app: &App, method: &Method, status: u16) -> Response {
    app.metrics.answered("unknown", method_name(method), status, Duration::ZERO);
    app.renderer.error(ApiError::new(Code::Internal, "endpoint not found").with_status(status))
}

async fn loopback_only(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Peer>().is_some_and(|Peer(peer)| peer.ip().to_canonical().is_loopback());
    if local { next.run(request).await } else { app.renderer.error(auth::forbidden()) }
}

/// Echoes a sane `X-Request-ID`, or makes one.
async fn with_request_id(request: Request, next: Next) -> Response {
    let sane = |value: &HeaderValue| {
        let bytes = value.as_bytes();
        !bytes.is_empty() && bytes.len() <= REQUEST_ID_LIMIT && bytes.iter().all(u8::is_ascii_graphic)
    };
    let id = match request.headers().get(REQUEST_ID).filter(|value| sane(value)) {
        Some(value) => value.clone(),
        None => {
            let mut text = uuid::Uuid::encode_buffer();
            let made = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(made).unwrap_or(HeaderValue::from_static("none"))
        }
    };
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}
