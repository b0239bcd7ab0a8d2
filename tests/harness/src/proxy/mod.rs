//! A TCP proxy on loopback that does to a connection what networks do: delays, stops, cuts, damages.
//!
//! It stands between two processes ([`Proxy::address`] is what the one dials, [`Proxy::aim`] where the other
//! listens) and is switched while connections live. A stopped direction keeps what was sent and delivers it when
//! it heals, as TCP does after a partition; so late bytes of a former owner do arrive. What it cannot imitate:
//! the proxy's host acknowledges what it took, so time-outs of the kernel for lost segments never fire here;
//! the tests with network namespaces have those.

mod faults;
mod pump;

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    os::fd::AsFd as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use estafet_runtime::Tasks;
use nix::sys::socket::{Backlog, listen};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

pub use faults::{Connects, End, Faults, Flow};
use pump::{Carried, Pump, Way};

/// Dials that may wait to be taken.
const BACKLOG: i32 = 128;
/// A dial on loopback that takes longer is not answered.
const UNANSWERED: Duration = Duration::from_millis(50);
/// Pause before a port that is in use is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// What a proxy has carried since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were made.
    pub connections: u64,
    /// Bytes forwarded, both ways.
    pub bytes: u64,
    /// Bits flipped, both ways.
    pub flipped: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            connections: sum.connections + one.connections,
            bytes: sum.bytes + one.bytes,
            flipped: sum.flipped + one.flipped,
        })
    }
}

/// A running proxy; it ends, and resets what it carries, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    faults: watch::Sender<Faults>,
    /// What the acceptor does with dials now.
    applied: watch::Receiver<Connects>,
    /// Counts orders to end all connections, and says how.
    cuts: watch::Sender<(u64, End)>,
    carried: Arc<Carried>,
    tasks: Tasks,
}

