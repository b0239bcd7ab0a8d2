//! From the outbox to the upstream: sessions, encryption, connection.
//!
//! Messages are prepared one batch at a time: load or open the sessions it needs, encrypt, store the
//! stepped sessions, and only after that commit put the frames on the connection. So a ratchet never
//! steps twice to the same place, and a message that was prepared but not sent is simply prepared anew.

use std::{collections::BTreeSet, time::Duration};

use estafet_model::{Code, MessageId, Slot, Status, WaId};
use estafet_store::{MessageRow, SessionRow};
use estafet_upstream::{
    Command, ConnectError, Envelope, Event, Verdict,
    e2e::{self, IdentityKey, KeyBundle, Ratchet},
};

use super::{Order, Shard, Upline};
use crate::core::{files::Prepared, life::Reason, limits::is_template, peer::Peer, pending::Effect};

/// Messages prepared together.
const PREPARE: usize = 256;

/// A batch on its way from the outbox to the upstream.
pub(super) struct Preparation {
    generation: u64,
    messages: Vec<MessageRow>,
    /// Peers whose keys the network was asked for.
    missing: BTreeSet<WaId>,
    /// Peers the network does not know.
    unknown: BTreeSet<WaId>,
}

impl Shard {
    /// Dials the upstream, at once or after the pause that follows a failure.
    pub(super) fn connect(&mut self, at_once: bool) {
        self.upline = Upline::Connecting;
        self.orders.push(Order::Connect { at_once });
    }

    pub(super) fn connected(&mut self, result: Result<(), ConnectError>) {
        match result {
            Ok(()) => {
                self.generation += 1;
                self.upline = Upline::Up;
            }
            Err(ConnectError::StaleEpoch { highest }) => self.life.superseded(Reason::StaleUpstream { highest }),
            Err(error) => {
                tracing::warn!(number = %self.fence.number, shard = %self.fence.shard, %error, "not connected");
                match &error {
                    ConnectError::Conflict { .. } => self.report(Code::Generic, CONFLICT),
                    ConnectError::Version(_) => self.report(Code::AccessDenied, EXPIRED),
                    ConnectError::StaleEpoch { .. } | ConnectError::Unreachable(_) | ConnectError::Refused(_) => {}
                }
                self.connect(false);
            }
        }
    }

