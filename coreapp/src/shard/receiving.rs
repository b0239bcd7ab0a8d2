//! From the upstream to the database: receipts and incoming messages are stored before they are
//! acknowledged (**I6**, **I9**), so what was not stored comes again.

use bytes::Bytes;
use estafet_model::{IdKey, MessageId, Seq, Slot, Status, WaId};
use estafet_store::{NewInbound, StatusRow, Times};
use estafet_upstream::{
    Delivery, Item,
    e2e::{self, IdentityKey, Ratchet, Sealed},
};

use super::{
    Order, Shard,
    order::{Facts, Questions},
};
use crate::{
    core::{event, peer::Peer, pending::Effect},
    media,
    stats::count,
};

/// Deliveries decided together.
const DECIDE: usize = 256;

impl Shard {
    /// Takes the next deliveries, if none are being decided, and finds out what is needed for them.
    pub(super) fn decide_arrived(&mut self) {
        if self.deciding.is_some() || self.arrived.is_empty() || self.room() == 0 {
            return;
        }
        let count = self.arrived.len().min(DECIDE.min(self.config.group_commit_rows));
        let deliveries: Vec<Delivery> = self.arrived.drain(..count).collect();
        let questions = self.questions(&deliveries);
        if questions.is_empty() {
            return self.facts_loaded(deliveries, Facts::default());
        }
        self.deciding = Some(deliveries);
        self.orders.push(Order::LearnFacts(questions));
    }

    /// What was asked for is known.
    pub(super) fn facts_arrived(&mut self, facts: Facts) {
        if let Some(deliveries) = self.deciding.take() {
            self.facts_loaded(deliveries, facts);
        }
    }

    fn questions(&self, deliveries: &[Delivery]) -> Questions {
        let mut questions = Questions::default();
        for delivery in deliveries {
            match &delivery.item {
                Item::Receipt { slot, seq, id_key, .. } if !self.receipts.knows((*slot, *seq)) => {
                    questions.statuses.push((*slot, *seq));
                    if self.may_be_collected(*id_key) {
                        questions.messages.push((*slot, *seq));
                    }
                }
                Item::Receipt { .. } => {}
                Item::Inbound { sender, message_id, .. } => {
                    questions.inbound.push(message_id.clone());
                    if !self.peers.contains(sender) {
                        questions.peers.push(*sender);
                    }
                }
                Item::IdentityChanged { user, .. } if !self.peers.contains(user) => questions.peers.push(*user),
                Item::IdentityChanged { .. } => {}
                Item::NumberChanged { user, new_user, at_ms, .. } => {
                    questions.inbound.push(self.moved_id(*user, *new_user, *at_ms));
                    if !self.peers.contains(user) {
                        questions.peers.push(*user);
                    }
                }
                Item::Retry { slot, seq, .. } => questions.messages.push((*slot, *seq)),
            }
        }
        questions
    }

    /// Decides deliveries in their order; they are acknowledged after the commit.
    fn facts_loaded(&mut self, deliveries: Vec<Delivery>, mut facts: Facts) {
        for row in &facts.statuses {
            self.receipts.learn((row.slot, row.seq), row.statuses);
        }
        let sessions = std::mem::take(&mut facts.sessions);
        sessions.iter().for_each(|row| self.learn_session(row));
        let ids = deliveries.iter().map(|delivery| delivery.id).collect();
        for Delivery { item, .. } in deliveries {
            match item {
                Item::Receipt { recipient, slot, seq, id_key, status, at_ms, error_code } => {
                    let at = (slot, seq);
                    if !self.receipts.knows(at) && self.may_be_collected(id_key) && !facts.messages.contains_key(&at) {
                        // Nothing is awaited of it any more, and whatever it was told of before.
                        continue;
                    }
                    let id = MessageId::outgoing(recipient, id_key);
                    // A receipt proves that the message was taken. The verdict may have been lost with a
                    // connection; `sent` is told before what follows from it, but when that was is not known.
                    self.reached((slot, seq), &id, Status::Sent, at_ms, None);
                    if self.reached((slot, seq), &id, status, at_ms, error_code) {
                        self.measure((slot, seq), &id, status, at_ms);
                    }
                }
                Item::Inbound { sender, message_id, at_ms, profile_name, sealed, identity_key } => {
                    // A delivery that comes again over a new connection may be asked about before it is committed.
                    let is_new = facts.known_inbound.insert(message_id.clone()) && !self.inbound.contains(&message_id);
                    if is_new {
                        self.inbound.put(message_id.clone(), ());
                        count(&self.metrics.stats.from_server, 1);
                        let content = self.decrypt(sender, &sealed, &identity_key, at_ms);
                        self.store_inbound(sender, message_id, at_ms, profile_name, content);
                    }
                }
                Item::Retry { recipient, slot, seq, .. } => {
                    tracing::warn!(slot = slot.get(), "a phone could not decrypt, sending again over a new session");
                    self.stale_sessions.insert(recipient);
                    if let Some(message) = facts.messages.get(&(slot, seq)) {
                        self.outbox.resend(message.clone());
                    }
                }
                Item::IdentityChanged { user, identity_key, at_ms } => self.observe(user, identity_key, at_ms),
                Item::NumberChanged { user, new_user, profile_name, at_ms } => {
                    self.number_changed((user, new_user), &profile_name, at_ms, &facts.known_inbound);
                }
            }
        }
        self.pending.effects.push(Effect::Acknowledge(ids));
    }

