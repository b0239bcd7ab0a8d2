//! Translation between the shard's words and the frames of `chat.proto`. Pure.
//!
//! What the network sends is input from outside: a value that is out of its range makes the whole frame
//! unusable ([`Malformed`]), which ends the connection; the deliveries in it come again.

use estafet_chatd::{e2e, frames::MAX_FRAME};
use estafet_model::{Code, IdKey, Seq, Slot, Status, WaId};
use estafet_proto::chat::{self, ClientFrame, client_frame, delivery, server_frame};

use crate::{Command, Delivery, Envelope, Event, Item, Login, Verdict};

/// Most envelopes and bytes of one frame: enough to share a commit at the other end, and answered soon.
const FRAME_ENVELOPES: usize = 256;
const FRAME_BYTES: usize = MAX_FRAME / 2;

/// Largest ciphertext that fits a frame.
const MAX_CIPHERTEXT: usize = MAX_FRAME - 1024;

/// Users whose keys one frame asks for: each costs the network a key, and nothing else is answered meanwhile.
const FRAME_USERS: usize = 100;

/// A frame of the network holds something that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(&'static str);

/// What a frame of the network means for the link.
#[derive(Debug)]
pub enum Heard {
    /// Tell the shard.
    Event(Event),
    /// A sign of life.
    Nothing,
}

pub fn client(frame: client_frame::Frame) -> ClientFrame {
    ClientFrame { frame: Some(frame) }
}

pub fn login(login: &Login) -> chat::Login {
    chat::Login {
        number: login.number.as_u64(),
        shard: u32::from(login.shard.get()),
        shard_count: u32::from(login.count.get()),
        epoch: u64::from(login.epoch.get()),
        boot: login.boot.0.to_vec().into(),
        holder: login.holder.clone(),
        keys: Some(chat::BusinessKeys {
            identity_key: login.keys.identity_key.clone(),
            signing_key: login.keys.signing_key.clone(),
            fallback_key: login.keys.fallback_key.clone(),
            fallback_signature: login.keys.fallback_signature.clone(),
        }),
        protocol: estafet_chatd::PROTOCOL,
    }
}

/// The frames of commands that waited together, in their order; neighbours of a kind share frames.
/// Verdicts are those of envelopes that no frame can carry.
pub fn frames(epoch: u64, commands: impl IntoIterator<Item = Command>) -> (Vec<ClientFrame>, Vec<Verdict>) {
    let (mut out, mut unsendable) = (Outgoing { epoch, ..Outgoing::default() }, Vec::new());
    for command in commands {
        match command {
            Command::Send(envelopes) => {
                out.end_acknowledge();
                for envelope in envelopes {
                    if envelope.sealed.ciphertext.len() > MAX_CIPHERTEXT {
                        let Envelope { slot, seq, id_key, .. } = envelope;
                        unsendable.push(Verdict { slot, seq, id_key, error_code: Some(Code::MessageTooLong.number()), at_ms: 0 });
                    } else {
                        out.send(envelope);
                    }
                }
            }
            Command::Acknowledge(deliveries) => {
                out.end_send();
                out.deliveries.extend(deliveries);
            }
            Command::FetchKeys(users) => {
                out.end();
                for users in users.chunks(FRAME_USERS) {
                    out.push(client_frame::Frame::FetchKeys(chat::FetchKeys { wa_ids: numbers(users) }));
                }
            }
            Command::CheckContacts { query, wa_ids } => {
                out.end();
                let check = chat::CheckContacts { query, wa_ids: numbers(&wa_ids) };
                out.push(client_frame::Frame::CheckContacts(check));
            }
            Command::MarkRead(marks) => {
                out.end();
                let mark = |(sender, message_id): (WaId, String)| chat::ReadMark { sender: sender.as_u64(), message_id };
                let marks = chat::ReadMarks { epoch, marks: marks.into_iter().map(mark).collect() };
                out.push(client_frame::Frame::ReadMarks(marks));
            }
        }
    }
    out.end();
    (out.frames, unsendable)
}

fn numbers(users: &[WaId]) -> Vec<u64> {
    users.iter().map(|user| user.as_u64()).collect()
}

/// Frames in the making.
#[derive(Default)]
struct Outgoing {
    epoch: u64,
    frames: Vec<ClientFrame>,
    envelopes: Vec<chat::Envelope>,
    bytes: usize,
    deliveries: Vec<u64>,
}

impl Outgoing {
    fn push(&mut self, frame: client_frame::Frame) {
        self.frames.push(client(frame));
    }

