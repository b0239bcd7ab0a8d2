//! The modelled database: transactions, the row locks of `shard_owner`, the fence, and its losses.
//!
//! A commit takes the share lock of its owner row and reads the epoch under it (the same rule as the back ends);
//! it ends a little later, or when its client goes on with it, so a stopped client keeps the lock until the idle
//! limit. A claim or a switch of shards conflicts with share locks and waits, at most 300 ms. Whatever arrives is carried out, also when
//! the asker has long given up: that is what an unknown commit is. What was committed is never lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use estafet_coreapp::shard::{LOAD_ROWS, order::Facts};
use estafet_master::core::{Record, placement::ShardKey};
use estafet_model::{BootId, Epoch, IdKey, Seq, Slot, WaId};
use estafet_store::{Batch, Committed, EventRef, Fence, InboundRow, MessageRow, SessionRow, StatusRow, StoredEvent};

use crate::{
    Mutation,
    layouts::{Number, Switching, overlap},
    messages::{Body, Read, Rows},
    world::{MS, Place, SECOND, Timer, What, World},
};

/// How long a session may sit in a transaction, and how long a claim waits for a lock.
const IDLE: u64 = SECOND;
const LOCK: u64 = 300 * MS;

pub(crate) struct Database {
    pub(crate) owners: BTreeMap<ShardKey, Owner>,
    pub(crate) number: Number,
    /// Newest term of a leader that has written.
    pub(crate) term: i64,
    pub(crate) tables: Tables,
    /// Switches that took place.
    pub(crate) switches: u64,
    open: BTreeMap<u64, Transaction>,
    waiting: Vec<Waiting>,
}

