//! How the roles of one process reach each other: the same gRPC as in a cluster, over memory.

use std::sync::Arc;

use async_trait::async_trait;
use estafet_coreapp::{Node, ShardEnded};
use estafet_master::local::{Local, LocalNode};
use estafet_model::Epoch;
use estafet_runtime::Tasks;
use estafet_store::{Fence, Hold};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint, Server};

use estafet_coreapp::core::life::Reason;

/// Bytes buffered in each direction of a connection.
const BUFFER: usize = 256 * 1024;

/// The coreapp of this process, as the coordination sees it.
pub(crate) struct SandboxNode(pub(crate) Node);

#[async_trait]
impl LocalNode for SandboxNode {
    async fn acquire(&self, fence: Fence) -> Result<(), String> {
        self.0.acquire(fence).await.map_err(|error| error.to_string())
    }

    async fn let_go(&self, fence: Fence) {
        self.0.let_go(&fence).await;
    }
}

/// Connections to the coreapp of this process.
pub(crate) struct InProcess {
    connections: mpsc::Sender<DuplexStream>,
}

impl InProcess {
    /// Serves the node's data service to connections made with [`Self`].
    pub(crate) fn serve(node: &Node, tasks: &Tasks) -> Self {
        let (connections, incoming) = mpsc::channel(16);
        let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
        let shutdown = tasks.shutdown().clone();
        let server = Server::builder()
            .add_service(estafet_coreapp::grpc::service(node.clone()))
            .serve_with_incoming_shutdown(incoming, async move { shutdown.cancelled().await });
        tasks.spawn("data service", async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "data service ended");
            }
        });
        Self { connections }
    }
}

impl estafet_webapp::Connect for InProcess {
    fn channel(&self, _address: &str) -> Channel {
        let connections = self.connections.clone();
        let connector = tower::service_fn(move |_| {
            let connections = connections.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(BUFFER);
                connections.send(theirs).await.map_err(|_| std::io::Error::other("the coreapp of this process is gone"))?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://in-process.invalid")
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_with_connector_lazy(connector)
    }
}

/// Claims again what the node loses, as long as nobody else took the number.
pub(crate) async fn retake(
    local: Arc<Local<SandboxNode>>,
    mut endings: mpsc::Receiver<ShardEnded>,
    hold: Arc<dyn Hold>,
    tasks: Tasks,
) {
    loop {
        let ending = tokio::select! {
            ending = endings.recv() => ending,
            () = tasks.shutdown().cancelled() => None,
        };
        let Some(ShardEnded { fence, reason, .. }) = ending else { return };
        let seen = match reason {
            Reason::Drained => continue,
            Reason::Fenced | Reason::Exhausted | Reason::HandedOff { .. } => fence.epoch,
            Reason::StaleUpstream { highest } => Epoch::new(u32::try_from(highest).unwrap_or(u32::MAX - 1)),
        };
        if !hold.is_held() {
            tracing::error!(number = %fence.number, "the number was taken by another process");
            tasks.shutdown().cancel();
            return;
        }
        tracing::warn!(number = %fence.number, shard = %fence.shard, ?reason, "claiming the shard again");
        if let Err(error) = local.retake(&fence, seen).await {
            tracing::error!(%error, "the shard could not be claimed again");
            tasks.shutdown().cancel();
            return;
        }
    }
}