impl Proxy {
    /// Starts one on a free port of loopback. `seed` decides jitter and which bits are flipped.
    pub async fn start(target: Option<SocketAddr>, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("no free port")?;
        let address = listener.local_addr()?;
        let (faults, (apply, applied)) = (watch::Sender::new(Faults::default()), watch::channel(Connects::Made));
        let proxy = Self {
            address,
            target: watch::Sender::new(target),
            faults,
            applied,
            cuts: watch::Sender::new((0, End::Reset)),
            carried: Arc::default(),
            tasks: Tasks::new(),
        };
        let acceptor = Acceptor {
            address,
            wiring: Wiring {
                target: proxy.target.subscribe(),
                faults: proxy.faults.subscribe(),
                cuts: proxy.cuts.subscribe(),
                carried: proxy.carried.clone(),
                seed,
            },
            apply,
            tasks: proxy.tasks.clone(),
            fillers: HashSet::new(),
        };
        let shutdown = proxy.tasks.shutdown().clone();
        proxy.tasks.spawn("proxy", async move {
            tokio::select! {
                () = acceptor.run(listener) => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(proxy)
    }

    /// What to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead from now on; before the first word they wait.
    pub fn aim(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// Does this from now on, to live connections and new ones. Returns when dials are treated so.
    pub async fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
        // The acceptor ends with the proxy only.
        let _ = self.applied.clone().wait_for(|connects| *connects == faults.connects).await;
    }

    /// Ends all faults. Connections that were cut stay so.
    pub async fn heal(&self) {
        self.set(Faults::default()).await;
    }

    /// Ends all live connections.
    pub fn cut(&self, end: End) {
        self.cuts.send_modify(|cut| *cut = (cut.0 + 1, end));
    }

    /// What it has carried.
    pub fn counts(&self) -> Counts {
        let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let Carried { connections, bytes, flipped } = &*self.carried;
        Counts { connections: read(connections), bytes: read(bytes), flipped: read(flipped) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

/// What a connection is told and tells.
#[derive(Clone)]
struct Wiring {
    target: watch::Receiver<Option<SocketAddr>>,
    faults: watch::Receiver<Faults>,
    cuts: watch::Receiver<(u64, End)>,
    carried: Arc<Carried>,
    seed: u64,
}

struct Acceptor {
    address: SocketAddr,
    wiring: Wiring,
    apply: watch::Sender<Connects>,
    tasks: Tasks,
    /// Our own connections that keep the line of dials full.
    fillers: HashSet<SocketAddr>,
}

impl Acceptor {
    async fn run(mut self, mut listener: TcpListener) {
        loop {
            self.apply.send_replace(Connects::Made);
            self.accept(&listener).await;
            // The wanted state may change again meanwhile: each state looks at it before it does anything.
            while self.wanted() != Connects::Made {
                match self.wanted() {
                    Connects::Made => {}
                    Connects::Unanswered => self.leave_unanswered(&listener).await,
                    Connects::Refused => listener = self.refuse(listener).await,
                }
            }
        }
    }

    fn wanted(&mut self) -> Connects {
        self.wiring.faults.borrow_and_update().connects
    }

    /// Waits until dials are to be treated otherwise.
    async fn until_not(&mut self, now: Connects) {
        // The sender lives as long as the proxy, whose end ends this task.
        let _ = self.wiring.faults.wait_for(|faults| faults.connects != now).await;
    }

    async fn accept(&mut self, listener: &TcpListener) {
        while self.wanted() == Connects::Made {
            tokio::select! {
                accepted = listener.accept() => {
                    // Errors are those of one dial, or of a process without descriptors: the test will say.
                    let Ok((client, from)) = accepted else { continue };
                    if !self.fillers.remove(&from) {
                        self.tasks.spawn("proxied", carry(client, self.wiring.clone(), self.tasks.clone()));
                    }
                }
                _ = self.wiring.faults.changed() => {}
            }
        }
    }

    /// The kernel drops dials to a line that is full.
    async fn leave_unanswered(&mut self, listener: &TcpListener) {
        // Fails for what is no socket only.
        let _ = listen(&listener.as_fd(), Backlog::new(0).unwrap_or(Backlog::MAXCONN));
        let mut held = Vec::new();
        while let Ok(Ok(filler)) = timeout(UNANSWERED, TcpStream::connect(self.address)).await {
            self.fillers.extend(filler.local_addr());
            held.push(filler);
        }
        self.apply.send_replace(Connects::Unanswered);
        self.until_not(Connects::Unanswered).await;
        let _ = listen(&listener.as_fd(), Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN));
    }

    /// Nobody listens.
    async fn refuse(&mut self, listener: TcpListener) -> TcpListener {
        drop(listener);
        self.apply.send_replace(Connects::Refused);
        self.until_not(Connects::Refused).await;
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Carries one connection to its end.
async fn carry(client: TcpStream, mut wiring: Wiring, tasks: Tasks) {
    let carrying = async {
        let before = wiring.cuts.borrow_and_update().0;
        let target = *wiring.target.wait_for(Option::is_some).await.ok()?;
        let server = TcpStream::connect(target?).await;
        let Ok(server) = server else {
            // Somebody who cannot be reached: the nearest to a refusal that is left after an accepted dial.
            return Some((None, End::Reset));
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let n = wiring.carried.connections.fetch_add(1, Ordering::Relaxed);
        let seed = wiring.seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let pump = |sides, seed| Pump::new(sides, wiring.faults.clone(), seed, wiring.carried.clone()).run();
        let end = tokio::select! {
            ended = async { tokio::try_join!(
                pump((&client, &server, Way::ToServer), seed),
                pump((&server, &client, Way::ToClient), !seed),
            ) } => ended.err().unwrap_or(End::Close),
            cut = wiring.cuts.wait_for(|cut| cut.0 != before) => cut.map_or(End::Reset, |cut| cut.1),
        };
        Some((Some(server), end))
    };
    let (server, end) = tokio::select! {
        ended = carrying => ended.unwrap_or((None, End::Reset)),
        () = tasks.shutdown().cancelled() => (None, End::Reset),
    };
    if end == End::Reset {
        reset(&client);
        server.iter().for_each(reset);
    }
}

/// The end of the stream will be a RST.
fn reset(stream: &TcpStream) {
    // A connection that is reset already cannot be told, and need not be.
    let _: io::Result<()> = stream.set_zero_linger();
}

#[cfg(test)]
mod tests;
