//! The PostgreSQL back end (12 and later).
//!
//! The hot path runs on tokio-postgres: each commit is one transaction in one round trip, each list of
//! the batch one statement over arrays, and the fence its first statement. Migrations run through sqlx.
//! Everything lives in the schema `estafet`.
//!
//! Connections are few: they stand for parallel commits, not for callers. pgbouncer in transaction mode
//! is not supported (session settings, prepared statements, the hold).

mod callbacks;
mod claim;
mod commit;
mod connections;
mod garbage;
mod hold;
mod keys;
mod media;
mod numbers;
mod read;
mod shared;
mod tls;

use std::ops::RangeInclusive;

use async_trait::async_trait;
use estafet_model::{BootId, EndpointId, Epoch, IdKey, Layout, Seq, Shard, ShardCount, Slot, WaId};
use futures::future::try_join;
use sqlx::{ConnectOptions, Connection, migrate::Migrator, postgres::PgConnectOptions};

use self::{
    connections::{Connections, SESSION},
    tls::Security,
};
use crate::{
    Batch, Claim, Committed, ContactRow, Counts, Digest, Error, Fence, Hold, Holder, InboundRow, KeptCallback, MessageRow,
    NumberRow, OwnerRow, Page, Queue, READERS, Result, RevokedToken, SessionRow, StatusRow, Store, StoredEvent, SubmissionKey,
    Switch, TableSize, UserRow, Versions, WRITERS,
    address::{Address, Host, Invalid, Server},
    all_slots, version,
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// The PostgreSQL back end.
pub struct PostgresStore {
    address: Address,
    security: Security,
    application_name: String,
    writer: Connections,
    reader: Connections,
}

impl PostgresStore {
    /// Connects to the server of `url` (`postgres://user:password@host:port/database`). Whoever wants to
    /// end this process's sessions finds them by `application_name`.
    pub async fn connect(url: &str, application_name: &str) -> Result<Self> {
        let (address, security) = address(url).map_err(|cause| Error::Setting(cause.to_string()))?;
        let pool = |size| Connections::new(&address, &security, application_name, SESSION, size);
        let (writer, reader) = (pool(WRITERS as usize)?, pool(READERS as usize)?);
        drop(reader.get().await?);
        Ok(Self { writer, reader, application_name: application_name.to_owned(), address, security })
    }

    fn claims(&self) -> claim::Server<'_> {
        claim::Server { writer: &self.writer, reader: &self.reader }
    }

    /// For migrations: no time limit on a statement.
    fn sqlx_options(&self) -> PgConnectOptions {
        let (mode, root) = self.security.for_migrations();
        let options = PgConnectOptions::new_without_pgpass()
            .username(&self.address.user)
            .port(self.address.port)
            .database(&self.address.database)
            .application_name(&self.application_name)
            .ssl_mode(mode)
            .options([("search_path", "estafet")]);
        let options = match root {
            Some(path) => options.ssl_root_cert(path),
            None => options,
        };
        let options = match &self.address.host {
            Host::Name(name) => options.host(name),
            Host::Socket(directory) => options.socket(directory),
        };
        match &self.address.password {
            Some(password) => options.password(password),
            None => options,
        }
    }
}

fn address(url: &str) -> Result<(Address, Security), Invalid> {
    let address = Address::parse(url, Server::Postgres)?;
    let security = Security::of(&address)?;
    Ok((address, security))
}

#[async_trait]
impl Store for PostgresStore {
    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn migrate(&self) -> Result<()> {
        let unavailable = |cause: sqlx::Error| connections::migration(&cause);
        let mut connection = self.sqlx_options().connect().await.map_err(unavailable)?;
        let said: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await.map_err(unavailable)?;
        version::postgres(&said).map_err(|too_old| Error::Failed(too_old.to_string()))?;
        let mut migrations = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
        migrations.create_schema("estafet");
        migrations.dangerous_set_table_name("estafet._sqlx_migrations");
        let migrated = migrations.run_direct(None, &mut connection, false).await;
        // Ends the session, and with it the migrator's lock when it failed.
        let closed = connection.close().await;
        migrated.map_err(|cause| Error::Failed(format!("migration: {cause}")))?;
        closed.map_err(unavailable)
    }

