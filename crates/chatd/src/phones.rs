//! Simulated phones, as the rest of the process sees them: modes, what they received and sent, and the handle.
//!
//! What a phone does with a message depends on its [`Mode`]; the state lives in the network's task and is
//! stored in the same transaction as everything else, so phones survive a restart with their inboxes.

use bytes::Bytes;
use estafet_model::{Code, WaId};
use futures::{Stream, stream::BoxStream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use crate::{
    attachment::Attachment,
    blobs::Blobs,
    phone_files::{self, Files},
    view::View,
};

/// The bytes of a file, in order.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Type of the message with which a phone takes another one back; it travels encrypted like all.
const REVOKE: &str = "revoke";

/// What a phone does with messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Takes them and shows them at once: `delivered`, then `read`.
    #[default]
    Read,
    /// Takes them, shows none: `delivered` only.
    Deliver,
    /// Takes them and sends no receipt at all.
    Ignore,
    /// Out of reach: the network keeps them for 30 days; another mode brings them in, in order.
    Offline,
    /// Its user has blocked the business: the network accepts them and drops them.
    Block,
    /// The network refuses messages to it with 429, as if there were too many.
    Limit,
    /// The network refuses messages to it with 471, as if users had complained.
    Spam,
    /// The network refuses messages to it with 472, as if its user took part in an experiment.
    Experiment,
    /// Its user has moved to another number: not on the network any more. Nobody sets it by hand.
    #[serde(skip_deserializing)]
    Left,
    /// Its app cannot show templates: it fails them, and takes everything else like `Read`.
    Outdated,
    /// The products of the catalogue are sold out: it warns of messages that show some, and takes all like `Read`.
    SoldOut,
}

impl Mode {
    /// Every mode that can be set.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::Deliver,
        Self::Ignore,
        Self::Offline,
        Self::Block,
        Self::Outdated,
        Self::SoldOut,
        Self::Limit,
        Self::Spam,
        Self::Experiment,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Deliver => "deliver",
            Self::Ignore => "ignore",
            Self::Offline => "offline",
            Self::Block => "block",
            Self::Limit => "limit",
            Self::Spam => "spam",
            Self::Experiment => "experiment",
            Self::Left => "left",
            Self::Outdated => "outdated",
            Self::SoldOut => "soldout",
        }
    }

    /// What the network refuses messages with.
    pub(crate) const fn refusal(self) -> Option<Code> {
        match self {
            Self::Limit => Some(Code::RateLimitHit),
            Self::Spam => Some(Code::SpamRateLimitHit),
            Self::Experiment => Some(Code::Experiment),
            Self::Left => Some(Code::UserNotValid),
            Self::Read | Self::Deliver | Self::Ignore | Self::Offline | Self::Block | Self::Outdated | Self::SoldOut => None,
        }
    }

    /// The mode with this word, also where nobody can set it.
    pub(crate) fn stored(word: &str) -> Option<Self> {
        Self::ALL.into_iter().chain([Self::Left]).find(|mode| mode.as_str() == word)
    }
}

impl std::str::FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(word: &str) -> Result<Self, UnknownMode> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word).ok_or(UnknownMode)
    }
}

/// The word names no mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of read, deliver, ignore, offline, block, outdated, soldout, limit, spam, experiment")]
pub struct UnknownMode;

/// What the network asks of businesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Seconds after a message of a user in which a business may write anything to that user; later only templates
    /// (470). `None`: always. WhatsApp has 86,400.
    pub customer_window_s: Option<u32>,
}

/// A phone in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its number.
    pub number: WaId,
    /// Profile name of its user.
    pub name: String,
    /// What it does with messages.
    pub mode: Mode,
    /// Messages the network keeps for it.
    pub waiting: u64,
}

/// What a phone has received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inbox {
    /// The phone.
    pub number: WaId,
    /// Messages it saw again after it had them; stays 0 (**I4**).
    pub duplicates: u64,
    /// The messages, in the order they arrived.
    pub messages: Vec<Received>,
}

/// A message a phone has received and decrypted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Received {
    /// Id in text form.
    pub id: String,
    /// The business number.
    pub from: WaId,
    /// When the phone took it, milliseconds since 1970.
    pub received_at: i64,
    /// Position in the inbox, from 1.
    pub order: u64,
    /// The decrypted message.
    pub content: serde_json::Value,
    /// The album it is shown in: the number of its first picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub album: Option<u64>,
    /// On a cautious phone: whether it knew the sender when the message came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted: Option<bool>,
}

/// A message a phone has sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Id in text form.
    pub id: String,
    /// The business number.
    pub to: WaId,
    /// When, milliseconds since 1970.
    pub sent_at: i64,
    /// Whether the business has marked it as read.
    pub read_by_business: bool,
    /// The message.
    pub content: serde_json::Value,
}

