//! Serves one logged-in connection: commands to frames, frames to events, signs of life.
//!
//! One task drives both directions and never waits for one of them alone, so two full queues cannot lock
//! each other: while the shard does not take events, commands still go out, and the other way round. Events
//! that the shard does not take yet stop the reading, which holds the network back.
//!
//! The connection ends when the link is dropped, the network ends it, a frame is unusable, or nothing was
//! heard for three heartbeats. The socket is closed before the shard is told.

use std::{collections::VecDeque, time::Duration};

use estafet_chatd::{
    frames::{Reader, Writer},
    noise::Transport,
};
use estafet_proto::chat::{Ping, ServerFrame, client_frame};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::wire::{self, Heard};
use crate::{Command, Event};

/// Bytes that may wait in the writer before more commands are taken.
const MAX_WAITING: usize = 512 * 1024;

/// Events that may wait for room in the channel before reading stops.
const MAX_BACKLOG: usize = 16;

/// Commands taken at once, to share frames.
const COMMANDS_AT_ONCE: usize = 64;

/// How long a dropped link may take to send what it had taken.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);

/// A connection and its link's other ends.
pub(super) struct Served {
    reader: Reader<ReadHalf<TcpStream>>,
    writer: Writer<WriteHalf<TcpStream>>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    epoch: u64,
    heartbeat: Duration,
    /// When the network was last heard, or reading resumed.
    heard: Instant,
    next_ping: Instant,
}

/// How serving ended.
enum End {
    /// Nobody holds the link any more, or the process stops.
    Dropped,
    /// The network or the connection ended.
    Lost(String),
}

impl Served {
    pub(super) fn new(
        transport: Transport<TcpStream>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        epoch: u64,
        heartbeat: Duration,
    ) -> Self {
        let now = Instant::now();
        let Transport { reader, writer, .. } = transport;
        Self {
            reader,
            writer,
            commands,
            events,
            backlog: VecDeque::new(),
            epoch,
            heartbeat,
            heard: now,
            next_ping: now + heartbeat,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let end = tokio::select! {
            () = shutdown.cancelled() => End::Dropped,
            end = self.serve() => end,
        };
        let Self { reader, mut writer, commands, events, backlog, .. } = self;
        match end {
            End::Dropped => {
                // What was encoded is sent if that is quick; the shard does not rely on it.
                let _ = timeout(CLOSE_LIMIT, writer.close()).await;
                // For a shard that still listens while the process stops.
                let _ = events.try_send(Event::Closed { reason: "stopping".to_owned() });
            }
            End::Lost(reason) => {
                drop((reader, writer, commands));
                for event in backlog.into_iter().chain([Event::Closed { reason }]) {
                    let sent = tokio::select! {
                        () = shutdown.cancelled() => return,
                        sent = events.send(event) => sent,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn serve(&mut self) -> End {
        let mut taken = Vec::with_capacity(COMMANDS_AT_ONCE);
        let events = self.events.clone();
        loop {
            let has_room = self.backlog.len() < MAX_BACKLOG;
            let silence = self.heard + self.heartbeat * 3;
            // Reading comes before silence, so that a process that was stopped hears what has arrived meanwhile.
            let step = tokio::select! {
                biased;
                permit = events.reserve(), if !self.backlog.is_empty() => match (permit, self.backlog.pop_front()) {
                    (Ok(permit), Some(event)) => {
                        permit.send(event);
                        if !has_room {
                            self.heard = Instant::now();
                        }
                        Ok(())
                    }
                    _ => Err(End::Dropped),
                },
                () = events.closed(), if self.backlog.is_empty() => Err(End::Dropped),
                flushed = self.writer.flush(), if self.writer.waiting() > 0 => flushed.map_err(|error| End::Lost(error.to_string())),
                frame = self.reader.next::<ServerFrame>(), if has_room => match frame {
                    Ok(Some(frame)) => self.hear(frame),
                    Ok(None) => Err(End::Lost("closed by the network".to_owned())),
                    Err(error) => Err(End::Lost(error.to_string())),
                },
                count = self.commands.recv_many(&mut taken, COMMANDS_AT_ONCE), if self.writer.waiting() < MAX_WAITING => match count {
                    0 => Err(End::Dropped),
                    _ => self.command(taken.drain(..)),
                },
                () = sleep_until(self.next_ping) => self.ping(),
                () = sleep_until(silence), if has_room => Err(End::Lost("the network is silent".to_owned())),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn command(&mut self, commands: impl Iterator<Item = Command>) -> Result<(), End> {
        let (frames, unsendable) = wire::frames(self.epoch, commands);
        for frame in frames {
            self.writer.feed(&frame).map_err(|error| End::Lost(error.to_string()))?;
        }
        if !unsendable.is_empty() {
            self.backlog.push_back(Event::Verdicts(unsendable));
        }
        Ok(())
    }

    fn hear(&mut self, frame: ServerFrame) -> Result<(), End> {
        self.heard = Instant::now();
        // A frame of a later version is skipped.
        let Some(frame) = frame.frame else { return Ok(()) };
        match wire::heard(frame).map_err(|malformed| End::Lost(malformed.to_string()))? {
            Heard::Nothing => Ok(()),
            Heard::Event(Event::Replaced { epoch }) => {
                self.backlog.push_back(Event::Replaced { epoch });
                Err(End::Lost(format!("replaced by epoch {epoch}")))
            }
            Heard::Event(event) => {
                self.backlog.push_back(event);
                Ok(())
            }
        }
    }

    fn ping(&mut self) -> Result<(), End> {
        self.next_ping = Instant::now() + self.heartbeat;
        if self.writer.waiting() > MAX_WAITING {
            // What waits is a sign of life itself, once it goes out.
            return Ok(());
        }
        let ping = wire::client(client_frame::Frame::Ping(Ping { nonce: 0 }));
        self.writer.feed(&ping).map_err(|error| End::Lost(error.to_string()))
    }
}
