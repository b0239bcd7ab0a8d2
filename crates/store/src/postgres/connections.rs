//! Connections and the two ways to use one: a query, and a transaction in a single round trip.
//!
//! A transaction's messages are all handed to the connection in the first poll, the COMMIT among them, so
//! a caller that goes away in the middle leaves nothing open, and a connection in the pool is never inside
//! a transaction. If a statement fails, the server turns the COMMIT into a rollback.
//!
//! No call waits longer than [`DEADLINE`], even for a server that accepts bytes and says nothing; the
//! connection is closed then.

use std::{future::Future, pin::pin, task::Poll, time::Duration};

use deadpool_postgres::{Client, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, Runtime};
use futures::future::{join, try_join, try_join_all};
use tokio_postgres::{Config, Row, error::SqlState, types::ToSql};

use super::tls::Security;
use crate::{
    Error, Result,
    address::{Address, Host},
    trouble::counted,
};

/// Longest wait for a free connection: owners repeat what is unavailable.
const ACQUIRE: Duration = Duration::from_secs(1);
/// Longest wait for a new connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest wait for an answer; the server itself gives up after two seconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the server is told about each session. The planner settings keep every statement on its index
/// and its plan, also while tables are empty or not analysed yet: all of them are look-ups by key.
pub(super) const SESSION: &str = "-c search_path=estafet -c statement_timeout=2s \
    -c idle_in_transaction_session_timeout=1s -c jit=off -c plan_cache_mode=force_generic_plan \
    -c enable_seqscan=off -c enable_bitmapscan=off";

/// SQLSTATE of the function `estafet.fence`.
const FENCED: &str = "EF001";

pub(super) type Param<'a> = Box<dyn ToSql + Send + Sync + 'a>;

/// One statement; its text is prepared once for each connection.
pub(super) struct Step<'a> {
    sql: &'static str,
    params: Vec<Param<'a>>,
}

impl<'a> Step<'a> {
    pub(super) fn new(sql: &'static str) -> Self {
        Self { sql, params: Vec::new() }
    }

    #[must_use]
    pub(super) fn bind(mut self, value: impl ToSql + Send + Sync + 'a) -> Self {
        self.params.push(Box::new(value));
        self
    }
}

/// Why a statement or a transaction did not happen.
#[derive(Debug)]
pub(super) enum Failure {
    Fenced,
    /// Somebody holds a row for longer than this transaction waits.
    Locked(Error),
    Other(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fenced => Self::Failed("fenced outside of a commit".to_owned()),
            Failure::Locked(error) | Failure::Other(error) => error,
        }
    }
}

/// A small pool.
#[derive(Clone, Debug)]
pub(super) struct Connections(Pool);

