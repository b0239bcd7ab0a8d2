//! The networks Estafet sends to, behind one trait.
//!
//! A [`Link`] is the single active connection of one (number, shard) at one epoch (**I1**). The
//! shard's task sends [`Command`]s and hears [`Event`]s; what they mean is decided there. End-to-end
//! encryption is not done here either: its state must be stored in the same transaction as the
//! message's, so the shard does it, with [`estafet_chatd::e2e`].
//!
//! [`chat`] is the chatd network. The Cloud API will be the second implementation.

pub mod chat;

use async_trait::async_trait;
use bytes::Bytes;
use estafet_model::{BootId, Epoch, IdKey, Seq, Shard, ShardCount, Slot, WaId};
use futures::stream::BoxStream;
use tokio::sync::mpsc;

pub use estafet_chatd::{attachment, e2e, noise::StaticKey};

/// A network.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Opens the connection of a shard and logs in. Does not retry: the shard does, with full jitter.
    async fn connect(&self, login: Login) -> Result<Link, ConnectError>;

    /// Prepares a connection for a shard that will be handed to this node, as far as that is possible without
    /// an epoch. A network without such a thing refuses; then the shard connects when it has its epoch.
    async fn warm(&self, _static_key: &StaticKey) -> Result<Box<dyn Standby>, ConnectError> {
        Err(ConnectError::Refused("this network keeps no standby connections".to_owned()))
    }

    /// Finds out whether the network can be reached from here, without a number's keys. A network that cannot be probed
    /// says that it can: then nothing is moved for its sake.
    async fn probe(&self) -> Result<(), ConnectError> {
        Ok(())
    }

    /// Leaves an encrypted file with the network; its handle.
    async fn put_blob(&self, content: BlobStream) -> Result<String, BlobError>;

    /// Fetches an encrypted file.
    async fn get_blob(&self, id: &str) -> Result<BlobStream, BlobError>;
}

/// A connection that lacks nothing but the login. The network closes it after some seconds of silence.
#[async_trait]
pub trait Standby: Send + Sync + 'static {
    /// Logs in: one round trip. A standby that broke meanwhile is replaced by a new connection.
    async fn activate(self: Box<Self>, login: Login) -> Result<Link, ConnectError>;
}

/// The ciphertext of a file, in order.
pub type BlobStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Why a file was not left or fetched.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The network does not answer, or the connection broke off; try again.
    #[error("network unreachable: {0}")]
    Unreachable(String),
    /// The network does not have the file, or no more.
    #[error("the network does not have the file")]
    Missing,
    /// The bytes to be left could not be had.
    #[error("{0}")]
    Source(#[source] std::io::Error),
}

/// What a login says.
#[derive(Clone, Debug)]
pub struct Login {
    /// Business number.
    pub number: WaId,
    /// Shard of `count`.
    pub shard: Shard,
    /// Shard count.
    pub count: ShardCount,
    /// Epoch of the ownership.
    pub epoch: Epoch,
    /// Start of this process.
    pub boot: BootId,
    /// Who this is, for people.
    pub holder: String,
    /// Public end-to-end keys of the number.
    pub keys: e2e::PublicKeys,
    /// Static Noise key of the number (private half), 32 bytes.
    pub static_key: StaticKey,
}

/// Why a connection was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address answered; try again.
    #[error("network unreachable: {0}")]
    Unreachable(String),
    /// A higher epoch was seen: step down.
    #[error("the network has seen epoch {highest}")]
    StaleEpoch {
        /// The epoch it has seen.
        highest: u64,
    },
    /// Another instance holds the same number, shard and epoch.
    #[error("conflict: multiple instances with the same number detected, held by {holder}")]
    Conflict {
        /// Who holds it.
        holder: String,
    },
    /// The network does not speak our version of its protocol any more: this build is too old.
    #[error("version refused: {0}")]
    Version(String),
    /// The network will not have us.
    #[error("login refused: {0}")]
    Refused(String),
}

/// A live, logged-in connection. Dropping it closes the connection.
#[derive(Debug)]
pub struct Link {
    /// What to send; bounded, so a slow network holds the sender back.
    pub commands: mpsc::Sender<Command>,
    /// What arrives; ends after [`Event::Closed`].
    pub events: mpsc::Receiver<Event>,
}