/// Why a phone did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such phone.
    #[error("{0} is not a phone of this network")]
    Unknown(WaId),
    /// There is one already.
    #[error("{0} is a phone already")]
    Exists(WaId),
    /// The number is a business of this network.
    #[error("{0} is a business number")]
    IsBusiness(WaId),
    /// No business number to write to.
    #[error("no business number has logged in yet")]
    NoBusiness,
    /// That business number has never logged in.
    #[error("{0} is not a business number of this network")]
    UnknownBusiness(WaId),
    /// Several business numbers: say which.
    #[error("several business numbers have logged in; name one")]
    Ambiguous,
    /// The content is not a message: a JSON object with a `type`.
    #[error("{0}")]
    Content(&'static str),
    /// The phone has not sent this message, or deleted it before.
    #[error("{0} is no message of the phone's, or was deleted before")]
    NoMessage(String),
    /// A number is changed online, and not before what waits has arrived.
    #[error("{0} is out of reach, or messages wait for it; its number can be changed when it has them")]
    OutOfReach(WaId),
    /// A file cannot be read.
    #[error("the file cannot be read: {0}")]
    File(String),
    /// The network has stopped.
    #[error("the network has stopped")]
    Stopped,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// A request to the network's task.
#[derive(Debug)]
pub(crate) enum Request {
    List(Reply<Vec<Info>>),
    Add(WaId, Option<String>, Reply<()>),
    SetMode(WaId, Mode, Reply<()>),
    Rules(Reply<Rules>),
    SetRules(Rules, Reply<()>),
    NewIdentity(WaId, Reply<()>),
    ChangeNumber(WaId, WaId, Reply<()>),
    Send { from: WaId, to: Option<WaId>, content: serde_json::Value, reply: Reply<String> },
    Inbox(WaId, Reply<Inbox>),
    Sent(WaId, Reply<Vec<Sent>>),
}

/// Drives the phones. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Phones {
    requests: mpsc::Sender<Request>,
    files: Files,
}

impl Phones {
    pub(crate) fn new(requests: mpsc::Sender<Request>, blobs: Blobs) -> Self {
        Self { requests, files: Files::new(blobs) }
    }

    /// All phones, by number.
    pub async fn list(&self) -> Result<Vec<Info>, Error> {
        self.ask(Request::List).await
    }

    /// Adds a phone in mode `read`.
    pub async fn add(&self, number: WaId, name: Option<String>) -> Result<(), Error> {
        self.ask(|reply| Request::Add(number, name, reply)).await
    }

    /// Changes what a phone does; leaving `offline` brings in what waits.
    pub async fn set_mode(&self, number: WaId, mode: Mode) -> Result<(), Error> {
        self.ask(|reply| Request::SetMode(number, mode, reply)).await
    }

    /// What the network asks of businesses.
    pub async fn rules(&self) -> Result<Rules, Error> {
        self.ask(Request::Rules).await
    }

    /// Changes what the network asks of businesses, for good.
    pub async fn set_rules(&self, rules: Rules) -> Result<(), Error> {
        self.ask(|reply| Request::SetRules(rules, reply)).await
    }

    /// Installs the app of a phone again: new keys, so that nothing sent to the old ones can be read.
    pub async fn new_identity(&self, number: WaId) -> Result<(), Error> {
        self.ask(|reply| Request::NewIdentity(number, reply)).await
    }

    /// Moves the user of a phone to another number; the one that is left is not on the network any more.
    pub async fn change_number(&self, number: WaId, new_number: WaId) -> Result<(), Error> {
        self.ask(|reply| Request::ChangeNumber(number, new_number, reply)).await
    }

    /// Makes a phone write to a business, by default the only one; returns the message's id.
    pub async fn send(&self, from: WaId, to: Option<WaId>, content: serde_json::Value) -> Result<String, Error> {
        self.ask(|reply| Request::Send { from, to, content, reply }).await
    }

    /// Makes a phone delete a message it has sent, for everybody; the business is told, once.
    pub async fn delete(&self, from: WaId, id: &str) -> Result<(), Error> {
        let sent = self.ask(|reply| Request::Sent(from, reply)).await?;
        let revokes = |message: &Sent| message.content["type"] == REVOKE && message.content[REVOKE]["message_id"] == id;
        let message = sent.iter().find(|message| message.id == id && message.content["type"] != REVOKE);
        let Some(message) = message.filter(|_| !sent.iter().any(revokes)) else {
            return Err(Error::NoMessage(id.to_owned()));
        };
        self.send(from, Some(message.to), json!({ "type": REVOKE, REVOKE: { "message_id": id } })).await.map(drop)
    }

    /// What a phone has received.
    pub async fn inbox(&self, number: WaId) -> Result<Inbox, Error> {
        self.look(number, &View::default()).await
    }

    /// What a person sees who looks at what a phone has received.
    pub async fn look(&self, number: WaId, view: &View) -> Result<Inbox, Error> {
        let mut inbox = self.ask(|reply| Request::Inbox(number, reply)).await?;
        if view.needs_sent(&inbox) {
            let sent = self.ask(|reply| Request::Sent(number, reply)).await?;
            view.apply(&mut inbox, &sent);
        }
        for message in &mut inbox.messages {
            match message.trusted {
                Some(false) => phone_files::hold_back(&mut message.content),
                Some(true) | None => self.files.show(&mut message.content).await,
            }
        }
        Ok(inbox)
    }

    /// What a phone has sent.
    pub async fn sent(&self, number: WaId) -> Result<Vec<Sent>, Error> {
        let mut sent = self.ask(|reply| Request::Sent(number, reply)).await?;
        for message in &mut sent {
            self.files.show(&mut message.content).await;
        }
        Ok(sent)
    }

    /// Encrypts a file and leaves it with the network; the members that name it in a message.
    pub async fn leave_file<E>(
        &self,
        mime_type: String,
        content: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> std::io::Result<Attachment>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.files.leave(mime_type, content).await
    }

    /// The file of a message a phone has received: its type and its decrypted bytes, verified while they are read.
    /// `None`: no such message, no file in it, or the network has it no more.
    pub async fn file(&self, number: WaId, id: &str) -> Result<Option<(String, ByteStream)>, Error> {
        let inbox = self.ask(|reply| Request::Inbox(number, reply)).await?;
        let Some(mut message) = inbox.messages.into_iter().find(|message| message.id == id) else { return Ok(None) };
        let Some(attachment) = phone_files::first(&mut message.content) else { return Ok(None) };
        let opened = self.files.open(&attachment).await.map_err(|error| Error::File(error.to_string()))?;
        Ok(opened.map(|stream| (attachment.mime_type, stream)))
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}
