//! Requests that cannot be decided from memory: they wait, in their order, for what the database knows. One look-up
//! serves all that wait, and the next one begins when it ends.
//!
//! Looked up are users (their identity may be one that nobody acknowledged) and the keys that callers gave their sends.
//! A key of a send that was accepted stays in memory for longer than any look-up takes, so one that began before
//! the commit cannot hide it; and only the owner writes keys of its slots, so what it finds counts.

use std::collections::HashMap;

use estafet_model::{ApiError, Code, IdKey, Slot, WaId};
use estafet_store::{Digest, KEY_LIFE_MS, SessionRow, SubmissionKey};

use super::{Answered, Order, Shard, order::Lookup};
use crate::{
    core::pending::Effect,
    request::{Action, CallerKey, Reply, ShardRequest, done_as, refused},
};

/// Requests that one look-up serves.
const LOOK_UP: usize = 256;

/// What is not in memory.
type Lack = (Option<WaId>, Option<(Slot, Digest)>);

impl Shard {
    fn lacks(&self, request: &ShardRequest) -> Lack {
        let (user, key) = match &request.action {
            Action::Submit { recipient, key, .. } => {
                (self.settings.settings.show_security_notifications.then_some(*recipient), *key)
            }
            Action::ReadIdentity { user } | Action::AcknowledgeIdentity { user, .. } => (Some(*user), None),
            Action::MarkRead { .. }
            | Action::MoveCallbacks { .. }
            | Action::CheckContacts { .. }
            | Action::CollectMedia
            | Action::Forget { .. } => (None, None),
        };
        let key = key.map(|key| (request.slot, key.hash)).filter(|key| !self.keys_used.contains(key));
        (user.filter(|user| !self.peers.contains(user)), key)
    }

    /// Has a request wait, if it must; gives it back if not. While any waits, those that could have to wait do too.
    pub(super) fn park(&mut self, request: ShardRequest) -> Option<ShardRequest> {
        let waits = !self.parked.is_empty() && matches!(request.action, Action::Submit { .. });
        if !waits && self.lacks(&request) == (None, None) {
            return Some(request);
        }
        if let Some(lost) = &self.database_lost {
            request.reply.send(refused(&lost.refusal));
            return None;
        }
        self.parked.push_back(request);
        None
    }

    /// Looks up what requests wait for, one statement at a time.
    pub(super) fn look_up(&mut self) {
        if self.looking_up || self.parked.is_empty() {
            return;
        }
        let mut lookup = Lookup::default();
        for request in self.parked.iter().take(LOOK_UP) {
            let (user, key) = self.lacks(request);
            lookup.users.extend(user);
            lookup.keys.extend(key);
        }
        lookup.users.sort_unstable();
        lookup.users.dedup();
        lookup.keys.sort_unstable();
        lookup.keys.dedup();
        if lookup.users.is_empty() && lookup.keys.is_empty() {
            return self.looked_up(&lookup, Vec::new(), Vec::new());
        }
        self.looking_up = true;
        self.orders.push(Order::LookUp(lookup));
    }

    /// Decides what waited, as far as the order of the requests allows.
    pub(super) fn looked_up(&mut self, asked: &Lookup, sessions: Vec<SessionRow>, keys: Vec<SubmissionKey>) {
        self.looking_up = false;
        let sessions: HashMap<WaId, SessionRow> = sessions.into_iter().map(|row| (row.peer, row)).collect();
        let keys: HashMap<(Slot, Digest), SubmissionKey> = keys.into_iter().map(|key| ((key.slot, key.hash), key)).collect();
        while let Some(request) = self.parked.front() {
            let (user, key) = self.lacks(request);
            let is_known = user.is_none_or(|user| asked.users.binary_search(&user).is_ok())
                && key.is_none_or(|key| asked.keys.binary_search(&key).is_ok());
            if !is_known {
                return;
            }
            if let Some(row) = user.and_then(|user| sessions.get(&user)) {
                self.learn_session(row);
            }
            if let Some(stored) = key.and_then(|key| keys.get(&key)) {
                self.keys_used.put((stored.slot, stored.hash), *stored);
            }
            if let Some(request) = self.parked.pop_front() {
                self.carry_out(request);
            }
        }
    }

    /// Answers a send whose key was used before, when what was stored then is durable; gives the reply back if it
    /// was not.
    pub(super) fn repeated(&mut self, slot: Slot, key: Option<CallerKey>, reply: Reply) -> Option<Reply> {
        let Some(key) = key else { return Some(reply) };
        let used = self.keys_used.get(&(slot, key.hash)).filter(|used| self.now_ms - used.used_at_ms < KEY_LIFE_MS);
        let Some(used) = used else { return Some(reply) };
        let answer = if used.fingerprint == key.fingerprint {
            done_as(used.id_key)
        } else {
            let details = "The Idempotency-Key was used for another message to this recipient";
            refused(&ApiError::new(Code::InvalidRequest, details).with_status(422))
        };
        self.pending.effects.push(Effect::Answer(Answered { reply, answer }));
        None
    }

    /// Notes the key of a message that is being accepted, in the transaction of the message.
    pub(super) fn use_key(&mut self, slot: Slot, key: Option<CallerKey>, id_key: IdKey) {
        let Some(CallerKey { hash, fingerprint }) = key else { return };
        let used = SubmissionKey { slot, hash, fingerprint, id_key, used_at_ms: self.now_ms };
        self.keys_used.put((slot, hash), used);
        self.pending.batch.keys.push(used);
    }
}
