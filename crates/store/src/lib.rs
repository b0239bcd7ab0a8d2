//! The message database: one trait, [`Store`], and its back ends.
//!
//! What it keeps: messages (body immutable, state narrow and apart), incoming messages, the
//! callback outbox, end-to-end sessions, ownership epochs, users, tokens, settings, contacts.
//! What it does not decide: anything. The owner of a shard decides in its core and writes with
//! [`Store::commit`]; the only rule kept here is the fence.
//!
//! **I2**: [`Store::commit`] takes effect only while the owner's epoch is the one in
//! `shard_owner`; the check happens inside the same transaction, under a lock that a takeover
//! conflicts with (`FOR SHARE` on PostgreSQL; never `FOR KEY SHARE`, which does not fence; `LOCK IN
//! SHARE MODE` on MySQL and MariaDB).
//!
//! Every write of a batch may be repeated: inserts ignore rows that are there, changes set
//! absolute values. So a commit whose answer was lost is simply sent again (**I9**).

mod address;
pub mod batch;
mod claim;
mod columns;
mod decode;
pub mod media;
pub mod mysql;
mod packed;
pub mod postgres;
pub mod rows;
pub mod sqlite;
mod trouble;
mod version;

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use async_trait::async_trait;
use estafet_model::{BootId, EndpointId, Epoch, IdKey, Layout, Seq, Shard, ShardCount, Slot, WaId};

pub use batch::{
    Batch, Committed, DeadLetter, Delivered, EventRef, NewEvent, NewInbound, NewMessage, Requeued, SessionRow, StatusRow, Times,
};
pub use media::{MediaRow, MediaStore, ProviderRow};
pub use mysql::MySqlStore;
pub use postgres::PostgresStore;
pub use rows::{
    ContactRow, Counts, Digest, End, Holder, InboundRow, KEY_LIFE_MS, KeptCallback, MessageRow, NumberRow, OwnerRow, Page, Queue,
    RevokedToken, Role, StoredEvent, SubmissionKey, TableSize, UserRow, Versions,
};
pub use sqlite::SqliteStore;

/// A shared handle to a back end.
pub type SharedStore = Arc<dyn Store>;

/// Most sessions that a process has with a database server at once: those that write, those that read, and the one that
/// holds a number or brings the schema up to date. A database for 3 webapps, 4 coreapps and 2 masters needs 9 times as
/// many.
pub const SESSIONS: u32 = WRITERS + READERS + 1;

/// While one commit waits for the disk, the next one is built.
const WRITERS: u32 = 2;
const READERS: u32 = 4;

/// The right under which an owner writes: checked against `shard_owner` in every transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Business number.
    pub number: WaId,
    /// Shard of `count`.
    pub shard: Shard,
    /// Shard count the ownership is of.
    pub count: ShardCount,
    /// Epoch the owner was given.
    pub epoch: Epoch,
}

impl Fence {
    /// The slots the owner may write.
    pub fn slots(&self) -> RangeInclusive<Slot> {
        self.count.slots_of(self.shard)
    }

    fn refused(&self) -> Error {
        Error::Fenced { number: self.number, shard: self.shard, ours: self.epoch }
    }
}

/// One group of shards of a number gives its slots to shards of another count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The number; its layout must be the switch from `from` to `to`.
    pub number: WaId,
    /// Count of the shards that retire.
    pub from: ShardCount,
    /// Count of the shards that arise.
    pub to: ShardCount,
    /// Shards that retire, with the epoch that must still be stored.
    pub retire: Vec<(Shard, Epoch)>,
    /// Shards of the same slots that arise, with their owners.
    pub claim: Vec<(Shard, String, BootId)>,
    /// The new epoch must be above this one too.
    pub above: Epoch,
    /// In whose name.
    pub master_term: i64,
    /// When, milliseconds since 1970.
    pub now_ms: i64,
}

impl Switch {
    fn granted(&self, epoch: Epoch) -> Vec<Fence> {
        let fence = |(shard, ..): &(Shard, String, BootId)| Fence { number: self.number, shard: *shard, count: self.to, epoch };
        self.claim.iter().map(fence).collect()
    }
}

/// The arguments of [`Store::claim`].
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// Whose shard.
    pub number: WaId,
    /// The shard.
    pub shard: Shard,
    /// Of how many.
    pub count: ShardCount,
    /// The epoch that is stored, or `None` if there is no row yet.
    pub seen: Option<Epoch>,
    /// For which node.
    pub owner: &'a str,
    /// For which of its processes.
    pub boot: BootId,
    /// In whose name.
    pub master_term: i64,
    /// When, milliseconds since 1970.
    pub now_ms: i64,
}

