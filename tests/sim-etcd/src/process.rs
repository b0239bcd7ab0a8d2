//! A process: its program on a runtime of its own, and the kernel of its host, which has the sockets.
//!
//! The kernel runs on the simulated network and goes on whatever the program does: it takes connections and keeps what
//! arrives. The program is run one step after the other; it meets the network only through its kernel, in [`Dial`]s
//! and pipes. So a program can be stopped: it does not run, and when it goes on its clock has jumped: what arrived
//! meanwhile is there, and all its timers are late.

use std::{io, time::Duration};

use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    time::{advance, sleep},
};
use turmoil::net::{TcpListener, TcpStream};

/// Connections that a program asks for at a time.
const DIALS: usize = 16;
/// What a kernel keeps of each direction of a connection, in bytes.
const KEPT: usize = 64 * 1024;

/// A program wants to be connected.
pub(crate) struct Dial {
    host: String,
    port: u16,
    pipe: DuplexStream,
    answer: oneshot::Sender<io::Result<()>>,
}

/// A program's side of its kernel.
pub(crate) type Dials = mpsc::Sender<Dial>;
/// The kernel's side.
pub(crate) type Dialled = mpsc::Receiver<Dial>;

/// Both sides, for one start of a program.
pub(crate) fn dials() -> (Dials, Dialled) {
    mpsc::channel(DIALS)
}

/// Connects a program to a port of a host.
pub(crate) async fn connect(dials: &Dials, host: &str, port: u16) -> io::Result<DuplexStream> {
    let (ours, pipe) = duplex(KEPT);
    let (answer, answered) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::NotConnected);
    dials.send(Dial { host: host.to_owned(), port, pipe, answer }).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())??;
    Ok(ours)
}

/// The kernel under a program: connects it, and takes and holds what connects to its port.
pub(crate) async fn kernel(mut dialled: Dialled, port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let (mut open, tasks) = (Vec::new(), estafet_runtime::Tasks::new());
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => open.push(accepted?),
            Some(dial) = dialled.recv() => drop(tasks.spawn("connection", carry(dial))),
        }
    }
}

/// One connection, from its beginning to its end.
async fn carry(Dial { host, port, mut pipe, mut answer }: Dial) {
    let connected = tokio::select! {
        biased;
        // Nobody waits for it any more.
        () = answer.closed() => return,
        connected = TcpStream::connect((host, port)) => connected,
    };
    match connected {
        Ok(mut stream) => {
            if answer.send(Ok(())).is_ok() {
                // However it ends, both sides see that it ended.
                let _ = copy_bidirectional(&mut pipe, &mut stream).await;
            }
        }
        // An error: the program gave up in this moment.
        Err(error) => drop(answer.send(Err(error))),
    }
}

/// One start of a program. Dropping it kills the program.
pub(crate) struct Process {
    name: String,
    runtime: Runtime,
    /// It is stopped, and has missed so much.
    missed: Option<Duration>,
}

impl Process {
    /// Begins with the first step.
    pub(crate) fn start(name: String, program: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        // Its clock begins at a whole millisecond, as timers do.
        runtime.block_on(async {
            sleep(Duration::from_millis(1)).await;
            estafet_runtime::Tasks::new().spawn("program", program);
        });
        Ok(Self { name, runtime, missed: None })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.missed.is_some()
    }

    /// It does nothing until it is told to go on.
    pub(crate) fn stop(&mut self) {
        self.missed.get_or_insert_default();
    }

    pub(crate) fn go_on(&mut self) {
        if let Some(missed) = self.missed.take() {
            let _node = tracing::info_span!("node", name = self.name).entered();
            self.runtime.block_on(advance(missed));
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, step: Duration) {
        match &mut self.missed {
            Some(missed) => *missed += step,
            None => {
                let _node = tracing::info_span!("node", name = self.name).entered();
                self.runtime.block_on(async { sleep(step).await });
            }
        }
    }
}
