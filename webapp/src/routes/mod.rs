//! The table of the API: path, method, who may call it, which rate it draws from, handler. One
//! file a resource; extract, validate, route, render (spec/auth-and-users.md §6).

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
mod shards;
mod stats;
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

use crate::{
    answer::{Answer, Outcome},
    app::{Admission, App},
    auth::{self, Access, Caller},
    http::Peer,
    limiter::Class,
    numbers::Tenant,
    request,
};

use Access::{Account, AccountOrKey, Admin, Open};
use Class::{Free, Messages, Others};
use MethodFilter as M;

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
    let open_metrics = if app.config.open_metrics { Open } else { AccountOrKey };
    let mut router = Router::new().route("/", method(M::GET, "/", Open, Free, root));
    let table = [
        ("/v1/users/login", vec![(M::POST, Open, Others, handler(login::login))]),
        ("/v1/users/logout", vec![(M::POST, Account, Others, handler(login::logout))]),
        ("/v1/users", vec![(M::POST, Admin, Others, handler(users::create))]),
        (
            "/v1/users/{username}",
            vec![
                (M::GET, Account, Others, handler(users::read)),
                (M::PUT, Account, Others, handler(users::update)),
                (M::DELETE, Admin, Others, handler(users::delete)),
            ],
        ),
        ("/v1/estafet/callbacks", vec![(M::GET, Admin, Others, handler(callbacks::waiting))]),
        (
            "/v1/estafet/callbacks/dead-letters",
            vec![(M::GET, Admin, Others, handler(callbacks::dead)), (M::POST, Admin, Others, handler(callbacks::move_dead))],
        ),
        ("/v1/estafet/callbacks/delivered", vec![(M::GET, Admin, Others, handler(callbacks::delivered))]),
        ("/v1/estafet/callbacks/replay", vec![(M::POST, Admin, Others, handler(callbacks::replay))]),
        ("/v1/estafet/messages/{id}/trace", vec![(M::GET, Admin, Others, handler(trace::read))]),
        ("/v1/contacts", vec![(M::POST, Account, Others, handler(contacts::check))]),
        (
            "/v1/contacts/{wa_id}/identity",
            vec![(M::GET, Account, Others, handler(identity::read)), (M::PUT, Account, Others, handler(identity::acknowledge))],
        ),
        ("/v1/messages", vec![(M::POST, Account, Messages, handler(messages::send))]),
        ("/v1/messages/{id}", vec![(M::PUT, Account, Others, handler(messages::mark))]),
        ("/v1/media", vec![(M::POST, Account, Others, handler(media::upload))]),
        (
            "/v1/media/{id}",
            vec![(M::GET, Account, Others, handler(media::download)), (M::DELETE, Account, Others, handler(media::delete))],
        ),
        ("/v1/health", vec![(M::GET, AccountOrKey, Free, handler(health::read))]),
        (
            "/v1/settings/application",
            vec![
                (M::GET, Admin, Others, handler(settings::read)),
                (M::PATCH, Admin, Others, handler(settings::change)),
                (M::PUT, Admin, Others, handler(settings::change)),
                (M::DELETE, Admin, Others, handler(settings::reset)),
            ],
        ),
        (
            "/v1/settings/business/profile",
            vec![(M::GET, Admin, Others, handler(profile::read)), (M::POST, Admin, Others, handler(profile::change))],
        ),
        (
            "/v1/settings/profile/about",
            vec![
                (M::GET, Admin, Others, handler(profile::read_about)),
                (M::PATCH, Admin, Others, handler(profile::change_about)),
            ],
        ),
        (
            "/v1/certificates/webhooks/ca",
            vec![
                (M::GET, Admin, Others, handler(certificates::read)),
                (M::POST, Admin, Others, handler(certificates::write)),
                (M::PUT, Admin, Others, handler(certificates::write)),
                (M::DELETE, Admin, Others, handler(certificates::remove)),
            ],
        ),
        (
            "/v1/account/shards",
            vec![(M::GET, Admin, Others, handler(shards::read)), (M::POST, Admin, Others, handler(shards::change))],
        ),
        (
            "/v1/settings/application/media/providers",
            vec![(M::GET, Admin, Others, handler(providers::list)), (M::POST, Admin, Others, handler(providers::put))],
        ),
        (
            "/v1/services/media/gc",
            vec![
                (M::PUT, Admin, Others, handler(services::collect_media)),
                (M::POST, Admin, Others, handler(services::collect_media)),
            ],
        ),
        ("/v1/settings/application/media/providers/{name}", vec![(M::DELETE, Admin, Others, handler(providers::delete))]),
        ("/v1/stats/app", vec![(M::GET, AccountOrKey, Free, handler(stats::of_coreapps))]),
        ("/v1/stats/db", vec![(M::GET, AccountOrKey, Free, handler(stats::of_database))]),
        ("/v1/metrics", vec![(M::GET, AccountOrKey, Free, handler(stats::of_webapp))]),
        ("/metrics", vec![(M::GET, open_metrics, Free, handler(stats::ours_or_of_webapp))]),
    ];
    for (path, methods) in table {
        let served = methods.into_iter().fold(MethodRouter::new(), |served, (filter, access, class, handler)| {
            served.merge(method(filter, path, access, class, move |app, call| handler(app, call)))
        });
        router = router.route(path, served.clone()).route(&format!("{path}/"), served);
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
