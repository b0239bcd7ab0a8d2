//! The network as a service: listeners, and the one task that owns the state.
//!
//! The task takes what waits, decides it ([`crate::network`]), stores it in one transaction, writes the audit
//! log, and only then answers: **persist, only then send**. A login ends a batch, so that everything after it
//! is looked up in the light of it. A failure of the database ends the service: the state in memory would be
//! ahead of what is stored.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use estafet_model::WaId;
use estafet_proto::chat::client_frame;
use estafet_runtime::{Clock, Tasks};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit,
    blobs::Blobs,
    connection::{self, Input, Outgoing},
    network::{Batch, Network, Output},
    noise::StaticKey,
    phones::{self, Phones, Request},
    session::ConnId,
    storage::{self, Storage},
    templates::Templates,
};

/// Inputs taken at once, and envelopes after which a batch ends: enough to share a commit, few
/// enough to keep it short.
const BATCH_INPUTS: usize = 512;
const BATCH_ENVELOPES: usize = 2048;

/// Inputs that wait for the task; connections have credits, so this is no limit but a buffer.
const INPUTS: usize = 1024;

/// Requests for phones that wait.
const REQUESTS: usize = 64;

/// Parcels brought to a phone per batch after it was offline.
const DRAIN: usize = 256;

/// Connections at once.
const MAX_CONNECTIONS: u64 = 4096;

/// How often what is too old is forgotten.
const SWEEP: Duration = Duration::from_secs(1);

/// How often old files are looked for.
const BLOB_SWEEP: Duration = Duration::from_secs(600);

/// How long ids are remembered.
const SEEN_MS: i64 = 24 * 3600 * 1000;

/// A day.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// First number of the phones made by configuration.
const FIRST_PHONE: u64 = 15_550_001_001;

/// How the network is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the database and the audit log are; created if absent.
    pub data_dir: PathBuf,
    /// Addresses to listen on; port 0 takes any.
    pub listen: Vec<SocketAddr>,
    /// Phones 15550001001.. that exist from the start.
    pub phones: u32,
    /// Makes the ids of phones' messages repeatable.
    pub seed: Option<u64>,
    /// Static key of the server; without it one is made and kept in the data directory.
    pub static_key: Option<StaticKey>,
    /// Clients are to be heard this often; after three of them in silence they are disconnected.
    pub heartbeat: Duration,
    /// How long messages wait for a phone that is out of reach.
    pub keep_messages: Duration,
    /// How long files are kept.
    pub keep_files: Duration,
    /// Clients that speak an older version of the protocol are refused.
    pub oldest_protocol: u32,
    /// The templates that phones know, in the layout of [`Templates::read`], now and whenever they change.
    pub templates: Option<watch::Receiver<Value>>,
}

impl Config {
    /// A network on a free port of loopback, with ten phones.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            phones: 10,
            seed: None,
            static_key: None,
            heartbeat: Duration::from_secs(2),
            keep_messages: DAY * 30,
            keep_files: DAY * 14,
            oldest_protocol: 0,
            templates: None,
        }
    }
}

/// A running network.
#[derive(Clone, Debug)]
pub struct Chatd {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Static public key of the server, for clients that pin it.
    pub public_key: [u8; 32],
    /// The phones.
    pub phones: Phones,
    /// The audit log; see [`audit::check`].
    pub audit_path: PathBuf,
}

