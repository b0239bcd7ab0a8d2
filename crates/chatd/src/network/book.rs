//! The simulated phones: identities, sessions, and what they do with what arrives.
//!
//! Accounts are made at first use, and stored state is read at first use, so that thousands of phones cost a
//! start nothing. What changed is collected once per batch ([`PhoneBook::collect_changes`]). The randomness of
//! keys comes from vodozemac; ids of messages come from the seed, so a seeded sandbox repeats itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use estafet_model::{Code, MessageId, WaId};
use estafet_proto::chat::{self, ReceiptStatus};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Batch,
    changes::{Changes, InboxRow, Parcel, PhoneRow, SentRow},
};
use crate::{
    e2e::{Account, KeyBundle, Ratchet},
    phones::{Error, Info, Mode},
    templates::Templates,
};

/// Largest content a phone sends; leaves a frame room for several.
const MAX_CONTENT: usize = 64 * 1024;

/// What a phone did with a message.
pub(super) enum Reception {
    /// The business hears nothing: it waits, or was dropped, or taken silently.
    Nothing,
    /// The business hears these.
    Receipts(&'static [ReceiptStatus]),
    /// The phone cannot read it.
    Undecryptable,
    /// The phone has read it, but it names a template that the phone cannot show.
    Unshowable,
}

/// State that is parsed when it is first needed.
enum Kept<T> {
    Stored(Vec<u8>),
    Live(T),
}

/// An account and its stored form, which is made anew only when the account has changed.
struct Identity {
    account: Account,
    stored: Option<Vec<u8>>,
}

struct Phone {
    name: String,
    mode: Mode,
    identity: Kept<Identity>,
    waiting: u64,
    received: u64,
    sent: u64,
}

impl Phone {
    fn identity(&mut self) -> &mut Identity {
        if let Kept::Stored(bytes) = &self.identity {
            // Nothing is stored before the first use. Damaged keys are as good as a new phone.
            let account = Account::from_bytes(bytes).unwrap_or_else(|_| Account::new());
            self.identity = Kept::Live(Identity { account, stored: None });
        }
        match &mut self.identity {
            Kept::Live(identity) => identity,
            Kept::Stored(_) => unreachable!("was made live above"),
        }
    }

    fn stored_account(&mut self) -> Vec<u8> {
        match &mut self.identity {
            Kept::Stored(bytes) => bytes.clone(),
            Kept::Live(identity) => identity.stored.get_or_insert_with(|| identity.account.to_bytes()).clone(),
        }
    }
}

/// All phones.
pub(super) struct PhoneBook {
    phones: BTreeMap<WaId, Phone>,
    /// (phone, business) -> sessions.
    ratchets: HashMap<(WaId, WaId), Kept<Ratchet>>,
    /// Phones in reach for which parcels wait.
    to_drain: BTreeSet<WaId>,
    seed: u64,
    templates: Templates,
    changed_phones: BTreeSet<WaId>,
    changed_ratchets: BTreeSet<(WaId, WaId)>,
}

impl std::fmt::Debug for PhoneBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PhoneBook").field("phones", &self.phones.len()).finish_non_exhaustive()
    }
}

impl PhoneBook {
    pub(super) fn restore(
        phones: Vec<PhoneRow>,
        ratchets: Vec<(WaId, WaId, Vec<u8>)>,
        waiting: Vec<(WaId, u64)>,
        seed: u64,
    ) -> Self {
        let waiting: HashMap<_, _> = waiting.into_iter().collect();
        let phone = |row: PhoneRow| {
            let waiting = waiting.get(&row.phone).copied().unwrap_or(0);
            let identity = Kept::Stored(row.account);
            (row.phone, Phone { name: row.name, mode: row.mode, identity, waiting, received: row.received, sent: row.sent })
        };
        let mut book = Self {
            phones: phones.into_iter().map(phone).collect(),
            ratchets: ratchets.into_iter().map(|(phone, number, state)| ((phone, number), Kept::Stored(state))).collect(),
            to_drain: BTreeSet::new(),
            seed,
            templates: Templates::default(),
            changed_phones: BTreeSet::new(),
            changed_ratchets: BTreeSet::new(),
        };
        waiting.into_keys().for_each(|phone| book.note_drain(phone));
        book
    }

