//! A process says in etcd that it is there: one key below `node/`, under the one lease of the process.
//!
//! The key goes with the lease: at once when the process ends in order, a TTL later when it dies. When the lease
//! or etcd's data are lost, the process registers again. Of two processes with one name the newer is registered.
//! It says who exists, for people and as a hint for a new leader; it is neither liveness nor ownership.

use std::{sync::Arc, time::Duration};

use estafet_model::BootId;
use estafet_runtime::Tasks;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{Error, Network, Session, Timing};

/// How often it is looked whether the key is still there: somebody may have deleted it by hand.
const LOOK: Duration = Duration::from_secs(5);

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `coreapp` or `master`.
    pub role: String,
    /// Where others reach it, `host:port`.
    pub address: String,
    /// This start of the process, in hexadecimal.
    pub boot: String,
    /// Version of the program.
    pub version: String,
}

impl Node {
    /// What a process of this program says.
    pub fn new(role: &str, address: &str, boot: BootId) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { role: role.to_owned(), address: address.to_owned(), boot: boot.to_string(), version }
    }

    /// As it is stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings are JSON")
    }

    /// What is stored; `None` if it is something else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

/// The keys of all registrations begin so.
pub fn node_prefix(prefix: &str) -> String {
    format!("{prefix}/node/")
}

/// Key of a registration.
pub fn node_key(prefix: &str, id: &str) -> String {
    format!("{}{id}", node_prefix(prefix))
}

/// The write that registers, whoever was registered under that name.
pub fn node_put(prefix: &str, id: &str, node: &Node, lease: i64) -> TxnOp {
    TxnOp::put(node_key(prefix, id), node.to_json(), Some(PutOptions::new().with_lease(lease)))
}

/// Keeps a process registered until the tasks are shut down.
pub async fn register(network: Arc<dyn Network>, timing: Timing, prefix: String, id: String, node: Node, tasks: Tasks) {
    let shutdown = tasks.shutdown().clone();
    let registering = async {
        let mut registration = Registration { key: node_key(&prefix, &id), value: node.to_json(), is_newest: true };
        let mut backoff = timing.backoff(&id);
        loop {
            match registration.hold(&*network, timing, &tasks).await {
                Ok(()) => backoff.reset(),
                Err(error) => tracing::debug!(id, error = &error as &dyn std::error::Error, "not registered in etcd"),
            }
            sleep(backoff.next_delay()).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = registering => {}
    }
}

struct Registration {
    key: String,
    value: String,
    /// Nobody has registered under the name since this process did; so it may replace what is there.
    is_newest: bool,
}

impl Registration {
    /// Under one lease; returns when that is lost.
    async fn hold(&mut self, network: &dyn Network, timing: Timing, tasks: &Tasks) -> Result<(), Error> {
        let mut session = Session::open(network, timing, tasks).await?;
        let mut lease = session.grant().await?;
        let put = TxnOp::put(self.key.as_str(), self.value.as_str(), Some(PutOptions::new().with_lease(lease.id())));
        if self.is_newest {
            session.txn("register", Txn::new().and_then([put.clone()])).await?;
            self.is_newest = false;
            tracing::info!(key = self.key, "registered in etcd");
        } else {
            self.return_to(&mut session, &put).await?;
        }
        loop {
            tokio::select! {
                biased;
                () = lease.lost() => {
                    tracing::warn!(key = self.key, "the lease of the registration is lost, registering again");
                    return Ok(());
                }
                () = sleep(LOOK) => {}
            }
            if let Err(error) = self.return_to(&mut session, &put).await {
                tracing::debug!(key = self.key, %error, "the registration could not be looked at");
            }
        }
    }

    /// Puts the key unless a newer process has it.
    async fn return_to(&self, session: &mut Session, put: &TxnOp) -> Result<(), Error> {
        let absent = Compare::create_revision(self.key.as_str(), CompareOp::Equal, 0);
        let ours = Compare::value(self.key.as_str(), CompareOp::Equal, self.value.as_str());
        let own =
            Txn::new().when([ours]).and_then([put.clone()]).or_else([TxnOp::get(self.key.as_str(), Some(GetOptions::new()))]);
        let txn = Txn::new().when([absent]).and_then([put.clone()]).or_else([TxnOp::txn(own)]);
        session.txn("register again", txn).await.map(drop)
    }
}