impl Claim<'_> {
    /// What was claimed, in the epoch as it is stored.
    fn granted(&self, stored: i64) -> Result<Fence> {
        let epoch = decode::epoch(stored).ok_or_else(|| Error::Failed(format!("epoch {stored} out of range")))?;
        Ok(Fence { number: self.number, shard: self.shard, count: self.count, epoch })
    }
}

/// What a failed operation means for the caller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer epoch owns the shard: drop it and write no more.
    #[error("epoch {ours} of {number} shard {shard} is fenced")]
    Fenced {
        /// Number of the ownership.
        number: WaId,
        /// Shard of the ownership.
        shard: Shard,
        /// The epoch the write carried.
        ours: Epoch,
    },
    /// Somebody else holds the number (or the data directory).
    #[error("{what} is held by {}", holder.as_ref().map_or_else(|| "another process".to_owned(), ToString::to_string))]
    Held {
        /// What is held.
        what: String,
        /// Who holds it; unknown for a moment while the holder writes its name.
        holder: Option<Box<Holder>>,
    },
    /// The row is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// The database could not be reached or answered with a passing failure; whether a commit took
    /// place is unknown. Repeat the operation.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The server has no connection left for us, or none for this user: too few are allowed, or somebody else has them.
    /// Nothing was done; repeat the operation.
    #[error("too few database connections: {0}")]
    NoConnection(String),
    /// The URL, or a file it names, is at fault: only another one helps.
    #[error("{0}")]
    Setting(String),
    /// The database refused, and will refuse again.
    #[error("database error: {0}")]
    Failed(String),
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::NoConnection(_))
    }

    /// What it is, in a word, for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Fenced { .. } => "fenced",
            Self::Held { .. } => "held",
            Self::Exists(_) => "exists",
            Self::Unavailable(_) => "unavailable",
            Self::NoConnection(_) => "connections",
            Self::Setting(_) => "setting",
            Self::Failed(_) => "refused",
        }
    }
}

/// Name under which a coreapp's sessions are known to the database server, so that whoever takes its shards over
/// can end them. PostgreSQL cuts longer names after 63 bytes; the process stays recognisable.
pub fn session_name(node: &str, boot: BootId) -> String {
    const LONGEST: usize = 63;
    let rest = format!("/{boot}");
    let room = LONGEST - "coreapp/".len() - rest.len();
    let end = (0..=room.min(node.len())).rev().find(|end| node.is_char_boundary(*end)).unwrap_or(0);
    format!("coreapp/{}{rest}", &node[..end])
}

/// Opens the back end that `url` names: `sqlite:PATH`, `postgres://user:password@host:port/database`, or
/// the same with `mysql://` or `mariadb://`.
/// The schema is made by [`Store::migrate`]. `application_name` names this process to the
/// server (see [`session_name`]).
pub async fn open(url: &str, application_name: &str) -> Result<SharedStore> {
    match url.split_once(':') {
        Some(("sqlite", path)) => {
            let path = path.strip_prefix("//").unwrap_or(path);
            Ok(Arc::new(SqliteStore::open(Path::new(path)).await?))
        }
        Some(("postgres" | "postgresql", _)) => Ok(Arc::new(PostgresStore::connect(url, application_name).await?)),
        Some(("mysql" | "mariadb", _)) => Ok(Arc::new(MySqlStore::connect(url, application_name).await?)),
        _ => Err(Error::Setting("the database URL must begin with sqlite:, postgres:// or mysql://".to_owned())),
    }
}

/// Short form used throughout.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The slots of a number, all of them.
fn all_slots() -> RangeInclusive<Slot> {
    ShardCount::ONE.slots_of(Shard::ZERO)
}

/// A guard; while it lives, nobody else can hold the same number on this database.
pub trait Hold: Send + Sync {
    /// Fails when the hold was lost (connection gone) without our knowing.
    fn is_held(&self) -> bool;
}

/// The message database; what it knows of files is in [`MediaStore`].
#[async_trait]
pub trait Store: MediaStore {
    /// Name of the back end: `sqlite`, `postgres`, `mysql`.
    fn backend(&self) -> &'static str;

    /// Creates or upgrades the schema. Safe to run from several processes at once.
    async fn migrate(&self) -> Result<()>;

    /// Takes the number for one process that coordinates it alone (the sandbox). The error names
    /// the holder.
    async fn hold(&self, number: WaId, holder: &Holder) -> Result<Box<dyn Hold>>;

