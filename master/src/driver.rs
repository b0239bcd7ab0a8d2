//! The one task that owns the master's state.
//!
//! Every input becomes one [`Event`]; what the core orders is carried out in its order: the database first, and
//! only its answer leads to an order for a node. Reads and claims run beside, each with a deadline, and always
//! come back as an event. The rest of the process holds a [`Handle`].

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use estafet_etcd::{Node, follow::Copied};
use estafet_model::{BootId, ShardCount, WaId, protocol::PROTOCOL};
use estafet_proto::v1::{self, master_order::Order};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{NumberRow, OwnerRow, SharedStore, Switch};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, timeout},
};
use tonic::Status;

use crate::{
    assignments::Wanted,
    claims::{self, Wish},
    core::{
        Core, Effect, Event, MapEntry, Record, Redial,
        fitness::Trouble,
        membership::{GRACE, Health},
        placement::NodeName,
        resharding::Shape,
    },
    grpc::wire_reach,
    layouts,
    standing::{Behind, Office},
};

/// Inputs that wait: reports of a large cluster within a tick, and room for answers of the database.
const INPUTS: usize = 4096;
/// Orders that wait for one node; a node that takes none is about to be dead.
pub(crate) const ORDERS: usize = 1024;
const TICK: Duration = Duration::from_millis(50);
/// How often a leader looks which numbers there are, and how many shards somebody wants.
const NUMBERS: Duration = Duration::from_millis(300);
/// How long the database may take.
pub(crate) const DATABASE: Duration = Duration::from_secs(2);

/// Orders on their way to a node.
pub(crate) type Orders = mpsc::Sender<Result<v1::MasterOrder, Status>>;

pub(crate) enum Input {
    Happened(Event),
    /// A node's stream begins; its first report follows.
    Attached {
        node: NodeName,
        boot: BootId,
        orders: Orders,
    },
    /// The stream that `orders` belongs to ended.
    Detached {
        node: NodeName,
        boot: BootId,
        orders: Orders,
    },
    /// What a node says for people; nothing is decided by it.
    Said {
        node: NodeName,
        boot: BootId,
        word: Word,
    },
    /// What is registered in etcd.
    Registered(Arc<Copied>),
    /// The database knows the term, which is newer than all before.
    TermKnown {
        term: i64,
    },
    /// The database knows a term that is as new or newer: it will refuse this one.
    TermBehind {
        term: i64,
        stored: i64,
    },
    Asked(oneshot::Sender<v1::ClusterStatus>),
}

/// What a node says of itself for people who ask.
#[derive(Debug, Default)]
pub(crate) struct Word {
    pub(crate) version: String,
    /// Connection and backlog of its shards.
    pub(crate) states: Vec<v1::NumberState>,
}

/// The way to the driver.
#[derive(Clone)]
pub(crate) struct Handle {
    inputs: mpsc::Sender<Input>,
    map: watch::Receiver<Arc<Vec<MapEntry>>>,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    behind: watch::Receiver<Option<Behind>>,
    resign: Arc<Notify>,
    started: Instant,
}

impl Handle {
    /// Hands an input over; at shutdown nobody takes it any more.
    pub(crate) async fn tell(&self, input: Input) {
        let _ = self.inputs.send(input).await;
    }

    pub(crate) async fn happened(&self, event: Event) {
        self.tell(Input::Happened(event)).await;
    }

    /// The map, pushed with every change.
    pub(crate) fn map(&self) -> watch::Receiver<Arc<Vec<MapEntry>>> {
        self.map.clone()
    }

    /// A time as the core counts it.
    pub(crate) fn moment(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.started)
    }
}

impl Office for Handle {
    async fn elected(&self, term: i64, renewed: Instant) {
        self.happened(Event::Elected { term, renewed: self.moment(renewed) }).await;
    }

    async fn renewed(&self, sent: Instant) {
        self.happened(Event::Renewed { sent: self.moment(sent) }).await;
    }

    async fn deposed(&self) {
        self.happened(Event::Deposed).await;
    }

    async fn registered(&self, nodes: Arc<Copied>) {
        self.tell(Input::Registered(nodes)).await;
    }

    fn wanted(&self) -> watch::Receiver<Option<Arc<Wanted>>> {
        self.wanted.clone()
    }

    fn behind(&self) -> watch::Receiver<Option<Behind>> {
        self.behind.clone()
    }

    fn resign(&self) -> &Notify {
        &self.resign
    }
}