    /// The templates that phones know from now on.
    pub(super) fn set_templates(&mut self, templates: Templates) {
        self.templates = templates;
    }

    /// Whether the number is a phone of the network.
    pub(super) fn contains(&self, phone: WaId) -> bool {
        self.phones.get(&phone).is_some_and(|phone| phone.mode != Mode::Left)
    }

    /// What messages to a number are refused with, whoever sends them.
    pub(super) fn refusal(&self, number: WaId) -> Option<Code> {
        self.phones.get(&number).map_or(Some(Code::UserNotValid), |phone| phone.mode.refusal())
    }

    /// Whether it is one, or was.
    pub(super) fn knows(&self, phone: WaId) -> bool {
        self.phones.contains_key(&phone)
    }

    pub(super) fn list(&self) -> Vec<Info> {
        let info = |(number, phone): (&WaId, &Phone)| Info {
            number: *number,
            name: phone.name.clone(),
            mode: phone.mode,
            waiting: phone.waiting,
        };
        self.phones.iter().filter(|(_, phone)| phone.mode != Mode::Left).map(info).collect()
    }

    pub(super) fn add(&mut self, number: WaId, name: Option<String>) -> Result<(), Error> {
        if self.contains(number) {
            return Err(Error::Exists(number));
        }
        let name = name.unwrap_or_else(|| format!("Phone {:04}", number.as_u64() % 10_000));
        self.settle_in(number, name, Mode::Read, Kept::Stored(Vec::new()));
        Ok(())
    }

    /// A user takes a number. What the number received and sent before goes on counting, since it is stored by that.
    fn settle_in(&mut self, number: WaId, name: String, mode: Mode, identity: Kept<Identity>) {
        let (received, sent) = self.phones.get(&number).map_or((0, 0), |before| (before.received, before.sent));
        self.phones.insert(number, Phone { name, mode, identity, waiting: 0, received, sent });
        self.changed_phones.insert(number);
    }

    /// A phone gets new keys; the public one.
    pub(super) fn reinstall(&mut self, number: WaId, changes: &mut Changes) -> Result<Bytes, Error> {
        let account = Account::new();
        let identity_key = account.identity_key();
        on_network(&mut self.phones, number)?.identity = Kept::Live(Identity { account, stored: None });
        self.changed_phones.insert(number);
        self.forget_sessions(number, changes);
        Ok(identity_key)
    }

    /// A user moves to another number with keys and name; the name.
    pub(super) fn change_number(&mut self, from: WaId, to: WaId, changes: &mut Changes) -> Result<String, Error> {
        let is_taken = self.contains(to);
        let phone = on_network(&mut self.phones, from)?;
        if is_taken {
            return Err(Error::Exists(to));
        }
        if phone.mode == Mode::Offline || phone.waiting > 0 {
            return Err(Error::OutOfReach(from));
        }
        let (name, mode) = (phone.name.clone(), std::mem::replace(&mut phone.mode, Mode::Left));
        let identity = std::mem::replace(&mut phone.identity, Kept::Stored(Vec::new()));
        self.changed_phones.insert(from);
        // Sessions are between numbers: the new one opens its own.
        self.forget_sessions(from, changes);
        self.settle_in(to, name.clone(), mode, identity);
        Ok(name)
    }

    fn forget_sessions(&mut self, phone: WaId, changes: &mut Changes) {
        self.ratchets.retain(|(of, _), _| *of != phone);
        self.changed_ratchets.retain(|(of, _)| *of != phone);
        changes.phones_reset.push(phone);
    }

    pub(super) fn set_mode(&mut self, number: WaId, mode: Mode) -> Result<(), Error> {
        on_network(&mut self.phones, number)?.mode = mode;
        self.changed_phones.insert(number);
        self.note_drain(number);
        Ok(())
    }

    /// Hands out keys of a phone, which stay with the network while the phone is offline.
    pub(super) fn take_bundle(&mut self, number: WaId) -> Option<KeyBundle> {
        let identity = on_network(&mut self.phones, number).ok()?.identity();
        identity.stored = None;
        let bundle = identity.account.take_bundle();
        self.changed_phones.insert(number);
        Some(bundle)
    }

