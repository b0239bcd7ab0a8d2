//! What the network decides, without sockets, SQL or a clock.
//!
//! The shell feeds whatever waits into one [`Batch`]: frames, closed connections, requests for phones. Each is
//! decided at once against the state in memory; what must be stored, logged and sent is collected in the batch.
//! The shell stores it in one transaction, writes the audit log, and only then sends ([`Batch::outputs`]).
//!
//! * [`changes`]: the rows of a batch. [`envelopes`]: what becomes of a sent message (**I2**, **I4**, **I5**).
//! * [`outlets`]: deliveries to the businesses. [`book`]: the simulated phones.
//! * Sessions (**I1**) are decided by [`crate::session`].

mod book;
pub mod changes;
mod envelopes;
mod outlets;

use std::collections::HashMap;

use bytes::Bytes;
use estafet_model::{BootId, IdKey, Shard, ShardCount, Slot, WaId};
use estafet_proto::chat::{self, RefusedReason, client_frame, delivery::Item, server_frame::Frame};
use prost::Message as _;

pub use outlets::Refill;

use self::{
    book::PhoneBook,
    changes::{Changes, DeliveryRow, NumberRow, Retry, Stored, WaitingRow},
    outlets::Outlets,
};
use crate::{
    audit::{Event, ShardRef},
    e2e,
    phones::{Error, Info, Mode, Rules},
    session::{Claim, ConnId, Decision, Sessions},
    templates::Templates,
};

/// Users whose keys one frame may ask for: a client cuts its questions, so more is an error of it.
const MAX_ASKED: usize = 1_000;

/// Longest name of a holder.
const MAX_HOLDER: usize = 256;

/// What a batch was decided with, and what came of it.
#[derive(Debug, Default)]
pub struct Batch {
    /// Milliseconds since 1970.
    pub now_ms: i64,
    /// Ids of this batch that were accepted before.
    pub seen: HashMap<(WaId, IdKey), i64>,
    /// To store.
    pub changes: Changes,
    /// To log after that.
    pub audit: Vec<Event>,
    /// To send after that, in this order.
    pub outputs: Vec<Output>,
}

impl Batch {
    fn send(&mut self, conn: ConnId, frame: Frame) {
        self.outputs.push(Output::Frame(conn, frame));
    }
}

/// Something for a connection.
#[derive(Debug)]
pub enum Output {
    /// Send this.
    Frame(ConnId, Frame),
    /// Close it after what was sent.
    Close(ConnId),
}

/// The whole state of the network.
#[derive(Debug)]
pub struct Network {
    sessions: Sessions,
    /// In the order the numbers came.
    numbers: Vec<NumberRow>,
    last_seq: HashMap<(WaId, Slot), i64>,
    retries: HashMap<(WaId, IdKey), Retry>,
    last_delivery: HashMap<WaId, u64>,
    outlets: Outlets,
    book: PhoneBook,
    /// (phone, business) -> when the phone last wrote.
    windows: HashMap<(WaId, WaId), i64>,
    rules: Rules,
    heartbeat_ms: u32,
    /// Clients that speak an older version are refused.
    oldest_protocol: u32,
}

impl Network {
    /// The network as it was stored.
    pub fn restore(stored: Stored, seed: u64, heartbeat_ms: u32) -> Self {
        let mut sessions = Sessions::default();
        for number in &stored.numbers {
            sessions.restore_key(number.number, number.static_key);
        }
        stored.admissions.into_iter().for_each(|claim| sessions.restore(claim));
        Self {
            sessions,
            numbers: stored.numbers,
            last_seq: stored.last_seq.into_iter().map(|(number, slot, seq)| ((number, slot), seq)).collect(),
            retries: stored.retries.into_iter().map(|(number, key, retry)| ((number, key), retry)).collect(),
            last_delivery: stored.last_delivery.into_iter().collect(),
            outlets: Outlets::default(),
            book: PhoneBook::restore(stored.phones, stored.ratchets, stored.waiting, seed),
            windows: stored.windows.into_iter().map(|(phone, number, at_ms)| ((phone, number), at_ms)).collect(),
            rules: stored.rules,
            heartbeat_ms,
            oldest_protocol: 0,
        }
    }