pub(crate) struct Driver {
    core: Core,
    store: SharedStore,
    clock: Clock,
    tasks: Tasks,
    handle: Handle,
    inputs: mpsc::Receiver<Input>,
    links: HashMap<NodeName, (BootId, Orders)>,
    words: HashMap<NodeName, Word>,
    /// Who is registered in etcd.
    registered: BTreeMap<String, Node>,
    map: watch::Sender<Arc<Vec<MapEntry>>>,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    /// Which picture of the owners that was made from.
    pictured: Option<(i64, u64)>,
    /// The term of ours that the database knows.
    known_term: Option<i64>,
    behind: watch::Sender<Option<Behind>>,
    resign: Arc<Notify>,
}

impl Driver {
    /// A driver for these numbers.
    pub(crate) fn new(numbers: BTreeMap<WaId, ShardCount>, store: SharedStore, clock: Clock, tasks: Tasks) -> (Self, Handle) {
        let (sender, inputs) = mpsc::channel(INPUTS);
        let (map, receiver) = watch::channel(Arc::default());
        let (wanted, of_leader) = watch::channel(None);
        let (behind, refused) = watch::channel(None);
        let resign = Arc::new(Notify::new());
        let handle = Handle {
            inputs: sender,
            map: receiver,
            wanted: of_leader,
            behind: refused,
            resign: resign.clone(),
            started: Instant::now(),
        };
        let driver = Self {
            core: Core::new(numbers),
            store,
            clock,
            tasks,
            handle: handle.clone(),
            inputs,
            links: HashMap::new(),
            words: HashMap::new(),
            registered: BTreeMap::new(),
            map,
            wanted,
            pictured: None,
            known_term: None,
            behind,
            resign,
        };
        (driver, handle)
    }