    async fn hold(&self, number: WaId, holder: &Holder) -> Result<Box<dyn Hold>> {
        hold::take(&self.address, &self.security, &self.application_name, number, holder).await
    }

    async fn owners(&self) -> Result<Vec<OwnerRow>> {
        read::owners(&self.reader).await
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
        crate::claim::claim(&self.claims(), &self.application_name, &claim).await
    }

    async fn claim_all(&self, claims: &[Claim<'_>]) -> Vec<Result<Option<Fence>>> {
        crate::claim::claim_all(&self.claims(), &self.application_name, claims).await
    }

    async fn warm_up(&self) -> Result<()> {
        let mut writing = commit::rehearsal();
        writing.extend(claim::rehearsal());
        try_join(self.writer.rehearse(&writing), self.reader.rehearse(&read::rehearsal())).await.map(drop)
    }

    async fn raise_term(&self, term: i64) -> Result<i64> {
        claim::raise_term(&self.reader, term).await
    }

    async fn numbers(&self) -> Result<Vec<NumberRow>> {
        numbers::all(&self.reader).await
    }

    async fn add_number(&self, number: &NumberRow) -> Result<bool> {
        numbers::add(&self.reader, number).await
    }

    async fn remove_number(&self, number: WaId) -> Result<bool> {
        numbers::remove(&self.reader, number).await
    }

    async fn want_shards(&self, number: WaId, count: ShardCount) -> Result<bool> {
        numbers::want(&self.reader, number, count).await
    }

    async fn set_layout(&self, number: WaId, from: Layout, to: Layout, master_term: i64) -> Result<bool> {
        numbers::set_layout(&self.reader, number, from, to, master_term).await
    }

    async fn switch_shards(&self, switch: &Switch) -> Result<Option<Vec<Fence>>> {
        numbers::switch(&self.writer, switch).await
    }

    async fn forget_retired(&self, before_ms: i64) -> Result<u64> {
        numbers::forget_retired(&self.reader, before_ms).await
    }

    async fn commit(&self, fence: &Fence, batch: &Batch) -> Result<Committed> {
        commit::commit(&self.writer, fence, batch).await
    }

    async fn outbox(&self, number: WaId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<MessageRow>> {
        read::outbox(&self.reader, number, after, limit).await
    }

    async fn messages(&self, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<MessageRow>> {
        read::messages(&self.reader, number, at).await
    }

    async fn message_of(&self, number: WaId, key: IdKey) -> Result<Option<MessageRow>> {
        read::message_of(&self.reader, number, key).await
    }

    async fn statuses(&self, number: WaId, at: &[(Slot, Seq)]) -> Result<Vec<StatusRow>> {
        read::statuses(&self.reader, number, at).await
    }

    async fn events(&self, number: WaId, endpoint: EndpointId, after: &[(Slot, Seq)], limit: u32) -> Result<Vec<StoredEvent>> {
        read::events(&self.reader, number, endpoint, after, limit).await
    }

    async fn callbacks(&self, number: WaId, queue: Queue, page: &Page) -> Result<Vec<KeptCallback>> {
        callbacks::page(&self.reader, number, queue, page).await
    }

    async fn forget_delivered(&self, number: WaId, before_ms: i64, limit: u32) -> Result<u64> {
        callbacks::forget_delivered(&self.reader, number, before_ms, limit).await
    }

    async fn drop_receivers(
        &self,
        number: WaId,
        slots: RangeInclusive<Slot>,
        kept: &[EndpointId],
        last: EndpointId,
        limit: u32,
    ) -> Result<u64> {
        callbacks::drop_receivers(&self.reader, number, slots, kept, last, limit).await
    }

    async fn backlog(&self, number: WaId, slots: RangeInclusive<Slot>) -> Result<(u64, u64)> {
        read::backlog(&self.reader, number, slots).await
    }

    async fn counts(&self, number: WaId) -> Result<Counts> {
        let waiting = read::backlog(&self.reader, number, all_slots()).await?;
        Ok(Counts::new(read::tables(&self.reader, number).await?, waiting))
    }

    async fn states(&self, number: WaId, after: (Slot, Seq), last: Slot, limit: u32) -> Result<Vec<StatusRow>> {
        garbage::states(&self.reader, number, after, last, limit).await
    }

    async fn inbound_ids(&self, number: WaId, after: &str, limit: u32) -> Result<Vec<(String, i64)>> {
        garbage::inbound_ids(&self.reader, number, after, limit).await
    }

    async fn sizes(&self) -> Result<Vec<TableSize>> {
        garbage::sizes(&self.reader).await
    }

    async fn inbound(&self, number: WaId, ids: &[String]) -> Result<Vec<InboundRow>> {
        read::inbound(&self.reader, number, ids).await
    }

    async fn submission_keys(&self, number: WaId, keys: &[(Slot, Digest)]) -> Result<Vec<SubmissionKey>> {
        keys::read(&self.reader, number, keys).await
    }

    async fn sessions(&self, number: WaId, peers: &[WaId]) -> Result<Vec<SessionRow>> {
        read::sessions(&self.reader, number, peers).await
    }

    async fn secret(&self, name: &str, fresh: &[u8]) -> Result<Vec<u8>> {
        shared::secret(&self.reader, name, fresh).await
    }

    async fn next_tag(&self) -> Result<u16> {
        shared::next_tag(&self.reader).await
    }

    async fn versions(&self, number: WaId) -> Result<Versions> {
        shared::versions(&self.reader, number).await
    }

    async fn users(&self, number: WaId) -> Result<Vec<UserRow>> {
        shared::users(&self.reader, number).await
    }

    async fn create_user(&self, number: WaId, user: &UserRow) -> Result<()> {
        match shared::create_user(&self.reader, number, user).await? {
            true => Ok(()),
            false => Err(Error::Exists(format!("user {}", user.username))),
        }
    }

    async fn update_user(&self, number: WaId, user: &UserRow) -> Result<bool> {
        shared::update_user(&self.reader, number, user).await
    }

    async fn delete_user(&self, number: WaId, username: &str) -> Result<bool> {
        shared::delete_user(&self.reader, number, username).await
    }

    async fn revoke_token(&self, number: WaId, token: &RevokedToken, now_ms: i64) -> Result<()> {
        shared::revoke_token(&self.reader, number, token, now_ms).await
    }

    async fn revoked_tokens(&self, number: WaId) -> Result<Vec<RevokedToken>> {
        shared::revoked_tokens(&self.reader, number).await
    }

    async fn settings(&self, number: WaId) -> Result<Option<(u64, String)>> {
        shared::settings(&self.reader, number).await
    }

    async fn put_settings(&self, number: WaId, expected: u64, body: &str) -> Result<Option<u64>> {
        shared::put_settings(&self.reader, number, expected, body).await
    }

    async fn contacts(&self, number: WaId, wa_ids: &[WaId]) -> Result<Vec<ContactRow>> {
        shared::contacts(&self.reader, number, wa_ids).await
    }

    async fn put_contact_checks(&self, number: WaId, contacts: &[ContactRow]) -> Result<()> {
        shared::put_contact_checks(&self.reader, number, contacts).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_are_not_kept_are_refused() {
        assert!(address("postgres://u:p@h/d?sslmode=prefer").is_ok());
        assert!(address("postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/ca.pem").is_ok());
        assert_eq!(address("postgres://u:p@h/d?sslmode=always").err(), Some(Invalid::PostgresSslMode));
        assert!(matches!(address("postgres://u:p@h/d?x=1").err(), Some(Invalid::Parameter(_))));
    }
}