    /// A message arrives for a phone. It waits behind those that wait, unless its own turn has come (`waited`).
    pub(super) fn receive(&mut self, batch: &mut Batch, parcel: Parcel, identity_key: &Bytes, waited: bool) -> Reception {
        let Some(phone) = self.phones.get_mut(&parcel.phone) else { return Reception::Nothing };
        match phone.mode {
            Mode::Block | Mode::Left => return Reception::Nothing,
            Mode::Offline => return self.wait(batch, parcel),
            _ if phone.waiting > 0 && !waited => return self.wait(batch, parcel),
            _ => {}
        }
        let Some(plaintext) = self.decrypt(&parcel, identity_key) else { return Reception::Undecryptable };
        let Some(phone) = self.phones.get_mut(&parcel.phone) else { return Reception::Nothing };
        let mut content = serde_json::from_slice::<Value>(&plaintext).unwrap_or_else(|_| json!({"type": "unknown"}));
        if content["type"] == "template" {
            let rendered = self.templates.render(&content).filter(|_| phone.mode != Mode::Outdated);
            let Some(rendered) = rendered else { return Reception::Unshowable };
            content["rendered"] = rendered;
        }
        phone.received += 1;
        let position = phone.received;
        self.changed_phones.insert(parcel.phone);
        let kind = content["interactive"]["type"].as_str();
        let shows_products = content["type"] == "interactive" && kind.is_some_and(|kind| kind.starts_with("product"));
        let content = content.to_string();
        let Parcel { phone: number_of_phone, number, id_key, .. } = parcel;
        batch.changes.inbox.push(InboxRow { phone: number_of_phone, number, id_key, position, at_ms: batch.now_ms, content });
        match phone.mode {
            Mode::SoldOut if shows_products => {
                Reception::Receipts(&[ReceiptStatus::Delivered, ReceiptStatus::Warning, ReceiptStatus::Read])
            }
            Mode::Read | Mode::Outdated | Mode::SoldOut => Reception::Receipts(&[ReceiptStatus::Delivered, ReceiptStatus::Read]),
            // What was accepted before the network began to refuse arrives.
            Mode::Deliver | Mode::Limit | Mode::Spam | Mode::Experiment => Reception::Receipts(&[ReceiptStatus::Delivered]),
            Mode::Ignore | Mode::Offline | Mode::Block | Mode::Left => Reception::Nothing,
        }
    }

    fn wait(&mut self, batch: &mut Batch, parcel: Parcel) -> Reception {
        if let Some(phone) = self.phones.get_mut(&parcel.phone) {
            phone.waiting += 1;
            self.note_drain(parcel.phone);
            batch.changes.waiting.push(parcel);
        }
        Reception::Nothing
    }

    fn decrypt(&mut self, parcel: &Parcel, identity_key: &Bytes) -> Option<Vec<u8>> {
        let key = (parcel.phone, parcel.number);
        let Identity { account, stored } = self.phones.get_mut(&parcel.phone)?.identity();
        let open_keys = account.open_keys();
        let plaintext = match live(&mut self.ratchets, key) {
            Some(ratchet) => ratchet.decrypt(account, &parcel.sealed, identity_key).ok()?,
            None => {
                let (ratchet, plaintext) = Ratchet::inbound(account, &parcel.sealed, identity_key).ok()?;
                self.ratchets.insert(key, Kept::Live(ratchet));
                plaintext
            }
        };
        if account.open_keys() != open_keys {
            // A session was opened and used up a one-time key.
            *stored = None;
        }
        self.changed_ratchets.insert(key);
        Some(plaintext)
    }

