//! Sessions and what the server is told about each.
//!
//! A session whose work failed, timed out or was abandoned by its caller is closed, not reused: the server
//! rolls back what it had begun, and the pool never holds a session inside a transaction. No call waits
//! longer than [`DEADLINE`], even for a server that accepts bytes and says nothing.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Executor, FromRow, MySql, MySqlConnection, MySqlPool,
    mysql::{MySqlArguments, MySqlConnectOptions, MySqlPoolOptions, MySqlQueryResult, MySqlRow, MySqlSslMode},
    pool::PoolConnection,
    query::{Query, QueryAs},
};

use crate::{
    Error, Result,
    address::{Address, Host, Invalid, Server},
    trouble::counted,
};

pub(super) type Db<T> = Result<T, sqlx::Error>;

/// Longest wait for a session, free or new.
const ACQUIRE: Duration = Duration::from_secs(2);
/// Longest wait for an answer; the server itself gives up after two seconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// A session idle for longer is asked whether it is still there before it is used.
const FRESH: Duration = Duration::from_secs(1);
/// Looked at as often as that; so it is we who end idle sessions, and not the server after `wait_timeout`.
const IDLE: Duration = Duration::from_secs(4);
/// Statements prepared for each session: there are about fifty.
const STATEMENTS: usize = 128;

/// READ COMMITTED: a statement sees what was committed before it, and nothing is locked but rows.
///
/// Lock waits are short, so that a claim says at once that a paused owner sits in a transaction (R9). Such
/// an owner's session is ended after a second by MariaDB (`idle_transaction_timeout`) and after ten by MySQL,
/// which has only `wait_timeout`. Each server reads the part in its own kind of comment.
const SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
      innodb_lock_wait_timeout = 1, lock_wait_timeout = 2, wait_timeout = 10
      /*M!100600 , max_statement_time = 2, idle_transaction_timeout = 1 */ /*!80000 , max_execution_time = 2000 */";

/// Reads a URL. Parameters beside the place: `ssl-mode` (as the server's own clients have it; without it,
/// encrypted if the server can, unverified) and `ssl-ca`, a file.
pub(super) fn options(url: &str) -> Result<MySqlConnectOptions, Invalid> {
    let address = Address::parse(url, Server::MySql)?;
    let mut options = MySqlConnectOptions::new()
        .username(&address.user)
        .port(address.port)
        .database(&address.database)
        .charset("utf8mb4")
        .statement_cache_capacity(STATEMENTS)
        .pipes_as_concat(false)
        .no_engine_substitution(false);
    options = match &address.host {
        Host::Name(name) => options.host(name),
        Host::Socket(path) => options.socket(path),
    };
    if let Some(password) = &address.password {
        options = options.password(password);
    }
    for (key, value) in &address.parameters {
        options = match key.as_str() {
            "ssl-mode" | "sslmode" => options.ssl_mode(ssl_mode(value)?),
            "ssl-ca" | "sslca" => options.ssl_ca(value),
            _ => return Err(Invalid::Parameter("host, port, ssl-mode and ssl-ca")),
        };
    }
    Ok(options)
}

fn ssl_mode(text: &str) -> Result<MySqlSslMode, Invalid> {
    text.replace('-', "_").parse().map_err(|_| Invalid::SslMode)
}

/// One session of its own, without limits on statements or idleness.
pub(super) async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection> {
    match tokio::time::timeout(ACQUIRE, options.connect()).await {
        Ok(connected) => connected.map_err(error),
        Err(_) => Err(counted(Error::Unavailable(format!("not connected within {ACQUIRE:?}")))),
    }
}

/// A small pool.
#[derive(Debug)]
pub(super) struct Connections(MySqlPool);

/// Sessions of a process that may be known at once: those that write, and some that have not quite ended.
pub(super) const NAMED: u32 = 8;

/// Name of the lock that a writing session of a process holds for as long as it lives. The server knows who holds
/// a lock, and forgets it with the session; so sessions are found by their process's name, without a table.
pub fn session_lock(application_name: &str, at: u32) -> String {
    format!("estafet/{:016x}/{at}", xxhash_rust::xxh64::xxh64(application_name.as_bytes(), 0))
}

/// Takes the first free lock of the process.
async fn announce(session: &mut MySqlConnection, application_name: &str) -> Db<()> {
    for at in 0..NAMED {
        let lock = sqlx::query_scalar::<_, Option<i64>>("SELECT GET_LOCK(?, 0)").bind(session_lock(application_name, at));
        if lock.fetch_one(&mut *session).await? == Some(1) {
            return Ok(());
        }
    }
    tracing::warn!(application_name, "a session without a name: the process has too many");
    Ok(())
}

impl Connections {
    pub(super) fn new(options: &MySqlConnectOptions, size: u32) -> Self {
        Self::named(options, size, "")
    }

    /// Sessions that others find by the name of this process, unless that is empty.
    pub(super) fn named(options: &MySqlConnectOptions, size: u32, application_name: &str) -> Self {
        let name: Arc<str> = application_name.into();
        let pool = MySqlPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(ACQUIRE)
            .idle_timeout(IDLE)
            .test_before_acquire(false)
            .after_connect(move |session, _| {
                let name = name.clone();
                Box::pin(async move {
                    session.execute(SESSION).await?;
                    if name.is_empty() { Ok(()) } else { announce(session, &name).await }
                })
            })
            .before_acquire(|session, about| Box::pin(async move { Ok(about.idle_for < FRESH || session.ping().await.is_ok()) }));
        Self(pool.connect_lazy_with(options.clone()))
    }

