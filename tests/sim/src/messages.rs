//! What travels between processes: the words of the real interfaces wherever a role's core speaks them.

use std::{collections::BTreeSet, sync::Arc};

use estafet_coreapp::{
    Target,
    core::lanes::Post,
    shard::Questions,
    shard::order::{Facts, Lookup},
};
use estafet_master::core::{Record, Report, placement::ShardKey, resharding::Shape};
use estafet_model::{BootId, EndpointId, Epoch, Layout, Seq, Slot, WaId};
use estafet_proto::{
    chat::{client_frame, server_frame},
    v1,
};
use estafet_store::{Batch, Committed, Fence, InboundRow, MessageRow, SessionRow, StoredEvent, Switch};

/// A message, a question or an answer.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Ping,
    // node and master
    Report(Report),
    Order {
        term: i64,
        order: Order,
    },
    // master and webapp
    Map(Vec<v1::MapEntry>),
    Unreached {
        webapp: BootId,
        unreachable: BTreeSet<String>,
    },
    // webapp and node
    Request(v1::Request),
    Outcome(v1::Outcome),
    // node and chatd
    Client(client_frame::Frame),
    Server(server_frame::Frame),
    // node and receiver
    Post(Post),
    Posted(bool),
    // to the database
    Commit {
        fence: Fence,
        boot: BootId,
        batch: Arc<Batch>,
    },
    /// The client of a transaction goes on with it.
    Finish(u64),
    Claim {
        term: i64,
        key: ShardKey,
        node: String,
        boot: BootId,
        seen: Option<Epoch>,
    },
    Owners,
    /// Which shards the number has, and is to have.
    Number,
    SetLayout {
        term: i64,
        from: Layout,
        to: Layout,
    },
    Switch(Switch),
    Read(Read),
    // from the database
    /// The transaction has its lock and waits for its client.
    Locked(u64),
    Committed(Committed),
    Fenced,
    Unavailable,
    Claimed(Option<Epoch>),
    OwnersRead(Vec<Record>),
    NumberRead(Shape),
    LayoutSet(bool),
    Switched(Option<Epoch>),
    Rows(Rows),
    // to and from etcd
    Campaign {
        master: usize,
    },
    Candidate {
        lease: u64,
        term: i64,
    },
    Renew {
        lease: u64,
    },
    Renewed(bool),
    Leader,
    /// The oldest candidate: its master, lease and term.
    Leads(Option<(usize, u64, i64)>),
    Revoke {
        lease: u64,
    },
    Revoked,
}

/// An order of a master.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Acquire(Fence),
    Release(Fence),
    /// Get ready for a shard that another node owns.
    Prepare(Fence),
    HandOff(Fence, Target),
}

/// What a shard reads.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    /// Nothing: keys and settings, which do not change here.
    Keys,
    Outbox(Vec<(Slot, Seq)>),
    Events(EndpointId, Vec<(Slot, Seq)>),
    Sessions(u64, Vec<WaId>),
    LookUp(Lookup),
    Facts(Questions),
    Inbound(String),
}

/// What it gets.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Keys,
    Outbox(Vec<(Slot, Seq)>, Vec<MessageRow>),
    Events(EndpointId, Vec<(Slot, Seq)>, Vec<StoredEvent>),
    Sessions(u64, Vec<SessionRow>),
    LookedUp(Lookup, Vec<SessionRow>),
    Facts(Arc<Facts>),
    Inbound(Option<InboundRow>),
}