    // -- ownership (reliability.md §6.4) --

    /// All owner rows of all numbers.
    async fn owners(&self) -> Result<Vec<OwnerRow>>;

    /// Takes a shard: epoch + 1, provided the stored epoch still is `seen` (`None`: no row yet, nor a shard of
    /// another count that owns some of its slots), it is not retired, and no newer master term has written.
    /// `Ok(None)` when somebody was faster. A transaction of the former owner that does not end (its process is
    /// paused) is not waited for: after a moment the sessions of that process are ended ([`session_name`]).
    #[allow(clippy::too_many_arguments, reason = "each is one column of the row")]
    async fn claim(
        &self,
        number: WaId,
        shard: Shard,
        count: ShardCount,
        seen: Option<Epoch>,
        owner: &str,
        boot: BootId,
        master_term: i64,
        now_ms: i64,
    ) -> Result<Option<Fence>>;

    /// Takes many shards, each as [`Self::claim`] would; what became of each, in the same order. Those that can be are
    /// taken in one transaction.
    async fn claim_all(&self, claims: &[Claim<'_>]) -> Vec<Result<Option<Fence>>>;

    /// Opens the sessions of an owner of shards, and prepares what it says often. Nothing is written. Optional: what is not
    /// there is made when it is needed, while somebody waits.
    async fn warm_up(&self) -> Result<()> {
        Ok(())
    }

    /// Makes the term of a leader of the masters known, so that every older one is refused from then on. Returns the
    /// newest that was known before: from `term` on it says that another leader had it, or a newer one.
    async fn raise_term(&self, term: i64) -> Result<i64>;

    // -- numbers and their shard counts (reliability.md §7.3) --

    /// All numbers of the cluster, in order.
    async fn numbers(&self) -> Result<Vec<NumberRow>>;

    /// Adds a number; `false` if it is there, or another one has its host name.
    async fn add_number(&self, number: &NumberRow) -> Result<bool>;

    /// Removes a number whose shard count is settled; `false` if there is none such. Its messages, users, settings
    /// and epochs stay.
    async fn remove_number(&self, number: WaId) -> Result<bool>;

    /// Asks for another shard count, or calls a change off that has not begun to switch (`count` is the one that
    /// is); `false` if there is no such number or another change is under way.
    async fn want_shards(&self, number: WaId, count: ShardCount) -> Result<bool>;

    /// Replaces the layout of a number if it still is `from`, unless a newer master term has written; says
    /// whether it did.
    async fn set_layout(&self, number: WaId, from: Layout, to: Layout, master_term: i64) -> Result<bool>;

    /// Retires shards and gives their slots to those of another count, in one transaction: a commit of a former
    /// owner is either before it or fenced. The new epoch is above every epoch these slots ever had. `Ok(None)`,
    /// and nothing changed, if anything is not as it says.
    async fn switch_shards(&self, switch: &Switch) -> Result<Option<Vec<Fence>>>;

    /// Removes owner rows that retired before `before_ms`; how many.
    async fn forget_retired(&self, before_ms: i64) -> Result<u64>;

    // -- the owner's writes and reads --

    /// Writes a batch in one fenced transaction, durable when it returns.
    async fn commit(&self, fence: &Fence, batch: &Batch) -> Result<Committed>;

    /// Messages of the given slots that the upstream has not settled, oldest first in each slot,
    /// after the given position, at most `limit` for each slot.
    async fn outbox(&self, number: WaId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<MessageRow>>;

    /// Messages by position (for a retry request of a phone).
    async fn messages(&self, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<MessageRow>>;

    /// The message of this key, wherever it is.
    async fn message_of(&self, number: WaId, key: IdKey) -> Result<Option<MessageRow>>;

    /// Statuses of the given messages; absent ones were never settled.
    async fn statuses(&self, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<StatusRow>>;

    /// Undelivered events for a receiver of the given slots, oldest first, after the given position.
    async fn events(&self, number: WaId, endpoint: EndpointId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<StoredEvent>>;

    /// A page of the callbacks that wait, were given up or are kept, by slot, receiver and position.
    async fn callbacks(&self, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>>;

    /// Removes callbacks that were delivered before `before_ms`, the oldest first, at most `limit`; how many. By age,
    /// so it needs no fence.
    async fn forget_delivered(&self, number: WaId, before_ms: i64, limit: u32) -> Result<u64>;

    /// Removes the events, dead letters and delivered callbacks of these slots whose receiver is none of `kept`, up to
    /// the receiver `last`, at most `limit` of each; how many. Receivers do not come back, so it needs no fence.
    async fn drop_receivers(
        &self,
        number: WaId,
        slots: RangeInclusive<Slot>,
        kept: &[EndpointId],
        last: EndpointId,
        limit: u32,
    ) -> Result<u64>;

    /// Number of undelivered events and unsettled messages of a slot range.
    async fn backlog(&self, number: WaId, slots: RangeInclusive<Slot>) -> Result<(u64, u64)>;

    /// How much there is of a number. Reads whole indexes: not for a hot path.
    async fn counts(&self, number: WaId) -> Result<Counts>;

    /// Statuses of messages in the order of their places, after one place and up to the slot `last`: what a collector
    /// looks through.
    async fn states(&self, number: WaId, after: (Slot, Seq), last: Slot, limit: u32) -> Result<Vec<StatusRow>>;

    /// Ids of incoming messages in their order, after one, with the time each came here in milliseconds since 1970.
    async fn inbound_ids(&self, number: WaId, after: &str, limit: u32) -> Result<Vec<(String, i64)>>;

    /// How large the tables are. Estimates; costs little on a server and a look through the indexes on SQLite.
    async fn sizes(&self) -> Result<Vec<TableSize>>;

    /// Incoming messages by id; unknown ids are left out.
    async fn inbound(&self, number: WaId, ids: &[String]) -> Result<Vec<InboundRow>>;

    /// Keys of sends, by slot and hash; unknown ones are left out, old ones may be among them.
    async fn submission_keys(&self, number: WaId, keys: &[(Slot, Digest)]) -> Result<Vec<SubmissionKey>>;

    /// End-to-end sessions with the given peers.
    async fn sessions(&self, number: WaId, peers: &[WaId]) -> Result<Vec<SessionRow>>;

    // -- secrets of a number or of the cluster --

    /// Reads a secret, storing `fresh` first if there is none; all callers get the same value.
    async fn secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>>;

    /// A number that differs from those of the last 65,536 calls: the tag of an id generator.
    async fn next_tag(&self) -> Result<u16>;

    // -- users, tokens, settings, contacts (the webapps) --

    /// Counters that grow with each change of users and settings of a number.
    async fn versions(&self, number: WaId) -> Result<Versions>;

    /// All users of a number.
    async fn users(&self, number: WaId) -> Result<Vec<UserRow>>;

    /// Adds a user; [`Error::Exists`] if the name is taken.
    async fn create_user(&self, number: WaId, user: &UserRow) -> Result<()>;

    /// Replaces a user's row; `false` if there is none.
    async fn update_user(&self, number: WaId, user: &UserRow) -> Result<bool>;

    /// Removes a user; `false` if there is none.
    async fn delete_user(&self, number: WaId, username: &str) -> Result<bool>;

    /// Revokes one token until it expires by itself. Also forgets revocations that expired before `now_ms`.
    async fn revoke_token(&self, number: WaId, token: &RevokedToken, now_ms: i64) -> Result<()>;

    /// Tokens revoked one by one.
    async fn revoked_tokens(&self, number: WaId) -> Result<Vec<RevokedToken>>;

    /// The application settings as JSON, with their version; `None` before the first write.
    async fn settings(&self, number: WaId) -> Result<Option<(u64, String)>>;

    /// Writes the settings if their version still is `expected` (0: none yet); the new version, or
    /// `None` if somebody else wrote meanwhile.
    async fn put_settings(&self, number: WaId, expected: u64, body: &str) -> Result<Option<u64>>;

    /// Contacts by `wa_id`; unknown ones are left out.
    async fn contacts(&self, number: WaId, wa_ids: &[WaId]) -> Result<Vec<ContactRow>>;

    /// Inserts or replaces the look-up result of contacts (`on_network`, `checked_at_ms`), leaving the rest alone.
    async fn put_contact_checks(&self, number: WaId, contacts: &[ContactRow]) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r172_three_webapps_four_coreapps_and_two_masters_need_less_than_a_hundred_sessions() {
        assert_eq!((3 + 4 + 2) * SESSIONS, 63, "docs/operations.md names this sum");
    }

    #[test]
    fn a_session_name_fits_and_keeps_the_whole_boot() {
        let boot = BootId([7; 16]);
        assert_eq!(session_name("core-1", boot), format!("coreapp/core-1/{boot}"));
        for node in ["n".repeat(128), "\u{e9}".repeat(64)] {
            let name = session_name(&node, boot);
            assert!(name.len() <= 63 && name.ends_with(&format!("/{boot}")), "{name}");
        }
    }
}
