//! The embedded back end: one file, one writing connection, a few reading ones.
//!
//! The writer syncs on every commit (WAL, `synchronous = FULL`), so an answered commit survives a
//! crash; `BEGIN IMMEDIATE` makes the fence check and the writes one step. Each list of a batch is one
//! statement with fixed text: rows come as one JSON array, bodies as one blob (see [`crate::packed`]).
//!
//! A second process on the same file is refused by [`hold`].

mod callbacks;
mod claim;
mod commit;
mod garbage;
mod hold;
mod keys;
mod media;
mod numbers;
mod read;
mod shared;

use std::{
    fs::File,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use estafet_model::{BootId, EndpointId, Epoch, IdKey, Layout, Seq, Shard, ShardCount, Slot, WaId};
use sqlx::{
    SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    Batch, Claim, Committed, ContactRow, Counts, Digest, Error, Fence, Hold, Holder, InboundRow, KeptCallback, MessageRow,
    NumberRow, OwnerRow, Page, Queue, Result, RevokedToken, SessionRow, StatusRow, Store, StoredEvent, SubmissionKey, Switch,
    TableSize, UserRow, Versions, all_slots, trouble::counted,
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Readers: enough for the API beside the shards of one process.
const READERS: u32 = 4;
/// Page cache of a reader, in KiB (negative: not pages). The file's pages are in the system's cache anyway.
const READER_CACHE: &str = "-4096";
/// How long a caller waits for the writer before it is told to come back.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for a stranger's lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Pages of the log before they are copied back: 64 MiB, because a batch over many slots dirties a page for each.
const CHECKPOINT_PAGES: &str = "16384";

/// The SQLite back end.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    reader: SqlitePool,
    /// `None` for a database in memory.
    path: Option<PathBuf>,
    held: hold::Registry,
}

impl SqliteStore {
    /// Opens the file, creating it if it is not there. The schema is made by [`Store::migrate`].
    pub async fn open(path: &Path) -> Result<Self> {
        let options = options().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let writer = pool(1).connect_with(options.clone()).await.map_err(error)?;
        let reader = pool(READERS).connect_lazy_with(options.pragma("query_only", "on").pragma("cache_size", READER_CACHE));
        Ok(Self { writer, reader, path: Some(path.to_owned()), held: hold::Registry::default() })
    }

    /// A database in memory, gone with the store; for tests. It has one connection.
    pub async fn memory() -> Result<Self> {
        let writer = pool(1).connect_with(options().in_memory(true)).await.map_err(error)?;
        Ok(Self { reader: writer.clone(), writer, path: None, held: hold::Registry::default() })
    }

    fn beside(&self, suffix: &str) -> Option<PathBuf> {
        let mut name = self.path.clone()?.into_os_string();
        name.push(suffix);
        Some(name.into())
    }
}

fn options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(false)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-32768")
}

