//! What becomes of a sent message.
//!
//! An envelope is taken only over the current connection of its slot (**I1**, **I2**). An id accepted before is
//! answered as before and goes nowhere (**I4**), unless the phone has asked for it again. A new id must be above
//! everything accepted for its slot (**I5**): a correct client never breaks that, so it is refused, not sorted.

use std::fmt::Write as _;

use estafet_model::{Code, IdKey, Slot, WaId, receipt::STRUCTURE_UNAVAILABLE};
use estafet_proto::chat::{self, ReceiptStatus, delivery::Item, server_frame::Frame};

use super::{
    Batch, Network,
    book::Reception,
    changes::{Parcel, Retry},
    shard_ref,
};
use crate::{
    audit::{EnvelopeRef, Event},
    e2e::Sealed,
    session::{Claim, ConnId},
};

/// How often a phone asks for the same message again before it gives up.
const MAX_RETRIES: u8 = 3;

impl Network {
    /// Decides a `Send` frame; the answers come in the order of the envelopes.
    pub(super) fn envelopes(&mut self, batch: &mut Batch, conn: ConnId, send: chat::Send) {
        let Some(claim) = self.sessions.current(conn, send.epoch).cloned() else {
            let discarded = Event::Discarded { conn: conn.0, epoch: send.epoch, envelopes: send.envelopes.len() };
            return batch.audit.push(discarded);
        };
        let verdicts = send.envelopes.into_iter().map(|envelope| self.envelope(batch, conn, &claim, envelope)).collect();
        batch.send(conn, Frame::Accepted(chat::Accepted { verdicts }));
    }

    fn envelope(&mut self, batch: &mut Batch, conn: ConnId, claim: &Claim, envelope: chat::Envelope) -> chat::Verdict {
        let (slot, seq, id_key) = (envelope.slot, envelope.seq, envelope.id_key.clone());
        let logged = EnvelopeRef {
            shard: shard_ref(claim),
            conn: conn.0,
            slot: slot as u16,
            seq,
            id_key: hexadecimal(&id_key),
            recipient: envelope.recipient,
        };
        let (event, code, at_ms) = match self.decide(batch, claim, envelope) {
            Outcome::Accepted => (Event::Accepted(logged), 0, batch.now_ms),
            Outcome::Duplicate { at_ms } => (Event::Duplicate(logged), 0, at_ms),
            Outcome::Retried { at_ms } => (Event::Retried(logged), 0, at_ms),
            Outcome::Rejected(code) => {
                let code = u32::from(code.number());
                (Event::Rejected { envelope: logged, code }, code, batch.now_ms)
            }
        };
        batch.audit.push(event);
        chat::Verdict { slot, seq, id_key, error_code: code, at_ms }
    }

    fn decide(&mut self, batch: &mut Batch, claim: &Claim, envelope: chat::Envelope) -> Outcome {
        let (seq, is_template) = (envelope.seq, envelope.is_template);
        let Some(parcel) = read(claim, envelope, batch.now_ms) else { return Outcome::Rejected(Code::InvalidRequest) };
        let key = (claim.number, parcel.id_key);
        if let Some(&at_ms) = batch.seen.get(&key) {
            let is_there = self.book.contains(parcel.phone);
            return match self.retries.get_mut(&key) {
                Some(retry) if retry.pending => {
                    retry.pending = false;
                    batch.changes.retries.insert(key, *retry);
                    if !is_there {
                        // The user has moved to another number meanwhile.
                        return Outcome::Rejected(Code::UserNotValid);
                    }
                    self.hand_over(batch, parcel, false);
                    Outcome::Retried { at_ms }
                }
                _ => Outcome::Duplicate { at_ms },
            };
        }
        if let Some(code) = self.book.refusal(parcel.phone) {
            return Outcome::Rejected(code);
        }
        if !is_template && self.is_outside_window(parcel.phone, claim.number, batch.now_ms) {
            return Outcome::Rejected(Code::ReEngagement);
        }
        let place = (claim.number, parcel.slot);
        if self.last_seq.get(&place).is_some_and(|last| seq <= *last) {
            tracing::error!(number = %claim.number, slot = parcel.slot.get(), seq, "envelope below the last accepted of its slot refused");
            return Outcome::Rejected(Code::InvalidRequest);
        }
        self.last_seq.insert(place, seq);
        batch.changes.last_seq.insert(place, seq);
        batch.seen.insert(key, batch.now_ms);
        batch.changes.seen.push((key.0, key.1, batch.now_ms));
        self.hand_over(batch, parcel, false);
        Outcome::Accepted
    }

