//! The transaction being put together, and what follows once it is durable.
//!
//! While one commit runs, the next transaction is collected here (adaptive group commit,
//! performance.md §4 rule 1). Nothing leaves the shard — no answer, no frame, no acknowledgement, no
//! callback — before the rows it depends on are committed: *persist, only then send* (**I9**).

use std::collections::HashMap;

use estafet_model::{EndpointId, Seq, Slot, WaId};
use estafet_store::{
    Batch, Delivered, EventRef, MessageRow, NewEvent, NewInbound, NewMessage, SessionRow, StatusRow, StoredEvent,
};
use estafet_upstream::Envelope;

/// What happens after the commit, in this order.
#[derive(Debug)]
pub enum Effect<R> {
    /// Answer a request.
    Answer(R),
    /// Put an accepted message into the outbox; the index is its place in `Batch::messages`.
    Enqueue(usize, MessageRow),
    /// Send to the upstream, over the connection (counted from 1) they were prepared for and no other.
    Send(u64, Vec<Envelope>),
    /// Acknowledge deliveries to the upstream.
    Acknowledge(Vec<u64>),
    /// Tell the upstream that the business read these messages.
    MarkRead(Vec<(WaId, String)>),
    /// Load events for a receiver and of a slot that were stored without passing through memory.
    LoadEvents(EndpointId, Slot),
    /// Put a callback into its lane.
    Deliver(StoredEvent),
}

/// One transaction in the making.
#[derive(Debug)]
pub struct Pending<R> {
    /// The rows.
    pub batch: Batch,
    /// What follows.
    pub effects: Vec<Effect<R>>,
    bytes: usize,
    statuses: HashMap<(Slot, Seq), usize>,
    sessions: HashMap<WaId, usize>,
    cursors: HashMap<Slot, usize>,
}

impl<R> Default for Pending<R> {
    fn default() -> Self {
        Self {
            batch: Batch::default(),
            effects: Vec::new(),
            bytes: 0,
            statuses: HashMap::new(),
            sessions: HashMap::new(),
            cursors: HashMap::new(),
        }
    }
}

impl<R> Pending<R> {
    /// Whether there is nothing to commit and nothing to do.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.effects.is_empty()
    }

    /// Rows and bytes collected.
    pub fn size(&self) -> (usize, usize) {
        (self.batch.rows(), self.bytes)
    }

    /// Accepts a message; `answer` is given when it is durable.
    pub fn accept(&mut self, message: MessageRow, answer: R) {
        self.bytes += message.body.len();
        self.batch.messages.push(NewMessage {
            slot: message.slot,
            seq: message.seq,
            id_key: message.id_key,
            recipient: message.recipient,
            accepted_at_ms: message.accepted_at_ms,
            body: message.body.clone(),
        });
        self.effects.push(Effect::Enqueue(self.batch.messages.len() - 1, message));
        self.effects.push(Effect::Answer(answer));
    }

    /// Stores the statuses of a message; the last word counts, but of each time the first.
    pub fn status(&mut self, mut row: StatusRow) {
        if let Some(&before) = self.statuses.get(&(row.slot, row.seq)) {
            row.times = self.batch.statuses[before].times.or(row.times);
        }
        upsert(&mut self.batch.statuses, &mut self.statuses, (row.slot, row.seq), row);
    }

    /// Stores the session with a peer; the last state counts.
    pub fn session(&mut self, row: SessionRow) {
        self.bytes += row.state.len();
        upsert(&mut self.batch.sessions, &mut self.sessions, row.peer, row);
    }

    /// Moves the cursor of a slot.
    pub fn cursor(&mut self, slot: Slot, seq: Seq) {
        upsert(&mut self.batch.outbox_cursors, &mut self.cursors, slot, (slot, seq));
    }

    /// Stores an incoming message.
    pub fn inbound(&mut self, row: NewInbound) {
        self.bytes += row.body.len();
        self.batch.inbound.push(row);
    }

    /// Stores a callback event and puts it into its lane afterwards.
    pub fn event(&mut self, event: NewEvent, persist: bool) {
        self.effects.push(Effect::Deliver(StoredEvent {
            slot: event.slot,
            endpoint: event.endpoint,
            seq: event.seq,
            origin: None,
            contact: event.contact,
            kind: event.kind.to_owned(),
            created_at_ms: event.created_at_ms,
            body: event.body.clone(),
        }));
        if persist {
            self.bytes += event.body.len();
            self.batch.events.push(event);
        }
    }

    /// Removes a callback event that is done; one that was taken at `kept_ms` is kept, to be posted again on demand.
    pub fn event_done(&mut self, event: EventRef, kept_ms: Option<i64>) {
        match kept_ms {
            Some(at_ms) => self.batch.events_kept.push(Delivered { event, at_ms }),
            None => self.batch.events_done.push(event),
        }
    }
}

fn upsert<K: std::hash::Hash + Eq, T>(rows: &mut Vec<T>, index: &mut HashMap<K, usize>, key: K, row: T) {
    match index.get(&key) {
        Some(&at) => rows[at] = row,
        None => {
            index.insert(key, rows.len());
            rows.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::StatusSet;
    use estafet_store::Times;

    use super::*;

    #[test]
    fn one_transaction_never_writes_a_row_twice() {
        let mut pending = Pending::<()>::default();
        let (slot, seq) = (Slot::new(1).unwrap(), Seq::new(5));
        for bits in [1, 3, 7] {
            let (statuses, times) = (StatusSet::from_bits(bits), Times { left: Some(bits.into()), ..Times::default() });
            pending.status(StatusRow { slot, seq, statuses, error_code: None, changed_at_ms: 0, times });
            pending.cursor(slot, Seq::new(bits.into()));
        }
        assert_eq!(pending.batch.statuses.len(), 1);
        assert_eq!((pending.batch.statuses[0].statuses.bits(), pending.batch.statuses[0].times.left), (7, Some(1)));
        assert_eq!(pending.batch.outbox_cursors, [(slot, Seq::new(7))]);
    }
}
