//! What a master knows.
//!
//! Every master knows the nodes and the map, from the reports that each node sends to all of them. Only a
//! leader has a [`Term`], and only a [`Term`] can assign: a follower has nothing to do it with. When the
//! process dies nothing is lost: owners are in the database, holdings come with the next reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use estafet_model::{BootId, Epoch, Group, ShardCount, WaId};

use super::{
    MapEntry, Moment, Record,
    failures::{Failing, Failures},
    hints::Hints,
    membership::Membership,
    placement::{NodeName, ShardKey},
    resharding::Shape,
    step::Beginnings,
};

/// The state machine of a master.
#[derive(Debug)]
pub struct Core {
    pub(super) numbers: BTreeMap<WaId, Shape>,
    /// When the first event came.
    pub(super) began: Option<Moment>,
    pub(super) last_step: Moment,
    pub(super) membership: Membership,
    pub(super) hints: Hints,
    pub(super) leadership: Leadership,
    /// Newest ownership of each shard that some node reported as active.
    pub(super) map: BTreeMap<ShardKey, MapEntry>,
    /// Processes that registered: they exist, whether they were heard or not.
    pub(super) registered: BTreeMap<NodeName, BootId>,
}

/// Whether this master leads.
#[derive(Debug)]
pub(super) enum Leadership {
    /// It only listens.
    Follower,
    /// It assigns.
    Leader(Box<Term>),
}

/// What only a leader may use.
#[derive(Debug)]
pub(super) struct Term {
    /// Create revision of the election key.
    pub(super) number: i64,
    /// When the last successful renewal of the lease was sent.
    pub(super) renewed: Moment,
    pub(super) began: Moment,
    /// What the database says; `None` until it was read in this term.
    pub(super) owners: Option<BTreeMap<ShardKey, Tenure>>,
    /// Whether the owners are being read, and when that may be tried again.
    pub(super) reading: bool,
    pub(super) read_after: Moment,
    /// Grows with every change of the owners.
    pub(super) picture: u64,
    /// A claim found the database ahead of what is known.
    pub(super) stale: bool,
    /// Claims under way.
    pub(super) claims: BTreeMap<ShardKey, NodeName>,
    /// Shards whose claim failed, and when it may be tried again.
    pub(super) retry_after: BTreeMap<ShardKey, Moment>,
    /// Shards that could not be started.
    pub(super) failures: Failures,
    /// Planned moves under way.
    pub(super) moves: BTreeMap<ShardKey, Move>,
    /// Nodes that a shard could not be handed to, and until when they are not tried for it.
    pub(super) avoided: BTreeMap<(ShardKey, NodeName), Moment>,
    /// Moves for balance within the last window.
    pub(super) balanced: VecDeque<Moment>,
    /// Shards that began lately and that nobody ever had.
    pub(super) beginnings: Beginnings,
    /// Groups whose slots are being given to shards of another count, by number.
    pub(super) switches: BTreeMap<WaId, Switching>,
    /// Numbers whose layout is being written.
    pub(super) stepping: BTreeSet<WaId>,
    /// When a number whose step failed may be tried again.
    pub(super) reshard_after: BTreeMap<WaId, Moment>,
    /// Whether the numbers were read in this term.
    pub(super) numbers_known: bool,
    /// Outdated holdings that were told to end.
    pub(super) released: BTreeSet<(NodeName, ShardKey, Epoch)>,
}

/// An owner row, and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Tenure {
    pub(super) epoch: Epoch,
    pub(super) node: NodeName,
    pub(super) boot: BootId,
    /// When it was learnt of.
    pub(super) since: Moment,
    /// The owner reported it active at least once.
    pub(super) started: bool,
    /// The owner said that it ended.
    pub(super) over: bool,
    /// The next epoch must be above this one.
    pub(super) above: Epoch,
    /// Its slots belong to shards of another count.
    pub(super) retired: bool,
}

