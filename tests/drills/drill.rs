//! One drill: a sandbox under load, a fault, and the verdict.

use anyhow::ensure;
use estafet_harness::{Ledger, Sandbox, Sink, sandbox};
use futures::future::join_all;
use serde_json::json;

use crate::{
    load::Traffic,
    verdict::{audit_is_clean, check},
};

/// Runs `fault` while `phones` phones (15550001001 on) are written to and write, then checks that nothing was
/// lost, doubled or reordered. `fault` ends when the server works again; returns how many messages were accepted.
pub(crate) async fn survives(
    options: sandbox::Options,
    phones: u32,
    fault: impl AsyncFnOnce(&mut Sandbox, &Traffic) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let sink = Sink::start().await?;
    let mut sandbox = options.webhook(&sink.url()).phones(phones).start().await?;
    let admin = sandbox.login().await?;
    let settings = json!({
        "callback_backoff_delay_ms": 50, "max_callback_backoff_delay_ms": 100, "webhooks": { "message": { "sent": true } },
    });
    admin.patch_settings(&settings).await?;
    let phones: Vec<String> = (0..phones).map(|n| (15_550_001_001u64 + u64::from(n)).to_string()).collect();

    let traffic = Traffic::new();
    let faulting = async {
        let result = fault(&mut sandbox, &traffic).await;
        traffic.end();
        result
    };
    let flows = join_all(phones.iter().map(|phone| traffic.flow(&admin, phone)));
    let (faulted, flows) = tokio::join!(faulting, flows);
    faulted?;

    let (mut ledger, mut written) = (Ledger::new(), Vec::new());
    for (sent, received) in flows {
        ledger.merge(sent);
        written.extend(received);
    }
    ensure!(traffic.inbound() == written.len() && !written.is_empty(), "no phone wrote anything");
    check(&ledger, &written, &phones, &admin, &sink).await?;
    sandbox.terminate().await?;
    audit_is_clean(&sandbox)?;
    Ok(ledger.ids().count())
}
