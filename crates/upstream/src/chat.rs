//! The chatd network: dials the addresses in order (5222, then 443), handshakes, logs in.
//!
//! A connection is made once per call; whether and when to try again is the shard's to decide. After the
//! login a task of its own serves the link (see [`link`]) until the link is dropped or the network ends it.

mod link;
mod transfer;
#[doc(hidden)]
pub mod wire;

use std::time::Duration;

use async_trait::async_trait;
use estafet_chatd::noise::{self, Transport};
use estafet_proto::chat::{Refused, RefusedReason, ServerFrame, Warm, client_frame, server_frame};
use estafet_runtime::Tasks;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

use crate::{BlobError, BlobStream, ConnectError, Link, Login, Standby, StaticKey, Upstream};

/// Longest time an address may take to accept a connection, before the next one is tried.
const DIAL_LIMIT: Duration = Duration::from_secs(3);

/// Longest time the answer to a login may take.
const LOGIN_LIMIT: Duration = Duration::from_secs(3);

/// Commands that wait for the link; the shard has its own queue in the database.
const COMMANDS: usize = 64;

/// Events that wait for the shard; more are left with the network.
const EVENTS: usize = 64;

/// The chatd network.
#[derive(Clone, Debug)]
pub struct ChatUpstream {
    addresses: Vec<String>,
    server_key: Option<[u8; 32]>,
    tasks: Tasks,
}

impl ChatUpstream {
    /// The network behind `addresses` (`host:port`, tried in order). With a `server_key` only a server that
    /// proves it is talked to. Links are served by `tasks` and end with them.
    pub fn new(addresses: Vec<String>, server_key: Option<[u8; 32]>, tasks: Tasks) -> Self {
        Self { addresses, server_key, tasks }
    }

    async fn dial(&self, address: &str, static_key: &StaticKey) -> Result<Transport<TcpStream>, String> {
        let stream = timeout(DIAL_LIMIT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| "timed out".to_owned())?.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        noise::connect(stream, static_key, self.server_key).await.map_err(|error| error.to_string())
    }

    /// Logs in over `transport`; the text of a failure says what broke, and another address may do.
    async fn serve(&self, mut transport: Transport<TcpStream>, login: &Login) -> Result<Result<Link, ConnectError>, String> {
        let heartbeat = match log_in(&mut transport, login).await? {
            Answer::Refused(refused) => return Ok(Err(refusal(refused))),
            Answer::LoggedIn { heartbeat } => heartbeat,
        };
        let (command, commands) = mpsc::channel(COMMANDS);
        let (event, events) = mpsc::channel(EVENTS);
        let link = link::Served::new(transport, commands, event, u64::from(login.epoch.get()), heartbeat);
        self.tasks.spawn("chatd link", link.run(self.tasks.shutdown().clone()));
        Ok(Ok(Link { commands: command, events }))
    }
}

/// A connection after its handshake, which the network has confirmed to be waiting.
struct Waiting {
    upstream: ChatUpstream,
    transport: Transport<TcpStream>,
}

#[async_trait]
impl Standby for Waiting {
    async fn activate(self: Box<Self>, login: Login) -> Result<Link, ConnectError> {
        let Self { upstream, transport } = *self;
        match upstream.serve(transport, &login).await {
            Ok(answered) => answered,
            Err(failure) => {
                tracing::debug!(failure, "a standby connection is gone, connecting anew");
                upstream.connect(login).await
            }
        }
    }
}

/// Asks the network to keep a connection without a login.
async fn announce(transport: &mut Transport<TcpStream>) -> Result<(), String> {
    let exchange = async {
        transport.writer.feed(&wire::client(client_frame::Frame::Warm(Warm {})))?;
        transport.writer.flush().await?;
        transport.reader.next::<ServerFrame>().await
    };
    let frame = timeout(LOGIN_LIMIT, exchange).await.map_err(|_| "no answer to a standby".to_owned())?;
    match frame.map_err(|error| error.to_string())?.and_then(|frame| frame.frame) {
        Some(server_frame::Frame::Warmed(_)) => Ok(()),
        _ => Err("the network keeps no standby".to_owned()),
    }
}

/// What the network says to a login.
enum Answer {
    LoggedIn { heartbeat: Duration },
    Refused(Refused),
}

async fn log_in(transport: &mut Transport<TcpStream>, login: &Login) -> Result<Answer, String> {
    let exchange = async {
        transport.writer.feed(&wire::client(client_frame::Frame::Login(wire::login(login))))?;
        transport.writer.flush().await?;
        transport.reader.next::<ServerFrame>().await
    };
    let frame = timeout(LOGIN_LIMIT, exchange).await.map_err(|_| "login timed out".to_owned())?;
    match frame.map_err(|error| error.to_string())?.and_then(|frame| frame.frame) {
        Some(server_frame::Frame::LoggedIn(answer)) => {
            Ok(Answer::LoggedIn { heartbeat: Duration::from_millis(u64::from(answer.heartbeat_ms.max(1))) })
        }
        Some(server_frame::Frame::Refused(refused)) => Ok(Answer::Refused(refused)),
        Some(_) => Err("the login was answered by something else".to_owned()),
        None => Err("closed during the login".to_owned()),
    }
}

fn refusal(refused: Refused) -> ConnectError {
    match refused.reason() {
        RefusedReason::StaleEpoch => ConnectError::StaleEpoch { highest: refused.highest_epoch },
        RefusedReason::Conflict => ConnectError::Conflict { holder: refused.holder },
        RefusedReason::Version => ConnectError::Version(refused.details),
        RefusedReason::Overloaded => ConnectError::Unreachable("overloaded".to_owned()),
        RefusedReason::Invalid | RefusedReason::Unauthorized | RefusedReason::Unspecified => {
            ConnectError::Refused(refused.details)
        }
    }
}

#[async_trait]
impl Upstream for ChatUpstream {
    async fn connect(&self, login: Login) -> Result<Link, ConnectError> {
        let mut failures = Vec::new();
        for address in &self.addresses {
            let failure = match self.dial(address, &login.static_key).await {
                Err(failure) => failure,
                Ok(transport) => match self.serve(transport, &login).await {
                    Ok(answered) => return answered,
                    Err(failure) => failure,
                },
            };
            failures.push(format!("{address}: {failure}"));
        }
        Err(ConnectError::Unreachable(failures.join("; ")))
    }

    async fn warm(&self, static_key: &StaticKey) -> Result<Box<dyn Standby>, ConnectError> {
        let mut failures = Vec::new();
        for address in &self.addresses {
            let failure = match self.dial(address, static_key).await {
                Err(failure) => failure,
                Ok(mut transport) => match announce(&mut transport).await {
                    Ok(()) => return Ok(Box::new(Waiting { upstream: self.clone(), transport })),
                    Err(failure) => failure,
                },
            };
            failures.push(format!("{address}: {failure}"));
        }
        Err(ConnectError::Unreachable(failures.join("; ")))
    }

    /// A handshake with a key of nobody, over any of the addresses.
    async fn probe(&self) -> Result<(), ConnectError> {
        let (key, mut failures) = (StaticKey::generate(), Vec::new());
        for address in &self.addresses {
            match self.dial(address, &key).await {
                Ok(_) => return Ok(()),
                Err(failure) => failures.push(format!("{address}: {failure}")),
            }
        }
        Err(ConnectError::Unreachable(failures.join("; ")))
    }

    async fn put_blob(&self, content: BlobStream) -> Result<String, BlobError> {
        self.put(content).await
    }

    async fn get_blob(&self, id: &str) -> Result<BlobStream, BlobError> {
        self.get(id).await
    }
}
