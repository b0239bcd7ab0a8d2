//! What operators and orchestrators ask every process: `/livez`, `/readyz`, `/metrics`; and, for callers on the same
//! machine alone, `/configuration`.
//!
//! Live is a process that answers at all; nothing outside it counts, because a restart would not bring that
//! back. Ready is one that has what its role needs, asked anew (**I11**); what is missing is named.
//! Answers are computed at most each [`FRESH`], one at a time, and a connection carries one request: whoever
//! asks, however often, costs the process a bounded amount (**I8**).

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    time::{Instant, sleep, timeout},
};

use crate::{Tasks, metrics};

/// Connections at the same time; more wait in the backlog of the socket.
const CONNECTIONS: usize = 32;
/// How long a connection may take from the first byte to the last.
const CONNECTION: Duration = Duration::from_secs(5);
/// How long an answer about readiness is good for.
const FRESH: Duration = Duration::from_millis(250);
/// After a failed accept (out of descriptors, mostly), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Missing = Vec<&'static str>;
type Check = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Missing> + Send>> + Send + Sync>;

/// The listener of one process. Cheap to clone.
#[derive(Clone)]
pub struct Ops(Arc<State>);

struct State {
    role: &'static str,
    check: OnceLock<Check>,
    configuration: OnceLock<String>,
    last: Mutex<Option<(Instant, Missing)>>,
}

impl Ops {
    /// Answers on `listener`: not ready yet, see [`Ops::ready_unless`].
    pub fn serve(listener: TcpListener, role: &'static str, tasks: &Tasks) -> Self {
        let ops = Self(Arc::new(State { role, check: OnceLock::new(), configuration: OnceLock::new(), last: Mutex::default() }));
        let (shutdown, accepting) = (tasks.shutdown().clone(), ops.clone().accept(listener, tasks.clone()));
        tasks.spawn("ops", async move {
            tokio::select! {
                () = accepting => {}
                () = shutdown.cancelled() => {}
            }
        });
        ops
    }

    /// From now on the process is ready when `missing` names nothing. It must answer soon by itself. Only the first
    /// call counts.
    pub fn ready_unless<F, Fut>(&self, missing: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Missing> + Send + 'static,
    {
        // A second one is not taken.
        let _ = self.0.check.set(Box::new(move || Box::pin(missing())));
    }

    /// What the process was started with, without secrets. Only the first call counts.
    pub fn show_configuration(&self, configuration: &serde_json::Value) {
        // A second one is not taken.
        let _ = self.0.configuration.set(format!("{configuration}\n"));
    }

    async fn accept(self, listener: TcpListener, tasks: Tasks) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (ops, ended) = (self.clone(), tasks.shutdown().clone());
                    tasks.spawn("ops connection", async move {
                        let _place = place;
                        tokio::select! {
                            () = ops.connection(stream, peer) => {}
                            () = ended.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        let service = service_fn(|request| self.answer(request, peer));
        let serving =
            http1::Builder::new().keep_alive(false).header_read_timeout(None).serve_connection(TokioIo::new(stream), service);
        match timeout(CONNECTION, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "connection broke off"),
            Err(_) => tracing::debug!(%peer, "connection took too long"),
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Result<Response<Full<Bytes>>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET or HEAD\n".to_owned()));
        }
        Ok(match request.uri().path() {
            "/livez" => text(StatusCode::OK, "text/plain", "live\n".to_owned()),
            "/readyz" => self.readiness().await,
            "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4", metrics::render()),
            // It names hosts, numbers and paths.
            "/configuration" if !peer.ip().to_canonical().is_loopback() => {
                text(StatusCode::FORBIDDEN, "text/plain", "for callers on this machine\n".to_owned())
            }
            "/configuration" => match self.0.configuration.get() {
                Some(configuration) => text(StatusCode::OK, "application/json", configuration.clone()),
                None => text(StatusCode::NOT_FOUND, "text/plain", "it was not told\n".to_owned()),
            },
            _ => text(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz, /metrics and /configuration are here\n".to_owned()),
        })
    }

    async fn readiness(&self) -> Response<Full<Bytes>> {
        let missing = self.missing().await;
        let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({ "role": self.0.role, "ready": missing.is_empty(), "missing": missing });
        text(status, "application/json", format!("{body}\n"))
    }

    async fn missing(&self) -> Missing {
        let Some(check) = self.0.check.get() else { return vec!["the start is not over"] };
        let mut last = self.0.last.lock().await;
        if let Some((at, missing)) = &*last
            && at.elapsed() < FRESH
        {
            return missing.clone();
        }
        let missing = check().await;
        *last = Some((Instant::now(), missing.clone()));
        missing
    }
}

fn text(status: StatusCode, kind: &str, body: String) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header(CONTENT_TYPE, kind).header(CACHE_CONTROL, "no-store");
    answer.body(Full::from(body)).expect("constant headers are valid")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn served() -> (Ops, SocketAddr, Tasks) {
        let tasks = Tasks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Ops::serve(listener, "tester", &tasks), address, tasks)
    }

    /// Status and body.
    async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Ends, because a connection carries one request.
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn readiness_follows_what_is_missing() {
        let (ops, address, tasks) = served().await;
        assert_eq!(ask(address, "GET", "/livez").await.0, 200, "live before it is ready");
        let (status, body) = ask(address, "GET", "/readyz").await;
        assert_eq!((status, body.contains("the start is not over")), (503, true), "{body}");
        ops.ready_unless(async || vec!["the sun", "the moon"]);
        let (status, body) = ask(address, "GET", "/readyz").await;
        assert_eq!(status, 503);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body, serde_json::json!({"role": "tester", "ready": false, "missing": ["the sun", "the moon"]}));
        assert_eq!(ask(address, "GET", "/livez").await.0, 200, "what is missing outside does not kill");
        tasks.stop(Duration::from_secs(30)).await;
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens after the end");
    }

    #[tokio::test]
    async fn only_what_is_there_is_answered() {
        let (ops, address, _tasks) = served().await;
        ops.ready_unless(async || Vec::new());
        metrics::meter("ops_test").u64_counter("estafet_ops_test").build().add(1, &[]);
        assert_eq!(ask(address, "GET", "/readyz").await.0, 200);
        assert_eq!(ask(address, "HEAD", "/readyz").await, (200, String::new()));
        assert!(ask(address, "GET", "/metrics?x=1").await.1.contains("estafet_ops_test_total"));
        assert_eq!(ask(address, "GET", "/").await.0, 404);
        assert_eq!(ask(address, "GET", "/configuration").await.0, 404);
        ops.show_configuration(&serde_json::json!({ "command": "test" }));
        assert_eq!(ask(address, "GET", "/configuration").await, (200, "{\"command\":\"test\"}\n".to_owned()));
        assert_eq!(ask(address, "POST", "/livez").await.0, 405);
    }

    #[tokio::test]
    async fn many_questions_at_once_are_one_look() {
        let (ops, address, _tasks) = served().await;
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        let (begin, begun) = tokio::sync::watch::channel(false);
        ops.ready_unless(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut begun = begun.clone();
            async move {
                // The sender lives as long as the test.
                let _ = begun.wait_for(|begun| *begun).await;
                Vec::new()
            }
        });
        let mut questions = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            questions.push(stream);
        }
        begin.send_replace(true);
        for mut stream in questions {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert!(looks.load(Ordering::SeqCst) < CONNECTIONS, "{looks:?}");
    }
}
