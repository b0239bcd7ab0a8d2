//! The verdict after a drill: ledgers of the sender, the phones, the receiver, and the network's audit log.

use std::collections::HashSet;

use estafet_harness::{
    Ledger, PATIENCE, Sandbox, Sink,
    client::{Api, Inbox, until},
    ledger::{Difference, assert_none},
    sink::Arrival,
};

const STATUSES: [&str; 3] = ["sent", "delivered", "read"];

/// Everything accepted is on its phone, once and in order, and everything was told to the receiver.
pub(crate) async fn check(
    ledger: &Ledger,
    written: &[String],
    phones: &[String],
    admin: &Api,
    sink: &Sink,
) -> anyhow::Result<()> {
    let all_arrived = until("every accepted message is on its phone", async || {
        let differences = ledger.compare_phones(&inboxes(admin, phones).await?);
        Ok(!differences.iter().any(|difference| matches!(difference, Difference::Lost { .. })))
    });
    // If not, the comparison below says which are missing.
    let _ = all_arrived.await;
    let inboxes = inboxes(admin, phones).await?;
    assert_none(&ledger.compare_phones(&inboxes));
    let doubled: Vec<&str> = inboxes.iter().filter(|inbox| inbox.duplicates > 0).map(|inbox| inbox.phone.as_str()).collect();
    assert!(doubled.is_empty(), "phones that were sent a message twice (I4): {doubled:?}");

    // Whatever is on a phone has its callbacks, also what was accepted although the answer was lost.
    let mut unread: HashSet<&str> = inboxes.iter().flat_map(|inbox| &inbox.messages).map(|message| message.id.as_str()).collect();
    let mut unheard: HashSet<&str> = written.iter().map(String::as_str).collect();
    let mut looked_at = 0;
    let everything = |arrivals: &[Arrival]| {
        for arrival in &arrivals[looked_at..] {
            for (id, _) in arrival.statuses().filter(|(_, status)| *status == "read") {
                unread.remove(id);
            }
            for id in arrival.messages() {
                unheard.remove(id);
            }
        }
        looked_at = arrivals.len();
        unread.is_empty() && unheard.is_empty()
    };
    let waited = sink.wait_for(PATIENCE, everything).await;
    assert!(waited.is_ok(), "never reached the receiver (I6): `read` of {unread:?}, messages {unheard:?}");
    assert_none(&ledger.compare_callbacks(&sink.arrivals(), &STATUSES));
    Ok(())
}

async fn inboxes(admin: &Api, phones: &[String]) -> anyhow::Result<Vec<Inbox>> {
    let mut inboxes = Vec::new();
    for phone in phones {
        inboxes.push(admin.inbox(phone).await?);
    }
    Ok(inboxes)
}

/// The network saw no two owners and no stale epoch (**I1**, **I2**).
pub(crate) fn audit_is_clean(sandbox: &Sandbox) -> anyhow::Result<()> {
    let path = sandbox.chatd_audit()?;
    match estafet_chatd::audit::check(&path) {
        Ok(_) => Ok(()),
        Err(violations) => anyhow::bail!("the network's audit log shows violations (I1, I2): {violations:#?}"),
    }
}
