//! The verdict after faults: the ledger of the senders against the phones and the receiver of callbacks.

use std::collections::HashSet;

use crate::{
    Ledger, PATIENCE, Sink,
    client::{Api, Inbox, until},
    ledger::{Difference, assert_none},
    load::Sent,
    sink::Arrival,
};

/// The statuses every message reaches.
pub const STATUSES: [&str; 3] = ["sent", "delivered", "read"];

/// Waits until everything has arrived, and panics unless everything accepted is on its phone, once and in order, and
/// everything was told to the receiver (**I3**-**I6**). `phones` is the phones' control interface. Returns how
/// many messages were accepted.
pub async fn check(flows: Vec<Sent>, phones: &Api, sink: &Sink) -> anyhow::Result<usize> {
    let (mut ledger, mut written) = (Ledger::new(), Vec::new());
    for sent in flows {
        ledger.merge(sent.ledger);
        written.extend(sent.written);
    }
    let all_arrived = until("every accepted message is on its phone", async || {
        let differences = ledger.compare_phones(&inboxes(phones, &ledger).await?);
        Ok(!differences.iter().any(|difference| matches!(difference, Difference::Lost { .. })))
    });
    // If not, the comparison below says which are missing.
    let _ = all_arrived.await;
    let inboxes = inboxes(phones, &ledger).await?;
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
    Ok(ledger.ids().count())
}

async fn inboxes(phones: &Api, ledger: &Ledger) -> anyhow::Result<Vec<Inbox>> {
    let mut inboxes = Vec::new();
    for phone in ledger.recipients() {
        inboxes.push(phones.inbox(phone).await?);
    }
    Ok(inboxes)
}
