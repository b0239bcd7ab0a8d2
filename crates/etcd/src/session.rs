//! A client of etcd whose every call has a deadline: a call to a dead member never ends by itself.

use std::time::Duration;

use estafet_runtime::{Backoff, Tasks};
use etcd_client::{
    Client, GetOptions, GetResponse, LeaseKeepAliveStream, LeaseKeeper, Txn, TxnResponse, WatchOptions, WatchStream,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Lease, Network};

/// Seconds that etcd keeps a lease without renewal: the shortest that it grants.
const TTL_SECS: i64 = 2;

/// How long things take, by the clock of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// After sending the last successful renewal a lease is believed in for so long: as long as etcd keeps it.
    pub ttl: Duration,
    /// How often a lease is renewed.
    pub renew: Duration,
    /// How long one call may take.
    pub deadline: Duration,
    /// How long a watch that says nothing is trusted.
    pub trust: Duration,
    /// Pause after a call that failed.
    pub pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self::REAL
    }
}

impl Timing {
    /// By a clock that is right.
    pub const REAL: Self = Self {
        ttl: Duration::from_secs(TTL_SECS.unsigned_abs()),
        renew: Duration::from_millis(500),
        deadline: Duration::from_millis(300),
        trust: Duration::from_secs(1),
        pause: Duration::from_millis(50),
    };

    /// The same by a clock that needs so many seconds for 100: a simulation's way to make clocks differ.
    #[must_use]
    pub fn at_pace(self, percent: u32) -> Self {
        let paced = |duration: Duration| duration * percent / 100;
        Self {
            ttl: paced(self.ttl),
            renew: paced(self.renew),
            deadline: paced(self.deadline),
            trust: paced(self.trust),
            pause: paced(self.pause),
        }
    }

    /// Pauses between tries, from the short pause to the end of trust. `who` makes processes differ in them.
    pub fn backoff(&self, who: &str) -> Backoff {
        Backoff::new(self.pause, self.trust).seeded(xxhash_rust::xxh64::xxh64(who.as_bytes(), 0))
    }
}

/// A client, and how long its calls may take.
#[derive(Clone)]
pub struct Session {
    pub(crate) client: Client,
    pub(crate) timing: Timing,
    tasks: Tasks,
}

impl Session {
    /// A new client.
    pub async fn open(network: &dyn Network, timing: Timing, tasks: &Tasks) -> Result<Self, Error> {
        Ok(Self { client: network.client().await?, timing, tasks: tasks.clone() })
    }

    /// Tries until there is one. `who` asks.
    pub async fn reopen(network: &dyn Network, timing: Timing, who: &str, tasks: &Tasks) -> Self {
        let mut backoff = timing.backoff(who);
        loop {
            match Self::open(network, timing, tasks).await {
                Ok(session) => return session,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "etcd cannot be reached");
                    sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// How long things take.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Gets keys.
    pub async fn get(&mut self, what: &'static str, key: &str, options: GetOptions) -> Result<GetResponse, Error> {
        within(self.timing.deadline, what, self.client.get(key, Some(options))).await
    }

    /// Runs a transaction. After [`Error::Late`] it may take place yet.
    pub async fn txn(&mut self, what: &'static str, txn: Txn) -> Result<TxnResponse, Error> {
        within(self.timing.deadline, what, self.client.txn(txn)).await
    }

    /// Ends a lease and what is under it.
    pub async fn revoke(&mut self, lease: i64) -> Result<(), Error> {
        within(self.timing.deadline, "revoke", self.client.lease_revoke(lease)).await.map(drop)
    }

    /// A new lease, kept until it is dropped.
    pub async fn grant(&mut self) -> Result<Lease, Error> {
        let sent = Instant::now();
        let granted = within(self.timing.deadline, "grant a lease", self.client.lease_grant(TTL_SECS, None)).await?;
        Ok(Lease::keep(self.clone(), granted.id(), sent, &self.tasks))
    }

    /// A watch; whoever reads it must not wait for ever.
    pub async fn watch(&mut self, key: &str, options: WatchOptions) -> Result<WatchStream, Error> {
        within(self.timing.deadline, "watch", self.client.watch(key, Some(options))).await
    }

    pub(crate) async fn keep_alive(&mut self, lease: i64) -> Result<(LeaseKeeper, LeaseKeepAliveStream), Error> {
        within(self.timing.deadline, "open the lease's stream", self.client.lease_keep_alive(lease)).await
    }
}

pub(crate) async fn within<T>(
    deadline: Duration,
    what: &'static str,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Error> {
    match timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::Etcd { what, source: Box::new(source) }),
        Err(_) => Err(Error::Late(what)),
    }
}