/// Why the network did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory is not usable.
    #[error("data directory {0}: {1}")]
    DataDir(PathBuf, #[source] std::io::Error),
    /// An address is not free.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The audit log could not be written.
    #[error("audit log: {0}")]
    Audit(#[source] std::io::Error),
    /// The stored server key is damaged.
    #[error("the stored server key is damaged")]
    Key,
    /// A configured phone has no valid number.
    #[error("too many phones")]
    Phones,
}

/// Starts the network; it ends when `tasks` do.
pub async fn start(config: Config, clock: Clock, tasks: Tasks) -> Result<Chatd, Error> {
    create_private(&config.data_dir).map_err(|error| Error::DataDir(config.data_dir.clone(), error))?;
    let database = config.data_dir.join("chatd.sqlite");
    // SQLite gives its other files the mode of this one.
    let private = OpenOptions::new().append(true).create(true).mode(0o600).open(&database);
    private.map_err(|error| Error::DataDir(database.clone(), error))?;
    let mut storage = Storage::open(&database).await?;
    let key = match config.static_key {
        Some(key) => key,
        None => {
            let stored = storage.meta("static_key", StaticKey::generate().to_bytes().to_vec()).await?;
            StaticKey::from_bytes(stored.try_into().map_err(|_| Error::Key)?)
        }
    };
    let heartbeat_ms = config.heartbeat.as_millis().clamp(1, u128::from(u32::MAX)) as u32;
    let stored = storage.load().await?;
    let mut network =
        Network::restore(stored, config.seed.unwrap_or_else(rand::random), heartbeat_ms).refusing_before(config.oldest_protocol);
    let mut templates = config.templates;
    if let Some(templates) = &mut templates {
        network.set_templates(Templates::read(&templates.borrow_and_update()));
    }
    for number in FIRST_PHONE..FIRST_PHONE + u64::from(config.phones) {
        let number = WaId::from_u64(number).map_err(|_| Error::Phones)?;
        // A phone that is there already stays as it is, and a number that was left stays empty.
        if network.had_phone(number).is_err() {
            let _ = network.add_phone(number, None);
        }
    }
    let audit_path = config.data_dir.join("chatd-audit.jsonl");
    let blobs = Blobs::open(config.data_dir.join("blobs"));
    let blobs = blobs.map_err(|error| Error::DataDir(config.data_dir.join("blobs"), error))?;
    tasks.spawn("chatd files", sweep_blobs(blobs.clone(), config.keep_files, clock.clone(), tasks.shutdown().clone()));
    let mut driver = Driver {
        network,
        storage,
        audit: audit::Log::open(&audit_path).map_err(Error::Audit)?,
        connections: HashMap::new(),
        clock,
        templates,
        keep_messages_ms: i64::try_from(config.keep_messages.as_millis()).unwrap_or(i64::MAX / 2),
        shutdown: tasks.shutdown().clone(),
    };
    let mut first = driver.batch();
    first.audit.push(audit::Event::Start);
    driver.conclude(first, HashMap::new()).await?;

    let (input, inputs) = mpsc::channel(INPUTS);
    let (request, requests) = mpsc::channel(REQUESTS);
    let next_conn = Arc::new(AtomicU64::new(1));
    let open = Arc::new(AtomicU64::new(0));
    let public_key = key.public();
    let mut addresses = Vec::new();
    for address in config.listen {
        let listener = TcpListener::bind(address).await.map_err(|error| Error::Listen(address, error))?;
        addresses.push(listener.local_addr().map_err(|error| Error::Listen(address, error))?);
        let door = Door {
            key: key.clone(),
            heartbeat: config.heartbeat,
            next_conn: next_conn.clone(),
            open: open.clone(),
            inputs: input.clone(),
            blobs: blobs.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn("chatd listener", door.serve(listener));
    }
    tasks.spawn("chatd network", driver.run(inputs, requests));
    Ok(Chatd { addresses, public_key, phones: Phones::new(request, blobs), audit_path })
}

/// Removes files that are too old, now and then.
async fn sweep_blobs(blobs: Blobs, keep: Duration, clock: Clock, shutdown: CancellationToken) {
    let mut pace = interval(BLOB_SWEEP);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = pace.tick() => {}
        }
        if let Err(error) = blobs.sweep(clock.now_ms(), keep).await {
            tracing::warn!(%error, "old files could not be looked for");
        }
    }
}