/// Connections are never closed or probed: the database is in this process.
fn pool(size: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Sorts a failure of SQLite: locks and disk trouble pass, the rest stays.
fn error(error: sqlx::Error) -> Error {
    const PASSING: [u32; 5] =
        [5 /* busy */, 6 /* locked */, 10 /* i/o */, 13 /* full */, 14 /* cannot open */];
    let passing = match &error {
        sqlx::Error::Database(db) => {
            db.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| PASSING.contains(&(code & 0xff)))
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        _ => false,
    };
    let text = error.to_string();
    counted(if passing { Error::Unavailable(text) } else { Error::Failed(text) })
}

#[async_trait]
impl Store for SqliteStore {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    async fn migrate(&self) -> Result<()> {
        // SQLite's own locks cover one migration, not the question which ones are missing.
        let _lock = match self.beside(".migrate-lock") {
            Some(path) => Some(wait_for_lock(path).await?),
            None => None,
        };
        MIGRATIONS.run(&self.writer).await.map_err(|cause| Error::Failed(format!("migration: {cause}")))
    }

    async fn hold(&self, number: WaId, holder: &Holder) -> Result<Box<dyn Hold>> {
        self.held.take(self.beside(".lock"), number, holder)
    }

    async fn owners(&self) -> Result<Vec<OwnerRow>> {
        read::owners(&self.reader).await.map_err(error)
    }

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
    ) -> Result<Option<Fence>> {
        let claim = Claim { number, shard, count, seen, owner, boot, master_term, now_ms };
        claim::claim(&self.writer, &claim).await
    }

    async fn claim_all(&self, claims: &[Claim<'_>]) -> Vec<Result<Option<Fence>>> {
        claim::claim_all(&self.writer, claims).await
    }

    async fn raise_term(&self, term: i64) -> Result<i64> {
        claim::begin_term(&self.writer, term).await.map_err(error)
    }

    async fn numbers(&self) -> Result<Vec<NumberRow>> {
        numbers::all(&self.reader).await.map_err(error)
    }

    async fn add_number(&self, number: &NumberRow) -> Result<bool> {
        numbers::add(&self.writer, number).await.map_err(error)
    }

    async fn remove_number(&self, number: WaId) -> Result<bool> {
        numbers::remove(&self.writer, number).await.map_err(error)
    }

    async fn want_shards(&self, number: WaId, count: ShardCount) -> Result<bool> {
        numbers::want(&self.writer, number, count).await.map_err(error)
    }

    async fn set_layout(&self, number: WaId, from: Layout, to: Layout, master_term: i64) -> Result<bool> {
        numbers::set_layout(&self.writer, number, from, to, master_term).await.map_err(error)
    }

    async fn switch_shards(&self, switch: &Switch) -> Result<Option<Vec<Fence>>> {
        numbers::switch(&self.writer, switch).await
    }

    async fn forget_retired(&self, before_ms: i64) -> Result<u64> {
        numbers::forget_retired(&self.writer, before_ms).await.map_err(error)
    }

    async fn commit(&self, fence: &Fence, batch: &Batch) -> Result<Committed> {
        commit::commit(&self.writer, fence, batch).await
    }

    async fn outbox(&self, number: WaId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<MessageRow>> {
        read::outbox(&self.reader, number, after, limit).await.map_err(error)
    }

    async fn messages(&self, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<MessageRow>> {
        read::messages(&self.reader, number, at).await.map_err(error)
    }

    async fn message_of(&self, number: WaId, key: IdKey) -> Result<Option<MessageRow>> {
        read::message_of(&self.reader, number, key).await.map_err(error)
    }

    async fn statuses(&self, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<StatusRow>> {
        read::statuses(&self.reader, number, at).await.map_err(error)
    }

    async fn events(&self, number: WaId, endpoint: EndpointId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<StoredEvent>> {
        read::events(&self.reader, number, endpoint, after, limit).await.map_err(error)
    }

    async fn callbacks(&self, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>> {
        callbacks::page(&self.reader, number, queue, page).await.map_err(error)
    }

    async fn forget_delivered(&self, number: WaId, before_ms: i64, limit: u32) -> Result<u64> {
        callbacks::forget_delivered(&self.writer, number, before_ms, limit).await.map_err(error)
    }

    async fn drop_receivers(
        &self,
        number: WaId,
        slots: RangeInclusive<Slot>,
        kept: &[EndpointId],
        last: EndpointId,
        limit: u32,
    ) -> Result<u64> {
        callbacks::drop_receivers(&self.writer, number, slots, kept, last, limit).await.map_err(error)
    }

    async fn backlog(&self, number: WaId, slots: RangeInclusive<Slot>) -> Result<(u64, u64)> {
        read::backlog(&self.reader, number, slots).await.map_err(error)
    }

    async fn counts(&self, number: WaId) -> Result<Counts> {
        let waiting = read::backlog(&self.reader, number, all_slots()).await.map_err(error)?;
        Ok(Counts::new(read::tables(&self.reader, number).await.map_err(error)?, waiting))
    }

    async fn states(&self, number: WaId, after: (Slot, Seq), last: Slot, limit: u32) -> Result<Vec<StatusRow>> {
        garbage::states(&self.reader, number, after, last, limit).await.map_err(error)
    }

    async fn inbound_ids(&self, number: WaId, after: &str, limit: u32) -> Result<Vec<(String, i64)>> {
        garbage::inbound_ids(&self.reader, number, after, limit).await.map_err(error)
    }

    async fn sizes(&self) -> Result<Vec<TableSize>> {
        garbage::sizes(&self.reader).await.map_err(error)
    }

    async fn inbound(&self, number: WaId, ids: &[String]) -> Result<Vec<InboundRow>> {
        read::inbound(&self.reader, number, ids).await.map_err(error)
    }

    async fn submission_keys(&self, number: WaId, keys: &[(Slot, Digest)]) -> Result<Vec<SubmissionKey>> {
        keys::read(&self.reader, number, keys).await.map_err(error)
    }

    async fn sessions(&self, number: WaId, peers: &[WaId]) -> Result<Vec<SessionRow>> {
        read::sessions(&self.reader, number, peers).await.map_err(error)
    }

    async fn secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>> {
        shared::secret(&self.writer, name, fresh).await.map_err(error)
    }

    async fn next_tag(&self) -> Result<u16> {
        shared::next_tag(&self.writer).await.map_err(error)
    }

    async fn versions(&self, number: WaId) -> Result<Versions> {
        shared::versions(&self.reader, number).await.map_err(error)
    }

    async fn users(&self, number: WaId) -> Result<Vec<UserRow>> {
        shared::users(&self.reader, number).await.map_err(error)
    }

    async fn create_user(&self, number: WaId, user: &UserRow) -> Result<()> {
        match shared::create_user(&self.writer, number, user).await.map_err(error)? {
            true => Ok(()),
            false => Err(Error::Exists(format!("user {}", user.username))),
        }
    }

    async fn update_user(&self, number: WaId, user: &UserRow) -> Result<bool> {
        shared::update_user(&self.writer, number, user).await.map_err(error)
    }

    async fn delete_user(&self, number: WaId, username: &str) -> Result<bool> {
        shared::delete_user(&self.writer, number, username).await.map_err(error)
    }

    async fn revoke_token(&self, number: WaId, token: &RevokedToken, now_ms: i64) -> Result<()> {
        shared::revoke_token(&self.writer, number, token, now_ms).await.map_err(error)
    }

    async fn revoked_tokens(&self, number: WaId) -> Result<Vec<RevokedToken>> {
        shared::revoked_tokens(&self.reader, number).await.map_err(error)
    }

    async fn settings(&self, number: WaId) -> Result<Option<(u64, String)>> {
        shared::settings(&self.reader, number).await.map_err(error)
    }

    async fn put_settings(&self, number: WaId, expected: u64, body: &str) -> Result<Option<u64>> {
        shared::put_settings(&self.writer, number, expected, body).await.map_err(error)
    }

    async fn contacts(&self, number: WaId, wa_ids: &[WaId]) -> Result<Vec<ContactRow>> {
        shared::contacts(&self.reader, number, wa_ids).await.map_err(error)
    }

    async fn put_contact_checks(&self, number: WaId, contacts: &[ContactRow]) -> Result<()> {
        shared::put_contact_checks(&self.writer, number, contacts).await.map_err(error)
    }
}

async fn wait_for_lock(path: PathBuf) -> Result<File> {
    let lock = move || {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock()?;
        Ok(file)
    };
    let locked: std::io::Result<File> =
        tokio::task::spawn_blocking(lock).await.map_err(|cause| Error::Unavailable(cause.to_string()))?;
    locked.map_err(|cause| Error::Unavailable(format!("migration lock: {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventRef;

    #[tokio::test]
    async fn what_was_stored_before_there_were_several_receivers_is_for_the_main_one() {
        let store = SqliteStore::memory().await.unwrap();
        let before = MIGRATIONS.iter().filter(|migration| migration.version < 20).cloned().collect();
        Migrator::with_migrations(before).run(&store.writer).await.unwrap();
        for sql in [
            "INSERT INTO callback_event (number, slot, seq, contact, kind, created_at, body)
             VALUES (15550000001, 7, 9, 15550001001, 'error', 5, x'00ff')",
            "INSERT INTO dead_letter (number, slot, seq, contact, kind, created_at, reason, given_up_at, body)
             VALUES (15550000001, 7, 8, NULL, 'error', 4, 'answered 500', 6, x'01')",
        ] {
            sqlx::query(sql).execute(&store.writer).await.unwrap();
        }
        store.migrate().await.unwrap();
        let (number, slot) = ("15550000001".parse().unwrap(), Slot::new(7).unwrap());
        let events = store.events(number, EndpointId::MAIN, &[(slot, Seq::ZERO)], 9).await.unwrap();
        assert_eq!((events[0].seq, events[0].origin, &events[0].body[..]), (Seq::new(9), None, &[0, 255][..]));
        let after = EventRef { slot: Slot::FIRST, endpoint: EndpointId::MAIN, seq: Seq::ZERO };
        let page =
            Page { slots: slot..=slot, after, created_ms: 0..9, contact: None, endpoint: Some(EndpointId::MAIN), limit: 9 };
        let letters = store.callbacks(number, Queue::Dead, &page).await.unwrap();
        assert_eq!(letters[0].end, crate::End::GivenUp { reason: "answered 500".to_owned(), at_ms: 6 });
    }
}