    /// Something arrived from the upstream, or the connection ended.
    pub(super) fn heard(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Verdicts(verdicts)) => verdicts.into_iter().for_each(|verdict| self.verdict(verdict)),
            Some(Event::Deliveries(deliveries)) => self.arrived.extend(deliveries),
            Some(Event::Keys(bundles)) => self.keys_arrived(bundles),
            Some(Event::Contacts { query, on_network }) => self.contacts_checked(query, on_network),
            Some(Event::Conflict { holder }) => {
                tracing::error!(number = %self.fence.number, holder, "another instance tried to take the number");
                self.report(Code::Generic, CONFLICT);
            }
            Some(Event::Replaced { epoch }) => self.life.superseded(Reason::StaleUpstream { highest: epoch }),
            Some(Event::Closed { reason }) => self.disconnected(&reason),
            None => self.disconnected("connection task ended"),
        }
    }

    fn disconnected(&mut self, reason: &str) {
        tracing::info!(number = %self.fence.number, shard = %self.fence.shard, reason, "upstream connection ended");
        self.generation += 1;
        self.outgoing.retain(|command| matches!(command, Command::MarkRead(_)));
        self.preparation = None;
        self.outbox.disconnected();
        self.connect(false);
        for (_, reply) in self.queries.drain() {
            reply.send(crate::request::refused(&estafet_model::ApiError::new(Code::NotReady, "The network was disconnected")));
        }
    }

    /// Takes the next batch out of the outbox, if none is being prepared.
    pub(super) fn prepare_sending(&mut self) {
        if self.preparation.is_some() || self.upline != Upline::Up || self.room() == 0 || !self.outbox.has_ready() {
            return;
        }
        let most = PREPARE.min(self.config.group_commit_rows);
        let messages = self.outbox.next(most, self.now_ms, |message| self.files.may_go(message));
        self.prepare_files();
        if messages.is_empty() {
            return;
        }
        let mut peers: Vec<WaId> = messages.iter().map(|m| m.recipient).filter(|peer| self.lacks_session(peer)).collect();
        peers.sort_unstable();
        peers.dedup();
        let (generation, missing) = (self.generation, peers.iter().copied().collect());
        self.preparation = Some(Preparation { generation, messages, missing, unknown: BTreeSet::new() });
        peers.retain(|peer| !self.peers.contains(peer));
        if peers.is_empty() {
            return self.sessions_loaded(generation, Vec::new());
        }
        self.orders.push(Order::LoadSessions { generation, peers });
    }

    /// Has the files of messages dealt with that cannot go before.
    fn prepare_files(&mut self) {
        self.orders.extend(self.files.take_wanted().into_iter().map(Order::PrepareFiles));
    }

    pub(super) fn files_prepared(&mut self, at: (Slot, estafet_model::Seq), prepared: Prepared) {
        self.metrics.stats.upload(prepared.is_ok());
        self.files.prepared(at, prepared);
        self.outbox.released(at.0);
    }

    fn lacks_session(&self, peer: &WaId) -> bool {
        self.peers.peek(peer).is_none_or(|known| known.ratchet.is_none()) || self.stale_sessions.contains(peer)
    }

    /// Sessions from the database; the network is asked for keys of the peers that have none.
    pub(super) fn sessions_loaded(&mut self, generation: u64, rows: Vec<SessionRow>) {
        rows.iter().for_each(|row| self.learn_session(row));
        let Some(mut preparation) = self.preparation.take() else { return };
        if preparation.generation == generation {
            preparation.missing.retain(|peer| self.lacks_session(peer));
            if !preparation.missing.is_empty() {
                self.outgoing.push_back(Command::FetchKeys(preparation.missing.iter().copied().collect()));
            }
        }
        self.proceed(preparation);
    }

    /// Encrypts when every session is there, else waits on.
    fn proceed(&mut self, preparation: Preparation) {
        if preparation.missing.is_empty() {
            self.encrypt(preparation);
        } else {
            self.preparation = Some(preparation);
        }
    }

    /// Remembers a stored session, unless memory has a newer state.
    pub(super) fn learn_session(&mut self, row: &SessionRow) {
        if self.peers.contains(&row.peer) {
            return;
        }
        match Peer::from_bytes(&row.state) {
            Ok(peer) => drop(self.peers.put(row.peer, peer)),
            Err(error) => tracing::error!(%error, "a stored session is unreadable, opening a new one"),
        }
    }

    fn keys_arrived(&mut self, bundles: Vec<(WaId, Option<KeyBundle>)>) {
        let Some(mut preparation) = self.preparation.take() else { return };
        for (peer, bundle) in bundles {
            match bundle.map(|bundle| self.open_session(peer, &bundle)) {
                Some(Ok(())) => drop(self.stale_sessions.remove(&peer)),
                Some(Err(error)) => {
                    tracing::warn!(%error, "the network gave an unusable key");
                    preparation.unknown.insert(peer);
                }
                None => drop(preparation.unknown.insert(peer)),
            }
        }
        preparation.missing.retain(|peer| self.lacks_session(peer) && !preparation.unknown.contains(peer));
        self.proceed(preparation);
    }

    /// Opens a session; earlier ones with the same identity stay good for what is still on its way.
    fn open_session(&mut self, peer: WaId, bundle: &KeyBundle) -> Result<(), e2e::Error> {
        let key = IdentityKey::try_from(&*bundle.identity_key).map_err(|_| e2e::Error::Key)?;
        let known = self.peers.get_or_insert_mut(peer, Peer::default);
        let is_same = !known.differs(&key);
        match known.ratchet.as_mut().filter(|_| is_same) {
            Some(ratchet) => {
                ratchet.renew(&self.keys.account, bundle)?;
                self.observe(peer, key, self.now_ms);
            }
            None => {
                let ratchet = Ratchet::outbound(&self.keys.account, bundle)?;
                self.observe(peer, key, self.now_ms);
                self.peers.get_or_insert_mut(peer, Peer::default).ratchet = Some(ratchet);
            }
        }
        Ok(())
    }

    /// Every session is there: encrypts, stores the stepped sessions, sends after the commit.
    fn encrypt(&mut self, preparation: Preparation) {
        let mut envelopes = Vec::with_capacity(preparation.messages.len());
        let mut peers = BTreeSet::new();
        for message in preparation.messages {
            let Some(body) = self.files.body(&message) else {
                self.verdict(self.failed(&message, Code::Internal));
                continue;
            };
            if self.is_held(message.recipient) {
                self.verdict(self.failed(&message, Code::UserPotentiallyChanged));
                continue;
            }
            let peer = self.peers.get_mut(&message.recipient).filter(|_| !preparation.unknown.contains(&message.recipient));
            let Some(ratchet) = peer.and_then(|peer| peer.ratchet.as_mut()) else {
                self.verdict(self.failed(&message, Code::UserNotValid));
                continue;
            };
            let (sealed, is_template) = (ratchet.encrypt(&body), is_template(&body));
            peers.insert((message.slot, message.recipient));
            let MessageRow { slot, seq, id_key, recipient, .. } = message;
            envelopes.push(Envelope { recipient, slot, seq, id_key, sealed, is_template });
        }
        peers.into_iter().for_each(|(slot, peer)| self.store_session(slot, peer));
        if !envelopes.is_empty() {
            self.pending.effects.push(Effect::Send(self.generation, envelopes));
        }
    }

    /// What is said of a message that is not sent.
    fn failed(&self, message: &MessageRow, code: Code) -> Verdict {
        let MessageRow { slot, seq, id_key, .. } = *message;
        Verdict { slot, seq, id_key, error_code: Some(code.number()), at_ms: self.now_ms }
    }

    /// Puts the present state of a session into the transaction.
    pub(super) fn store_session(&mut self, slot: Slot, peer: WaId) {
        if let Some(state) = self.peers.peek(&peer).and_then(Peer::to_bytes) {
            self.pending.session(SessionRow { slot, peer, state: state.into() });
        }
    }

    /// The upstream took a message, or refused it for good.
    fn verdict(&mut self, verdict: Verdict) {
        let Verdict { slot, seq, error_code, at_ms, .. } = verdict;
        let Some((message, left_ms)) = self.outbox.settled(slot, seq) else { return };
        self.unsettled = self.unsettled.saturating_sub(1);
        let status = if error_code.is_some() { Status::Failed } else { Status::Sent };
        if status == Status::Sent {
            self.metrics.sent.add(1, &[]);
            let waited = u64::try_from(self.now_ms - message.accepted_at_ms).unwrap_or(0);
            self.metrics.stats.sent.add(Duration::from_millis(waited));
        }
        let id = MessageId::outgoing(message.recipient, message.id_key);
        if self.reached_after((slot, seq), &id, status, at_ms, error_code, Some(left_ms)) {
            self.measure((slot, seq), &id, status, at_ms);
        }
        self.files.forget((slot, seq));
        if let Some(cursor) = self.outbox.take_cursor(slot) {
            self.pending.cursor(slot, cursor);
        }
    }
}

/// What the business is told when the network does not speak with this version any more (spec/errors.md §2).
const EXPIRED: &str = "App expired: upgrade required";

/// What the business is told when two instances use one number (spec/webhooks.md §7).
pub const CONFLICT: &str = "Conflict: multiple instances with the same number detected";