    /// Runs until shutdown.
    pub(crate) async fn run(mut self) {
        let shutdown = self.tasks.shutdown().clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(NUMBERS);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Inputs come before ticks: after a stall the reports that waited are heard before anybody is judged.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(input) = self.inputs.recv() => self.take(input),
                _ = tick.tick() => self.tick(),
                _ = look.tick() => self.read_numbers(),
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Happened(event) => self.step(event),
            Input::Attached { node, boot, orders } => {
                tracing::info!(node, %boot, "coreapp attached");
                self.links.insert(node, (boot, orders));
            }
            Input::Detached { node, boot, orders } => {
                let is_current = self.links.get(&node).is_some_and(|(_, current)| current.same_channel(&orders));
                if is_current {
                    tracing::info!(node, %boot, "the stream of a coreapp ended");
                    self.links.remove(&node);
                    self.step(Event::StreamBroke { node, boot });
                }
            }
            // A process that has a successor is not quoted, nor is a stranger.
            Input::Said { node, boot, word } => {
                if self.core.membership().iter().any(|(known, member)| *known == node && member.boot == boot) {
                    self.words.insert(node, word);
                }
            }
            Input::Registered(copied) => self.registered(&copied),
            Input::TermKnown { term } => self.known_term = Some(term),
            Input::TermBehind { term, stored } => self.fall_behind(Behind { term, stored }),
            // Whoever asked may have left.
            Input::Asked(answer) => drop(answer.send(self.status())),
        }
    }

    fn tick(&mut self) {
        self.step(Event::Ticked);
        // Changes between two ticks are told together.
        let picture = self.core.picture();
        if self.pictured != picture {
            self.pictured = picture;
            self.wanted.send_replace(Wanted::of(&self.core).map(Arc::new));
        }
    }

    fn registered(&mut self, copied: &Copied) {
        let nodes = copied.iter().filter_map(|(id, value)| Some((id.clone(), Node::from_json(value)?)));
        self.registered = nodes.collect();
        let coreapps = self.registered.iter().filter(|(_, node)| node.role == "coreapp");
        let boots = coreapps.filter_map(|(id, node)| Some((id.clone(), BootId::from_hex(&node.boot)?)));
        self.step(Event::Registered(boots.collect()));
    }

    /// Nothing can be assigned in this term; the election finds a higher one.
    fn fall_behind(&mut self, behind: Behind) {
        if self.core.term() == Some(behind.term) {
            self.step(Event::Deposed);
            self.behind.send_replace(Some(behind));
        }
    }

    fn step(&mut self, event: Event) {
        let now = self.handle.moment(Instant::now());
        let mut claims = Vec::new();
        for effect in self.core.step(now, event) {
            self.carry_out(effect, &mut claims);
        }
        // What one step claims is claimed together.
        if !claims.is_empty() {
            let (store, now_ms, handle) = (self.store.clone(), self.clock.now_ms(), self.handle.clone());
            self.tasks.spawn("claim", claims::carry_out(claims, store, now_ms, handle));
        }
    }

    fn carry_out(&mut self, effect: Effect, claims: &mut Vec<Wish>) {
        match effect {
            Effect::ReadOwners { term } => self.read_owners(term),
            Effect::Claim { term, key, node, boot, seen } => claims.push(Wish { term, key, node, boot, seen }),
            Effect::SetLayout { term, number, from, to } => {
                let change = layouts::Change { term, number, from, to, now_ms: self.clock.now_ms() };
                self.tasks.spawn("layout", layouts::set(change, self.store.clone(), self.handle.clone()));
            }
            Effect::Switch { term, number, from, to, retire, claim, above } => {
                let now_ms = self.clock.now_ms();
                let switch = Switch { number, from, to, retire, claim, above, master_term: term, now_ms };
                self.tasks.spawn("switch", layouts::switch(switch, self.store.clone(), self.handle.clone()));
            }
            Effect::Acquire { term, node, key, epoch } => {
                let ownership = Some(v1::Ownership::new(key, epoch));
                self.order(term, &node, Order::Acquire(v1::Acquire { ownership }));
            }
            Effect::Release { term, node, key, epoch } => {
                let ownership = Some(v1::Ownership::new(key, epoch));
                let owner = self.core.map().find(|entry| entry.key == key && entry.epoch > epoch).map(wire_entry);
                self.order(term, &node, Order::Release(v1::Release { ownership, owner }));
            }
            Effect::Prepare { term, node, key, epoch } => {
                let ownership = Some(v1::Ownership::new(key, epoch));
                self.order(term, &node, Order::Prepare(v1::Prepare { ownership }));
            }
            Effect::HandOff { term, node, key, epoch, to, boot, address } => {
                tracing::info!(number = %key.0, shard = %key.2, node, to, "handing off");
                let (ownership, boot) = (Some(v1::Ownership::new(key, epoch)), boot.0.to_vec().into());
                self.order(term, &node, Order::HandOff(v1::HandOff { ownership, node: to, boot, address }));
            }
            Effect::Redial { node, boot, address } => self.redial(node, boot, address),
            Effect::Publish(_) => {
                self.map.send_replace(Arc::new(self.core.map().cloned().collect()));
            }
            Effect::Resign => self.resign.notify_one(),
        }
    }

    /// Makes the term known first: what is read is then final for everybody before.
    fn read_owners(&self, term: i64) {
        let (store, handle, is_known) = (self.store.clone(), self.handle.clone(), self.known_term == Some(term));
        self.tasks.spawn("owners", async move {
            let reading = async {
                let before = store.raise_term(term).await?;
                Ok::<_, estafet_store::Error>((before, store.numbers().await?, store.owners().await?))
            };
            match timeout(DATABASE, reading).await {
                Ok(Ok((stored, ..))) if stored > term || (stored == term && !is_known) => {
                    handle.tell(Input::TermBehind { term, stored }).await;
                }
                Ok(Ok((_, numbers, rows))) => {
                    handle.tell(Input::TermKnown { term }).await;
                    handle.happened(Event::NumbersRead { term, numbers: shapes(numbers) }).await;
                    handle.happened(Event::OwnersRead { term, records: rows.into_iter().map(record).collect() }).await;
                }
                failed => {
                    tracing::warn!(?failed, "owners cannot be read");
                    handle.happened(Event::OwnersUnread { term }).await;
                }
            }
        });
    }

    /// A number that was added, removed or is to have another count is seen without a restart.
    fn read_numbers(&self) {
        let Some(term) = self.core.term() else { return };
        let (store, handle) = (self.store.clone(), self.handle.clone());
        self.tasks.spawn("numbers", async move {
            match timeout(DATABASE, store.numbers()).await {
                Ok(Ok(numbers)) => handle.happened(Event::NumbersRead { term, numbers: shapes(numbers) }).await,
                failed => tracing::debug!(?failed, "numbers cannot be read"),
            }
        });
    }

    fn redial(&self, node: NodeName, boot: BootId, address: String) {
        let handle = self.handle.clone();
        self.tasks.spawn("redial", async move {
            let outcome = dial(&address).await;
            tracing::info!(node, address, ?outcome, "dialled a coreapp whose stream ended");
            handle.happened(Event::Redialled { node, boot, outcome }).await;
        });
    }

    /// An order that cannot be delivered is not repeated: the core sees by the reports what was not done.
    fn order(&self, term: i64, node: &NodeName, order: Order) {
        let order = v1::MasterOrder { term, order: Some(order), protocol: PROTOCOL };
        if self.links.get(node).is_none_or(|(_, orders)| orders.try_send(Ok(order)).is_err()) {
            tracing::warn!(node, "an order could not be sent");
        }
    }

    fn status(&self) -> v1::ClusterStatus {
        let now = self.handle.moment(Instant::now());
        let health = |health| match health {
            Health::Alive => v1::NodeHealth::Alive,
            Health::Suspect => v1::NodeHealth::Suspect,
            Health::Dead => v1::NodeHealth::Dead,
        };
        let nodes = self.core.membership().iter().map(|(node, member)| v1::NodeStatus {
            node: node.clone(),
            address: member.address.clone(),
            health: health(member.health).into(),
            draining: member.draining,
            holdings: u32::try_from(member.holdings.len()).unwrap_or(u32::MAX),
            version: self.words.get(node).map(|word| word.version.clone()).unwrap_or_default(),
            troubles: self
                .core
                .membership()
                .troubles(node, now)
                .into_iter()
                .map(|trouble| wire_trouble(trouble).into())
                .collect(),
            network: Some(wire_reach(member.needs.network)),
            database: Some(wire_reach(member.needs.database)),
            boot: member.boot.0.to_vec().into(),
        });
        let failing = self.core.failing().map(|(key, failing)| v1::FailingShard {
            ownership: Some(v1::Ownership::new(*key, self.core.epoch(key))),
            failures: failing.count,
            retry_in_ms: u64::try_from(failing.after.saturating_sub(now).as_millis()).unwrap_or(u64::MAX),
        });
        v1::ClusterStatus {
            term: self.core.term().unwrap_or_default(),
            nodes: nodes.collect(),
            shards: self.core.map().map(wire_entry).collect(),
            states: self.words.values().flat_map(|word| word.states.iter().copied()).collect(),
            failing: failing.collect(),
            registered: self.registered.iter().map(|(id, node)| registered(id, node)).collect(),
        }
    }
}