impl Database {
    pub(crate) fn new(number: Number) -> Self {
        Self {
            owners: BTreeMap::new(),
            number,
            term: 0,
            tables: Tables::default(),
            switches: 0,
            open: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Who owns shards now.
    pub(crate) fn current(&self) -> impl Iterator<Item = (&ShardKey, &Owner)> {
        self.owners.iter().filter(|(_, owner)| !owner.retired)
    }
}

#[derive(Clone)]
pub(crate) struct Owner {
    pub(crate) epoch: Epoch,
    pub(crate) node: String,
    pub(crate) boot: BootId,
    pub(crate) term: i64,
    /// Shards of another count have its slots.
    pub(crate) retired: bool,
}

struct Transaction {
    asker: (Place, u32),
    call: u64,
    fence: Fence,
    boot: BootId,
    batch: Arc<Batch>,
}

/// What waits for locks.
enum Waiting {
    Claim(Claim),
    Switch(Switching),
}

impl Waiting {
    fn asker(&self) -> (Place, u32) {
        match self {
            Self::Claim(claim) => claim.asker,
            Self::Switch(switching) => switching.asker,
        }
    }

    fn call(&self) -> u64 {
        match self {
            Self::Claim(claim) => claim.call,
            Self::Switch(switching) => switching.call,
        }
    }

    fn rows(&self) -> Vec<ShardKey> {
        match self {
            Self::Claim(claim) => vec![claim.key],
            Self::Switch(switching) => switching.retiring().collect(),
        }
    }
}

struct Claim {
    asker: (Place, u32),
    call: u64,
    term: i64,
    key: ShardKey,
    node: String,
    boot: BootId,
    seen: Option<Epoch>,
}

fn key(fence: &Fence) -> ShardKey {
    (fence.number, fence.count, fence.shard)
}

impl World {
    pub(crate) fn at_database(&mut self, what: What) {
        match what {
            What::Called { from, call, body } => self.asked(from, call, body),
            What::Woken(Timer::Work(transaction)) => self.end_transaction(transaction),
            What::Woken(Timer::Idle(transaction)) => {
                if let Some(gone) = self.database.open.remove(&transaction) {
                    self.answer(Place::Database, gone.asker, gone.call, Body::Unavailable);
                    self.unlocked();
                }
            }
            What::Woken(Timer::LockLate(call)) => {
                if let Some(at) = self.database.waiting.iter().position(|waiting| waiting.call() == call) {
                    let waiting = self.database.waiting.remove(at);
                    self.answer(Place::Database, waiting.asker(), call, Body::Unavailable);
                }
            }
            _ => {}
        }
    }

    /// A crash ends every transaction; nobody is told but by its broken connection.
    pub(crate) fn database_crashed(&mut self) {
        self.database.open.clear();
        self.database.waiting.clear();
    }

    fn asked(&mut self, asker: (Place, u32), call: u64, body: Body) {
        match body {
            Body::Commit { fence, boot, batch } => self.begin_transaction(Transaction { asker, call, fence, boot, batch }),
            Body::Finish(transaction) => self.end_transaction(transaction),
            Body::Claim { term, key, node, boot, seen } => {
                self.when_unlocked(Waiting::Claim(Claim { asker, call, term, key, node, boot, seen }));
            }
            Body::Switch(switch) => self.when_unlocked(Waiting::Switch(Switching { asker, call, switch })),
            Body::SetLayout { term, from, to } => self.store_layout(asker, call, term, (from, to)),
            Body::Number => {
                let shape = self.database.number.shape;
                self.answer(Place::Database, asker, call, Body::NumberRead(shape));
            }
            Body::Owners => {
                let record = |(key, owner): (&ShardKey, &Owner)| Record {
                    key: *key,
                    epoch: owner.epoch,
                    node: owner.node.clone(),
                    boot: owner.boot,
                    retired: owner.retired,
                };
                let records = self.database.owners.iter().map(record).collect();
                self.answer(Place::Database, asker, call, Body::OwnersRead(records));
            }
            Body::Read(read) => {
                let rows = self.database.tables.read(read);
                self.answer(Place::Database, asker, call, Body::Rows(rows));
            }
            _ => {}
        }
    }

    fn begin_transaction(&mut self, transaction: Transaction) {
        let stored = self.database.owners.get(&key(&transaction.fence)).map(|owner| owner.epoch);
        let unfenced = matches!(self.mutation, Some(Mutation::NoDatabaseFence | Mutation::LeaseOnly));
        if stored != Some(transaction.fence.epoch) && !unfenced {
            return self.answer(Place::Database, transaction.asker, transaction.call, Body::Fenced);
        }
        let (id, asker, call) = (self.fresh(), transaction.asker, transaction.call);
        self.database.open.insert(id, transaction);
        self.wake(Place::Database, IDLE, Timer::Idle(id));
        if self.odds(15) {
            return self.answer(Place::Database, asker, call, Body::Locked(id));
        }
        let work = if self.weather.slow_database { self.between(20 * MS, 600 * MS) } else { self.between(MS / 5, 3 * MS) };
        self.wake(Place::Database, work, Timer::Work(id));
    }

    fn end_transaction(&mut self, id: u64) {
        let Some(Transaction { asker, call, fence, boot, batch }) = self.database.open.remove(&id) else { return };
        let stored = self.database.owners.get(&key(&fence)).filter(|owner| !owner.retired);
        let stored = stored.map(|owner| (owner.epoch, owner.boot));
        self.ledger.commit(self.now, &fence, boot, stored);
        let committed = self.database.tables.write(&batch);
        self.answer(Place::Database, asker, call, Body::Committed(committed));
        self.unlocked();
    }

    /// Goes on at once, or when the locks of its rows are given back.
    fn when_unlocked(&mut self, waiting: Waiting) {
        if waiting.rows().iter().any(|key| self.is_locked(key)) {
            self.wake(Place::Database, LOCK, Timer::LockLate(waiting.call()));
            self.database.waiting.push(waiting);
        } else {
            self.go_ahead(waiting);
        }
    }

    fn go_ahead(&mut self, waiting: Waiting) {
        match waiting {
            Waiting::Claim(claim) => self.claim(claim),
            Waiting::Switch(switching) => self.switch(switching),
        }
    }

    fn is_locked(&self, key: &ShardKey) -> bool {
        // `FOR KEY SHARE` does not conflict with the update of a claim.
        self.mutation != Some(Mutation::WrongLock) && self.database.open.values().any(|open| self::key(&open.fence) == *key)
    }

    /// A lock was given back: what waited for it goes on.
    fn unlocked(&mut self) {
        for waiting in std::mem::take(&mut self.database.waiting) {
            if waiting.rows().iter().any(|key| self.is_locked(key)) {
                self.database.waiting.push(waiting);
            } else {
                self.go_ahead(waiting);
            }
        }
    }

    fn claim(&mut self, claim: Claim) {
        let Claim { asker, call, term, key, node, boot, seen } = claim;
        let is_newest = self.raise_term(term);
        let stored = self.database.owners.get(&key);
        let free = is_newest && stored.is_none_or(|owner| owner.term <= term && !owner.retired);
        // The first owner of a shard begins above every epoch of its slots, and not beside another one.
        let of_slots = self.database.owners.iter().filter(|(other, _)| stored.is_none() && overlap(other, &key));
        let (highest, is_owned) = of_slots.fold((Epoch::default(), false), |(highest, is_owned), (_, owner)| {
            (highest.max(owner.epoch), is_owned || !owner.retired)
        });
        if stored.map(|owner| owner.epoch) != seen || !free || is_owned {
            return self.answer(Place::Database, asker, call, Body::Claimed(None));
        }
        let raised = self.mutation != Some(Mutation::EpochNotRaised) || seen.is_none();
        let epoch = if raised { seen.unwrap_or(highest).next() } else { seen.unwrap_or_default() };
        self.note(|now| format!("{now:>9} database: {}/{} is {node}'s in epoch {epoch}", key.2, key.1.get()));
        self.database.owners.insert(key, Owner { epoch, node, boot, term, retired: false });
        self.answer(Place::Database, asker, call, Body::Claimed(Some(epoch)));
    }
}

/// The rows.
#[derive(Default)]
pub(crate) struct Tables {
    messages: BTreeMap<(Slot, Seq), MessageRow>,
    ids: BTreeSet<IdKey>,
    statuses: BTreeMap<(Slot, Seq), StatusRow>,
    cursors: BTreeMap<Slot, Seq>,
    sessions: BTreeMap<WaId, SessionRow>,
    inbound: BTreeMap<String, InboundRow>,
    events: BTreeMap<EventRef, StoredEvent>,
}

impl Tables {
    /// Messages and callbacks that are not done.
    pub(crate) fn backlog(&self) -> (usize, usize) {
        let inner = self;
        let open = inner.messages.keys().filter(|at| !inner.statuses.contains_key(at)).count();
        (open, inner.events.len())
    }

    fn write(&mut self, batch: &Batch) -> Committed {
        let inner = self;
        let mut committed = Committed::default();
        for (index, m) in batch.messages.iter().enumerate() {
            if !inner.ids.insert(m.id_key) {
                committed.duplicate_messages.push(index);
                continue;
            }
            let row = MessageRow {
                slot: m.slot,
                seq: m.seq,
                id_key: m.id_key,
                recipient: m.recipient,
                accepted_at_ms: m.accepted_at_ms,
                body: m.body.clone(),
            };
            inner.messages.insert((m.slot, m.seq), row);
        }
        for row in &batch.statuses {
            inner.statuses.insert((row.slot, row.seq), *row);
        }
        for (slot, seq) in &batch.outbox_cursors {
            let cursor = inner.cursors.entry(*slot).or_default();
            *cursor = (*cursor).max(*seq);
        }
        for row in &batch.sessions {
            inner.sessions.insert(row.peer, row.clone());
        }
        for m in &batch.inbound {
            let row =
                InboundRow { id: m.id.clone(), sender: m.sender, sent_at_ms: m.sent_at_ms, stored_at_ms: None, read_at_ms: None };
            inner.inbound.entry(m.id.clone()).or_insert(row);
        }
        for e in &batch.events {
            let stored = StoredEvent {
                slot: e.slot,
                endpoint: e.endpoint,
                seq: e.seq,
                origin: None,
                contact: e.contact,
                kind: e.kind.to_owned(),
                created_at_ms: e.created_at_ms,
                body: e.body.clone(),
            };
            inner.events.entry(stored.at()).or_insert(stored);
        }
        for e in batch.events_done.iter().chain(batch.events_kept.iter().map(|kept| &kept.event)) {
            inner.events.remove(e);
        }
        for letter in &batch.dead_letters {
            inner.events.remove(&letter.event);
        }
        committed
    }

    fn read(&self, read: Read) -> Rows {
        let inner = self;
        match read {
            Read::Keys => Rows::Keys,
            Read::Outbox(asked) => {
                let rows = asked.iter().flat_map(|(slot, seq)| inner.outbox(*slot, *seq)).collect();
                Rows::Outbox(asked, rows)
            }
            Read::Events(endpoint, asked) => {
                let place = |slot, seq| EventRef { slot, endpoint, seq: Seq::new(seq) };
                let of = |(slot, seq): &(Slot, Seq)| {
                    let after = inner.events.range(place(*slot, seq.get() + 1)..=place(*slot, i64::MAX));
                    after.take(LOAD_ROWS as usize).map(|(_, row)| row.clone())
                };
                let rows = asked.iter().flat_map(of).collect();
                Rows::Events(endpoint, asked, rows)
            }
            Read::Sessions(generation, peers) => Rows::Sessions(generation, inner.sessions(&peers)),
            // Nobody here gives messages keys.
            Read::LookUp(lookup) => {
                let rows = inner.sessions(&lookup.users);
                Rows::LookedUp(lookup, rows)
            }
            Read::Facts(questions) => {
                let known = |id: &&String| inner.inbound.contains_key(*id);
                let message = |at: &(Slot, Seq)| Some((*at, inner.messages.get(at)?.clone()));
                Rows::Facts(Arc::new(Facts {
                    statuses: questions.statuses.iter().filter_map(|at| inner.statuses.get(at).copied()).collect(),
                    sessions: inner.sessions(&questions.peers),
                    known_inbound: questions.inbound.iter().filter(known).cloned().collect(),
                    messages: questions.messages.iter().filter_map(message).collect(),
                }))
            }
            Read::Inbound(id) => Rows::Inbound(inner.inbound.get(&id).cloned()),
        }
    }

    /// Messages of a slot that are not settled, after a place and the slot's cursor.
    fn outbox(&self, slot: Slot, seq: Seq) -> Vec<MessageRow> {
        let from = seq.max(self.cursors.get(&slot).copied().unwrap_or_default());
        let is_open = |at: &(Slot, Seq)| self.statuses.get(at).is_none_or(|row| row.statuses.bits() == 0);
        let open = after(&self.messages, slot, from).filter(|(at, _)| is_open(at));
        open.take(LOAD_ROWS as usize).map(|(_, row)| row.clone()).collect()
    }

    fn sessions(&self, peers: &[WaId]) -> Vec<SessionRow> {
        peers.iter().filter_map(|peer| self.sessions.get(peer).cloned()).collect()
    }
}

fn after<T>(rows: &BTreeMap<(Slot, Seq), T>, slot: Slot, seq: Seq) -> impl Iterator<Item = (&(Slot, Seq), &T)> {
    rows.range((slot, Seq::new(seq.get() + 1))..=(slot, Seq::new(i64::MAX)))
}
