//! One connection: handshake, codec, credits and silence. Decides nothing about the network.
//!
//! A frame is read only while the connection has a credit; the network's task returns the credit with the
//! answers. So a client that does not read its answers is not read either, and no queue here grows without
//! end. Whoever is silent for three heartbeats, or takes nothing for as long, is disconnected.

use std::time::Duration;

use estafet_proto::chat::{ClientFrame, ServerFrame, client_frame, server_frame};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    blobs::{self, Blobs},
    frames::{Error, Reader, Writer},
    noise::{self, StaticKey},
    session::ConnId,
};

/// Frames of one connection the network's task may hold at once.
const CREDITS: u32 = 64;

/// Bytes that may wait in a connection's writer before more is encoded.
const MAX_WAITING: usize = 1 << 20;

/// Answers and deliveries that may wait for a connection: one for each credit, one for each
/// delivery of a full window, and some for notices. More means that the client takes nothing.
pub(crate) const OUTBOX: usize = 2048;

/// How long a connection that is being closed may take for its last frames.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// From a connection to the network's task.
#[derive(Debug)]
pub(crate) enum Input {
    /// The handshake is done; answers go here.
    Opened(ConnId, mpsc::Sender<Outgoing>),
    /// A frame arrived over a connection that proved this key.
    Frame(ConnId, [u8; 32], Box<client_frame::Frame>),
    /// The connection is gone.
    Closed(ConnId),
}

/// From the network's task to a connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) frames: Vec<server_frame::Frame>,
    /// Frames it may read again.
    pub(crate) credits: u32,
    /// Close it after these frames.
    pub(crate) close: bool,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    stream: TcpStream,
    conn: ConnId,
    key: StaticKey,
    heartbeat: Duration,
    inputs: mpsc::Sender<Input>,
    blobs: Blobs,
    shutdown: CancellationToken,
) {
    // Small frames must not wait for more; an error shows again at the first read.
    let _ = stream.set_nodelay(true);
    let transport = tokio::select! {
        () = shutdown.cancelled() => return,
        transport = noise::accept(stream, &key) => match transport {
            Ok(transport) => transport,
            Err(error) => return tracing::debug!(conn = conn.0, %error, "handshake refused"),
        },
    };
    let (outbox_in, outbox) = mpsc::channel(OUTBOX);
    if inputs.send(Input::Opened(conn, outbox_in)).await.is_err() {
        return;
    }
    let connection = Connection {
        conn,
        remote_key: transport.remote_key,
        reader: transport.reader,
        writer: transport.writer,
        inputs: inputs.clone(),
        outbox,
        patience: heartbeat * 3,
        credits: CREDITS,
        heard: Instant::now(),
        taken: Instant::now(),
        closing: None,
    };
    let end = tokio::select! {
        () = shutdown.cancelled() => Ok(None),
        end = connection.run() => end,
    };
    // Without the network's task there is nobody to tell.
    let _ = inputs.send(Input::Closed(conn)).await;
    let end = match end {
        Ok(None) => Ok(()),
        Ok(Some(Transfer { reader, writer, first })) => tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            end = blobs::serve(&blobs, reader, writer, first) => end,
        },
        Err(error) => Err(error),
    };
    if let Err(error) = end {
        tracing::debug!(conn = conn.0, %error, "connection dropped");
    }
}

/// A connection that turned out to be for files.
struct Transfer {
    reader: Reader<ReadHalf<TcpStream>>,
    writer: Writer<WriteHalf<TcpStream>>,
    first: client_frame::Frame,
}

struct Connection {
    conn: ConnId,
    remote_key: [u8; 32],
    reader: Reader<ReadHalf<TcpStream>>,
    writer: Writer<WriteHalf<TcpStream>>,
    inputs: mpsc::Sender<Input>,
    outbox: mpsc::Receiver<Outgoing>,
    patience: Duration,
    credits: u32,
    /// When the last frame came, or reading was resumed.
    heard: Instant,
    /// When the client last took everything.
    taken: Instant,
    /// Set when it must be closed: the latest moment.
    closing: Option<Instant>,
}

impl Connection {
    /// Until it ends, or asks for a file.
    async fn run(mut self) -> Result<Option<Transfer>, Error> {
        loop {
            let is_reading = self.credits > 0 && self.closing.is_none();
            let deadline = self.deadline();
            tokio::select! {
                biased;
                outgoing = self.outbox.recv(), if self.writer.waiting() < MAX_WAITING && self.closing.is_none() => match outgoing {
                    Some(outgoing) => self.take(outgoing)?,
                    // The network has given this connection up.
                    None => return Ok(None),
                },
                flushed = self.writer.flush(), if self.writer.waiting() > 0 => {
                    flushed?;
                    self.taken = Instant::now();
                }
                frame = self.reader.next::<ClientFrame>(), if is_reading => match frame? {
                    Some(ClientFrame { frame: Some(first @ (client_frame::Frame::BlobPut(_) | client_frame::Frame::BlobGet(_))) }) => {
                        return Ok(Some(Transfer { reader: self.reader, writer: self.writer, first }));
                    }
                    Some(frame) => self.hear(frame).await?,
                    None => return Ok(None),
                },
                () = sleep_until(deadline) => return Ok(None),
            }
            if self.closing.is_some() && self.writer.waiting() == 0 {
                return self.writer.close().await.map(|()| None);
            }
        }
    }

    fn deadline(&self) -> Instant {
        match self.closing {
            Some(latest) => latest,
            None if self.credits > 0 => self.heard + self.patience,
            None if self.writer.waiting() > 0 => self.taken + self.patience,
            // The network's task is busy: not the client's fault.
            None => Instant::now() + self.patience,
        }
    }

    fn take(&mut self, outgoing: Outgoing) -> Result<(), Error> {
        if self.writer.waiting() == 0 {
            self.taken = Instant::now();
        }
        for frame in outgoing.frames {
            self.writer.feed(&ServerFrame { frame: Some(frame) })?;
        }
        if self.credits == 0 && outgoing.credits > 0 {
            self.heard = Instant::now();
        }
        self.credits += outgoing.credits;
        if outgoing.close {
            self.closing = Some(Instant::now() + CLOSE_LIMIT);
        }
        Ok(())
    }

    async fn hear(&mut self, frame: ClientFrame) -> Result<(), Error> {
        self.heard = Instant::now();
        // A frame of a later version: it is skipped, and what it wanted does not happen.
        let Some(frame) = frame.frame else { return Ok(()) };
        self.credits -= 1;
        let input = Input::Frame(self.conn, self.remote_key, Box::new(frame));
        self.inputs.send(input).await.map_err(|_| Error::Truncated)
    }
}
