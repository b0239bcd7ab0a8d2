//! SIGKILL of everything but the database's disk, again and again under load (**I3**-**I6**).

use anyhow::{Context as _, ensure};
use estafet_harness::{Ledger, Postgres, Sandbox, Sink, sandbox};
use futures::future::join_all;
use serde_json::json;

use crate::{
    load::Traffic,
    verdict::{audit_is_clean, check},
};

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
    let sink = Sink::start().await?;
    let mut sandbox = options.webhook(&sink.url()).phones(PHONES).shards(4).start().await?;
    let admin = sandbox.login().await?;
    let settings = json!({
        "callback_backoff_delay_ms": 50, "max_callback_backoff_delay_ms": 100, "webhooks": { "message": { "sent": true } },
    });
    admin.patch_settings(&settings).await?;
    let phones: Vec<String> = (0..PHONES).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect();

    let traffic = Traffic::new();
    let killing = async {
        let result = kill_often(&mut sandbox, &traffic).await;
        traffic.end();
        result
    };
    let flows = join_all(phones.iter().map(|phone| traffic.flow(&admin, phone)));
    let (killed, flows) = tokio::join!(killing, flows);
    killed?;

    let (mut ledger, mut written) = (Ledger::new(), Vec::new());
    for (sent, received) in flows {
        ledger.merge(sent);
        written.extend(received);
    }
    ensure!(traffic.inbound() == written.len() && !written.is_empty(), "no phone wrote anything");
    ensure!(ledger.ids().count() >= KILLS * ANSWERS_PER_LIFE, "too little was sent");
    check(&ledger, &written, &phones, &admin, &sink).await?;
    sandbox.terminate().await?;
    audit_is_clean(&sandbox)
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