    /// A phone writes to a business.
    pub(super) fn send(
        &mut self,
        from: WaId,
        number: WaId,
        bundle: &KeyBundle,
        content: &Value,
        batch: &mut Batch,
    ) -> Result<chat::Inbound, Error> {
        if !content.get("type").is_some_and(Value::is_string) {
            return Err(Error::Content("content must be a JSON object with a type"));
        }
        let text = content.to_string();
        if text.len() > MAX_CONTENT {
            return Err(Error::Content("content is too large"));
        }
        let phone = on_network(&mut self.phones, from)?;
        let profile_name = phone.name.clone();
        let account = &phone.identity().account;
        let identity_key = account.identity_key();
        let key = (from, number);
        if live(&mut self.ratchets, key).is_none() {
            let ratchet = Ratchet::outbound(account, bundle).map_err(|_| Error::UnknownBusiness(number))?;
            self.ratchets.insert(key, Kept::Live(ratchet));
        }
        let ratchet = live(&mut self.ratchets, key).ok_or(Error::UnknownBusiness(number))?;
        let sealed = ratchet.encrypt(text.as_bytes());
        phone.sent += 1;
        let position = phone.sent;
        self.changed_ratchets.insert(key);
        self.changed_phones.insert(from);
        let message_id = MessageId::incoming(from, id_bytes(self.seed, from, position)).to_string();
        let at_ms = batch.now_ms;
        let row = SentRow { phone: from, number, position, message_id: message_id.clone(), at_ms, content: text };
        batch.changes.sent.push(row);
        let sealed = Some(chat::Sealed { kind: u32::from(sealed.kind), ciphertext: sealed.ciphertext });
        Ok(chat::Inbound { sender: from.as_u64(), message_id, at_ms, profile_name, sealed, identity_key })
    }

    /// The business has a new identity: sessions with the old one lead nowhere.
    pub(super) fn drop_ratchets(&mut self, number: WaId, changes: &mut Changes) {
        self.ratchets.retain(|(_, business), _| *business != number);
        self.changed_ratchets.retain(|(_, business)| *business != number);
        changes.ratchets_dropped.push(number);
    }

    pub(super) fn to_drain(&self) -> Option<WaId> {
        self.to_drain.first().copied()
    }

    pub(super) fn leaves_waiting(&mut self, number: WaId, count: u64) {
        if let Some(phone) = self.phones.get_mut(&number) {
            phone.waiting = phone.waiting.saturating_sub(count);
        }
        self.note_drain(number);
    }

    pub(super) fn nothing_waits(&mut self, number: WaId) {
        self.leaves_waiting(number, u64::MAX);
    }

    fn note_drain(&mut self, number: WaId) {
        match self.phones.get(&number) {
            Some(phone) if phone.waiting > 0 && phone.mode != Mode::Offline => self.to_drain.insert(number),
            _ => self.to_drain.remove(&number),
        };
    }

    /// Serialises what this batch has changed.
    pub(super) fn collect_changes(&mut self, changes: &mut Changes) {
        for number in std::mem::take(&mut self.changed_phones) {
            let Some(phone) = self.phones.get_mut(&number) else { continue };
            let account = phone.stored_account();
            let (name, mode, received, sent) = (phone.name.clone(), phone.mode, phone.received, phone.sent);
            changes.phones.push(PhoneRow { phone: number, name, mode, account, received, sent });
        }
        for key in std::mem::take(&mut self.changed_ratchets) {
            if let Some(Kept::Live(ratchet)) = self.ratchets.get(&key) {
                changes.ratchets.insert(key, ratchet.to_bytes());
            }
        }
    }
}

/// A phone that is on the network.
fn on_network(phones: &mut BTreeMap<WaId, Phone>, number: WaId) -> Result<&mut Phone, Error> {
    phones.get_mut(&number).filter(|phone| phone.mode != Mode::Left).ok_or(Error::Unknown(number))
}

/// The sessions of a phone with a business; damaged ones are forgotten, and the peers open new ones.
fn live(ratchets: &mut HashMap<(WaId, WaId), Kept<Ratchet>>, key: (WaId, WaId)) -> Option<&mut Ratchet> {
    if let Some(Kept::Stored(bytes)) = ratchets.get(&key) {
        match Ratchet::from_bytes(bytes) {
            Ok(ratchet) => ratchets.insert(key, Kept::Live(ratchet)),
            Err(_) => ratchets.remove(&key),
        };
    }
    match ratchets.get_mut(&key)? {
        Kept::Live(ratchet) => Some(ratchet),
        Kept::Stored(_) => None,
    }
}

/// The variable bytes of the id of a phone's message: the position is stored, so they never repeat.
fn id_bytes(seed: u64, phone: WaId, position: u64) -> [u8; 10] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(phone.as_u64().to_be_bytes());
    hash.update(position.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&digest[..10]);
    bytes
}