/// Whether somebody listens there. A process that is being torn down may lose its connections before its listener,
/// so a connection says something only if it lasts for a moment.
async fn dial(address: &str) -> Redial {
    const DIALS: usize = 3;
    for _ in 0..DIALS {
        match timeout(GRACE, TcpStream::connect(address)).await {
            Ok(Ok(mut stream)) => match timeout(GRACE, stream.read(&mut [0])).await {
                Ok(Ok(0) | Err(_)) => {}
                Ok(Ok(_)) | Err(_) => return Redial::Connected,
            },
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Redial::Refused,
            Ok(Err(_)) => {
                // Not refused, so nothing is certain before the grace is over.
                tokio::time::sleep(GRACE).await;
                return Redial::TimedOut;
            }
            Err(_) => return Redial::TimedOut,
        }
    }
    Redial::Connected
}

fn registered(id: &str, node: &Node) -> v1::RegisteredNode {
    let Node { role, address, boot, version } = node.clone();
    v1::RegisteredNode { id: id.to_owned(), role, address, boot, version }
}

fn wire_trouble(trouble: Trouble) -> v1::NodeTrouble {
    match trouble {
        Trouble::Unreached => v1::NodeTrouble::Unreached,
        Trouble::NoNetwork => v1::NodeTrouble::NoNetwork,
        Trouble::NoDatabase => v1::NodeTrouble::NoDatabase,
        Trouble::Quarantined => v1::NodeTrouble::Quarantined,
    }
}

fn shapes(rows: Vec<NumberRow>) -> BTreeMap<WaId, Shape> {
    rows.into_iter().map(|row| (row.number, Shape { layout: row.layout, wanted: row.wanted })).collect()
}

fn record(row: OwnerRow) -> Record {
    Record { key: (row.number, row.count, row.shard), epoch: row.epoch, node: row.owner, boot: row.boot, retired: row.retired }
}

/// A map entry as it travels.
pub(crate) fn wire_entry(entry: &MapEntry) -> v1::MapEntry {
    v1::MapEntry { ownership: Some(v1::Ownership::new(entry.key, entry.epoch)), address: entry.address.clone() }
}
