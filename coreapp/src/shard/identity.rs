//! Identities of users: noticed, told, acknowledged.
//!
//! With `show_security_notifications` a user whose identity changed gets nothing until the business has acknowledged
//! the new one: what is asked for is refused (1028), what was accepted before fails (480). Without it a change is
//! taken as it comes. The notice of a change is written in the transaction of the change, so it is told once, and
//! whoever owns the shard next knows as much.

use std::collections::HashSet;

use estafet_model::{ApiError, Code, MessageId, Slot, WaId};
use estafet_proto::v1::{self, outcome::Result as Answer};
use estafet_store::NewInbound;
use estafet_upstream::e2e::IdentityKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Answered, Shard};
use crate::{
    core::{event, peer::Peer, pending::Effect},
    request::{Reply, done, refused},
};

impl Shard {
    /// Whether nothing may go to a user because of an identity that nobody acknowledged.
    pub(super) fn is_held(&self, user: WaId) -> bool {
        self.settings.settings.show_security_notifications && self.peers.peek(&user).is_some_and(Peer::is_held)
    }

    /// Takes the identity of a user as the network or a message shows it; tells the business if it is another one.
    pub(super) fn observe(&mut self, user: WaId, key: IdentityKey, at_ms: i64) {
        let tells = self.settings.settings.show_security_notifications;
        let Some(peer) = self.peers.get_mut(&user) else { return };
        let is_change = peer.differs(&key);
        peer.observe(key, at_ms, !tells);
        if !is_change {
            return;
        }
        self.metrics.identity_changes.add(1, &[]);
        self.store_session(Slot::of(user), user);
        if tells && let Some(identity) = self.peers.peek(&user).and_then(Peer::identity) {
            let identity = event::identity(identity);
            let content = json!({
                "type": "system",
                "system": {
                    "type": "user_identity_changed",
                    "body": format!("The identity of {user} has changed"),
                    "user": user,
                    "identity": identity,
                },
                "identity": identity,
            });
            let id = notice_id(self.fence.number, user, &key, at_ms);
            self.tell_system(user, id, at_ms, content);
        }
    }

    /// A user has moved to another number. Only of those it has talked with is the business told, and once: `known`
    /// are the ids of incoming messages that are stored.
    pub(super) fn number_changed(&mut self, (user, new_user): (WaId, WaId), name: &str, at_ms: i64, known: &HashSet<String>) {
        let is_known = self.peers.peek(&user).is_some_and(Peer::is_known);
        let id = self.moved_id(user, new_user, at_ms);
        if !self.settings.settings.notify_user_change_number || !is_known || known.contains(&id) {
            return;
        }
        let who = if name.is_empty() { "The user" } else { name };
        let content = json!({
            "type": "system",
            "system": {
                "type": "user_changed_number",
                "body": format!("{who} changed from {user} to {new_user}"),
                "new_wa_id": new_user,
            },
        });
        self.tell_system(user, id, at_ms, content);
    }

    /// The id of the notice that a user has moved.
    pub(super) fn moved_id(&self, user: WaId, new_user: WaId, at_ms: i64) -> String {
        notice_id(self.fence.number, user, &new_user.as_u64().to_be_bytes(), at_ms)
    }

    /// Stores and tells a notice about a user, unless that was done lately.
    fn tell_system(&mut self, user: WaId, id: String, at_ms: i64, content: Value) {
        if self.inbound.put(id.clone(), ()).is_some() {
            return;
        }
        let slot = Slot::of(user);
        self.event(slot, Some(user), "inbound_message", at_ms, event::system(user, &id, at_ms, &content));
        let (profile_name, body) = (String::new(), content.to_string().into());
        let (sender, stored_at_ms) = (user, self.now_ms);
        self.pending.inbound(NewInbound { slot, id, sender, profile_name, sent_at_ms: at_ms, stored_at_ms, body });
    }

    pub(super) fn read_identity(&mut self, user: WaId, reply: Reply) {
        let answer = match self.peers.peek(&user).and_then(Peer::identity) {
            Some(identity) => Answer::Identity(v1::Identity {
                hash: identity.hash().to_vec().into(),
                created_at_ms: identity.since_ms,
                acknowledged: identity.acknowledged,
            }),
            None => unknown_user(),
        };
        // What was not committed yet is told after its commit.
        self.pending.effects.push(Effect::Answer(Answered { reply, answer }));
    }

    pub(super) fn acknowledge_identity(&mut self, user: WaId, hash: &[u8], reply: Reply) {
        let answer = match self.peers.get_mut(&user) {
            Some(peer) if peer.identity().is_some() => {
                let was_held = peer.is_held();
                if peer.acknowledge(hash) {
                    if was_held {
                        self.store_session(Slot::of(user), user);
                    }
                    done()
                } else {
                    refused(&ApiError::invalid("hash", "is not the hash of the user's present identity"))
                }
            }
            _ => unknown_user(),
        };
        self.pending.effects.push(Effect::Answer(Answered { reply, answer }));
    }
}

fn unknown_user() -> Answer {
    refused(&ApiError::new(Code::NotFound, "No identity of this contact is known"))
}

/// The id of a notice, in the layout of incoming messages. It follows from what is told, so a notice that comes again
/// has the same.
fn notice_id(number: WaId, user: WaId, what: &[u8], at_ms: i64) -> String {
    let mut hash = Sha256::new();
    for part in [number.as_u64().to_be_bytes(), user.as_u64().to_be_bytes(), at_ms.to_be_bytes()] {
        hash.update(part);
    }
    let digest = hash.chain_update(what).finalize();
    MessageId::incoming(user, std::array::from_fn(|i| digest[i])).to_string()
}
