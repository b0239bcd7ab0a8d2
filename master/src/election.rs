//! Who leads: the oldest key below a prefix of etcd, each key under its process's lease.
//!
//! Transaction, lease and watch, not `campaign`: the create revision of the winning key, and what was added to it
//! when etcd had lost its data, is the **term**; every later write of a leader is conditional on its key. A watch is
//! given up every second and the keys are listed again, because a stream to a dead member never ends by itself.
//!
//! A standby waits on its predecessor only. When the predecessor's process is gone (the connection to it broke
//! and the next is refused), the standby revokes its lease instead of waiting for the end of it. When our own
//! process dies, the same happens to us. A lease proves nothing about shards; the epoch does (**I2**).

use std::{io, sync::Arc};

use estafet_etcd::{Lease, Members, Network, Node, Session, Timing, registration::node_put};
use estafet_runtime::Tasks;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use tokio::{
    io::AsyncReadExt as _,
    sync::watch,
    time::{Instant, sleep, timeout},
};

pub use estafet_etcd::{Access, Error};

/// Who stands for election, and where.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Prefix of the cluster's keys.
    pub prefix: String,
    /// What the process registers as; its address is where standbys look whether it lives, and its name.
    pub node: Node,
}

/// One who wants to lead.
pub struct Candidate {
    network: Arc<dyn Network>,
    session: Session,
    identity: Identity,
}

/// A place in the queue of those who want to lead; dropping it gives the place up.
pub struct Candidacy {
    key: String,
    lease: Lease,
}

/// The leadership of one term; dropping it resigns.
pub struct Leadership {
    guard: Guard,
    /// What is added to the create revision.
    offset: i64,
    offset_key: String,
    lease: Lease,
}

/// Writes that take effect only while the leader's key is there.
#[derive(Clone)]
pub struct Guard {
    session: Session,
    key: String,
    created: i64,
}

impl Candidate {
    /// Prepares connections to all members. `address` is where standbys look whether this process lives.
    pub async fn connect(endpoints: &[String], prefix: &str, address: &str, tasks: Tasks) -> Result<Self, Error> {
        Self::connect_as(&Access::default(), endpoints, prefix, address, tasks).await
    }

    /// The same for an etcd that asks who connects.
    pub async fn connect_as(
        access: &Access,
        endpoints: &[String],
        prefix: &str,
        address: &str,
        tasks: Tasks,
    ) -> Result<Self, Error> {
        let network = Arc::new(Members { endpoints: endpoints.to_vec(), access: access.clone() });
        let node = Node::new("master", address, estafet_runtime::boot_id());
        let session = Session::open(&*network, Timing::default(), &tasks).await?;
        Ok(Self::new(network, session, Identity { prefix: prefix.to_owned(), node }))
    }

    /// A candidate that has a client of etcd already, and dials others over `network`.
    pub fn new(network: Arc<dyn Network>, session: Session, identity: Identity) -> Self {
        Self { network, session, identity }
    }

    fn queue(&self) -> String {
        format!("{}/leader/", self.identity.prefix)
    }

    /// Returns when this process leads. Dropping the future gives the candidacy up.
    pub async fn campaign(&mut self) -> Result<Leadership, Error> {
        let candidacy = self.stand().await?;
        self.win(candidacy).await
    }