/// A group that is being switched.
#[derive(Clone, Debug)]
pub(super) struct Switching {
    pub(super) from: ShardCount,
    pub(super) group: Group,
    /// When the old owners were told to let go.
    pub(super) since: Moment,
    /// The transaction is under way.
    pub(super) ordered: bool,
}

/// A planned move.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) to: NodeName,
    pub(super) step: MoveStep,
    /// When the step began.
    pub(super) since: Moment,
}

/// How far a planned move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveStep {
    /// The target gets ready.
    Preparing,
    /// The owner was told to hand off.
    Ordered,
}

impl Tenure {
    pub(super) fn new(record: Record, since: Moment) -> Self {
        Self {
            epoch: record.epoch,
            node: record.node,
            boot: record.boot,
            since,
            started: false,
            over: false,
            above: Epoch::default(),
            retired: record.retired,
        }
    }
}

impl Term {
    pub(super) fn new(number: i64, renewed: Moment, began: Moment) -> Self {
        Self {
            number,
            renewed,
            began,
            owners: None,
            reading: false,
            read_after: began,
            picture: 0,
            stale: false,
            claims: BTreeMap::new(),
            retry_after: BTreeMap::new(),
            failures: Failures::default(),
            moves: BTreeMap::new(),
            avoided: BTreeMap::new(),
            balanced: VecDeque::new(),
            beginnings: Beginnings::default(),
            switches: BTreeMap::new(),
            stepping: BTreeSet::new(),
            reshard_after: BTreeMap::new(),
            numbers_known: false,
            released: BTreeSet::new(),
        }
    }
}

impl Core {
    /// A follower that has heard nothing yet and will, when it leads, place these numbers until it hears of others.
    pub fn new(numbers: BTreeMap<WaId, ShardCount>) -> Self {
        Self {
            numbers: numbers.into_iter().map(|(number, count)| (number, Shape::settled(count))).collect(),
            began: None,
            last_step: Moment::ZERO,
            membership: Membership::default(),
            hints: Hints::default(),
            leadership: Leadership::Follower,
            map: BTreeMap::new(),
            registered: BTreeMap::new(),
        }
    }

    /// The term it leads in.
    pub fn term(&self) -> Option<i64> {
        match &self.leadership {
            Leadership::Follower => None,
            Leadership::Leader(term) => Some(term.number),
        }
    }

    /// Owner and epoch of each shard that is not retired, as a leader knows the database; `None` before it was read
    /// in this term, and for a follower.
    pub fn assignments(&self) -> Option<impl Iterator<Item = (&ShardKey, &NodeName, Epoch)>> {
        let Leadership::Leader(term) = &self.leadership else { return None };
        let live = term.owners.as_ref()?.iter().filter(|(key, tenure)| !tenure.retired && self.numbers.contains_key(&key.0));
        Some(live.map(|(key, tenure)| (key, &tenure.node, tenure.epoch)))
    }

    /// The term and a number that is another one whenever [`Core::assignments`] may say something else.
    pub fn picture(&self) -> Option<(i64, u64)> {
        match &self.leadership {
            Leadership::Follower => None,
            Leadership::Leader(term) => Some((term.number, term.picture)),
        }
    }

    /// Shards that fail again and again; only a leader knows.
    pub fn failing(&self) -> impl Iterator<Item = (&ShardKey, &Failing)> {
        let term = match &self.leadership {
            Leadership::Follower => None,
            Leadership::Leader(term) => Some(term),
        };
        term.into_iter().flat_map(|term| term.failures.iter())
    }

    /// The epoch of a shard that was given out last, as far as a leader knows.
    pub fn epoch(&self, key: &ShardKey) -> Epoch {
        match &self.leadership {
            Leadership::Leader(term) => term.tenure(key).map(|tenure| tenure.epoch).unwrap_or_default(),
            Leadership::Follower => Epoch::default(),
        }
    }

    /// The nodes.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Where every shard is served, as far as heard.
    pub fn map(&self) -> impl Iterator<Item = &MapEntry> {
        self.map.values()
    }
}
