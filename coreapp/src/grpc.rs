//! The data service: one long-lived stream of each webapp, batched frames both ways, credits.
//!
//! A webapp may have as many requests open as it was granted credits; each answer gives one back. So
//! neither side ever buffers more than [`CREDITS`] requests of a stream, and a shard that is slow is
//! felt at the edge at once.

use std::{pin::Pin, time::Duration};

use estafet_model::{ApiError, WaId, protocol};
use estafet_proto::v1::{
    self, OutcomeFrame, ReadStatsRequest, ReadStatsResponse, ReloadSettingsRequest, ReloadSettingsResponse, RequestFrame,
    data_server::{Data, DataServer},
};
use estafet_tls::{Peer, Role};
use futures::Stream;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    Node,
    request::{Reply, parse, refused},
};

/// Requests one webapp may have open.
pub const CREDITS: u32 = 4096;
/// Outcomes in one frame.
const FRAME: usize = 512;
/// Longest frame accepted: [`FRAME`] requests with long bodies.
const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;
/// How often the states are told when nothing changes.
const STATE_EVERY: Duration = Duration::from_secs(1);

/// Who may call the data service.
const CALLERS: [Role; 1] = [Role::Webapp];

/// The data service of a node.
pub fn service(node: Node) -> DataServer<DataService> {
    DataServer::new(DataService { node }).max_decoding_message_size(MAX_FRAME_BYTES).max_encoding_message_size(MAX_FRAME_BYTES)
}

/// Implements [`Data`].
pub struct DataService {
    node: Node,
}

impl DataService {
    fn dispatch(&self, request: v1::Request, reply: Reply) {
        match parse(request) {
            Ok((number, slot, action)) => self.node.dispatch(number, slot, action, reply),
            Err(error) => reply.send(refused(&error)),
        }
    }
}

#[tonic::async_trait]
impl Data for DataService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<OutcomeFrame, Status>> + Send>>;

    async fn exchange(&self, request: Request<Streaming<RequestFrame>>) -> Result<Response<Self::ExchangeStream>, Status> {
        Peer::admit(&request, &CALLERS)?;
        let mut incoming = request.into_inner();
        let (outcome_sender, outcomes) = mpsc::channel(CREDITS as usize + 1);
        let (frame_sender, frames) = mpsc::channel(8);
        let tasks = self.node.tasks().clone();
        tasks.spawn("outcome writer", write_outcomes(self.node.clone(), outcomes, frame_sender.clone()));
        let (service, shutdown) = (Self { node: self.node.clone() }, tasks.shutdown().clone());
        tasks.spawn("request reader", async move {
            loop {
                let frame = tokio::select! {
                    frame = incoming.message() => frame,
                    () = shutdown.cancelled() => return,
                };
                let Ok(Some(frame)) = frame else { return };
                if let Err(error) = protocol::agree("webapp", frame.protocol) {
                    tracing::warn!(%error, "a webapp that is refused");
                    // The webapp may have left already.
                    let _ = frame_sender.send(Err(Status::failed_precondition(error.to_string()))).await;
                    return;
                }
                for request in frame.requests {
                    let reply = Reply::Stream { correlation: request.correlation, outcomes: outcome_sender.clone() };
                    service.dispatch(request, reply);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }

    async fn single(&self, request: Request<v1::Request>) -> Result<Response<v1::Outcome>, Status> {
        Peer::admit(&request, &CALLERS)?;
        let (sender, outcome) = oneshot::channel();
        self.dispatch(request.into_inner(), Reply::Single(sender));
        outcome.await.map(Response::new).map_err(|_| Status::unavailable("the shard ended"))
    }

    async fn reload_settings(&self, request: Request<ReloadSettingsRequest>) -> Result<Response<ReloadSettingsResponse>, Status> {
        Peer::admit(&request, &CALLERS)?;
        let ReloadSettingsRequest { number, version } = request.into_inner();
        let number =
            WaId::from_u64(number).map_err(|error| Status::invalid_argument(ApiError::invalid("number", error).to_string()))?;
        let version = self.node.reload_settings(number, version).await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(ReloadSettingsResponse { version }))
    }

    async fn read_stats(&self, request: Request<ReadStatsRequest>) -> Result<Response<ReadStatsResponse>, Status> {
        Peer::admit(&request, &CALLERS)?;
        let number = WaId::from_u64(request.into_inner().number);
        let number = number.map_err(|error| Status::invalid_argument(ApiError::invalid("number", error).to_string()))?;
        Ok(Response::new(self.node.stats(number)))
    }
}

/// Frames whatever outcomes wait, gives their credits back, and tells the node's state.
async fn write_outcomes(
    node: Node,
    mut outcomes: mpsc::Receiver<v1::Outcome>,
    frames: mpsc::Sender<Result<OutcomeFrame, Status>>,
) {
    let mut changes = node.state().subscribe();
    let shutdown = node.tasks().shutdown().clone();
    let mut tick = interval(STATE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let greeting =
        OutcomeFrame { outcomes: Vec::new(), credits: CREDITS, states: node.state().snapshot(), protocol: protocol::PROTOCOL };
    if frames.send(Ok(greeting)).await.is_err() {
        return;
    }
    loop {
        let mut batch = Vec::new();
        let states = tokio::select! {
            count = outcomes.recv_many(&mut batch, FRAME) => {
                if count == 0 { return }
                Vec::new()
            }
            Ok(()) = changes.changed() => node.state().snapshot(),
            _ = tick.tick() => node.state().snapshot(),
            () = shutdown.cancelled() => return,
        };
        let frame = OutcomeFrame { credits: batch.len() as u32, outcomes: batch, states, protocol: protocol::PROTOCOL };
        if frames.send(Ok(frame)).await.is_err() {
            return;
        }
    }
}