    fn send(&mut self, envelope: Envelope) {
        let size = envelope.sealed.ciphertext.len();
        if self.envelopes.len() >= FRAME_ENVELOPES || (self.bytes + size > FRAME_BYTES && !self.envelopes.is_empty()) {
            self.end_send();
        }
        self.bytes += size;
        self.envelopes.push(chat::Envelope {
            recipient: envelope.recipient.as_u64(),
            slot: u32::from(envelope.slot.get()),
            seq: envelope.seq.get(),
            id_key: envelope.id_key.0.to_vec().into(),
            sealed: Some(chat::Sealed { kind: u32::from(envelope.sealed.kind), ciphertext: envelope.sealed.ciphertext }),
            is_template: envelope.is_template,
        });
    }

    fn end(&mut self) {
        self.end_send();
        self.end_acknowledge();
    }

    fn end_send(&mut self) {
        self.bytes = 0;
        if !self.envelopes.is_empty() {
            let envelopes = std::mem::take(&mut self.envelopes);
            self.push(client_frame::Frame::Send(chat::Send { epoch: self.epoch, envelopes }));
        }
    }

    fn end_acknowledge(&mut self) {
        if !self.deliveries.is_empty() {
            let deliveries = std::mem::take(&mut self.deliveries);
            self.push(client_frame::Frame::Acknowledge(chat::Acknowledge { epoch: self.epoch, deliveries }));
        }
    }
}

/// What a frame of the network says.
pub fn heard(frame: server_frame::Frame) -> Result<Heard, Malformed> {
    use server_frame::Frame;
    Ok(Heard::Event(match frame {
        Frame::Pong(_) | Frame::Warmed(_) => return Ok(Heard::Nothing),
        Frame::LoggedIn(_) | Frame::Refused(_) => return Err(Malformed("answer to a login there was not")),
        Frame::BlobStored(_) | Frame::BlobPart(_) | Frame::BlobMissing(_) => {
            return Err(Malformed("part of a file on a connection for messages"));
        }
        Frame::Accepted(accepted) => Event::Verdicts(accepted.verdicts.into_iter().map(verdict).collect::<Result<_, _>>()?),
        Frame::Deliver(deliver) => {
            Event::Deliveries(deliver.deliveries.into_iter().map(read_delivery).collect::<Result<_, _>>()?)
        }
        Frame::KeyBundles(bundles) => Event::Keys(bundles.bundles.into_iter().map(bundle).collect::<Result<_, _>>()?),
        Frame::ContactStates(states) => Event::Contacts {
            query: states.query,
            on_network: states.on_network.into_iter().map(user).collect::<Result<_, _>>()?,
        },
        Frame::Replaced(replaced) => Event::Replaced { epoch: replaced.epoch },
        Frame::ConflictNotice(notice) => Event::Conflict { holder: notice.holder },
    }))
}

fn user(number: u64) -> Result<WaId, Malformed> {
    WaId::from_u64(number).map_err(|_| Malformed("number"))
}

fn slot(slot: u32) -> Result<Slot, Malformed> {
    Slot::new(slot).ok_or(Malformed("slot"))
}

fn id_key(bytes: &[u8]) -> Result<IdKey, Malformed> {
    IdKey::from_slice(bytes).ok_or(Malformed("id"))
}

fn error_code(code: u32) -> Result<Option<u16>, Malformed> {
    u16::try_from(code).map(|code| Some(code).filter(|code| *code != 0)).map_err(|_| Malformed("error code"))
}

fn sealed(sealed: Option<chat::Sealed>) -> Result<e2e::Sealed, Malformed> {
    let sealed = sealed.ok_or(Malformed("message without content"))?;
    Ok(e2e::Sealed { kind: u8::try_from(sealed.kind).map_err(|_| Malformed("kind"))?, ciphertext: sealed.ciphertext })
}

fn verdict(verdict: chat::Verdict) -> Result<Verdict, Malformed> {
    Ok(Verdict {
        slot: slot(verdict.slot)?,
        seq: Seq::new(verdict.seq),
        id_key: id_key(&verdict.id_key)?,
        error_code: error_code(verdict.error_code)?,
        at_ms: verdict.at_ms,
    })
}

fn bundle(bundle: chat::KeyBundle) -> Result<(WaId, Option<e2e::KeyBundle>), Malformed> {
    let keys = e2e::KeyBundle { identity_key: bundle.identity_key, one_time_key: bundle.one_time_key };
    Ok((user(bundle.wa_id)?, bundle.on_network.then_some(keys)))
}

