//! One direction of one connection: reads, delays, damages, writes.
//!
//! It never blocks on one side alone: whatever it waits for, it hears of new faults at once.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};

use super::faults::{Damage, End, Faults, Flow};

/// Bytes read at once, and bytes kept while they wait to be due.
const CHUNK: usize = 16 * 1024;
const KEPT: usize = 4 * 1024 * 1024;

/// Which direction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    ToServer,
    ToClient,
}

impl Way {
    fn flow(self, faults: &Faults) -> Flow {
        match self {
            Self::ToServer => faults.to_server,
            Self::ToClient => faults.to_client,
        }
    }
}

/// What was carried, over all connections.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) connections: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) flipped: AtomicU64,
}

pub(super) struct Pump<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    way: Way,
    faults: watch::Receiver<Faults>,
    damage: Damage,
    carried: Arc<Carried>,
    /// What waits, with when it is due.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    kept: usize,
    read_all: bool,
    /// The last byte that may pass is in `waiting`.
    ending: Option<End>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        (from, to, way): (&'a TcpStream, &'a TcpStream, Way),
        faults: watch::Receiver<Faults>,
        seed: u64,
        carried: Arc<Carried>,
    ) -> Self {
        let damage = Damage::new(seed);
        Self { from, to, way, faults, damage, carried, waiting: VecDeque::new(), kept: 0, read_all: false, ending: None }
    }

    /// Carries until the sender has ended in order; `Err` says how the whole connection is to be ended.
    pub(super) async fn run(mut self) -> Result<(), End> {
        loop {
            let flow = self.way.flow(&self.faults.borrow_and_update());
            if self.waiting.is_empty() && !flow.stopped {
                if let Some(end) = self.ending {
                    return Err(end);
                }
                if self.read_all {
                    // Fails if the other side is gone, which the other direction finds out.
                    let _ = nix::sys::socket::shutdown(self.to.as_raw_fd(), nix::sys::socket::Shutdown::Write);
                    return Ok(());
                }
            }
            let due = self.waiting.front().map(|(due, _)| *due);
            let is_due = due.is_some_and(|due| due <= Instant::now());
            let reads = !self.read_all && self.ending.is_none() && self.kept < KEPT;
            tokio::select! {
                changed = self.faults.changed() => changed.map_err(|_| End::Reset)?,
                ready = self.from.readable(), if reads && !flow.stopped => self.read(ready, &flow)?,
                ready = self.to.writable(), if is_due && !flow.stopped => self.write(ready)?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && !is_due && !flow.stopped => {}
            }
        }
    }

    fn read(&mut self, ready: io::Result<()>, flow: &Flow) -> Result<(), End> {
        let mut bytes = vec![0; Damage::chunk(flow, CHUNK)];
        match ready.and_then(|()| self.from.try_read(&mut bytes)) {
            Ok(0) => self.read_all = true,
            Ok(count) => {
                bytes.truncate(count);
                self.damage.flip(&mut bytes, flow);
                self.carried.flipped.fetch_add(std::mem::take(&mut self.damage.flipped), Ordering::Relaxed);
                if let Some((passes, end)) = self.damage.ends_within(count, flow) {
                    bytes.truncate(passes);
                    self.ending = Some(end);
                }
                let due = self.damage.due(Instant::now(), bytes.len(), flow);
                self.kept += bytes.len();
                self.waiting.push_back((due, bytes));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(End::Reset),
        }
        Ok(())
    }

    fn write(&mut self, ready: io::Result<()>) -> Result<(), End> {
        let Some((_, bytes)) = self.waiting.front_mut() else { return Ok(()) };
        let written = if bytes.is_empty() { Ok(0) } else { ready.and_then(|()| self.to.try_write(bytes)) };
        match written {
            Ok(count) => {
                bytes.drain(..count);
                if bytes.is_empty() {
                    self.waiting.pop_front();
                }
                self.kept -= count;
                self.carried.bytes.fetch_add(count as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }
}