    /// The same network, which refuses clients that speak an older version than this.
    #[must_use]
    pub fn refusing_before(self, oldest_protocol: u32) -> Self {
        Self { oldest_protocol, ..self }
    }

    /// The ids of a frame that may have been accepted before, and the number they belong to.
    pub fn ids_of(&self, conn: ConnId, frame: &client_frame::Frame) -> Option<(WaId, Vec<IdKey>)> {
        let client_frame::Frame::Send(send) = frame else { return None };
        let claim = self.sessions.current(conn, send.epoch)?;
        let keys = send.envelopes.iter().filter_map(|envelope| IdKey::from_slice(&envelope.id_key)).collect();
        Some((claim.number, keys))
    }

    /// Decides a frame of a connection that proved `static_key`.
    pub fn frame(&mut self, batch: &mut Batch, conn: ConnId, static_key: [u8; 32], frame: client_frame::Frame) {
        use client_frame::Frame as Client;
        match frame {
            Client::Warm(_) => batch.send(conn, Frame::Warmed(chat::Warmed {})),
            Client::Ping(ping) => batch.send(conn, Frame::Pong(chat::Pong { nonce: ping.nonce })),
            Client::Login(login) => self.login(batch, conn, static_key, login),
            Client::Send(send) => self.envelopes(batch, conn, send),
            Client::Acknowledge(acknowledge) => self.acknowledge(batch, conn, acknowledge),
            Client::ReadMarks(marks) => self.read_marks(batch, conn, marks),
            Client::FetchKeys(fetch) if fetch.wa_ids.len() <= MAX_ASKED => self.fetch_keys(batch, conn, fetch),
            Client::CheckContacts(check) => self.check_contacts(batch, conn, check),
            // Files are not for a connection of messages.
            Client::FetchKeys(_) | Client::BlobPut(_) | Client::BlobPart(_) | Client::BlobGet(_) => {
                batch.outputs.push(Output::Close(conn));
            }
        }
    }

    /// A connection is gone.
    pub fn closed(&mut self, batch: &mut Batch, conn: ConnId) {
        if self.sessions.disconnect(conn).is_some() {
            self.outlets.close(conn);
            batch.audit.push(Event::Closed { conn: conn.0 });
        }
    }

    fn login(&mut self, batch: &mut Batch, conn: ConnId, static_key: [u8; 32], login: chat::Login) {
        let turn_away = |batch: &mut Batch, reason: RefusedReason, details: String| {
            batch.send(conn, Frame::Refused(chat::Refused { reason: reason.into(), details, ..Default::default() }));
            batch.outputs.push(Output::Close(conn));
        };
        // Clients that name no version speak the first.
        let (spoken, oldest) = (login.protocol.max(1), self.oldest_protocol);
        if spoken < oldest {
            let details = format!("version {spoken} of the protocol is not spoken any more, {oldest} is the oldest");
            return turn_away(batch, RefusedReason::Version, details);
        }
        let (claim, keys) = match self.read_login(conn, login) {
            Ok(read) => read,
            Err(details) => return turn_away(batch, RefusedReason::Invalid, details.to_owned()),
        };
        let refused = match self.sessions.login(conn, static_key, claim.clone()) {
            Decision::Admitted { replaced } => return self.admit(batch, conn, static_key, claim, keys, replaced),
            Decision::Stale { highest } => {
                let details = format!("a login at epoch {highest} was seen");
                chat::Refused { reason: RefusedReason::StaleEpoch.into(), details, highest_epoch: highest, ..Default::default() }
            }
            Decision::Conflict { epoch, holder, incumbent } => {
                if let Some(incumbent) = incumbent {
                    batch.send(incumbent, Frame::ConflictNotice(chat::ConflictNotice { holder: claim.holder.clone() }));
                }
                let details = "the same epoch is held by another instance".to_owned();
                chat::Refused { reason: RefusedReason::Conflict.into(), details, highest_epoch: epoch, holder }
            }
            Decision::Unauthorized => {
                let details = "the number registered with another static key".to_owned();
                chat::Refused { reason: RefusedReason::Unauthorized.into(), details, ..Default::default() }
            }
        };
        let reason = refused.reason().as_str_name().trim_start_matches("REFUSED_REASON_").to_lowercase();
        batch.audit.push(Event::Refused { shard: shard_ref(&claim), conn: conn.0, reason });
        batch.send(conn, Frame::Refused(refused));
        batch.outputs.push(Output::Close(conn));
    }