fn read_delivery(delivery: chat::Delivery) -> Result<Delivery, Malformed> {
    let item = match delivery.item.ok_or(Malformed("delivery"))? {
        delivery::Item::Inbound(inbound) => Item::Inbound {
            sender: user(inbound.sender)?,
            message_id: inbound.message_id,
            at_ms: inbound.at_ms,
            profile_name: inbound.profile_name,
            sealed: sealed(inbound.sealed)?,
            identity_key: inbound.identity_key,
        },
        delivery::Item::Receipt(receipt) => Item::Receipt {
            status: match receipt.status() {
                chat::ReceiptStatus::Delivered => Status::Delivered,
                chat::ReceiptStatus::Read => Status::Read,
                chat::ReceiptStatus::Failed => Status::Failed,
                chat::ReceiptStatus::Warning => Status::Warning,
                chat::ReceiptStatus::Unspecified => return Err(Malformed("status")),
            },
            recipient: user(receipt.recipient)?,
            slot: slot(receipt.slot)?,
            seq: Seq::new(receipt.seq),
            id_key: id_key(&receipt.id_key)?,
            at_ms: receipt.at_ms,
            error_code: error_code(receipt.error_code)?,
        },
        delivery::Item::Retry(retry) => Item::Retry {
            recipient: user(retry.recipient)?,
            slot: slot(retry.slot)?,
            seq: Seq::new(retry.seq),
            id_key: id_key(&retry.id_key)?,
        },
        delivery::Item::IdentityChanged(changed) => Item::IdentityChanged {
            user: user(changed.user)?,
            identity_key: (&*changed.identity_key).try_into().map_err(|_| Malformed("identity key"))?,
            at_ms: changed.at_ms,
        },
        delivery::Item::NumberChanged(changed) => Item::NumberChanged {
            user: user(changed.user)?,
            new_user: user(changed.new_user)?,
            profile_name: changed.profile_name,
            at_ms: changed.at_ms,
        },
    };
    Ok(Delivery { id: delivery.delivery, item })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(seq: i64, size: usize) -> Envelope {
        let recipient = WaId::from_u64(15_550_001_001).unwrap();
        let sealed = e2e::Sealed { kind: 1, ciphertext: vec![0; size].into() };
        Envelope { recipient, slot: Slot::of(recipient), seq: Seq::new(seq), id_key: IdKey([0; 9]), sealed, is_template: false }
    }

    #[test]
    fn waiting_commands_share_frames_and_keep_their_order() {
        let commands = (0..600).map(|seq| Command::Send(vec![envelope(seq, 100)]));
        let acknowledged =
            [Command::Acknowledge(vec![1]), Command::Acknowledge(vec![2, 3]), Command::Send(vec![envelope(600, 100)])];
        let (frames, _) = frames(7, commands.chain(acknowledged));
        let mut next = 0;
        let shapes: Vec<_> = frames
            .into_iter()
            .map(|frame| match frame.frame.unwrap() {
                client_frame::Frame::Send(send) => {
                    assert_eq!(send.epoch, 7);
                    for envelope in &send.envelopes {
                        assert_eq!(envelope.seq, next);
                        next += 1;
                    }
                    send.envelopes.len()
                }
                client_frame::Frame::Acknowledge(acknowledge) => acknowledge.deliveries.len() * 1000,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shapes, [256, 256, 88, 3000, 1]);
    }

    #[test]
    fn frames_stay_below_the_limit_and_what_cannot_be_sent_is_answered() {
        use prost::Message as _;
        let sizes = [400_000, 400_000, MAX_CIPHERTEXT, 10, MAX_CIPHERTEXT + 1];
        let command = Command::Send(sizes.iter().zip(1..).map(|(size, seq)| envelope(seq, *size)).collect());
        let (frames, unsendable) = frames(1, [command]);
        assert!(frames.len() == 4 && frames.iter().all(|frame| frame.encoded_len() <= MAX_FRAME));
        assert_eq!(
            unsendable.iter().map(|verdict| (verdict.seq, verdict.error_code)).collect::<Vec<_>>(),
            [(Seq::new(5), Some(1001))]
        );
    }

    #[test]
    fn values_out_of_range_make_a_frame_unusable() {
        use server_frame::Frame;
        let verdict = |slot, id: &'static [u8]| chat::Verdict { slot, id_key: id.into(), ..Default::default() };
        let accepted = |verdict| Frame::Accepted(chat::Accepted { verdicts: vec![verdict] });
        assert!(heard(accepted(verdict(1023, &[0; 9]))).is_ok());
        assert!(heard(accepted(verdict(1024, &[0; 9]))).is_err() && heard(accepted(verdict(0, &[0; 3]))).is_err());
        let delivery = |item| Frame::Deliver(chat::Deliver { deliveries: vec![chat::Delivery { delivery: 1, item }] });
        assert!(heard(delivery(None)).is_err());
        let receipt = chat::Receipt { recipient: 15_550_001_001, id_key: vec![0; 9].into(), ..Default::default() };
        assert!(heard(delivery(Some(delivery::Item::Receipt(receipt)))).is_err());
        let changed = |key: &'static [u8]| {
            let changed = chat::IdentityChanged { user: 15_550_001_001, identity_key: key.into(), at_ms: 0 };
            delivery(Some(delivery::Item::IdentityChanged(changed)))
        };
        assert!(heard(changed(&[1; 32])).is_ok() && heard(changed(&[1; 31])).is_err());
        assert!(heard(Frame::LoggedIn(chat::LoggedIn::default())).is_err());
    }
}
