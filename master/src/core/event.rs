//! Facts the master hears of.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use estafet_model::{BootId, Epoch, Layout, WaId};

use super::{
    Moment,
    placement::{NodeName, ShardKey},
    resharding::Shape,
};

/// An ownership as its owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The shard.
    pub key: ShardKey,
    /// In which epoch.
    pub epoch: Epoch,
    /// Whether it takes requests; before that it is being started.
    pub active: bool,
}

/// An ownership that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The shard.
    pub key: ShardKey,
    /// The epoch that ended.
    pub epoch: Epoch,
    /// Highest epoch seen anywhere.
    pub above: Epoch,
}

/// Whether a node reaches something, and for how long that has been so, by the node's own monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// It does not know, or does not say.
    #[default]
    Unknown,
    /// It does.
    Well(Duration),
    /// It does not.
    Lost(Duration),
}

/// What a node needs to own shards, besides its masters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The network, which messages go to.
    pub network: Reach,
    /// The message database.
    pub database: Reach,
}

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub node: NodeName,
    /// Which start of its process.
    pub boot: BootId,
    /// Where its data service is.
    pub address: String,
    /// It wants to end.
    pub draining: bool,
    /// What it owns.
    pub holdings: Vec<Holding>,
    /// What ended lately.
    pub endings: Vec<Ending>,
    /// Shards it is ready to take, each with the epoch that its owner had when it was asked to get ready.
    pub warm: Vec<(ShardKey, Epoch)>,
    /// What it handed off lately, as the database has it.
    pub handed: Vec<Record>,
    /// Whether it reaches what it needs.
    pub needs: Needs,
}

/// A row of the database: who was given a shard last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The shard.
    pub key: ShardKey,
    /// In which epoch.
    pub epoch: Epoch,
    /// To whom.
    pub node: NodeName,
    /// To which start of its process.
    pub boot: BootId,
    /// Whether shards of another count have its slots now.
    pub retired: bool,
}

/// What came of dialling a node whose stream broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redial {
    /// Somebody listens.
    Connected,
    /// The host says that nobody does: the process is gone.
    Refused,
    /// No answer.
    TimedOut,
}

/// A fact, in the past tense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node reported.
    Heard(Report),
    /// The stream of a node's process ended.
    StreamBroke {
        /// The node.
        node: NodeName,
        /// Its process.
        boot: BootId,
    },
    /// The node was dialled again.
    Redialled {
        /// The node.
        node: NodeName,
        /// Its process.
        boot: BootId,
        /// With which outcome.
        outcome: Redial,
    },
    /// A webapp said which addresses it cannot reach.
    Unreached {
        /// Start of its process.
        webapp: BootId,
        /// The addresses.
        unreachable: BTreeSet<String>,
    },
    /// This process was elected.
    Elected {
        /// Create revision of its key: grows with every leader.
        term: i64,
        /// When the last renewal of the lease that succeeded was sent.
        renewed: Moment,
    },
    /// The lease was renewed.
    Renewed {
        /// When that was asked for.
        sent: Moment,
    },
    /// The lease is lost or given back.
    Deposed,
    /// The database said who owns what.
    OwnersRead {
        /// For whom it was read.
        term: i64,
        /// The rows.
        records: Vec<Record>,
    },
    /// The database said which numbers there are.
    NumbersRead {
        /// For whom it was read.
        term: i64,
        /// All of them.
        numbers: BTreeMap<WaId, Shape>,
    },
    /// The owners could not be read.
    OwnersUnread {
        /// For whom they were to be read.
        term: i64,
    },
    /// The database gave a shard to a node.
    Claimed {
        /// For whom it was claimed.
        term: i64,
        /// What is in the database now.
        record: Record,
    },
    /// It did not: somebody else was faster, or nothing is known.
    ClaimFailed {
        /// For whom it was claimed.
        term: i64,
        /// The shard.
        key: ShardKey,
        /// Whether what is known of the owners is out of date.
        stale: bool,
    },
    /// The layout of a number is stored.
    LayoutSet {
        /// For whom it was written.
        term: i64,
        /// The number.
        number: WaId,
        /// Its layout now.
        layout: Layout,
    },
    /// Shards retired, others of their slots arose.
    Switched {
        /// For whom.
        term: i64,
        /// The number.
        number: WaId,
        /// Those that retired.
        retired: Vec<ShardKey>,
        /// Those that arose.
        records: Vec<Record>,
    },
    /// A step of resharding did not take place, or nothing is known of it.
    NotSwitched {
        /// For whom it was tried.
        term: i64,
        /// The number.
        number: WaId,
    },
    /// Which processes of coreapps are registered in etcd: a hint of who exists, no more.
    Registered(BTreeMap<NodeName, BootId>),
    /// Time passed.
    Ticked,
}
