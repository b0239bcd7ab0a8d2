//! Orders of the core to the shell around it.

use estafet_model::{BootId, Epoch};

use super::placement::{NodeName, ShardKey};

/// Where a shard is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// The shard.
    pub key: ShardKey,
    /// In which epoch.
    pub epoch: Epoch,
    /// Where.
    pub address: String,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read who owns what.
    ReadOwners {
        /// In whose name.
        term: i64,
    },
    /// Raise the epoch of a shard in the database in favour of a node.
    Claim {
        /// In whose name.
        term: i64,
        /// The shard.
        key: ShardKey,
        /// The new owner.
        node: NodeName,
        /// Its process.
        boot: BootId,
        /// The epoch that must still be stored; `None`: there must be no row.
        seen: Option<Epoch>,
    },
    /// Tell a node to start what was claimed for it.
    Acquire {
        /// In whose name.
        term: i64,
        /// The node.
        node: NodeName,
        /// The shard.
        key: ShardKey,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Tell a node to finish what runs and to let go.
    Release {
        /// In whose name.
        term: i64,
        /// The node.
        node: NodeName,
        /// The shard.
        key: ShardKey,
        /// In which epoch.
        epoch: Epoch,
    },
    /// Find out whether a node's process is gone.
    Redial {
        /// The node.
        node: NodeName,
        /// Its process.
        boot: BootId,
        /// Where it listened.
        address: String,
    },
    /// Tell the webapps.
    Publish(Vec<MapEntry>),
    /// Give the leadership back.
    Resign,
}
