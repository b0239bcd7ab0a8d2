//! One drill: a sandbox under load, a fault, and the verdict.

use anyhow::{bail, ensure};
use estafet_harness::{Sandbox, Sink, Traffic, sandbox, verdict};
use futures::future::join_all;
use serde_json::json;

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
    let flows = join_all(phones.iter().map(|phone| traffic.flow(&admin, &admin, phone)));
    let (faulted, flows) = tokio::join!(faulting, flows);
    faulted?;

    let written: usize = flows.iter().map(|sent| sent.written.len()).sum();
    ensure!(traffic.inbound() == written && written > 0, "no phone wrote anything");
    let accepted = verdict::check(flows, &admin, &sink).await?;
    sandbox.terminate().await?;
    audit_is_clean(&sandbox)?;
    Ok(accepted)
}

/// The network saw no two owners and no stale epoch (**I1**, **I2**).
fn audit_is_clean(sandbox: &Sandbox) -> anyhow::Result<()> {
    match estafet_chatd::audit::check(&sandbox.chatd_audit()?) {
        Ok(_) => Ok(()),
        Err(violations) => bail!("the network's audit log shows violations (I1, I2): {violations:#?}"),
    }
}