    /// Opens a session past the pool, which would only say that it waited in vain.
    pub(super) async fn probe(options: &MySqlConnectOptions) -> Result<()> {
        let mut session = connect(options).await?;
        answered(session.execute(SESSION)).await?;
        session.close().await.map_err(error)
    }

    pub(super) async fn session(&self) -> Result<Session> {
        Ok(Session { connection: self.0.acquire().await.map_err(error)?, sound: false })
    }

    /// Runs one statement, by itself a transaction; its rows.
    pub(super) async fn rows<R>(&self, query: QueryAs<'_, MySql, R, MySqlArguments>) -> Result<Vec<R>>
    where
        R: for<'r> FromRow<'r, MySqlRow> + Send + Unpin,
    {
        let mut session = self.session().await?;
        let rows = answered(query.fetch_all(&mut *session)).await?;
        session.keep();
        Ok(rows)
    }

    /// Runs one statement, by itself a transaction.
    pub(super) async fn run(&self, query: Query<'_, MySql, MySqlArguments>) -> Result<MySqlQueryResult> {
        let mut session = self.session().await?;
        let done = answered(query.execute(&mut *session)).await?;
        session.keep();
        Ok(done)
    }
}

/// A session of the pool; closed when it is dropped, unless it is [kept](Self::keep).
pub(super) struct Session {
    connection: PoolConnection<MySql>,
    sound: bool,
}

impl Session {
    /// Gives the session back: its work is done and it is in no transaction.
    pub(super) fn keep(mut self) {
        self.sound = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.sound {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Session {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        &self.connection
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        &mut self.connection
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn answered<T>(work: impl Future<Output = Db<T>>) -> Result<T> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done.map_err(error),
        Err(_) => Err(counted(Error::Unavailable(format!("no answer within {DEADLINE:?}")))),
    }
}

fn number(error: &sqlx::Error) -> Option<u16> {
    use sqlx::mysql::MySqlDatabaseError;
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// Whether the row was not written because one with its key is there; the transaction goes on.
pub(super) fn is_taken<T>(done: Db<T>) -> Db<Option<T>> {
    const DUPLICATE_KEY: u16 = 1062;
    match done {
        Ok(value) => Ok(Some(value)),
        Err(error) if number(&error) == Some(DUPLICATE_KEY) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether somebody holds a row for longer than we wait.
pub(super) fn is_locked(error: &sqlx::Error) -> bool {
    const LOCK_WAIT_TIMEOUT: u16 = 1205;
    number(error) == Some(LOCK_WAIT_TIMEOUT)
}

/// Sorts a failure: what a restart, a failover, a lock or a full disk causes passes; the rest stays.
pub(super) fn error(cause: sqlx::Error) -> Error {
    let text = cause.to_string();
    counted(match &cause {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => Error::Unavailable(text),
        _ => sorted(number(&cause), text),
    })
}

fn sorted(number: Option<u16>, text: String) -> Error {
    match number {
        Some(number) if is_crowded(number) => Error::NoConnection(text),
        Some(number) if passes(number) => Error::Unavailable(text),
        _ => Error::Failed(text),
    }
}

/// The server takes no more sessions, or no more of this user.
fn is_crowded(number: u16) -> bool {
    matches!(number, 1040 | 1203 | 1226)
}

fn passes(number: u16) -> bool {
    matches!(
        number,
        // Disk or memory is full, the storage engine failed, also at a commit.
        1021 | 1030 | 1037 | 1038 | 1041 | 1114 | 1180
        // Starting, stopping, killed, cut off; 1047 is a Galera node that is not ready.
        | 1047 | 1053 | 1077 | 1079 | 1080 | 1152 | 1158
            ..=1161 | 1184 | 1317 | 1927 | 4031
        // Lock wait, deadlock, statement took too long.
        | 1205 | 1213 | 1969 | 3024
        // Read-only: a replica that has not become the primary yet.
        | 1290 | 1792 | 1836
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r171_too_many_sessions_are_told_from_a_server_that_is_away_and_one_that_refuses() {
        for (number, cause) in [(1040, "connections"), (1203, "connections"), (1114, "unavailable"), (1146, "refused")] {
            let error = sorted(Some(number), String::new());
            assert_eq!((error.cause(), error.is_retryable()), (cause, cause != "refused"), "{number}");
        }
        assert_eq!(sorted(None, String::new()).cause(), "refused");
    }

    #[test]
    fn parameters_choose_encryption_and_nothing_else() {
        let mode = |url: &str| options(url).map(|options| format!("{:?}", options.get_ssl_mode()));
        for (url, expected) in [
            ("mysql://wa:p@ss/w%rd@db/estafet", "Preferred"),
            ("mariadb://wa@db/estafet?ssl-mode=DISABLED", "Disabled"),
            ("mysql://wa@db/estafet?ssl-mode=verify-identity&ssl-ca=/etc/ca.pem", "VerifyIdentity"),
        ] {
            assert_eq!(mode(url).as_deref(), Ok(expected), "{url}");
        }
        assert_eq!(mode("mysql://wa@db/estafet?ssl-mode=always"), Err(Invalid::SslMode));
        assert!(matches!(mode("mysql://wa@db/estafet?x=1"), Err(Invalid::Parameter(_))));
    }
}
