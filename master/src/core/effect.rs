//! Orders of the core to the shell around it.

use estafet_model::{BootId, Epoch, Layout, Shard, ShardCount, WaId};

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
    /// Read which numbers there are, and then who owns what.
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
    /// Write the next layout of a number.
    SetLayout {
        /// In whose name.
        term: i64,
        /// The number.
        number: WaId,
        /// What must still be stored.
        from: Layout,
        /// What follows.
        to: Layout,
    },
    /// Give slots from shards of one count to shards of another, in one transaction.
    Switch {
        /// In whose name.
        term: i64,
        /// The number.
        number: WaId,
        /// Count of the old shards.
        from: ShardCount,
        /// Count of the new ones.
        to: ShardCount,
        /// The old shards, with the epochs that must still be stored.
        retire: Vec<(Shard, Epoch)>,
        /// The new ones, with their owners.
        claim: Vec<(Shard, NodeName, BootId)>,
        /// The new epoch must be above this one.
        above: Epoch,
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
    /// Tell a node to get ready for a shard that it will be given.
    Prepare {
        /// In whose name.
        term: i64,
        /// The node.
        node: NodeName,
        /// The shard.
        key: ShardKey,
        /// In which epoch its owner has it.
        epoch: Epoch,
    },
    /// Tell an owner to raise the epoch in favour of a node that is ready.
    HandOff {
        /// In whose name.
        term: i64,
        /// The owner.
        node: NodeName,
        /// The shard.
        key: ShardKey,
        /// The owner's epoch.
        epoch: Epoch,
        /// The next owner.
        to: NodeName,
        /// Its process.
        boot: BootId,
        /// Where its data service is.
        address: String,
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
