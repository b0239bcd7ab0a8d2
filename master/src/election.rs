//! Who leads: the oldest key below a prefix of etcd, each key under its process's lease.
//!
//! Transaction, lease and watch, not `campaign`: the create revision of the winning key is the **term**, and
//! every later write of a leader is conditional on it. The lease is kept by a loop of its own with a deadline
//! for each call, because a stream to a dead member never ends by itself; a watch is given up every second and
//! the keys are listed again for the same reason.
//!
//! A standby waits on its predecessor only. When the predecessor's process is gone (the connection to it broke
//! and the next is refused), the standby revokes its lease instead of waiting for the end of it. When our own
//! process dies, the same happens to us. A lease proves nothing about shards; the epoch does (**I2**).

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use estafet_runtime::{Backoff, Tasks};
use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, GetOptions, Identity, KeyValue, PutOptions, SortOrder, SortTarget,
    TlsOptions, Txn, TxnOp,
};
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Seconds a lease lives without renewal, the shortest that etcd grants; half a second more than a leader acts on it.
const TTL: i64 = 2;
/// How often the lease is renewed.
const RENEW: Duration = Duration::from_millis(500);
/// How long one call may take.
const DEADLINE: Duration = Duration::from_millis(300);
/// How long connecting and logging in may take.
const LOGIN: Duration = Duration::from_secs(2);
/// How long a watch is trusted before the keys are listed again.
const TRUST: Duration = Duration::from_secs(1);
/// Pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How etcd is told who asks. Files are read for every new client.
#[derive(Clone, Default)]
pub struct Access {
    /// Certificates of the authorities that members with `https://` addresses are from (PEM).
    pub ca: Option<PathBuf>,
    /// Certificate shown to them, and its key (PEM).
    pub cert: Option<(PathBuf, PathBuf)>,
    /// User and password, when etcd has authentication on.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for Access {
    /// Leaves the password out (I10).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        f.debug_struct("Access").field("ca", &self.ca).field("cert", &self.cert).field("user", &user).finish()
    }
}