/// An encrypted message on its way.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The user it is for.
    pub recipient: WaId,
    /// Slot of the recipient.
    pub slot: Slot,
    /// Position in the slot.
    pub seq: Seq,
    /// Unique key of the id.
    pub id_key: IdKey,
    /// Ciphertext.
    pub sealed: e2e::Sealed,
    /// Whether it is made from a template.
    pub is_template: bool,
}

/// What the shard tells the network.
#[derive(Debug)]
pub enum Command {
    /// Send these, in this order.
    Send(Vec<Envelope>),
    /// These deliveries are stored; forget them.
    Acknowledge(Vec<u64>),
    /// Ask for the keys of users there is no session with yet.
    FetchKeys(Vec<WaId>),
    /// Ask which users are on the network.
    CheckContacts {
        /// Comes back in the answer.
        query: u64,
        /// The users.
        wa_ids: Vec<WaId>,
    },
    /// The business read these messages: (sender, id).
    MarkRead(Vec<(WaId, String)>),
}

/// What the network tells the shard.
#[derive(Debug)]
pub enum Event {
    /// Answers to sent messages.
    Verdicts(Vec<Verdict>),
    /// Things to store and then acknowledge, in order.
    Deliveries(Vec<Delivery>),
    /// Answer to [`Command::FetchKeys`]; users without keys are not on the network.
    Keys(Vec<(WaId, Option<e2e::KeyBundle>)>),
    /// Answer to [`Command::CheckContacts`].
    Contacts {
        /// The query it answers.
        query: u64,
        /// Those of the users that are on the network.
        on_network: Vec<WaId>,
    },
    /// Another instance tried to take the same number with the same epoch, and was refused.
    Conflict {
        /// Who it was.
        holder: String,
    },
    /// A newer epoch took the shard: step down. The connection is closed.
    Replaced {
        /// That epoch.
        epoch: u64,
    },
    /// The connection is gone; reconnect.
    Closed {
        /// Why, for people.
        reason: String,
    },
}

/// The network's answer for one sent message.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// Slot of the recipient.
    pub slot: Slot,
    /// Position in the slot.
    pub seq: Seq,
    /// Unique key of the id.
    pub id_key: IdKey,
    /// `None`: accepted, or accepted before. Else a code of spec/errors.md §1.
    pub error_code: Option<u16>,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
}

/// Something the network keeps until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Handle for [`Command::Acknowledge`].
    pub id: u64,
    /// What it is.
    pub item: Item,
}

/// A delivery's content.
#[derive(Clone, Debug)]
pub enum Item {
    /// A message of a user.
    Inbound {
        /// The user.
        sender: WaId,
        /// Id in text form.
        message_id: String,
        /// When the network took it, milliseconds since 1970.
        at_ms: i64,
        /// Profile name of the user.
        profile_name: String,
        /// Ciphertext.
        sealed: e2e::Sealed,
        /// Identity key of the user's phone.
        identity_key: Bytes,
    },
    /// A status of a message we sent.
    Receipt {
        /// The user.
        recipient: WaId,
        /// Slot of the recipient.
        slot: Slot,
        /// Position in the slot.
        seq: Seq,
        /// Unique key of the id.
        id_key: IdKey,
        /// `delivered`, `read` or `failed`.
        status: estafet_model::Status,
        /// When, milliseconds since 1970.
        at_ms: i64,
        /// Code of the failure, if it failed.
        error_code: Option<u16>,
    },
    /// The phone could not decrypt: open a new session and send it again.
    Retry {
        /// The user.
        recipient: WaId,
        /// Slot of the recipient.
        slot: Slot,
        /// Position in the slot.
        seq: Seq,
        /// Unique key of the id.
        id_key: IdKey,
    },
    /// A user's app has new keys.
    IdentityChanged {
        /// The user.
        user: WaId,
        /// The identity key from now on.
        identity_key: e2e::IdentityKey,
        /// When, milliseconds since 1970.
        at_ms: i64,
    },
    /// A user has moved to another number.
    NumberChanged {
        /// The number that was left.
        user: WaId,
        /// The number that was taken.
        new_user: WaId,
        /// Profile name of the user.
        profile_name: String,
        /// When, milliseconds since 1970.
        at_ms: i64,
    },
}
