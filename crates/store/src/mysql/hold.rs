//! One process for each number: a named lock of a session that does nothing else, and a row that names
//! the holder. The server drops the lock when the session ends, however it ends.
//!
//! Nothing tells us that a session ended, so a task asks every [`PULSE`]; that also keeps the server from
//! ending it as idle. A holder whose machine vanished is gone after [`SESSION`]'s `wait_timeout`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use estafet_model::WaId;
use sqlx::{Connection, Executor, MySqlConnection, mysql::MySqlConnectOptions};
use tokio::task::JoinHandle;

use super::connections::{answered, connect};
use crate::{Error, Hold, Holder, Result};

const PULSE: Duration = Duration::from_secs(1);
const SESSION: &str = "SET SESSION lock_wait_timeout = 2, innodb_lock_wait_timeout = 1, wait_timeout = 30";

/// Named locks are the server's, not the database's, and their names end after 64 characters.
const LOCK: &str = "SELECT COALESCE(GET_LOCK(CONCAT('estafet/hold/', SHA1(CONCAT(DATABASE(), '/', ?))), 0), 0) = 1";
const NAME: &str = "INSERT INTO holder (number, holder) VALUES (?, ?) ON DUPLICATE KEY UPDATE holder = VALUES(holder)";

struct Guard {
    held: Arc<AtomicBool>,
    pulse: JoinHandle<()>,
}

impl Hold for Guard {
    fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    /// Drops the session with its task.
    fn drop(&mut self) {
        self.pulse.abort();
    }
}

pub(super) async fn take(options: &MySqlConnectOptions, number: WaId, holder: &Holder) -> Result<Box<dyn Hold>> {
    let content = serde_json::to_string(holder).map_err(|cause| Error::Failed(cause.to_string()))?;
    let mut session = connect(options).await?;
    answered(session.execute(SESSION)).await?;
    let locked = sqlx::query_scalar::<_, bool>(LOCK).bind(number.to_string());
    if answered(locked.fetch_one(&mut session)).await? {
        answered(sqlx::query(NAME).bind(number.as_i64()).bind(content).execute(&mut session)).await?;
        return Ok(Box::new(guard(session)));
    }
    let row = sqlx::query_scalar::<_, String>("SELECT holder FROM holder WHERE number = ?").bind(number.as_i64());
    let row = answered(row.fetch_optional(&mut session)).await?;
    // The holder writes its name after it locked, so for a moment there may be none.
    let holder = row.and_then(|text| serde_json::from_str(&text).ok());
    Err(Error::Held { what: format!("number {number}"), holder })
}

#[allow(clippy::disallowed_methods, reason = "the task ends with its guard; there is nothing to wait for at shutdown")]
fn guard(mut session: MySqlConnection) -> Guard {
    let held = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&held);
    let pulse = tokio::spawn(async move {
        while answered(session.ping()).await.is_ok() {
            tokio::time::sleep(PULSE).await;
        }
        shared.store(false, Ordering::Release);
    });
    Guard { held, pulse }
}