    /// Joins the queue of those who want to lead, and registers under the same lease.
    pub async fn stand(&mut self) -> Result<Candidacy, Error> {
        let lease = self.session.grant().await?;
        let key = format!("{}{:016x}", self.queue(), lease.id());
        let Identity { prefix, node } = &self.identity;
        let create = Txn::new().when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)]).and_then([
            TxnOp::put(key.as_str(), node.address.as_str(), Some(PutOptions::new().with_lease(lease.id()))),
            node_put(prefix, &node.address, node, lease.id()),
        ]);
        self.session.txn("create the key", create).await?;
        Ok(Candidacy { key, lease })
    }

    /// Returns when this process leads. Dropping the future gives the candidacy up.
    pub async fn win(&mut self, candidacy: Candidacy) -> Result<Leadership, Error> {
        let Candidacy { key, mut lease } = candidacy;
        let mut watched = Watched::default();
        loop {
            if lease.is_lost() {
                return Err(Error::Lost);
            }
            let seen = match self.ahead(&key).await {
                Ok(Ahead::Nobody { created }) => self.take_office(&key, created).await.map(Some),
                Ok(Ahead::Somebody { predecessor, revision }) => {
                    self.wait_for_end(&predecessor, revision, &mut watched, &mut lease).await;
                    Ok(None)
                }
                Err(error) => Err(error),
            };
            match seen {
                Ok(Some((guard, offset))) => {
                    let offset_key = self.offset_key();
                    return Ok(Leadership { guard, offset, offset_key, lease });
                }
                Ok(None) => {}
                Err(Error::Lost) => return Err(Error::Lost),
                Err(error) => {
                    tracing::debug!(%error, "candidates cannot be listed");
                    sleep(self.session.timing().pause).await;
                }
            }
        }
    }

    /// The candidate right before the one of `key`.
    async fn ahead(&mut self, key: &str) -> Result<Ahead, Error> {
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let queue = self.queue();
        let listed = self.session.get("list candidates", &queue, options).await?;
        let ours = listed.kvs().iter().position(|kv| kv.key() == key.as_bytes()).ok_or(Error::Lost)?;
        let revision = listed.header().map_or(0, |header| header.revision());
        Ok(match ours.checked_sub(1) {
            None => Ahead::Nobody { created: listed.kvs()[ours].create_revision() },
            Some(before) => Ahead::Somebody { predecessor: listed.kvs()[before].clone(), revision },
        })
    }

    /// Reads in one transaction what is to be added to the create revision, provided the key is still there: all
    /// leaders before are over, so what they added is final.
    async fn take_office(&mut self, key: &str, created: i64) -> Result<(Guard, i64), Error> {
        let still_ours = Compare::create_revision(key, CompareOp::Equal, created);
        let read = Txn::new().when([still_ours]).and_then([TxnOp::get(self.offset_key(), None)]);
        let read = self.session.txn("take office", read).await?;
        if !read.succeeded() {
            return Err(Error::Lost);
        }
        let offset = match read.op_responses().first() {
            Some(TxnOpResponse::Get(got)) => got.kvs().first().map_or(0, |kv| offset_of(kv.value())),
            _ => 0,
        };
        Ok((Guard { session: self.session.clone(), key: key.to_owned(), created }, offset))
    }

    fn offset_key(&self) -> String {
        format!("{}/term_offset", self.identity.prefix)
    }

    /// Returns when the predecessor's key may be gone, or after a while.
    async fn wait_for_end(&mut self, predecessor: &KeyValue, revision: i64, watched: &mut Watched, lease: &mut Lease) {
        let timing = self.session.timing();
        let address = String::from_utf8_lossy(predecessor.value()).into_owned();
        let key = String::from_utf8_lossy(predecessor.key()).into_owned();
        let mut session = self.session.clone();
        let deleted = async {
            let since = WatchOptions::new().with_start_revision(revision + 1);
            let Ok(mut watch) = session.watch(&key, since).await else {
                return sleep(timing.pause).await;
            };
            while let Ok(Some(answer)) = watch.message().await {
                if answer.canceled() || !answer.events().is_empty() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = lease.lost() => {}
            () = process_gone(&*self.network, timing, &address, watched.seen(predecessor)) => {
                tracing::warn!(address, "the process of the leader is gone, ending its lease");
                if let Err(error) = self.session.revoke(predecessor.lease()).await {
                    tracing::warn!(%error, "the lease of the leader could not be revoked");
                    sleep(timing.pause).await;
                }
            }
            _ = timeout(timing.trust, deleted) => {}
        }
    }
}

