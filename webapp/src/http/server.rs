//! Accepts connections and serves them until the process is asked to end; then idle ones close and
//! busy ones finish their request.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use estafet_runtime::Tasks;
use estafet_tls::Https;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy, sink},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::Service as _;

use super::{
    Peer,
    guard::{Guarded, Limits, Overload, Progress},
};
use crate::{config, metrics::Metrics};

/// Connections told at the same time that there are too many; the rest are just closed.
const TOLD_OFF: usize = 64;
/// Time to read that.
const TOLD_OFF_TIME: Duration = Duration::from_secs(1);
/// After a failed accept (out of descriptors, mostly), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Server {
    https: Option<Https>,
    router: Router,
    answers: Overload,
    limits: Limits,
    head_bytes: usize,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

/// Serves `router` on `listener` as tasks of `tasks`.
pub(crate) fn serve(
    listener: TcpListener,
    https: Option<Https>,
    router: Router,
    answers: Overload,
    limits: &config::Limits,
    tasks: &Tasks,
    metrics: Arc<Metrics>,
) {
    let server = Server {
        https,
        router,
        answers,
        limits: Limits {
            head: Duration::from_millis(limits.head_timeout_ms),
            idle: Duration::from_millis(limits.idle_timeout_ms),
            write: Duration::from_millis(limits.body_timeout_ms),
        },
        head_bytes: limits.head_bytes,
        tasks: tasks.clone(),
        metrics,
    };
    let places = Arc::new(Semaphore::new(limits.connections));
    tasks.spawn("webapp-accept", accept(listener, server, places));
}

async fn accept(listener: TcpListener, server: Server, places: Arc<Semaphore>) {
    let told_off = Arc::new(Semaphore::new(TOLD_OFF));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.tasks.shutdown().cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    server.tasks.spawn("webapp-connection", server.clone().greet(stream, peer, place));
                }
                Err(_) => {
                    // Whoever begins with a handshake would not understand.
                    if server.https.is_none()
                        && let Ok(permit) = told_off.clone().try_acquire_owned()
                    {
                        server.tasks.spawn("webapp-tell-off", tell_off(stream, server.answers.clone(), permit));
                    }
                }
            },
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Server {
    /// The handshake, where there is one, within the time for a head.
    async fn greet(self, stream: TcpStream, peer: SocketAddr, _place: OwnedSemaphorePermit) {
        // Answers are whole segments; an error only costs latency.
        let _ = stream.set_nodelay(true);
        let Some(https) = self.https.clone() else { return self.connection(stream, peer).await };
        let ended = self.tasks.shutdown().clone();
        let encrypted = tokio::select! {
            encrypted = tokio::time::timeout(self.limits.head, https.accept(stream)) => encrypted,
            () = ended.cancelled() => return,
        };
        match encrypted {
            Ok(Ok(stream)) => self.connection(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no handshake"),
            Err(_) => tracing::debug!(%peer, "no handshake in time"),
        }
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        self.metrics.connections(1);
        let progress = Arc::new(Progress::default());
        let shutdown = self.tasks.shutdown();
        let guarded = Guarded::new(stream, self.limits, self.answers.clone(), progress.clone(), shutdown.clone());
        let service = service_fn(|request: hyper::Request<Incoming>| self.call(request, peer, &progress));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(self.head_bytes)
            .half_close(true)
            .serve_connection(TokioIo::new(guarded), service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection broke off");
        }
        self.metrics.connections(-1);
    }

    async fn call(
        &self,
        mut request: hyper::Request<Incoming>,
        peer: SocketAddr,
        progress: &Arc<Progress>,
    ) -> Result<axum::response::Response, std::convert::Infallible> {
        let serving = progress.begin();
        if serving.is_ambiguous() {
            return Ok(self.answers.refuse_ambiguous());
        }
        request.extensions_mut().insert(Peer(peer));
        self.router.clone().call(request).await
    }
}

/// Says that there are too many connections, to those who listen.
async fn tell_off(mut stream: TcpStream, answers: Overload, _permit: OwnedSemaphorePermit) {
    let told = async {
        stream.write_all(&answers.too_many).await?;
        stream.shutdown().await?;
        // Unread input would turn the close into a reset that destroys the answer.
        copy(&mut stream, &mut sink()).await.map(drop)
    };
    let _: Result<io::Result<()>, _> = tokio::time::timeout(TOLD_OFF_TIME, told).await;
}