impl Connections {
    pub(super) fn new(
        address: &Address,
        security: &Security,
        application_name: &str,
        session: &str,
        size: usize,
    ) -> Result<Self> {
        let mut config = config(address, application_name, session);
        config.ssl_mode(security.ssl_mode());
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config, security.connector()?, recycling))
            .max_size(size)
            // The connection used last has its statements prepared.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(ACQUIRE))
            .create_timeout(Some(CONNECT))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|cause| Error::Failed(cause.to_string()))?;
        Ok(Self(pool))
    }

    pub(super) async fn get(&self) -> Result<Client> {
        self.0.get().await.map_err(|cause| match cause {
            PoolError::Backend(cause) => error(&cause),
            other => counted(Error::Unavailable(other.to_string())),
        })
    }

    /// Opens every connection there may be and runs the statements over each, in a transaction: they are prepared and planned
    /// then, and what they read of the catalogue is in the server's memory.
    pub(super) async fn rehearse(&self, steps: &[Step<'_>]) -> Result<()> {
        let clients = try_join_all((0..self.0.status().max_size).map(|_| self.get())).await?;
        let rehearsed = clients.into_iter().map(async |client| {
            let rows = answered(pipelined(&client, steps)).await;
            finished(client, rows)
        });
        Ok(try_join_all(rehearsed).await.map(drop)?)
    }

    /// Runs one statement, by itself a transaction.
    pub(super) async fn query(&self, step: Step<'_>) -> Result<Vec<Row>> {
        let client = self.get().await?;
        let rows = answered(async {
            let statement = client.prepare_cached(step.sql).await?;
            client.query(&statement, &borrowed(&step.params)).await
        })
        .await;
        Ok(finished(client, rows)?)
    }

    /// Runs the statements in one transaction and one round trip; the rows of each.
    pub(super) async fn transaction(&self, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>, Failure> {
        let client = self.get().await.map_err(Failure::Other)?;
        let rows = answered(pipelined(&client, steps)).await;
        finished(client, rows)
    }
}

async fn pipelined(client: &Client, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>, tokio_postgres::Error> {
    let statements = try_join_all(steps.iter().map(|step| client.prepare_cached(step.sql))).await?;
    let queries = try_join_all(
        steps.iter().zip(&statements).map(async |(step, statement)| client.query(statement, &borrowed(&step.params)).await),
    );
    let work = try_join(client.batch_execute("BEGIN"), queries);
    let (_, rows) = ended(work, client.batch_execute("COMMIT"), client.batch_execute("ROLLBACK")).await?;
    Ok(rows)
}

/// Polls `work`, which sends it, and right behind it `commit`. What cannot be encoded is never sent, so a
/// failure known at once must not be followed by the COMMIT; that, too, ends the transaction.
async fn ended<T, E>(
    work: impl Future<Output = Result<T, E>>,
    commit: impl Future<Output = Result<(), E>>,
    rollback: impl Future<Output = Result<(), E>>,
) -> Result<T, E> {
    let mut work = pin!(work);
    match futures::poll!(work.as_mut()) {
        Poll::Pending => {
            let (done, committed) = join(work, commit).await;
            let value = done?;
            committed.map(|()| value)
        }
        // The answers may be here before the first poll is over.
        Poll::Ready(Ok(value)) => commit.await.map(|()| value),
        Poll::Ready(Err(error)) => {
            rollback.await?;
            Err(error)
        }
    }
}

fn borrowed<'a>(params: &'a [Param<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect()
}

/// `None` when the server did not answer in time.
async fn answered<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(DEADLINE, work).await.ok()
}

fn finished<T>(client: Client, outcome: Option<Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    match outcome {
        Some(Ok(value)) => Ok(value),
        Some(Err(cause)) if cause.code().is_some_and(|code| code.code() == FENCED) => Err(Failure::Fenced),
        Some(Err(cause)) if cause.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Err(Failure::Locked(error(&cause))),
        Some(Err(cause)) => Err(Failure::Other(error(&cause))),
        None => {
            drop(Object::take(client));
            Err(Failure::Other(counted(Error::Unavailable(format!("no answer within {DEADLINE:?}")))))
        }
    }
}

fn config(address: &Address, application_name: &str, session: &str) -> Config {
    let mut config = Config::new();
    config.user(&address.user).dbname(&address.database).port(address.port);
    match &address.host {
        Host::Name(name) => config.host(name),
        Host::Socket(directory) => config.host_path(directory),
    };
    if let Some(password) = &address.password {
        config.password(password);
    }
    config
        .application_name(application_name)
        .options(session)
        .connect_timeout(CONNECT)
        .tcp_user_timeout(DEADLINE)
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(2);
    config
}

/// Sorts a failure: what a restart, a failover, a lock or a full disk causes passes; the rest stays.
pub(super) fn error(cause: &tokio_postgres::Error) -> Error {
    use std::error::Error as _;
    let Some(db) = cause.as_db_error() else {
        let ours = cause.source().is_some_and(|source| !source.is::<std::io::Error>());
        let text = cause.source().map_or_else(|| cause.to_string(), |source| format!("{cause}: {source}"));
        return counted(if ours { Error::Failed(text) } else { Error::Unavailable(text) });
    };
    counted(sorted(db.code(), format!("{} ({})", db.message(), db.code().code())))
}

/// The same for what keeps the schema from being brought up to date: without an answer of the server it passes.
pub(super) fn migration(cause: &sqlx::Error) -> Error {
    let text = format!("migration: {cause}");
    let code = cause.as_database_error().and_then(|db| db.code().map(|code| SqlState::from_code(&code)));
    counted(match code {
        Some(code) if is_crowded(&code) => Error::NoConnection(text),
        _ => Error::Unavailable(text),
    })
}

fn sorted(code: &SqlState, text: String) -> Error {
    if is_crowded(code) {
        Error::NoConnection(text)
    } else if passes(code) {
        Error::Unavailable(text)
    } else {
        Error::Failed(text)
    }
}

/// The server takes no more sessions, or no more of this user or database.
fn is_crowded(code: &SqlState) -> bool {
    *code == SqlState::TOO_MANY_CONNECTIONS
}

fn passes(code: &SqlState) -> bool {
    // Connection, no resources, object not in the right state, cancelled or shut down, system, rolled back.
    const CLASSES: [&str; 5] = ["08", "53", "57", "58", "40"];
    *code == SqlState::LOCK_NOT_AVAILABLE
        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        || CLASSES.iter().any(|class| code.code().starts_with(class))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::{FutureExt, executor::block_on, future};

    use super::*;

    /// Runs `ended` with this work; the outcome, and which end was sent by when `work` was polled `polls` times.
    fn outcome(polls: u32, result: Result<u8, &str>) -> (Result<u8, &str>, Vec<&'static str>) {
        let log = RefCell::new(Vec::new());
        let mut polled = 0;
        let work = future::poll_fn(|context| {
            polled += 1;
            log.borrow_mut().push("work");
            context.waker().wake_by_ref();
            if polled >= polls { Poll::Ready(result) } else { Poll::Pending }
        });
        let sent = |what| {
            let log = &log;
            async move {
                log.borrow_mut().push(what);
                Ok(())
            }
        };
        let done = block_on(ended(work, sent("commit"), sent("rollback")).boxed_local());
        (done, log.into_inner())
    }

    #[test]
    fn r171_too_few_connections_are_told_from_a_server_that_is_away_and_one_that_refuses() {
        for (code, cause) in [
            (SqlState::TOO_MANY_CONNECTIONS, "connections"),
            (SqlState::DISK_FULL, "unavailable"),
            (SqlState::ADMIN_SHUTDOWN, "unavailable"),
            (SqlState::UNDEFINED_TABLE, "refused"),
            (SqlState::INSUFFICIENT_PRIVILEGE, "refused"),
        ] {
            let error = sorted(&code, String::new());
            assert_eq!((error.cause(), error.is_retryable()), (cause, cause != "refused"), "{code:?}");
        }
    }

    #[test]
    fn the_commit_follows_the_work_in_the_same_poll() {
        // The second poll of the work is the one inside the join, without a pause after the first.
        assert_eq!(outcome(2, Ok(7)), (Ok(7), vec!["work", "work", "commit"]));
        assert_eq!(outcome(3, Ok(7)), (Ok(7), vec!["work", "work", "commit", "work"]));
    }

    #[test]
    fn work_answered_within_its_first_poll_is_committed() {
        assert_eq!(outcome(1, Ok(7)), (Ok(7), vec!["work", "commit"]));
    }

    #[test]
    fn work_that_could_not_be_sent_is_rolled_back() {
        assert_eq!(outcome(1, Err("too long")), (Err("too long"), vec!["work", "rollback"]));
    }

    #[test]
    fn a_failure_of_the_server_is_reported() {
        assert_eq!(outcome(2, Err("refused")), (Err("refused"), vec!["work", "work", "commit"]));
    }
}