/// Creates the directory so that only its owner may look into it: it holds keys.
fn create_private(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Accepts connections of one listener.
struct Door {
    key: StaticKey,
    heartbeat: Duration,
    next_conn: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    inputs: mpsc::Sender<Input>,
    blobs: Blobs,
    tasks: Tasks,
}

impl Door {
    async fn serve(self, listener: TcpListener) {
        let shutdown = self.tasks.shutdown().clone();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) if self.open.load(Ordering::Relaxed) < MAX_CONNECTIONS => self.admit(stream),
                Ok(_) => tracing::warn!("connection refused, too many are open"),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    // Out of descriptors, most likely: others must close first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn admit(&self, stream: tokio::net::TcpStream) {
        let conn = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let (open, inputs, shutdown) = (self.open.clone(), self.inputs.clone(), self.tasks.shutdown().clone());
        let (key, heartbeat, blobs) = (self.key.clone(), self.heartbeat, self.blobs.clone());
        open.fetch_add(1, Ordering::Relaxed);
        self.tasks.spawn("chatd connection", async move {
            connection::serve(stream, conn, key, heartbeat, inputs, blobs, shutdown).await;
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// The task that owns the state.
struct Driver {
    network: Network,
    storage: Storage,
    audit: audit::Log,
    connections: HashMap<ConnId, mpsc::Sender<Outgoing>>,
    clock: Clock,
    templates: Option<watch::Receiver<Value>>,
    keep_messages_ms: i64,
    shutdown: CancellationToken,
}

/// An answer that is given after the batch is stored.
type Answer = Box<dyn FnOnce() + Send>;

impl Driver {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut requests: mpsc::Receiver<Request>) {
        if let Err(error) = self.serve(&mut inputs, &mut requests).await {
            tracing::error!(%error, "the network cannot store its state and ends");
            self.shutdown.cancel();
        }
        if let Err(error) = self.storage.close().await {
            tracing::warn!(%error, "closing the database failed");
        }
    }

    async fn serve(&mut self, inputs: &mut mpsc::Receiver<Input>, requests: &mut mpsc::Receiver<Request>) -> Result<(), Error> {
        let shutdown = self.shutdown.clone();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Vec::with_capacity(BATCH_INPUTS);
        loop {
            let drain = self.network.phone_to_drain();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = sweep.tick() => self.sweep().await?,
                Some(request) = requests.recv() => self.request(request).await?,
                1.. = inputs.recv_many(&mut taken, BATCH_INPUTS) => self.inputs(&mut taken).await?,
                () = std::future::ready(()), if drain.is_some() => {}
            }
            if let Some(phone) = drain {
                self.drain(phone).await?;
            }
        }
    }

    fn batch(&self) -> Batch {
        Batch { now_ms: self.clock.now_ms(), ..Batch::default() }
    }

    /// Decides inputs in as few batches as their logins and their size allow.
    async fn inputs(&mut self, taken: &mut Vec<Input>) -> Result<(), Error> {
        let mut rest = std::mem::take(taken).into_iter().peekable();
        while rest.peek().is_some() {
            let mut part = Vec::new();
            let mut envelopes = 0;
            for input in rest.by_ref() {
                envelopes += weight(&input);
                part.push(input);
                if envelopes >= BATCH_ENVELOPES {
                    break;
                }
            }
            self.decide(part).await?;
        }
        Ok(())
    }

    /// Phones know a template as soon as whoever added it has been told so.
    fn look_at_templates(&mut self) {
        if let Some(templates) = self.templates.as_mut().filter(|templates| templates.has_changed().unwrap_or(false)) {
            self.network.set_templates(Templates::read(&templates.borrow_and_update()));
        }
    }

    async fn decide(&mut self, part: Vec<Input>) -> Result<(), Error> {
        self.look_at_templates();
        let mut batch = self.batch();
        self.look_up(&part, &mut batch).await?;
        let mut credits: HashMap<ConnId, u32> = HashMap::new();
        for input in part {
            match input {
                Input::Opened(conn, outbox) => {
                    self.connections.insert(conn, outbox);
                }
                Input::Frame(conn, static_key, frame) => {
                    *credits.entry(conn).or_insert(0) += 1;
                    self.network.frame(&mut batch, conn, static_key, *frame);
                }
                Input::Closed(conn) => {
                    self.connections.remove(&conn);
                    self.network.closed(&mut batch, conn);
                }
            }
        }
        self.conclude(batch, credits).await
    }

    /// Asks the database which ids of the batch were accepted before.
    async fn look_up(&mut self, part: &[Input], batch: &mut Batch) -> Result<(), Error> {
        let mut keys: HashMap<WaId, Vec<estafet_model::IdKey>> = HashMap::new();
        for input in part {
            if let Input::Frame(conn, _, frame) = input
                && let Some((number, ids)) = self.network.ids_of(*conn, frame)
            {
                keys.entry(number).or_default().extend(ids);
            }
        }
        for (number, keys) in keys {
            batch.seen.extend(self.storage.seen(number, &keys).await?);
        }
        Ok(())
    }

    async fn drain(&mut self, phone: WaId) -> Result<(), Error> {
        self.look_at_templates();
        let mut batch = self.batch();
        let rows = self.storage.waiting(phone, DRAIN).await?;
        self.network.drain(&mut batch, phone, rows);
        self.conclude(batch, HashMap::new()).await
    }

    async fn sweep(&mut self) -> Result<(), Error> {
        let now_ms = self.clock.now_ms();
        let lost = self.storage.sweep(now_ms - SEEN_MS, now_ms - self.keep_messages_ms).await?;
        self.network.expired(lost, now_ms - SEEN_MS);
        Ok(())
    }

    async fn request(&mut self, request: Request) -> Result<(), Error> {
        let mut batch = self.batch();
        let answer: Answer = match request {
            Request::List(reply) => answer(reply, Ok(self.network.phones())),
            Request::Add(number, name, reply) => answer(reply, self.network.add_phone(number, name)),
            Request::SetMode(number, mode, reply) => answer(reply, self.network.set_mode(number, mode)),
            Request::Rules(reply) => answer(reply, Ok(self.network.rules())),
            Request::SetRules(rules, reply) => {
                self.network.set_rules(&mut batch, rules);
                answer(reply, Ok(()))
            }
            Request::NewIdentity(number, reply) => answer(reply, self.network.new_identity(&mut batch, number)),
            Request::ChangeNumber(number, new, reply) => answer(reply, self.network.change_number(&mut batch, number, new)),
            Request::Send { from, to, content, reply } => answer(reply, self.network.send(&mut batch, from, to, &content)),
            Request::Inbox(number, reply) => match self.network.had_phone(number) {
                Ok(()) => answer(reply, Ok(self.storage.inbox(number).await?)),
                Err(error) => answer(reply, Err(error)),
            },
            Request::Sent(number, reply) => match self.network.had_phone(number) {
                Ok(()) => answer(reply, Ok(self.storage.sent(number).await?)),
                Err(error) => answer(reply, Err(error)),
            },
        };
        self.conclude(batch, HashMap::new()).await?;
        answer();
        Ok(())
    }

    /// Stores a batch, logs it, then sends what came of it.
    async fn conclude(&mut self, mut batch: Batch, credits: HashMap<ConnId, u32>) -> Result<(), Error> {
        self.network.finish(&mut batch);
        self.storage.commit(&batch.changes).await?;
        for event in batch.audit.drain(..) {
            self.audit.add(batch.now_ms, event);
        }
        self.audit.write().map_err(Error::Audit)?;
        for refill in self.network.refills() {
            let bodies = self.storage.deliveries(refill.number, refill.after, refill.slots, refill.limit).await?;
            self.network.refill(&refill, bodies);
        }
        self.network.pump(&mut batch);
        self.send(batch.outputs, credits);
        Ok(())
    }

    fn send(&mut self, outputs: Vec<Output>, credits: HashMap<ConnId, u32>) {
        let mut outgoing: HashMap<ConnId, Outgoing> =
            credits.into_iter().map(|(conn, credits)| (conn, Outgoing { credits, ..Outgoing::default() })).collect();
        for output in outputs {
            match output {
                Output::Frame(conn, frame) => outgoing.entry(conn).or_default().frames.push(frame),
                Output::Close(conn) => outgoing.entry(conn).or_default().close = true,
            }
        }
        for (conn, outgoing) in outgoing {
            let Some(outbox) = self.connections.get(&conn) else { continue };
            if outbox.try_send(outgoing).is_err() {
                // It takes nothing; without its outbox the connection ends.
                self.connections.remove(&conn);
            }
        }
    }
}

/// How much of a batch an input takes up; a login takes up the rest.
fn weight(input: &Input) -> usize {
    let Input::Frame(_, _, frame) = input else { return 0 };
    match &**frame {
        client_frame::Frame::Send(send) => send.envelopes.len(),
        // Making a key takes several times as long as taking a message.
        client_frame::Frame::FetchKeys(fetch) => fetch.wa_ids.len() * 8,
        client_frame::Frame::Login(_) => BATCH_ENVELOPES,
        _ => 0,
    }
}

fn answer<T: Send + 'static>(reply: phones::Reply<T>, result: Result<T, phones::Error>) -> Answer {
    // Whoever asked may have gone.
    Box::new(move || drop(reply.send(result)))
}
