//! A web server with files, for messages that name links.
//!
//! It serves what [`crate::files::by_name`] knows and nothing else, and remembers who asked with which credentials.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use estafet_runtime::Tasks;
use tokio::net::TcpListener;

use crate::files;

/// Path and `Authorization` of each request.
type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct Web {
    url: String,
    seen: Seen,
    tasks: Tasks,
}

impl Web {
    /// Starts one on a free port of loopback.
    pub async fn start() -> anyhow::Result<Self> {
        let (seen, tasks) = (Seen::default(), Tasks::new());
        let router = Router::new().route("/{name}", get(serve)).with_state(seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("web", async move {
            // The test notices a server that is gone.
            let _ = axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await }).await;
        });
        Ok(Self { url, seen, tasks })
    }

    /// Where it answers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Path and `Authorization` of each request so far.
    pub fn seen(&self) -> Vec<(String, Option<String>)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

async fn serve(State(seen): State<Seen>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((name.clone(), authorization));
    match files::by_name(&name) {
        // Without a type: the name and the content must do.
        Some(content) => ([(header::CONTENT_TYPE, "application/octet-stream")], content).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
