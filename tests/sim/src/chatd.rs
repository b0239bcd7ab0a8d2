//! chatd around its real network: rows that are stored before anything is sent, connections, phones.

use std::{collections::BTreeMap, sync::OnceLock};

use estafet_chatd::{
    audit::Event,
    e2e::Account,
    network::{
        self, Batch, Output,
        changes::{Changes, DeliveryRow, NumberRow, PhoneRow, Retry, Stored},
    },
    phones::Mode,
    session::{Claim, ConnId},
};
use estafet_model::{IdKey, Shard, ShardCount, Slot, WaId};
use estafet_proto::chat::client_frame;
use serde_json::json;

use crate::{
    Mutation,
    messages::Body,
    world::{Place, What, World},
};

/// Phones that write and are written to.
pub(crate) const PHONES: usize = 6;
/// The static key is proved by the transport, which is not simulated.
const STATIC_KEY: [u8; 32] = [7; 32];

pub(crate) struct Network {
    network: network::Network,
    seed: u64,
    rows: Rows,
    /// Connections, and the epoch they are taken to have where the fence is taken out.
    connections: BTreeMap<u64, Option<u64>>,
}

/// What is stored.
#[derive(Default)]
struct Rows {
    numbers: BTreeMap<WaId, NumberRow>,
    admissions: BTreeMap<(WaId, ShardCount, Shard), Claim>,
    last_seq: BTreeMap<(WaId, Slot), i64>,
    seen: BTreeMap<(WaId, IdKey), i64>,
    retries: BTreeMap<(WaId, IdKey), Retry>,
    deliveries: BTreeMap<(WaId, u64), DeliveryRow>,
    last_delivery: BTreeMap<WaId, u64>,
    phones: BTreeMap<WaId, PhoneRow>,
    ratchets: BTreeMap<(WaId, WaId), Vec<u8>>,
}

pub(crate) fn phone(i: usize) -> WaId {
    WaId::from_u64(15_550_001_001 + i as u64).expect("a number")
}

/// The accounts of the phones: made once, since they decide nothing.
fn accounts() -> &'static [Vec<u8>; PHONES] {
    static ACCOUNTS: OnceLock<[Vec<u8>; PHONES]> = OnceLock::new();
    ACCOUNTS.get_or_init(|| std::array::from_fn(|_| Account::new().to_bytes()))
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rows = Rows::default();
        for (i, account) in accounts().iter().enumerate() {
            let (phone, name, account) = (phone(i), format!("Phone {i}"), account.clone());
            rows.phones.insert(phone, PhoneRow { phone, name, mode: Mode::Read, account, received: 0, sent: 0 });
        }
        Self { network: network::Network::restore(rows.restored(), seed, 2_000), seed, rows, connections: BTreeMap::new() }
    }
}

impl Rows {
    fn restored(&self) -> Stored {
        Stored {
            numbers: self.numbers.values().cloned().collect(),
            admissions: self.admissions.values().cloned().collect(),
            last_seq: self.last_seq.iter().map(|((number, slot), seq)| (*number, *slot, *seq)).collect(),
            retries: self.retries.iter().map(|((number, key), retry)| (*number, *key, *retry)).collect(),
            last_delivery: self.last_delivery.iter().map(|(number, last)| (*number, *last)).collect(),
            phones: self.phones.values().cloned().collect(),
            ratchets: self.ratchets.iter().map(|((phone, number), state)| (*phone, *number, state.clone())).collect(),
            waiting: Vec::new(),
            ..Stored::default()
        }
    }

    fn write(&mut self, changes: Changes) {
        self.numbers.extend(changes.numbers.into_iter().map(|row| (row.number, row)));
        self.admissions.extend(changes.admissions.into_iter().map(|claim| ((claim.number, claim.count, claim.shard), claim)));
        self.last_seq.extend(changes.last_seq);
        self.seen.extend(changes.seen.into_iter().map(|(number, key, at)| ((number, key), at)));
        self.retries.extend(changes.retries);
        for row in changes.deliveries {
            self.last_delivery.insert(row.number, row.delivery);
            self.deliveries.insert((row.number, row.delivery), row);
        }
        for acknowledged in &changes.acknowledged {
            self.deliveries.remove(acknowledged);
        }
        self.phones.extend(changes.phones.into_iter().map(|row| (row.phone, row)));
        self.ratchets.extend(changes.ratchets);
        for number in changes.ratchets_dropped {
            self.ratchets.retain(|(_, business), _| *business != number);
        }
        for phone in changes.phones_reset {
            self.ratchets.retain(|(of, _), _| *of != phone);
        }
    }
}