    /// Whether a message is old enough to have been removed because it was over.
    fn may_be_collected(&self, id_key: IdKey) -> bool {
        let age_ms = self.now_ms.saturating_sub(id_key.made_at_ms());
        u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > self.config.keep_messages().as_millis())
    }

    /// Records a status of a message and tells it, if it is news; says whether it was.
    pub(super) fn reached(
        &mut self,
        at: (Slot, Seq),
        id: &MessageId,
        status: Status,
        at_ms: i64,
        error_code: Option<u16>,
    ) -> bool {
        self.reached_after(at, id, status, at_ms, error_code, None)
    }

    /// The same of a message that left the queue at `left`.
    pub(super) fn reached_after(
        &mut self,
        at: (Slot, Seq),
        id: &MessageId,
        status: Status,
        at_ms: i64,
        error_code: Option<u16>,
        left: Option<i64>,
    ) -> bool {
        let forgets = self.settings.settings.pass_through;
        if forgets && status == Status::Read && !self.receipts.knows(at) {
            // The message left the database when it was delivered.
            return false;
        }
        let Some(statuses) = self.receipts.advance(at, status) else { return false };
        let (slot, seq) = at;
        if forgets && matches!(status, Status::Delivered | Status::Read) {
            self.pending.batch.forgotten_messages.push(at);
        }
        self.metrics.reached(status);
        self.metrics.stats.status(status);
        let times = Times { left, ..Times::of(status, at_ms) };
        self.pending.status(StatusRow { slot, seq, statuses, error_code, changed_at_ms: at_ms, times });
        self.status_event(at, id, status, at_ms, error_code);
        true
    }

    /// Measures the step that ended with a status.
    pub(super) fn measure(&mut self, at: (Slot, Seq), id: &MessageId, status: Status, at_ms: i64) {
        let accepted_at_ms = id.key().map(|key| key.made_at_ms());
        if let Some(latency) = self.receipts.latency(at, status, at_ms, accepted_at_ms) {
            self.metrics.took(latency);
        }
    }

    /// The plaintext; empty when it cannot be had, which the business sees as an unknown message.
    fn decrypt(&mut self, sender: WaId, sealed: &Sealed, identity_key: &[u8], at_ms: i64) -> Bytes {
        match self.open(sender, sealed, identity_key, at_ms) {
            Ok(plaintext) => {
                count(&self.metrics.stats.decoded, 1);
                self.store_session(Slot::of(sender), sender);
                plaintext.into()
            }
            Err(error) => {
                tracing::error!(%error, "an incoming message could not be decrypted");
                self.metrics.undecryptable.add(1, &[]);
                Bytes::new()
            }
        }
    }

    /// Decrypts over a known session, or over the one that the message opens; a message proves the identity it opens
    /// a session with.
    fn open(&mut self, sender: WaId, sealed: &Sealed, identity_key: &[u8], at_ms: i64) -> Result<Vec<u8>, e2e::Error> {
        let key = IdentityKey::try_from(identity_key).map_err(|_| e2e::Error::Key)?;
        let account = &mut self.keys.account;
        let known = self.peers.get_mut(&sender).filter(|peer| !peer.differs(&key));
        if let Some(ratchet) = known.and_then(|peer| peer.ratchet.as_mut()) {
            let plaintext = ratchet.decrypt(account, sealed, identity_key)?;
            self.observe(sender, key, at_ms);
            return Ok(plaintext);
        }
        let (ratchet, plaintext) = Ratchet::inbound(account, sealed, identity_key)?;
        self.peers.get_or_insert_mut(sender, Peer::default);
        self.observe(sender, key, at_ms);
        self.peers.get_or_insert_mut(sender, Peer::default).ratchet = Some(ratchet);
        Ok(plaintext)
    }

    fn store_inbound(&mut self, sender: WaId, id: String, at_ms: i64, profile_name: String, content: Bytes) {
        self.metrics.inbound.add(1, &[]);
        let slot = Slot::of(sender);
        let (kind, body) = if let Some(deleted) = event::revoked(sender, &content) {
            ("status_change", event::deleted(&deleted, sender, at_ms))
        } else {
            let tells = self.settings.settings.show_security_notifications;
            let identity = self.peers.peek(&sender).and_then(Peer::identity).filter(|_| tells);
            let kind = if media::waits(&content) { media::KIND } else { "inbound_message" };
            (kind, event::inbound(self.fence.number, sender, &profile_name, &id, at_ms, identity, &content))
        };
        self.event(slot, Some(sender), kind, at_ms, body);
        self.pending.inbound(NewInbound {
            slot,
            id,
            sender,
            profile_name,
            sent_at_ms: at_ms,
            stored_at_ms: self.now_ms,
            body: content,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use estafet_store::{Committed, Error};
    use estafet_upstream::{Command, Event};

    use super::{
        super::tests::{orders, shard},
        *,
    };
    use crate::{core::life::Reason, shard::Input};

    fn delivered(id: u64) -> Input {
        let item = Item::Inbound {
            sender: WaId::from_u64(15_550_001_001).unwrap(),
            message_id: "one".to_owned(),
            at_ms: 0,
            profile_name: String::new(),
            sealed: Sealed { kind: 0, ciphertext: Bytes::from_static(b"?") },
            identity_key: Bytes::new(),
        };
        Input::Upstream(Some(Event::Deliveries(vec![Delivery { id, item }])))
    }

    /// A message is being committed, and has come again meanwhile; the database was asked before the commit ends.
    fn delivered_twice() -> (Shard, std::time::Instant) {
        let (mut shard, now) = (shard(), tokio::time::Instant::now().into_std());
        shard.begin();
        orders(&mut shard, now, 0, Input::Connected(Ok(())));
        orders(&mut shard, now, 0, delivered(1));
        let first = orders(&mut shard, now, 0, Input::FactsLoaded(Box::default()));
        assert!(matches!(&first[..], [Order::Commit { batch, .. }] if batch.events.len() == 1 && batch.inbound.len() == 1));
        orders(&mut shard, now, 0, Input::Upstream(Some(Event::Closed { reason: String::new() })));
        orders(&mut shard, now, 0, Input::Connected(Ok(())));
        orders(&mut shard, now, 0, delivered(2));
        orders(&mut shard, now, 0, Input::FactsLoaded(Box::default()));
        (shard, now)
    }

    #[test]
    fn a_message_that_comes_again_before_it_is_committed_and_is_fenced_is_not_acknowledged() {
        let (mut shard, now) = delivered_twice();
        let fence = *shard.fence();
        let fenced = Error::Fenced { number: fence.number, shard: fence.shard, ours: fence.epoch };
        orders(&mut shard, now, 0, Input::Committed { result: Err(fenced), retried: false, took: Duration::ZERO });
        assert_eq!(shard.released(), Some(Reason::Fenced));
        let acknowledges = |command: &Command| matches!(command, Command::Acknowledge(_));
        assert!(!shard.commands().iter().any(acknowledges), "nobody has stored it: the next owner is to get it");
    }

    #[test]
    fn a_message_that_comes_again_before_it_is_committed_is_told_once() {
        let (mut shard, now) = delivered_twice();
        let committed = Input::Committed { result: Ok(Committed::default()), retried: false, took: Duration::ZERO };
        let again = orders(&mut shard, now, 0, committed);
        assert!(again.is_empty(), "nothing is left to write: {again:?}");
        assert!(matches!(shard.commands().back(), Some(Command::Acknowledge(ids)) if *ids == [2]), "and it is acknowledged");
    }
}