enum Ahead {
    Nobody { created: i64 },
    Somebody { predecessor: KeyValue, revision: i64 },
}

/// What is known of a predecessor's process for as long as it is the predecessor, whether etcd answers or not.
#[derive(Default)]
struct Watched {
    lease: i64,
    seen: bool,
}

impl Watched {
    /// Whether the process of `predecessor` was ever seen listening.
    fn seen(&mut self, predecessor: &KeyValue) -> &mut bool {
        if self.lease != predecessor.lease() {
            *self = Self { lease: predecessor.lease(), seen: false };
        }
        &mut self.seen
    }
}

/// Returns when a process that was seen listening does not any more. An address that never answered says
/// nothing: it may be wrong.
async fn process_gone(network: &dyn Network, timing: Timing, address: &str, seen: &mut bool) {
    loop {
        match timeout(timing.deadline, network.dial(address)).await {
            Ok(Ok(mut stream)) => {
                *seen = true;
                let mut ignored = [0; 256];
                while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
            }
            Ok(Err(error)) if *seen && error.kind() == io::ErrorKind::ConnectionRefused => return,
            Ok(Err(_)) | Err(_) => sleep(timing.pause).await,
        }
    }
}

impl Leadership {
    /// Grows with every leader: the create revision of the key, and what was added to it.
    pub fn term(&self) -> i64 {
        self.guard.created.saturating_add(self.offset)
    }

    /// When the last successful renewal of the lease was sent; `None` when it is lost.
    pub fn renewed(&self) -> watch::Receiver<Option<Instant>> {
        self.lease.renewed()
    }

    /// The leader's way to write.
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// Writes a key, provided the term still lasts.
    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.guard.write(Vec::new(), vec![TxnOp::put(key, value, None)]).await.map(drop)
    }

    /// Makes this term, and so every later one, higher than `stored`: the database has seen that term, so etcd has
    /// lost its data and counts from the beginning. Returns the term, which is in force for nobody before.
    pub async fn raise_above(&mut self, stored: i64) -> Result<i64, Error> {
        if stored >= self.term() {
            let offset = stored.saturating_add(1).saturating_sub(self.guard.created);
            let put = TxnOp::put(self.offset_key.as_str(), offset.to_string(), None);
            self.guard.write(Vec::new(), vec![put]).await?;
            self.offset = offset;
        }
        Ok(self.term())
    }

    /// Id of its lease, for tests and tools.
    pub fn lease(&self) -> i64 {
        self.lease.id()
    }
}

impl Guard {
    /// How long calls take.
    pub fn timing(&self) -> Timing {
        self.session.timing()
    }

    /// Runs these writes if the leader's key is still there and all of `also` hold. The revision they made; `None`
    /// if something of `also` did not hold, [`Error::Lost`] if the term is over.
    pub async fn write(&mut self, also: Vec<Compare>, writes: Vec<TxnOp>) -> Result<Option<i64>, Error> {
        let mut conditions = also;
        conditions.push(Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.created));
        let look = TxnOp::get(self.key.as_str(), None);
        let txn = Txn::new().when(conditions).and_then(writes).or_else([look]);
        let answer = self.session.txn("write", txn).await?;
        if answer.succeeded() {
            return Ok(Some(answer.header().map_or(0, |header| header.revision())));
        }
        match answer.op_responses().first() {
            Some(TxnOpResponse::Get(got)) if got.kvs().first().is_some_and(|kv| kv.create_revision() == self.created) => Ok(None),
            _ => Err(Error::Lost),
        }
    }

    /// Reads in one transaction.
    pub async fn read(&mut self, gets: Vec<TxnOp>) -> Result<Vec<TxnOpResponse>, Error> {
        Ok(self.session.txn("read", Txn::new().and_then(gets)).await?.op_responses())
    }
}

/// What a stored offset says; nonsense adds nothing, and the database makes up for it.
fn offset_of(value: &[u8]) -> i64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).filter(|offset| *offset >= 0).unwrap_or(0)
}