impl Access {
    /// A token that ended is renewed by the client, and the call repeated.
    async fn options(&self) -> Result<ConnectOptions, Error> {
        let mut options =
            ConnectOptions::new().with_connect_timeout(DEADLINE).with_keep_alive(RENEW, RENEW).with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(ca) = &self.ca {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(ca).await?));
            if let Some((cert, key)) = &self.cert {
                tls = tls.identity(Identity::from_pem(pem(cert).await?, pem(key).await?));
            }
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

async fn pem(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Why a campaign or a write failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// etcd refused or is out of reach.
    #[error("etcd: {what}")]
    Etcd {
        /// What was tried.
        what: &'static str,
        /// Cause.
        source: Box<etcd_client::Error>,
    },
    /// etcd did not answer in time.
    #[error("etcd did not answer in time: {0}")]
    Late(&'static str),
    /// A file of the access to etcd cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The lease or the key is gone: the term is over.
    #[error("the lease is lost")]
    Lost,
}

impl Error {
    /// Whether another try may succeed within the same term.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Lost)
    }
}

/// One who wants to lead.
pub struct Candidate {
    client: Client,
    prefix: String,
    address: String,
    tasks: Tasks,
}

/// A lease that is kept until this is dropped; then it is revoked, and whatever was under it ends.
struct Lease {
    id: i64,
    /// When the last successful renewal was sent; `None`: lost.
    renewed: watch::Receiver<Option<Instant>>,
    _end: DropGuard,
}

/// A place in the queue of those who want to lead; dropping it gives the place up.
pub struct Candidacy {
    key: String,
    lease: Lease,
}

/// The leadership of one term; dropping it resigns.
pub struct Leadership {
    client: Client,
    key: String,
    term: i64,
    lease: Lease,
}

async fn within<T>(what: &'static str, call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Error> {
    match timeout(DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Etcd { what, source: Box::new(source) }),
        Err(_) => Err(Error::Late(what)),
    }
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
        let connecting = Client::connect(endpoints, Some(access.options().await?));
        // With a user this logs in, and passwords are slow to check on purpose.
        let connected = timeout(LOGIN, connecting).await.map_err(|_| Error::Late("connect"))?;
        let client = connected.map_err(|source| Error::Etcd { what: "connect", source: Box::new(source) })?;
        Ok(Self { client, prefix: format!("{prefix}/leader/"), address: address.to_owned(), tasks })
    }

    /// Returns when this process leads. Dropping the future gives the candidacy up.
    pub async fn campaign(&mut self) -> Result<Leadership, Error> {
        let candidacy = self.stand().await?;
        self.win(candidacy).await
    }

    /// Joins the queue of those who want to lead.
    pub async fn stand(&mut self) -> Result<Candidacy, Error> {
        let sent = Instant::now();
        let id = within("grant a lease", self.client.lease_grant(TTL, None)).await?.id();
        let lease = Lease::keep(self.client.clone(), id, sent, &self.tasks);
        let key = format!("{}{id:016x}", self.prefix);
        let create = Txn::new().when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)]).and_then([TxnOp::put(
            key.as_str(),
            self.address.as_str(),
            Some(PutOptions::new().with_lease(id)),
        )]);
        within("create the key", self.client.txn(create)).await?;
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
            match self.predecessor(&key).await {
                Ok(Ahead::Nobody { term }) => return Ok(Leadership { client: self.client.clone(), key, term, lease }),
                Ok(Ahead::Somebody(predecessor)) => self.wait_for_end(&predecessor, &mut watched, &mut lease).await,
                Err(Error::Lost) => return Err(Error::Lost),
                Err(error) => {
                    tracing::debug!(%error, "candidates cannot be listed");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The candidate right before the one of `key`.
    async fn predecessor(&mut self, key: &str) -> Result<Ahead, Error> {
        let options = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend);
        let listed = within("list candidates", self.client.get(self.prefix.as_str(), Some(options))).await?;
        let ours = listed.kvs().iter().position(|kv| kv.key() == key.as_bytes()).ok_or(Error::Lost)?;
        Ok(match ours.checked_sub(1) {
            None => Ahead::Nobody { term: listed.kvs()[ours].create_revision() },
            Some(before) => Ahead::Somebody(listed.kvs()[before].clone()),
        })
    }

    /// Returns when the predecessor's key may be gone, or after a while.
    async fn wait_for_end(&mut self, predecessor: &KeyValue, watched: &mut Watched, lease: &mut Lease) {
        let address = String::from_utf8_lossy(predecessor.value()).into_owned();
        let mut client = self.client.clone();
        let deleted = async {
            let Ok(mut watch) = within("watch", self.client.watch(predecessor.key(), None)).await else {
                return sleep(PAUSE).await;
            };
            // Deleted between the listing and the watch: the end of the trust finds it.
            while let Ok(Some(answer)) = watch.message().await {
                if !answer.events().is_empty() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = timeout(TRUST, deleted) => {}
            () = process_gone(&address, watched.seen(predecessor)) => {
                tracing::warn!(address, "the process of the leader is gone, ending its lease");
                if let Err(error) = within("revoke", client.lease_revoke(predecessor.lease())).await {
                    tracing::warn!(%error, "the lease of the leader could not be revoked");
                    sleep(PAUSE).await;
                }
            }
            () = lease.lost() => {}
        }
    }
}

enum Ahead {
    Nobody { term: i64 },
    Somebody(KeyValue),
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
async fn process_gone(address: &str, seen: &mut bool) {
    loop {
        match timeout(DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(mut stream)) => {
                *seen = true;
                let mut ignored = [0; 256];
                while stream.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
            }
            Ok(Err(error)) if *seen && error.kind() == io::ErrorKind::ConnectionRefused => return,
            Ok(Err(_)) | Err(_) => sleep(PAUSE).await,
        }
    }
}

impl Lease {
    fn keep(client: Client, id: i64, granted: Instant, tasks: &Tasks) -> Self {
        let (sender, renewed) = watch::channel(Some(granted));
        let end = CancellationToken::new();
        let ended = end.clone();
        tasks.spawn("lease", async move {
            let mut client = client;
            tokio::select! {
                () = renew(&mut client, id, granted, &sender) => {}
                () = ended.cancelled() => {}
            }
            sender.send_replace(None);
            if let Err(error) = within("revoke", client.lease_revoke(id)).await {
                tracing::debug!(%error, "the lease was not revoked, it ends by itself");
            }
        });
        Self { id, renewed, _end: end.drop_guard() }
    }

    fn is_lost(&self) -> bool {
        self.renewed.borrow().is_none()
    }

    async fn lost(&mut self) {
        // An error says that the keeper ended, which it does only after the loss.
        let _ = self.renewed.wait_for(Option::is_none).await;
    }
}

/// Renews until the lease is gone or can no longer be believed in.
async fn renew(client: &mut Client, id: i64, granted: Instant, renewed: &watch::Sender<Option<Instant>>) {
    let ttl = Duration::from_secs(TTL.unsigned_abs());
    let (mut last, mut stream) = (granted, None);
    sleep(RENEW).await;
    while last.elapsed() < ttl {
        let sent = Instant::now();
        match renew_once(client, id, &mut stream).await {
            Ok(true) => {
                last = sent;
                renewed.send_replace(Some(sent));
                tokio::time::sleep_until(sent + RENEW).await;
            }
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(%error, "the lease was not renewed");
                stream = None;
                sleep(PAUSE).await;
            }
        }
    }
}

