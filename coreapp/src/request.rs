//! Requests of the webapps, and the way their answers take.

use bytes::Bytes;
use estafet_model::{ApiError, Code, EndpointId, Epoch, IdKey, Seq, Slot, WaId};
use estafet_proto::v1::{self, move_callbacks::How, outcome::Result as Answer, request::Action as Wire};
use estafet_store::{Digest, EventRef};
use tokio::sync::{mpsc, oneshot};

use crate::stats::Measure;

/// A key that a caller gave a send, so that repeating it is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerKey {
    /// Of key and recipient.
    pub hash: Digest,
    /// Of the request.
    pub fingerprint: Digest,
}

impl CallerKey {
    /// Reads both of the wire: 16 bytes each, or nothing.
    fn parse(hash: &[u8], fingerprint: &[u8]) -> Result<Option<Self>, ApiError> {
        if hash.is_empty() && fingerprint.is_empty() {
            return Ok(None);
        }
        let wrong = |_| ApiError::invalid("key_hash", "has a wrong length");
        Ok(Some(Self { hash: hash.try_into().map_err(wrong)?, fingerprint: fingerprint.try_into().map_err(wrong)? }))
    }
}

/// What a webapp asks of the owner of a slot.
#[derive(Debug)]
pub enum Action {
    /// Accept a message.
    Submit {
        /// The user it is for.
        recipient: WaId,
        /// Unique key of the id.
        id_key: IdKey,
        /// Canonical JSON.
        body: Bytes,
        /// The key its caller gave it.
        key: Option<CallerKey>,
    },
    /// The business read an incoming message.
    MarkRead {
        /// Its id.
        message_id: String,
    },
    /// Post callbacks of the slot again, or forget them.
    MoveCallbacks {
        /// Which ones, in the order they are to be posted.
        callbacks: Vec<EventRef>,
        /// What is to become of them.
        how: Move,
    },
    /// Are these users on the network?
    CheckContacts {
        /// The users.
        wa_ids: Vec<WaId>,
    },
    /// Which identity does a user have?
    ReadIdentity {
        /// The user.
        user: WaId,
    },
    /// The business accepts an identity.
    AcknowledgeIdentity {
        /// The user.
        user: WaId,
        /// Hash of the identity, of any length.
        hash: Bytes,
    },
    /// Remove files that nobody used for long.
    CollectMedia,
    /// Remove messages that are over. Only the node itself asks for it.
    Forget {
        /// Outgoing ones, of the shard.
        messages: Vec<(Slot, Seq)>,
        /// Incoming ones, by id.
        inbound: Vec<String>,
    },
}

/// What is to become of callbacks that are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Dead letters are tried again.
    Requeue,
    /// Dead letters are forgotten.
    Drop,
    /// Delivered ones are posted once more.
    Replay,
}

impl Action {
    /// What it is, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::MarkRead { .. } => "mark_read",
            Self::MoveCallbacks { .. } => "move_callbacks",
            Self::CheckContacts { .. } => "check_contacts",
            Self::ReadIdentity { .. } => "read_identity",
            Self::AcknowledgeIdentity { .. } => "acknowledge_identity",
            Self::CollectMedia => "collect_media",
            Self::Forget { .. } => "forget",
        }
    }
}

