//! SIGKILL of everything but the database's disk, again and again under load (**I3**-**I6**).

use anyhow::{Context as _, ensure};
use estafet_harness::{Postgres, Sandbox, Traffic, sandbox};

use crate::drill::survives;

/// Lives that end with a SIGKILL.
const KILLS: usize = 20;
/// Answered messages between two kills, over all phones.
const ANSWERS_PER_LIFE: usize = 60;
/// Phones written to at the same time, from 15550001001 on.
const PHONES: u32 = 8;

#[tokio::test]
async fn nothing_is_lost_doubled_or_reordered_by_kills_with_sqlite() -> anyhow::Result<()> {
    survives_kills(Sandbox::options()).await
}

#[tokio::test]
async fn nothing_is_lost_doubled_or_reordered_by_kills_with_postgres() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let url = postgres.create_database("kill").await?;
    survives_kills(Sandbox::options().database(&url)).await
}

async fn survives_kills(options: sandbox::Options) -> anyhow::Result<()> {
    let accepted = survives(options.shards(4), PHONES, kill_often).await?;
    ensure!(accepted >= KILLS * ANSWERS_PER_LIFE, "too little was sent");
    Ok(())
}

async fn kill_often(sandbox: &mut Sandbox, traffic: &Traffic) -> anyhow::Result<()> {
    for life in 1..=KILLS {
        load_it(sandbox, traffic, life).await?;
        sandbox.kill();
        sandbox.restart().await?;
        traffic.is_up();
    }
    load_it(sandbox, traffic, KILLS + 1).await
}

async fn load_it(sandbox: &Sandbox, traffic: &Traffic, life: usize) -> anyhow::Result<()> {
    let answered = traffic.answers(ANSWERS_PER_LIFE).await;
    answered.with_context(|| format!("in life {life}; end of the log:\n{}", sandbox.end_of_log()))
}
