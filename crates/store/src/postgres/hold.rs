//! One process for each number: an advisory lock of a session that does nothing else, and a row that
//! names the holder. The server drops the lock when the session ends, however it ends.

use deadpool_postgres::{ClientWrapper, Object};
use estafet_model::WaId;

use super::{
    connections::{Connections, Step, error},
    tls::Security,
};
use crate::{Error, Hold, Holder, Result, address::Address};

/// The server looks after the connection too: a holder whose machine vanished is gone within seconds.
const SESSION: &str = "-c search_path=estafet -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3";

const LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended('estafet/hold/' || $1::text, 0))";
const NAME: &str = "INSERT INTO holder (number, holder) VALUES ($1, $2)
    ON CONFLICT (number) DO UPDATE SET holder = excluded.holder";

/// Owns the session; dropping it closes the connection.
struct Guard(ClientWrapper);

impl Hold for Guard {
    fn is_held(&self) -> bool {
        !self.0.is_closed()
    }
}

pub(super) async fn take(
    address: &Address,
    security: &Security,
    application_name: &str,
    number: WaId,
    holder: &Holder,
) -> Result<Box<dyn Hold>> {
    let content = serde_json::to_string(holder).map_err(|cause| Error::Failed(cause.to_string()))?;
    let connections = Connections::new(address, security, application_name, SESSION, 1)?;
    let session = Object::take(connections.get().await?);
    let key = number.to_string();
    let locked: bool = session.query_one(LOCK, &[&key]).await.and_then(|row| row.try_get(0)).map_err(|e| error(&e))?;
    if locked {
        session.execute(NAME, &[&number.as_i64(), &content]).await.map_err(|e| error(&e))?;
        return Ok(Box::new(Guard(session)));
    }
    drop(session);
    let step = Step::new("SELECT holder FROM holder WHERE number = $1").bind(number.as_i64());
    let row: Option<String> = connections.query(step).await?.first().map(|row| row.get(0));
    // The holder writes its name after it locked, so for a moment there may be none.
    let holder = row.and_then(|text| serde_json::from_str(&text).ok());
    Err(Error::Held { what: format!("number {number}"), holder })
}
