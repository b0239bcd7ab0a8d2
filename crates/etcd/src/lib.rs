//! What every process does around etcd, and the raw client does not: a deadline for each call, leases that are
//! kept, registrations that come back, keys that are followed through every gap.
//!
//! * [`network`]: how etcd is reached and who asks; a simulation puts its own network in this place.
//! * [`session`]: calls with deadlines. [`lease`]: a lease that is kept, and by which clock.
//! * [`registration`]: a process says below `node/` that it is there. [`follow`]: a copy of the keys below a prefix.
//!
//! Nothing here proves ownership of a shard; that is the epoch in the message database (**I2**). With etcd away
//! everything here waits and comes back; nobody who serves messages waits for it.

pub mod follow;
pub mod lease;
pub mod network;
pub mod registration;
pub mod session;

pub use follow::follow;
pub use lease::Lease;
pub use network::{Access, Members, Network};
pub use registration::{Node, node_key, node_prefix, register};
pub use session::{Session, Timing};

use std::{io, path::PathBuf};

/// Why something with etcd failed.
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
    /// etcd did not answer in time; whether a write took place is unknown.
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
    /// The lease or the key is gone: what was held under it is over.
    #[error("the lease is lost")]
    Lost,
}

impl Error {
    /// Whether another try may succeed under the same lease.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Lost)
    }
}