    fn read_login(&self, conn: ConnId, login: chat::Login) -> Result<(Claim, chat::BusinessKeys), &'static str> {
        if self.sessions.claim(conn).is_some() {
            return Err("logged in already");
        }
        let number = WaId::from_u64(login.number).map_err(|_| "not a number")?;
        if self.book.contains(number) {
            return Err("the number is a phone");
        }
        let count = ShardCount::new(login.shard_count).ok_or("not a shard count")?;
        let shard = Shard::new(login.shard, count).ok_or("not a shard of the count")?;
        let epoch = Some(login.epoch).filter(|epoch| (1..=u64::from(u32::MAX)).contains(epoch)).ok_or("not an epoch")?;
        let boot = BootId::from_slice(&login.boot).ok_or("not a boot id")?;
        let keys = login.keys.ok_or("keys are missing")?;
        let public = e2e::PublicKeys {
            identity_key: keys.identity_key.clone(),
            signing_key: keys.signing_key.clone(),
            fallback_key: keys.fallback_key.clone(),
            fallback_signature: keys.fallback_signature.clone(),
        };
        if !public.is_signed() {
            return Err("keys are malformed or not signed");
        }
        let holder = login.holder.chars().take(MAX_HOLDER).collect();
        Ok((Claim { number, shard, count, epoch, boot, holder }, keys))
    }

    fn admit(
        &mut self,
        batch: &mut Batch,
        conn: ConnId,
        static_key: [u8; 32],
        claim: Claim,
        keys: chat::BusinessKeys,
        replaced: Vec<ConnId>,
    ) {
        for old in replaced {
            self.outlets.close(old);
            batch.audit.push(Event::Replaced { conn: old.0, by_epoch: claim.epoch });
            batch.send(old, Frame::Replaced(chat::Replaced { epoch: claim.epoch }));
            batch.outputs.push(Output::Close(old));
        }
        let chat::BusinessKeys { identity_key, fallback_key, .. } = keys;
        self.register(batch, NumberRow { number: claim.number, static_key, identity_key, fallback_key });
        self.outlets.open(conn, &claim);
        let (boot, holder) = (claim.boot.to_string(), claim.holder.clone());
        batch.audit.push(Event::Login { shard: shard_ref(&claim), conn: conn.0, boot, holder });
        batch.send(conn, Frame::LoggedIn(chat::LoggedIn { epoch: claim.epoch, heartbeat_ms: self.heartbeat_ms }));
        batch.changes.admissions.push(claim);
    }

    fn register(&mut self, batch: &mut Batch, row: NumberRow) {
        match self.numbers.iter_mut().find(|known| known.number == row.number) {
            Some(known) if *known == row => return,
            Some(known) => {
                if known.identity_key != row.identity_key {
                    self.book.drop_ratchets(row.number, &mut batch.changes);
                }
                *known = row.clone();
            }
            None => self.numbers.push(row.clone()),
        }
        batch.changes.numbers.push(row);
    }

    fn acknowledge(&mut self, batch: &mut Batch, conn: ConnId, acknowledge: chat::Acknowledge) {
        let Some(number) = self.sessions.current(conn, acknowledge.epoch).map(|claim| claim.number) else { return };
        for delivery in acknowledge.deliveries {
            if self.outlets.acknowledge(conn, delivery) {
                batch.changes.acknowledged.push((number, delivery));
            }
        }
    }

    fn read_marks(&mut self, batch: &mut Batch, conn: ConnId, marks: chat::ReadMarks) {
        if self.sessions.current(conn, marks.epoch).is_some() {
            let marks = marks.marks.into_iter().filter_map(|mark| Some((WaId::from_u64(mark.sender).ok()?, mark.message_id)));
            batch.changes.read_marks.extend(marks);
        }
    }

    fn fetch_keys(&mut self, batch: &mut Batch, conn: ConnId, fetch: chat::FetchKeys) {
        if self.sessions.claim(conn).is_none() {
            return;
        }
        let bundle = |book: &mut PhoneBook, wa_id: u64| {
            let keys = WaId::from_u64(wa_id).ok().and_then(|phone| book.take_bundle(phone));
            let on_network = keys.is_some();
            let (identity_key, one_time_key) = keys.map(|keys| (keys.identity_key, keys.one_time_key)).unwrap_or_default();
            chat::KeyBundle { wa_id, on_network, identity_key, one_time_key }
        };
        let bundles = fetch.wa_ids.into_iter().map(|wa_id| bundle(&mut self.book, wa_id)).collect();
        batch.send(conn, Frame::KeyBundles(chat::KeyBundles { bundles }));
    }

    fn check_contacts(&mut self, batch: &mut Batch, conn: ConnId, check: chat::CheckContacts) {
        if self.sessions.claim(conn).is_none() {
            return;
        }
        let is_phone = |wa_id: &u64| WaId::from_u64(*wa_id).is_ok_and(|phone| self.book.contains(phone));
        let on_network = check.wa_ids.into_iter().filter(is_phone).collect();
        batch.send(conn, Frame::ContactStates(chat::ContactStates { query: check.query, on_network }));
    }

    /// Gives a business something that is kept until it is acknowledged.
    fn deliver(&mut self, batch: &mut Batch, number: WaId, slot: Slot, item: Item) {
        let id = self.last_delivery.entry(number).or_insert(0);
        *id += 1;
        let delivery = chat::Delivery { delivery: *id, item: Some(item) };
        batch.changes.deliveries.push(DeliveryRow { number, delivery: *id, slot, body: delivery.encode_to_vec() });
        if let Some(conn) = self.sessions.covering(number, slot) {
            self.outlets.offer(conn, delivery);
        }
    }

    fn keys(&self, number: WaId) -> Option<&NumberRow> {
        self.numbers.iter().find(|row| row.number == number)
    }

    /// Adds a phone, in mode `read`.
    pub fn add_phone(&mut self, number: WaId, name: Option<String>) -> Result<(), Error> {
        if self.keys(number).is_some() { Err(Error::IsBusiness(number)) } else { self.book.add(number, name) }
    }

    /// The templates that phones know from now on.
    pub fn set_templates(&mut self, templates: Templates) {
        self.book.set_templates(templates);
    }

    /// Changes what a phone does.
    pub fn set_mode(&mut self, number: WaId, mode: Mode) -> Result<(), Error> {
        self.book.set_mode(number, mode)
    }

    /// What is asked of businesses.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Changes what is asked of businesses.
    pub fn set_rules(&mut self, batch: &mut Batch, rules: Rules) {
        self.rules = rules;
        batch.changes.rules = Some(rules);
    }

    /// Whether the customer window of a phone is closed for a business.
    fn is_outside_window(&self, phone: WaId, number: WaId, now_ms: i64) -> bool {
        self.rules.customer_window_s.is_some_and(|seconds| {
            let wrote_at_ms = self.windows.get(&(phone, number));
            wrote_at_ms.is_none_or(|at_ms| now_ms - at_ms >= i64::from(seconds) * 1000)
        })
    }

    /// A phone has new keys; every business hears of it.
    pub fn new_identity(&mut self, batch: &mut Batch, phone: WaId) -> Result<(), Error> {
        let identity_key = self.book.reinstall(phone, &mut batch.changes)?;
        let at_ms = batch.now_ms;
        let changed = chat::IdentityChanged { user: phone.as_u64(), identity_key, at_ms };
        self.tell_all(batch, phone, &Item::IdentityChanged(changed));
        Ok(())
    }

    /// The user of a phone moves to another number; every business hears of it.
    pub fn change_number(&mut self, batch: &mut Batch, from: WaId, to: WaId) -> Result<(), Error> {
        if self.keys(to).is_some() {
            return Err(Error::IsBusiness(to));
        }
        let profile_name = self.book.change_number(from, to, &mut batch.changes)?;
        let at_ms = batch.now_ms;
        let changed = chat::NumberChanged { user: from.as_u64(), new_user: to.as_u64(), profile_name, at_ms };
        self.tell_all(batch, from, &Item::NumberChanged(changed));
        Ok(())
    }

    /// Tells every business of a user; which of them know the user is theirs to say.
    fn tell_all(&mut self, batch: &mut Batch, user: WaId, item: &Item) {
        let numbers: Vec<WaId> = self.numbers.iter().map(|row| row.number).collect();
        numbers.into_iter().for_each(|number| self.deliver(batch, number, Slot::of(user), item.clone()));
    }

    /// All phones.
    pub fn phones(&self) -> Vec<Info> {
        self.book.list()
    }

    /// Whether there is such a phone.
    pub fn has_phone(&self, number: WaId) -> Result<(), Error> {
        if self.book.contains(number) { Ok(()) } else { Err(Error::Unknown(number)) }
    }

    /// Whether there is such a phone, or was before its user moved.
    pub(crate) fn had_phone(&self, number: WaId) -> Result<(), Error> {
        if self.book.knows(number) { Ok(()) } else { Err(Error::Unknown(number)) }
    }

    /// A phone writes to a business; returns the id of the message.
    pub fn send(
        &mut self,
        batch: &mut Batch,
        from: WaId,
        to: Option<WaId>,
        content: &serde_json::Value,
    ) -> Result<String, Error> {
        self.has_phone(from)?;
        let business = match (to, self.numbers.as_slice()) {
            (Some(to), _) => self.keys(to).ok_or(Error::UnknownBusiness(to))?,
            (None, [only]) => only,
            (None, []) => return Err(Error::NoBusiness),
            (None, _) => return Err(Error::Ambiguous),
        };
        let number = business.number;
        let bundle = e2e::KeyBundle { identity_key: business.identity_key.clone(), one_time_key: business.fallback_key.clone() };
        let inbound = self.book.send(from, number, &bundle, content, batch)?;
        self.windows.insert((from, number), batch.now_ms);
        batch.changes.windows.insert((from, number), batch.now_ms);
        let id = inbound.message_id.clone();
        self.deliver(batch, number, Slot::of(from), Item::Inbound(inbound));
        Ok(id)
    }

    /// A phone that is in reach while parcels wait for it.
    pub fn phone_to_drain(&self) -> Option<WaId> {
        self.book.to_drain()
    }

    /// Brings waiting parcels to their phone, the oldest first; none left means nothing waits any more.
    pub fn drain(&mut self, batch: &mut Batch, phone: WaId, rows: Vec<WaitingRow>) {
        if rows.is_empty() {
            self.book.nothing_waits(phone);
        }
        for WaitingRow { row, parcel } in rows {
            batch.changes.waiting_done.push(row);
            self.book.leaves_waiting(phone, 1);
            self.hand_over(batch, parcel, true);
        }
    }

    /// Parcels that waited too long are gone.
    pub fn expired(&mut self, lost: HashMap<WaId, u64>, seen_before: i64) {
        for (phone, count) in lost {
            tracing::warn!(%phone, count, "messages waited too long for their phone and are dropped");
            self.book.leaves_waiting(phone, count);
        }
        self.retries.retain(|_, retry| retry.at_ms >= seen_before);
    }

    /// Ends the decisions of a batch: what changed in the phones joins what is stored.
    pub fn finish(&mut self, batch: &mut Batch) {
        self.book.collect_changes(&mut batch.changes);
    }

    /// The connections that want stored deliveries loaded.
    pub fn refills(&self) -> Vec<Refill> {
        self.outlets.refills()
    }

    /// Takes what was loaded for a refill.
    pub fn refill(&mut self, refill: &Refill, bodies: Vec<Vec<u8>>) {
        let complete = bodies.len() < refill.limit;
        let loaded = bodies.into_iter().filter_map(|body| chat::Delivery::decode(Bytes::from(body)).ok()).collect();
        self.outlets.loaded(refill.conn, loaded, complete);
    }

    /// Opens the windows: deliveries that may be sent now, after the batch is stored.
    pub fn pump(&mut self, batch: &mut Batch) {
        for (conn, deliveries) in self.outlets.pump() {
            batch.send(conn, Frame::Deliver(chat::Deliver { deliveries }));
        }
    }
}

fn shard_ref(claim: &Claim) -> ShardRef {
    ShardRef { number: claim.number, shard: claim.shard.get(), count: claim.count.get(), epoch: claim.epoch }
}