impl World {
    pub(crate) fn at_chatd(&mut self, what: What) {
        match what {
            What::Accepted { stream, .. } => drop(self.chatd.connections.insert(stream, None)),
            What::Arrived { stream, body: Body::Client(frame) } if self.chatd.connections.contains_key(&stream) => {
                self.frame(stream, frame);
            }
            What::Broke { stream } if self.chatd.connections.remove(&stream).is_some() => {
                let mut batch = self.batch();
                self.chatd.network.closed(&mut batch, ConnId(stream));
                self.conclude(batch);
            }
            _ => {}
        }
    }

    /// chatd starts again with what it stored.
    pub(crate) fn start_chatd(&mut self) {
        let chatd = &mut self.chatd;
        chatd.network = network::Network::restore(chatd.rows.restored(), chatd.seed, 2_000);
        chatd.connections.clear();
        self.ledger.network_started();
    }

    fn batch(&self) -> Batch {
        Batch { now_ms: self.wall_ms(Place::Chatd), ..Batch::default() }
    }

    fn frame(&mut self, stream: u64, mut frame: client_frame::Frame) {
        self.ledger.frame(stream, &frame);
        if matches!(self.mutation, Some(Mutation::NoChatdFence | Mutation::LeaseOnly)) {
            self.unfenced(stream, &mut frame);
        }
        let (mut batch, conn) = (self.batch(), ConnId(stream));
        let chatd = &mut self.chatd;
        if let Some((number, ids)) = chatd.network.ids_of(conn, &frame) {
            let seen = ids.into_iter().filter_map(|id| Some(((number, id), *chatd.rows.seen.get(&(number, id))?)));
            batch.seen.extend(seen);
        }
        chatd.network.frame(&mut batch, conn, STATIC_KEY, frame);
        self.conclude(batch);
    }

    /// A network without a fence: the last who logs in is taken for the newest.
    fn unfenced(&mut self, stream: u64, frame: &mut client_frame::Frame) {
        let newest = 1_000_000 + self.fresh();
        let Some(taken_for) = self.chatd.connections.get_mut(&stream) else { return };
        match frame {
            client_frame::Frame::Login(login) => {
                login.epoch = newest;
                *taken_for = Some(newest);
            }
            client_frame::Frame::Send(send) => send.epoch = taken_for.unwrap_or(send.epoch),
            client_frame::Frame::Acknowledge(acknowledge) => acknowledge.epoch = taken_for.unwrap_or(acknowledge.epoch),
            _ => {}
        }
    }

    /// A phone writes to the number, once the number is known.
    pub(crate) fn phone_writes(&mut self, from: WaId) {
        let mut batch = self.batch();
        let text = json!({"type": "text", "text": {"body": "hi"}});
        if let Ok(id) = self.chatd.network.send(&mut batch, from, Some(crate::number()), &text) {
            self.note(|now| format!("{now:>9} {from} writes {id}"));
            self.ledger.phone_wrote(from, id);
            self.conclude(batch);
        }
    }

    /// Stores, and only then sends.
    fn conclude(&mut self, mut batch: Batch) {
        let chatd = &mut self.chatd;
        chatd.network.finish(&mut batch);
        for row in &batch.changes.inbox {
            self.ledger.phone_got(row.phone, row.id_key);
        }
        chatd.rows.write(std::mem::take(&mut batch.changes));
        for refill in chatd.network.refills() {
            let stored = chatd.rows.deliveries.range((refill.number, refill.after + 1)..=(refill.number, u64::MAX));
            let within = stored.filter(|(_, row)| (refill.slots.0..=refill.slots.1).contains(&row.slot.get()));
            let bodies = within.take(refill.limit).map(|(_, row)| row.body.clone()).collect();
            chatd.network.refill(&refill, bodies);
        }
        chatd.network.pump(&mut batch);
        for event in std::mem::take(&mut batch.audit) {
            self.audit(event);
        }
        for output in batch.outputs {
            match output {
                Output::Frame(conn, frame) => self.send(Place::Chatd, conn.0, Body::Server(frame)),
                Output::Close(conn) => {
                    self.chatd.connections.remove(&conn.0);
                    self.hang_up(conn.0);
                }
            }
        }
    }

    fn audit(&mut self, event: Event) {
        self.note(|now| format!("{now:>9} Chatd audit {event:?}"));
        self.ledger.audit(self.now, event);
    }
}