    /// Gives a message to its phone, or has it wait; `waited` says that its turn has come.
    pub(super) fn hand_over(&mut self, batch: &mut Batch, parcel: Parcel, waited: bool) {
        let (phone, number, slot, seq, id_key) = (parcel.phone, parcel.number, parcel.slot, parcel.seq, parcel.id_key);
        let Some(identity_key) = self.keys(number).map(|keys| keys.identity_key.clone()) else { return };
        let receipt = |status: ReceiptStatus, error_code, at_ms| {
            let (recipient, slot, id_key) = (phone.as_u64(), u32::from(slot.get()), id_key.0.to_vec().into());
            Item::Receipt(chat::Receipt { recipient, slot, seq, id_key, status: status.into(), at_ms, error_code })
        };
        match self.book.receive(batch, parcel, &identity_key, waited) {
            Reception::Nothing => {}
            Reception::Receipts(statuses) => {
                for status in statuses {
                    let is_warning = *status == ReceiptStatus::Warning;
                    let code = if is_warning { Code::SomeProductsNonCompliant.number() } else { 0 };
                    let item = receipt(*status, code.into(), batch.now_ms);
                    self.deliver(batch, number, slot, item);
                }
            }
            Reception::Unshowable => {
                let item = receipt(ReceiptStatus::Failed, u32::from(STRUCTURE_UNAVAILABLE), batch.now_ms);
                self.deliver(batch, number, slot, item);
            }
            Reception::Undecryptable => {
                let at_ms = batch.now_ms;
                let retry = self.retries.entry((number, id_key)).or_insert(Retry { asked: 0, pending: false, at_ms });
                let asks = retry.asked < MAX_RETRIES;
                *retry = Retry { asked: retry.asked.saturating_add(u8::from(asks)), pending: asks, at_ms };
                batch.changes.retries.insert((number, id_key), *retry);
                let item = if asks {
                    let (recipient, slot) = (phone.as_u64(), u32::from(slot.get()));
                    Item::Retry(chat::RetryRequest { recipient, slot, seq, id_key: id_key.0.to_vec().into() })
                } else {
                    receipt(ReceiptStatus::Failed, u32::from(Code::MessageGenericError.number()), at_ms)
                };
                self.deliver(batch, number, slot, item);
            }
        }
    }
}

enum Outcome {
    Accepted,
    Duplicate { at_ms: i64 },
    Retried { at_ms: i64 },
    Rejected(Code),
}

/// Checks an envelope; `None` if no correct client sends such a thing.
fn read(claim: &Claim, envelope: chat::Envelope, now_ms: i64) -> Option<Parcel> {
    let phone = WaId::from_u64(envelope.recipient).ok()?;
    let slot = Slot::new(envelope.slot).filter(|slot| *slot == Slot::of(phone) && claim.covers(*slot))?;
    let sealed = envelope.sealed?;
    Some(Parcel {
        phone,
        number: claim.number,
        slot,
        seq: envelope.seq,
        id_key: IdKey::from_slice(&envelope.id_key)?,
        sealed: Sealed { kind: u8::try_from(sealed.kind).ok().filter(|kind| *kind < 2)?, ciphertext: sealed.ciphertext },
        at_ms: now_ms,
    })
}

/// Of a key from outside, which may have any length; a log line needs no more than this much of it.
fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * IdKey::LEN);
    for byte in bytes.iter().take(2 * IdKey::LEN) {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
    }
    text
}
