//! What a role listens and dials with: TLS with certificates on both ends, or plain text when none are configured.
//!
//! A dialled address must be among the names of the answering certificate, and its role the expected one; a
//! caller must show a certificate of the same authority and cluster. Connections that are open stay with the
//! certificates they began with; new ones, also of a channel that reconnects, take the newest.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use estafet_runtime::{Clock, Tasks};
use futures::{Stream, StreamExt as _};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, server::Connected};

use crate::{
    Files, Peer,
    identity::{Identity, Role},
    material::{Error, Material, identity},
    reload::Reloading,
    warnings::Warnings,
};

/// How long a caller may take to show who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Callers that do so at the same time; more wait in the backlog of the socket.
const HANDSHAKES: usize = 256;
/// Finished handshakes that wait to be served.
const FINISHED: usize = 16;
/// After a failed accept (out of descriptors, mostly), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Anybody who reaches the port can be refused as often as they like (S29).
static REFUSALS: Warnings = Warnings::new();

/// Encrypted or plain; cheap to clone.
#[derive(Clone, Default)]
pub struct Transport {
    material: Option<Arc<Reloading<Material>>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("encrypted", &self.is_encrypted()).finish()
    }
}

impl Transport {
    /// No TLS: for loopback.
    pub fn plain() -> Self {
        Self::default()
    }

    /// TLS with these files, whose certificate must be for `role` (and for `node`, when given).
    pub fn load(files: Files, role: Role, node: Option<&str>, clock: Clock) -> Result<Self, Error> {
        let node = node.map(str::to_owned);
        let paths = vec![files.ca.clone(), files.cert.clone(), files.key.clone()];
        let reloading = Reloading::load("roles", paths, move |contents| {
            let material = Material::build(&files, contents, &clock)?;
            let found = &material.identity;
            if found.role() == role && node.as_deref().is_none_or(|node| node == found.node()) {
                return Ok(material);
            }
            let wanted = node.as_deref().map_or_else(|| role.to_string(), |node| format!("{role} {node}"));
            Err(Error::SomebodyElse { path: files.cert.clone(), found: found.clone(), wanted })
        })?;
        Ok(Self { material: Some(Arc::new(reloading)) })
    }

    /// Takes changed files from now on.
    pub fn follow(&self, tasks: &Tasks) {
        let Some(material) = &self.material else { return };
        let end = estafet_runtime::metrics::meter("estafet_tls")
            .u64_gauge("estafet_tls_certificate_end_seconds")
            .with_description("When the certificate of this process ends, in seconds since 1970")
            .build();
        material.clone().follow(tasks, move |material| end.record(material.ends, &[]));
    }

    /// Looks for changed files now; says whether they were taken. [`Transport::follow`] does it by itself.
    pub fn reload(&self) -> bool {
        self.material.as_ref().is_some_and(|material| matches!(material.look(), crate::reload::Look::Taken))
    }

    /// Whether connections are encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.material.is_some()
    }

    /// The connections to `listener`, each with a [`Peer`].
    pub fn incoming(&self, listener: TcpListener, tasks: &Tasks) -> Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>> {
        let Some(material) = self.material.clone() else {
            return Box::pin(TcpListenerStream::new(listener).map(|accepted| accepted.map(Connection::plain)));
        };
        let (sender, connections) = mpsc::channel(FINISHED);
        tasks.spawn("accept", accept(listener, material, sender, tasks.clone()));
        Box::pin(ReceiverStream::new(connections))
    }

    /// Connects to a process of `role`.
    pub async fn connect(&self, endpoint: &Endpoint, role: Role) -> Result<Channel, tonic::transport::Error> {
        match &self.material {
            None => endpoint.connect().await,
            Some(material) => {
                let material = material.clone();
                endpoint.connect_with_connector(tower::service_fn(move |uri| dial(uri, role, material.clone()))).await
            }
        }
    }

    /// A channel to a process of `role` that connects when it is first used, and again when it broke.
    pub fn connect_lazy(&self, endpoint: &Endpoint, role: Role) -> Channel {
        match &self.material {
            None => endpoint.connect_lazy(),
            Some(material) => {
                let material = material.clone();
                endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| dial(uri, role, material.clone())))
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    material: Arc<Reloading<Material>>,
    connections: mpsc::Sender<io::Result<Connection>>,
    tasks: Tasks,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let shutdown = tasks.shutdown().clone();
    let accepting = async {
        // The semaphore is never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (material, connections, ended) = (material.current(), connections.clone(), tasks.shutdown().clone());
            tasks.spawn("handshake", async move {
                let _place = place;
                let greeting = async {
                    match timeout(HANDSHAKE, greet(stream, address, &material)).await {
                        // Nobody serves any more: the process ends.
                        Ok(Ok(connection)) => drop(connections.send(Ok(connection)).await),
                        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                            if let Some(left_out) = REFUSALS.may_be_said(Instant::now()) {
                                tracing::warn!(peer = %address, %error, left_out, "a peer was refused");
                            }
                        }
                        // Probes of the port look like this, those of standby masters too.
                        Ok(Err(error)) => tracing::debug!(peer = %address, %error, "a peer left"),
                        Err(_) => tracing::debug!(peer = %address, "no handshake in time"),
                    }
                };
                tokio::select! {
                    () = greeting => {}
                    () = ended.cancelled() => {}
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
}

/// The handshake of one that called.
async fn greet(stream: TcpStream, address: SocketAddr, material: &Material) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(material.server.clone()).accept(stream).await?;
    let identity = known(stream.get_ref().1.peer_certificates(), material)?;
    let peer = Peer { address: Some(address), identity: Some(Arc::new(identity)) };
    Ok(Connection { stream: Wire::Encrypted(Box::new(stream.into())), peer })
}

/// Connects to one of `role`.
async fn dial(uri: Uri, role: Role, material: Arc<Reloading<Material>>) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let connecting = async {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
        let host = uri.host().ok_or_else(|| invalid(format!("{uri} has no host")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().ok_or_else(|| invalid(format!("{uri} has no port")))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid(format!("{host} is no host name")))?;
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let material = material.current();
        let stream = TlsConnector::from(material.client.clone()).connect(name, stream).await?;
        let identity = known(stream.get_ref().1.peer_certificates(), &material)?;
        if identity.role() != role {
            return Err(refusal(format!("{identity} answered where a {role} was expected")));
        }
        Ok(TokioIo::new(stream.into()))
    };
    let connected = connecting.await;
    if let Err(error) = &connected
        && error.kind() == io::ErrorKind::InvalidData
    {
        tracing::warn!(address = %uri, %error, "the peer that answered is not trusted");
    }
    connected
}

/// The identity of a peer whose certificate was verified, of our own cluster.
fn known(chain: Option<&[CertificateDer<'_>]>, ours: &Material) -> io::Result<Identity> {
    let certificate = chain.and_then(<[_]>::first).ok_or_else(|| refusal("no certificate".to_owned()))?;
    let identity = identity(certificate).map_err(|error| refusal(format!("certificate without a role: {error}")))?;
    if identity.cluster() != ours.identity.cluster() {
        return Err(refusal(format!("{identity} is of another cluster than {}", ours.identity)));
    }
    Ok(identity)
}

fn refusal(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// An accepted connection.
pub struct Connection {
    stream: Wire,
    peer: Peer,
}

enum Wire {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn plain(stream: TcpStream) -> Self {
        let peer = Peer { address: stream.peer_addr().ok(), identity: None };
        // An error only costs latency.
        let _ = stream.set_nodelay(true);
        Self { stream: Wire::Plain(stream), peer }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
