//! What a shard hears, and what it orders. Whoever carries the orders out answers each with an [`Input`], in
//! whatever order they end, and gives up none of them but by dropping the shard.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use estafet_model::{EndpointId, Seq, Slot, WaId};
use estafet_store::{
    Batch, Committed, Digest, Error, InboundRow, MessageRow, Result, SessionRow, StatusRow, Store, StoredEvent, SubmissionKey,
};
use estafet_upstream::{ConnectError, Event};

use super::handing::Raised;
use crate::{
    callbacks::Posted,
    core::{files::Prepared, handoff::Target},
    media::Collected,
    request::{Reply, ShardRequest},
    settings::Versioned,
};

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A webapp asks.
    Request(ShardRequest),
    /// Something came over the connection; `None`: its task ended.
    Upstream(Option<Event>),
    /// A post ended.
    Posted(Posted),
    /// The settings of the number changed.
    SettingsChanged(Box<Versioned>),
    /// A condition of the number is to be reported (spec/webhooks.md §7), as its details.
    Condition(String),
    /// The shard is to finish what runs and to end.
    ToldToDrain,
    /// The shard is to be handed to this node.
    ToldToHandOff(Target),
    /// The end of [`Order::Raise`].
    Raised(Raised),
    /// Time passed.
    Ticked,
    /// The end of [`Order::Commit`].
    Committed {
        /// With which outcome; an error other than [`Error::Fenced`] says that it is unknown.
        result: Result<Committed, Error>,
        /// Whether any try of it got no answer.
        retried: bool,
        /// How long it took.
        took: Duration,
    },
    /// The end of [`Order::LoadOutbox`].
    OutboxLoaded(Vec<(Slot, Seq)>, Vec<MessageRow>),
    /// The end of [`Order::LoadEvents`].
    EventsLoaded(EndpointId, Vec<(Slot, Seq)>, Vec<StoredEvent>),
    /// The end of [`Order::LoadSessions`].
    SessionsLoaded(u64, Vec<SessionRow>),
    /// The end of [`Order::LookUp`].
    LookedUp(Lookup, Vec<SessionRow>, Vec<SubmissionKey>),
    /// The end of [`Order::LearnFacts`].
    FactsLoaded(Box<Facts>),
    /// The end of [`Order::FindInbound`].
    InboundFound(Reply, Option<InboundRow>),
    /// The end of [`Order::PrepareFiles`].
    FilesPrepared((Slot, Seq), Prepared),
    /// The end of [`Order::CollectMedia`].
    MediaCollected(Collected),
    /// The end of [`Order::Connect`].
    Connected(Result<(), ConnectError>),
}

/// Something to be done.
#[derive(Debug)]
pub enum Order {
    /// Commit these rows under the shard's fence.
    Commit {
        /// The rows.
        batch: Arc<Batch>,
        /// Whether an earlier try got no answer.
        retried: bool,
    },
    /// Raise the epoch of the shard in favour of this node.
    Raise {
        /// The node.
        target: Target,
        /// When to give up.
        deadline: Instant,
    },
    /// Read messages that are not settled, after these places, at most [`super::LOAD_ROWS`] of each slot.
    LoadOutbox(Vec<(Slot, Seq)>),
    /// Read callback events for a receiver, after these places, at most [`super::LOAD_ROWS`] of each slot.
    LoadEvents(EndpointId, Vec<(Slot, Seq)>),
    /// Read the sessions with these peers.
    LoadSessions {
        /// Comes back with them.
        generation: u64,
        /// The peers.
        peers: Vec<WaId>,
    },
    /// Read what requests wait for.
    LookUp(Lookup),
    /// Read what deliveries are decided with.
    LearnFacts(Questions),
    /// Look an incoming message up.
    FindInbound {
        /// Its id.
        message_id: String,
        /// Comes back with it.
        reply: Reply,
    },
    /// Leave the files of a message with the network.
    PrepareFiles(MessageRow),
    /// Remove files that nobody used for long.
    CollectMedia,
    /// Drop the connection, if there is one, and make another.
    Connect {
        /// Without the pause that follows a failure.
        at_once: bool,
    },
}

/// What must be known before requests can be decided; both in order, each once.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Users whose sessions are needed.
    pub users: Vec<WaId>,
    /// Keys of sends.
    pub keys: Vec<(Slot, Digest)>,
}

impl Lookup {
    /// Asks.
    pub async fn ask(&self, store: &dyn Store, number: WaId) -> Result<(Vec<SessionRow>, Vec<SubmissionKey>)> {
        let sessions = if self.users.is_empty() { Vec::new() } else { store.sessions(number, &self.users).await? };
        let keys = if self.keys.is_empty() { Vec::new() } else { store.submission_keys(number, &self.keys).await? };
        Ok((sessions, keys))
    }
}

/// What must be known before deliveries can be decided.
#[derive(Debug, Default)]
pub struct Facts {
    /// Statuses of the messages asked for; absent ones were never settled.
    pub statuses: Vec<StatusRow>,
    /// Sessions with the peers asked for.
    pub sessions: Vec<SessionRow>,
    /// Those of the incoming messages that are stored.
    pub known_inbound: HashSet<String>,
    /// The messages asked for.
    pub messages: HashMap<(Slot, Seq), MessageRow>,
}

/// The questions to the database.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// Messages whose statuses are needed.
    pub statuses: Vec<(Slot, Seq)>,
    /// Incoming messages that may be stored already.
    pub inbound: Vec<String>,
    /// Peers whose sessions are needed.
    pub peers: Vec<WaId>,
    /// Messages that are to be sent again.
    pub messages: Vec<(Slot, Seq)>,
}

impl Questions {
    pub(super) fn is_empty(&self) -> bool {
        self.statuses.is_empty() && self.inbound.is_empty() && self.peers.is_empty() && self.messages.is_empty()
    }

    /// Asks them.
    pub async fn ask(&self, store: &dyn Store, number: WaId) -> Result<Facts> {
        let mut facts = Facts::default();
        if !self.statuses.is_empty() {
            facts.statuses = store.statuses(number, &self.statuses).await?;
        }
        if !self.inbound.is_empty() {
            facts.known_inbound = store.inbound(number, &self.inbound).await?.into_iter().map(|row| row.id).collect();
        }
        if !self.peers.is_empty() {
            facts.sessions = store.sessions(number, &self.peers).await?;
        }
        if !self.messages.is_empty() {
            let rows = store.messages(number, &self.messages).await?;
            facts.messages = rows.into_iter().map(|row| ((row.slot, row.seq), row)).collect();
        }
        Ok(facts)
    }
}
