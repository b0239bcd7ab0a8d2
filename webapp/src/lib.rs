//! The webapp role: the On-Premises REST surface, stateless.
//!
//! It authenticates, validates, makes the message id, and routes to the coreapp that owns the
//! recipient's slot; it holds requests through a handoff and renders answers. It decides nothing
//! about messages and keeps nothing but caches, so any replica can serve any request (I9, I12).
//!
//! * `routes`: one file a resource; the table of who may call what is `routes::router`.
//! * `message`, `json`, `request`: what clients send, checked (pure). `answer`: the envelope.
//! * `template`: the templates that may be sent, and how a request is put into one.
//! * `media`: files. `auth`: passwords, tokens, accounts, throttling. `limiter`: request rates.
//! * `route`: the map, the streams to coreapps, holding. `contacts`, `settings`: their resources.
//! * [`cluster`]: the map from the masters, connections to coreapps.
//! * `numbers`: which numbers are served, and which one a request is for.
//! * `http`: the server below the routes. `openapi`: the routes as a document.
//! * `exposition`, `served`, `census`: statistics in the words of the original. `trace`: the timeline of a message (pure).
//!
//! [`start`] serves on a listener; [`app`] gives the same routes for in-process use.

mod answer;
mod app;
mod auth;
mod census;
pub mod cluster;
mod config;
mod contacts;
mod error;
mod exposition;
mod http;
mod json;
mod limiter;
mod media;
mod message;
mod metrics;
mod numbers;
mod openapi;
#[doc(hidden)]
pub mod probes;
mod request;
mod route;
mod routes;
mod served;
mod settings;
mod template;
mod trace;

use std::sync::Arc;

use estafet_model::{ApiError, Code, ShardMap};
use estafet_runtime::{Clock, Tasks};
use estafet_store::SharedStore;
use estafet_tls::Https;
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Channel;

/// Requests under way on a stream, and what to do after each try of a request (pure), for the simulator.
#[doc(hidden)]
pub use route::{flight, plan};

pub use config::{Config, ContactMode, Limits, LogoutScope};
pub use error::Error;
pub use route::roster::Roster;
pub use template::{check_template_files, follow_template_files, read_template_files};

use app::App;

/// What the webapp works with.
pub struct Deps {
    /// The message database.
    pub store: SharedStore,
    /// The object store with the files.
    pub blobs: estafet_media::Blobs,
    /// The wall clock.
    pub clock: Clock,
    /// The group its tasks run in; they end when it shuts down.
    pub tasks: Tasks,
    /// Who owns which slots, as the master pushes it.
    pub map: watch::Receiver<ShardMap>,
    /// How to reach coreapps.
    pub connect: Arc<dyn Connect>,
    /// Routes mounted beside ours, for loopback peers only (403 otherwise). They must not have a
    /// fallback of their own nor paths of ours.
    pub extra: Option<axum::Router>,
    /// Who serves the templates to phones: `{"templates":[...]}` in the layout of template files, now and whenever they
    /// change.
    pub templates: Option<watch::Sender<serde_json::Value>>,
}

/// How to reach the coreapp at an [`estafet_model::Owner::address`].
pub trait Connect: Send + Sync {
    /// A channel that connects when it is first used, and again when it broke.
    fn channel(&self, address: &str) -> Channel;

    /// Told when the data stream to an owner comes up, and when it breaks or cannot be opened.
    fn reached(&self, _address: &str, _is_up: bool) {}

    /// What the masters say of the processes of the cluster.
    fn roster(&self) -> Roster {
        Roster::default()
    }
}

/// Prepares the webapp and serves it on `listener`; returns once it does.
pub async fn start(listener: TcpListener, config: Config, deps: Deps) -> Result<(), Error> {
    start_with(listener, None, config, deps).await
}

/// The same, encrypted when there is a certificate.
pub async fn start_with(listener: TcpListener, https: Option<Https>, config: Config, deps: Deps) -> Result<(), Error> {
    let limits = config.limits.clone();
    let tasks = deps.tasks.clone();
    let app = App::prepare(config, &deps).await?;
    let answers = canned_answers(&app);
    let metrics = app.metrics.clone();
    let router = routes::router(app.clone(), beside(&app, deps.extra));
    http::serve(listener, https, router, answers, &limits, &tasks, metrics);
    Ok(())
}

/// The routes of the webapp without a server. Limits of connections and head sizes do not apply,
/// and `extra` is out of reach: nobody has an address.
pub async fn app(config: Config, deps: Deps) -> Result<axum::Router, Error> {
    let app = App::prepare(config, &deps).await?;
    let extra = beside(&app, deps.extra);
    Ok(routes::router(app, extra))
}

/// The routes for loopback peers only.
fn beside(app: &App, extra: Option<axum::Router>) -> Option<axum::Router> {
    let control = app.config.template_control.then(|| template::control::router(app.templates.clone()));
    match (extra, control) {
        (Some(extra), Some(control)) => Some(extra.merge(control)),
        (extra, control) => extra.or(control),
    }
}

/// Whole answers for what never becomes a request.
fn canned_answers(app: &App) -> http::Overload {
    let bad_request = ApiError::new(Code::InvalidRequest, "The request head is malformed or too large");
    let too_many = ApiError::new(Code::Overloaded, "Too many connections");
    let ambiguous = ApiError::new(Code::InvalidRequest, "Content-Length and Transfer-Encoding exclude each other");
    let render = |status: &str, error: &ApiError, more: &str| {
        let body = app.renderer.error_body(error);
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat().into()
    };
    http::Overload {
        bad_request: render("400 Bad Request", &bad_request, ""),
        too_many: render("503 Service Unavailable", &too_many, "retry-after: 1\r\n"),
        ambiguous: app.renderer.error_body(&ambiguous).into(),
    }
}