/// A request on its way to the shard.
#[derive(Debug)]
pub struct ShardRequest {
    /// Slot it concerns.
    pub slot: Slot,
    /// What is asked.
    pub action: Action,
    /// Where the answer goes.
    pub reply: Reply,
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Reply {
    /// Back on the stream the request came on.
    Stream {
        /// Number of the request on that stream.
        correlation: u64,
        /// The stream's writer. Has room for every request that was granted a credit.
        outcomes: mpsc::Sender<v1::Outcome>,
    },
    /// To a single call.
    Single(oneshot::Sender<v1::Outcome>),
    /// Measured on its way.
    Measured(Box<(Self, Measure)>),
}

impl Reply {
    /// Answers. A webapp that is gone does not hear it; it repeats the request elsewhere.
    pub fn send(self, answer: Answer) {
        match self {
            Self::Stream { correlation, outcomes } => {
                if outcomes.try_send(v1::Outcome { correlation, result: Some(answer) }).is_err() {
                    tracing::debug!(correlation, "webapp left before its answer");
                }
            }
            Self::Measured(measured) => {
                let (reply, measure) = *measured;
                measure.end(&answer);
                reply.send(answer);
            }
            Self::Single(outcome) => drop(outcome.send(v1::Outcome { correlation: 0, result: Some(answer) })),
        }
    }
}

/// Callbacks of one request: they become rows of one transaction.
pub const MOST_CALLBACKS: usize = 512;

/// The request was carried out.
pub fn done() -> Answer {
    Answer::Done(v1::Done::default())
}

/// The request was carried out before, under this id.
pub fn done_as(id_key: IdKey) -> Answer {
    Answer::Done(v1::Done { id_key: Bytes::copy_from_slice(&id_key.0) })
}

/// This node does not own the slot.
pub fn not_owner() -> Answer {
    Answer::NotOwner(v1::NotOwner::default())
}

/// This node does not own the slot; who does.
pub fn owned_by(address: &str, epoch: Epoch) -> Answer {
    Answer::NotOwner(v1::NotOwner { hint: address.to_owned(), epoch: epoch.get().into(), ..v1::NotOwner::default() })
}

/// More is asked than the owner takes; nothing was stored.
pub fn overloaded() -> Answer {
    refused(&ApiError::new(Code::Overloaded, "The job queue is full"))
}

/// The request was refused.
pub fn refused(error: &ApiError) -> Answer {
    Answer::Refused(v1::Refused {
        code: error.code.number().into(),
        details: error.details.to_string(),
        retryable: error.is_retryable(),
        http_status: error.http_status.map_or(0, u32::from),
        retry_after_s: error.retry_after_s.unwrap_or(0),
    })
}

fn user(wa_id: u64) -> Result<WaId, ApiError> {
    WaId::from_u64(wa_id).map_err(|error| ApiError::invalid("user", error))
}

/// Reads a request of the wire: the number, the slot, and what is asked.
pub fn parse(request: v1::Request) -> Result<(WaId, Slot, Action), ApiError> {
    let number = WaId::from_u64(request.number).map_err(|error| ApiError::invalid("number", error))?;
    let slot = Slot::new(request.slot).ok_or_else(|| ApiError::invalid("slot", "is out of range"))?;
    let action = match request.action.ok_or_else(|| ApiError::missing("action"))? {
        Wire::Submit(submit) => Action::Submit {
            recipient: WaId::from_u64(submit.recipient).map_err(|error| ApiError::invalid("recipient", error))?,
            id_key: IdKey::from_slice(&submit.id_key).ok_or_else(|| ApiError::invalid("id_key", "has a wrong length"))?,
            body: submit.body,
            key: CallerKey::parse(&submit.key_hash, &submit.fingerprint)?,
        },
        Wire::MarkRead(mark) => Action::MarkRead { message_id: mark.message_id },
        Wire::MoveCallbacks(moved) => move_callbacks(slot, &moved)?,
        Wire::CheckContacts(check) => {
            Action::CheckContacts { wa_ids: check.wa_ids.into_iter().filter_map(|wa_id| WaId::from_u64(wa_id).ok()).collect() }
        }
        Wire::ReadIdentity(read) => Action::ReadIdentity { user: user(read.user)? },
        Wire::AcknowledgeIdentity(acknowledge) => {
            Action::AcknowledgeIdentity { user: user(acknowledge.user)?, hash: acknowledge.hash }
        }
        Wire::CollectMedia(_) => Action::CollectMedia,
    };
    match &action {
        Action::Submit { recipient: user, .. } | Action::ReadIdentity { user } | Action::AcknowledgeIdentity { user, .. }
            if Slot::of(*user) != slot =>
        {
            Err(ApiError::invalid("slot", "is not the recipient's"))
        }
        _ => Ok((number, slot, action)),
    }
}

fn move_callbacks(slot: Slot, moved: &v1::MoveCallbacks) -> Result<Action, ApiError> {
    let how = match moved.how() {
        How::Requeue => Move::Requeue,
        How::Drop => Move::Drop,
        How::Replay => Move::Replay,
        How::Unspecified => return Err(ApiError::missing("how")),
    };
    if moved.seqs.len() > MOST_CALLBACKS {
        return Err(ApiError::invalid("seqs", "are too many"));
    }
    let endpoint = u16::try_from(moved.endpoint).map_err(|_| ApiError::invalid("endpoint", "is out of range"))?;
    let endpoint = EndpointId::new(endpoint);
    let callbacks = moved.seqs.iter().map(|seq| EventRef { slot, endpoint, seq: Seq::new(*seq) }).collect();
    Ok(Action::MoveCallbacks { callbacks, how })
}