type KeepAlive = (etcd_client::LeaseKeeper, etcd_client::LeaseKeepAliveStream);

/// One renewal; says whether the lease is still there.
async fn renew_once(client: &mut Client, id: i64, stream: &mut Option<KeepAlive>) -> Result<bool, Error> {
    let (mut keeper, mut answers) = match stream.take() {
        Some(open) => open,
        // Opening sends a first request and reads its answer, so the lease is known to be there.
        None => {
            return match within("open the lease's stream", client.lease_keep_alive(id)).await {
                Ok(open) => {
                    *stream = Some(open);
                    Ok(true)
                }
                Err(Error::Etcd { source, .. }) if matches!(*source, etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            };
        }
    };
    let answer = within("renew", async {
        keeper.keep_alive().await?;
        answers.message().await
    })
    .await?;
    let is_there = answer.is_some_and(|answer| answer.ttl() > 0);
    *stream = Some((keeper, answers));
    Ok(is_there)
}

impl Leadership {
    /// Create revision of the key: grows with every leader.
    pub fn term(&self) -> i64 {
        self.term
    }

    /// When the last successful renewal of the lease was sent; `None` when it is lost.
    pub fn renewed(&self) -> watch::Receiver<Option<Instant>> {
        self.lease.renewed.clone()
    }

    /// Writes a key, provided the term still lasts.
    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let still_ours = Compare::create_revision(self.key.as_str(), CompareOp::Equal, self.term);
        let write = Txn::new().when([still_ours]).and_then([TxnOp::put(key, value, None)]);
        if within("write", self.client.txn(write)).await?.succeeded() { Ok(()) } else { Err(Error::Lost) }
    }

    /// Id of its lease, for tests and tools.
    pub fn lease(&self) -> i64 {
        self.lease.id
    }
}

/// Reconnects to etcd until it answers.
pub(crate) async fn candidate(access: &Access, endpoints: &[String], prefix: &str, address: &str, tasks: &Tasks) -> Candidate {
    let mut backoff = Backoff::new(PAUSE, TRUST);
    loop {
        match Candidate::connect_as(access, endpoints, prefix, address, tasks.clone()).await {
            Ok(candidate) => return candidate,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "etcd cannot be reached");
                sleep(backoff.next_delay()).await;
            }
        }
    }
}
