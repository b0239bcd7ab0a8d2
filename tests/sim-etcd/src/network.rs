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
use estafet_etcd::{Error, Network, Timing, network::Connection};
use etcd_client::{Channel, Client};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::transport::{Endpoint, server::Connected};
use turmoil::net::{TcpListener, TcpStream};

use crate::process::{Dials, connect};

/// Host name of etcd.
pub(crate) const ETCD: &str = "etcd";
pub(crate) const ETCD_PORT: u16 = 2379;

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
        let endpoint = Endpoint::from_shared(format!("http://{ETCD}:{ETCD_PORT}")).expect("an address");
        let endpoint = endpoint
            .connect_timeout(self.timing.deadline)
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(self.timing.renew)
            .keep_alive_timeout(self.timing.renew);
        let dials = self.dials.clone();
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let dials = dials.clone();
            async move {
                let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or_default());
                Ok::<_, io::Error>(TokioIo::new(connect(&dials, host, port).await?))
            }
        }));
        let client = Client::from_channel(Channel::Tonic(channel), None).await;
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
