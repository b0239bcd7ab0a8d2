//! The database throws everybody out, again and again under load: no wrong 2xx, nothing lost (**I3**, **I9**, F47).

use std::time::Duration;

use anyhow::ensure;
use estafet_harness::{Ledger, Postgres, Sandbox, Sink};
use futures::future::join_all;
use serde_json::json;

use crate::{
    load::Traffic,
    verdict::{audit_is_clean, check},
};

/// How often every session is ended.
const CUTS: usize = 10;
/// Answered messages between two cuts, over all phones.
const ANSWERS_BETWEEN: usize = 60;
const PHONES: u32 = 4;
/// Ends all sessions of the sandbox, whatever they are doing.
const CUT: &str =
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'cut' AND pid <> pg_backend_pid()";

#[tokio::test]
async fn sessions_ended_by_the_database_lose_and_double_nothing() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let url = postgres.create_database("cut").await?;
    let sink = Sink::start().await?;
    let mut sandbox = Sandbox::options().database(&url).webhook(&sink.url()).phones(PHONES).shards(2).start().await?;
    let admin = sandbox.login().await?;
    let settings = json!({
        "callback_backoff_delay_ms": 50, "max_callback_backoff_delay_ms": 100, "webhooks": { "message": { "sent": true } },
    });
    admin.patch_settings(&settings).await?;
    let phones: Vec<String> = (0..PHONES).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect();

    let traffic = Traffic::new();
    let cutting = async {
        for _ in 0..CUTS {
            traffic.answers(ANSWERS_BETWEEN).await?;
            postgres.query("postgres", CUT).await?;
            traffic.is_up();
        }
        let result = tokio::time::timeout(Duration::from_secs(30), traffic.answers(ANSWERS_BETWEEN)).await;
        traffic.end();
        ensure!(matches!(result, Ok(Ok(()))), "the server did not recover");
        Ok(())
    };
    let flows = join_all(phones.iter().map(|phone| traffic.flow(&admin, phone)));
    let (cut, flows) = tokio::join!(cutting, flows);
    cut?;

    let (mut ledger, mut written) = (Ledger::new(), Vec::new());
    for (sent, received) in flows {
        ledger.merge(sent);
        written.extend(received);
    }
    check(&ledger, &written, &phones, &admin, &sink).await?;
    sandbox.terminate().await?;
    audit_is_clean(&sandbox)
}
