//! What webapps ask of a shard.

use bytes::Bytes;
use estafet_model::{ApiError, Code, IdKey, Seq, Slot, WaId};
use estafet_proto::v1;
use estafet_store::{Batch, EventRef, InboundRow, MessageRow, Requeued};
use estafet_upstream::Command;

use super::{Answered, Order, Shard, Upline};
use crate::{
    core::{event, pending::Effect},
    media::Collected,
    request::{CallerKey, Move, Reply, done, not_owner, overloaded, refused},
};

impl Shard {
    /// Accepts a message: it is answered when it is durable.
    pub(super) fn submit(
        &mut self,
        slot: Slot,
        (recipient, id_key): (WaId, IdKey),
        body: Bytes,
        key: Option<CallerKey>,
        reply: Reply,
    ) {
        if let Some(lost) = &self.database_lost {
            return reply.send(refused(&lost.refusal));
        }
        if self.unsettled >= self.config.max_outbox {
            return reply.send(overloaded());
        }
        if self.is_held(recipient) {
            return reply
                .send(refused(&ApiError::new(Code::IdentityChanged, "Acknowledge the new identity of the recipient first")));
        }
        let rule = self.settings.settings.identical_messages;
        let looked = match self.identical.look(rule, (recipient, id_key), &body, self.now) {
            Ok(looked) => looked,
            Err(error) => {
                self.metrics.identical(true);
                return reply.send(refused(&error));
            }
        };
        if let Err(error) = self.limits.admit(recipient, self.now) {
            return reply.send(refused(&error));
        }
        let Some(seq) = self.next_seq() else { return reply.send(not_owner()) };
        if looked.is_repeated {
            self.metrics.identical(false);
        }
        self.identical.accepted(looked, id_key, self.now);
        self.unsettled += 1;
        self.use_key(slot, key, id_key);
        let message = MessageRow { slot, seq, id_key, recipient, accepted_at_ms: self.now_ms, body };
        self.pending.accept(message, Answered { reply, answer: done() });
    }

    /// Posts callbacks again, in the order given, or forgets them; answered when that is durable.
    pub(super) fn move_callbacks(&mut self, callbacks: Vec<EventRef>, how: Move, reply: Reply) {
        if let Some(lost) = &self.database_lost {
            return reply.send(refused(&lost.refusal));
        }
        for letter in callbacks {
            if how == Move::Drop {
                self.pending.batch.letters_dropped.push(letter);
                continue;
            }
            let Some(seq) = self.next_seq() else { return reply.send(not_owner()) };
            let Batch { requeued, replayed, .. } = &mut self.pending.batch;
            let anew = if how == Move::Requeue { requeued } else { replayed };
            if anew.iter().all(|other| other.letter != letter) {
                anew.push(Requeued { letter, seq, at_ms: self.now_ms });
                // The bodies are in the database only.
                self.pending.effects.push(Effect::LoadEvents(letter.endpoint, letter.slot));
            }
        }
        self.pending.effects.push(Effect::Answer(Answered { reply, answer: done() }));
    }

    /// The business read an incoming message; the look-up comes first.
    pub(super) fn mark_read(&mut self, message_id: String, reply: Reply) {
        self.orders.push(Order::FindInbound { message_id, reply });
    }

    /// Records the first reading of a message and tells the phone; later ones change nothing.
    pub(super) fn inbound_found(&mut self, reply: Reply, row: Option<InboundRow>) {
        let Some(row) = row.filter(|_| !self.settings.settings.pass_through) else {
            return reply.send(refused(&ApiError::new(Code::NotFound, "Message is unknown or no longer stored")));
        };
        if !row.is_read() {
            self.pending.batch.inbound_read.push(row.id.clone());
            self.pending.effects.push(Effect::MarkRead(vec![(row.sender, row.id)]));
        }
        self.pending.effects.push(Effect::Answer(Answered { reply, answer: done() }));
    }

    /// Asks the network which users it knows.
    pub(super) fn check_contacts(&mut self, wa_ids: Vec<WaId>, reply: Reply) {
        if self.upline != Upline::Up || self.queries.len() >= MAX_QUERIES {
            return reply.send(refused(&ApiError::new(Code::NotReady, "The network is not connected")));
        }
        self.next_query += 1;
        self.queries.insert(self.next_query, reply);
        self.outgoing.push_back(Command::CheckContacts { query: self.next_query, wa_ids });
    }

    /// The network's answer to [`Self::check_contacts`]: those it knows.
    pub(super) fn contacts_checked(&mut self, query: u64, on_network: Vec<WaId>) {
        if let Some(reply) = self.queries.remove(&query) {
            let contacts =
                on_network.into_iter().map(|wa_id| v1::ContactState { wa_id: wa_id.as_u64(), on_network: true }).collect();
            reply.send(v1::outcome::Result::Contacts(v1::ContactStates { contacts }));
        }
    }

    /// Removes messages that are over; answered when that is durable.
    pub(super) fn forget(&mut self, messages: Vec<(Slot, Seq)>, inbound: Vec<String>, reply: Reply) {
        if let Some(lost) = &self.database_lost {
            return reply.send(refused(&lost.refusal));
        }
        messages.iter().for_each(|at| self.receipts.forget(*at));
        self.pending.batch.forgotten_messages.extend(messages);
        self.pending.batch.forgotten_inbound.extend(inbound);
        self.pending.effects.push(Effect::Answer(Answered { reply, answer: done() }));
    }

    /// Begins to remove files that nobody used for long; one collection at a time.
    pub(super) fn collect_media(&mut self, reply: Reply) {
        if self.collecting_media {
            return reply.send(refused(&ApiError::new(Code::InvalidRequest, "A collection of media is under way")));
        }
        self.collecting_media = true;
        self.orders.push(Order::CollectMedia);
        reply.send(done());
    }

    /// Tells the end of [`Self::collect_media`].
    pub(super) fn media_collected(&mut self, collected: Collected) {
        self.collecting_media = false;
        let (slot, now_ms) = (*self.fence.slots().start(), self.now_ms);
        let errors_url = self.settings.settings.webhooks.errors_url.as_deref();
        let body = event::media_collected(collected.removed, collected.is_complete, errors_url);
        self.event(slot, None, "services", now_ms, body);
    }
}

/// Contact look-ups waiting for the network's answer.
const MAX_QUERIES: usize = 1024;
