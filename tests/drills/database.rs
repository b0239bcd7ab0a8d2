//! The database throws everybody out, again and again under load: no wrong 2xx, nothing lost (**I3**, **I9**, F47).

use estafet_harness::{Postgres, Sandbox, Traffic};

use crate::drill::survives;

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
    let cut_often = async |_: &mut Sandbox, traffic: &Traffic| {
        for _ in 0..CUTS {
            traffic.answers(ANSWERS_BETWEEN).await?;
            postgres.query("postgres", CUT).await?;
            traffic.is_up();
        }
        traffic.answers(ANSWERS_BETWEEN).await
    };
    survives(Sandbox::options().database(&url).shards(2), PHONES, cut_often).await?;
    Ok(())
}
