//! The simulated network: how the product's code reaches etcd and other processes in it.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use estafet_etcd::{Access, Error, Network, Timing, network::Connection};
use etcd_client::{Channel, Client};
use http::Uri;
use hyper_util::rt::TokioIo;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::{
    body::Body,
    transport::{Endpoint, server::Connected},
};
use tower::{BoxError, Service, ServiceExt as _, util::BoxCloneSyncService};
use turmoil::net::{TcpListener, TcpStream};

use crate::process::{Dials, connect};

/// Members of etcd.
pub(crate) const MEMBERS: usize = 3;
pub(crate) const ETCD_PORT: u16 = 2379;

/// Host name of a member of etcd.
pub(crate) fn member(place: usize) -> String {
    format!("e{place}")
}

/// Time since the simulation began.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// From whom to whom nothing passes.
pub(crate) type Cuts = Arc<Mutex<BTreeSet<(String, String)>>>;

/// The network of one process.
pub(crate) struct Simulated {
    pub(crate) timing: Timing,
    /// Host name of the process.
    pub(crate) host: String,
    pub(crate) cuts: Cuts,
    pub(crate) dials: Dials,
    pub(crate) chance: Mutex<SmallRng>,
    /// A rule that is taken out: members without a leader are not asked to say so.
    pub(crate) trusts_any_member: bool,
}

impl Simulated {
    fn is_cut(&self, other: &str) -> bool {
        let cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.iter().any(|(from, to)| (from == &self.host && to == other) || (from == other && to == &self.host))
    }
}

#[async_trait]
impl Network for Simulated {
    /// With the deadlines and signs of life that a real connection has.
    async fn client(&self) -> Result<Client, Error> {
        let connecting = Connecting::default();
        let member = |place| {
            let endpoint = Endpoint::from_shared(format!("http://{}:{ETCD_PORT}", member(place))).expect("an address");
            let endpoint = endpoint
                .connect_timeout(self.timing.deadline)
                .keep_alive_while_idle(true)
                .http2_keep_alive_interval(self.timing.renew)
                .keep_alive_timeout(self.timing.renew);
            let (dials, connecting) = (self.dials.clone(), connecting.clone());
            endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
                let (dials, trying) = (dials.clone(), Trying::begin(&connecting, place));
                async move {
                    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
                    let connected = connect(&dials, host, port).await;
                    drop(trying);
                    Ok::<_, io::Error>(TokioIo::new(connected?))
                }
            }))
        };
        let chance = SmallRng::from_rng(&mut *self.chance.lock().unwrap_or_else(PoisonError::into_inner));
        let balanced = Balanced { members: std::array::from_fn(member), connecting, chance: Arc::new(Mutex::new(chance)) };
        let options = Access::demands().with_require_leader(!self.trusts_any_member);
        let client = Client::from_channel(Channel::Custom(BoxCloneSyncService::new(balanced)), Some(options)).await;
        client.map_err(|source| Error::Etcd { what: "connect", source: Box::new(source) })
    }

    /// turmoil refuses a dial that a cut swallows; a network that loses packets says nothing.
    async fn dial(&self, address: &str) -> io::Result<Connection> {
        let (host, port) = address.split_once(':').unwrap_or((address, ""));
        let dialled = connect(&self.dials, host, port.parse().map_err(io::Error::other)?).await;
        if dialled.is_err() && self.is_cut(host) {
            return std::future::pending().await;
        }
        Ok(Box::new(dialled?))
    }
}

/// Members that are being connected to.
type Connecting = Arc<Mutex<BTreeSet<usize>>>;

/// One try to connect, until it is dropped.
struct Trying {
    connecting: Connecting,
    place: usize,
}

impl Trying {
    fn begin(connecting: &Connecting, place: usize) -> Self {
        connecting.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        Self { connecting: connecting.clone(), place }
    }
}

impl Drop for Trying {
    fn drop(&mut self) {
        self.connecting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
    }
}

/// Gives each call to some member that is not being connected to, as the product's channel over several members does:
/// that one has its own connector and its own chance, so it cannot be used here.
#[derive(Clone)]
struct Balanced {
    members: [tonic::transport::Channel; MEMBERS],
    connecting: Connecting,
    chance: Arc<Mutex<SmallRng>>,
}

impl Service<http::Request<Body>> for Balanced {
    type Response = http::Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ready: Vec<usize> = {
            let connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
            (0..MEMBERS).filter(|place| !connecting.contains(place)).collect()
        };
        let chosen = {
            let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
            ready.choose(&mut *chance).copied().unwrap_or_else(|| chance.random_range(0..MEMBERS))
        };
        let member = self.members[chosen].clone();
        Box::pin(async move { Ok(member.oneshot(request).await?) })
    }
}

/// A connection as a server of gRPC takes it.
pub(crate) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connections to a port of this host.
pub(crate) async fn incoming(port: u16) -> io::Result<impl Stream<Item = io::Result<Accepted>>> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    Ok(tokio_stream::StreamExt::map(accepted(listener), |stream| stream.map(Accepted)))
}

fn accepted(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    let (sender, streams) = tokio::sync::mpsc::channel(16);
    estafet_runtime::Tasks::new().spawn("accept", async move {
        loop {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            if sender.send(accepted).await.is_err() {
                return;
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(streams)
}
