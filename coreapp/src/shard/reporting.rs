//! What the business and the operator hear of a shard: callbacks and health.

use std::borrow::Cow;

use bytes::Bytes;
use estafet_model::{
    Code, MessageId, Seq, Slot, Status, WaId,
    receipt::{STRUCTURE_UNAVAILABLE, STRUCTURE_UNAVAILABLE_TITLE},
    settings::endpoint::Topic,
};
use estafet_proto::v1::{GatewayStatus, NumberState};
use estafet_store::{DeadLetter, EventRef, NewEvent};
use xxhash_rust::xxh64::xxh64;

use super::{Shard, Upline};
use crate::{
    callbacks::Posted,
    core::{
        event::{self, Conversation, StatusEvent},
        lanes::{Post, Rules},
        outlets::Backlog,
        receipts::is_reported,
    },
    settings::Versioned,
};

/// A condition is reported once in this time (spec/webhooks.md §7).
const REPORT_AGAIN_MS: i64 = 15 * 60 * 1000;
/// Length of a conversation.
const CONVERSATION_MS: i64 = 24 * 3600 * 1000;

impl Shard {
    /// Stores a callback event for each receiver that wants it; it goes into its lane there after the commit.
    pub(super) fn event(&mut self, slot: Slot, contact: Option<WaId>, kind: &'static str, at_ms: i64, body: Bytes) {
        let Some(seq) = self.next_seq() else { return };
        let settings = &self.settings.settings;
        for endpoint in settings.webhooks.receivers(topic(kind)) {
            let body = body.clone();
            let event = NewEvent { slot, endpoint, seq, contact, kind, created_at_ms: at_ms, body };
            self.pending.event(event, settings.callback_persist);
        }
    }

    /// Tells a status, if the business wants to hear it.
    pub(super) fn status_event(&mut self, at: (Slot, Seq), id: &MessageId, status: Status, at_ms: i64, error_code: Option<u16>) {
        if !is_reported(status, &self.settings.settings) {
            return;
        }
        let recipient = id.phone();
        let made_at_ms = id.key().map_or(at_ms, |key| key.made_at_ms());
        let window = made_at_ms.div_euclid(CONVERSATION_MS);
        let conversation_id = conversation_id(self.fence.number, recipient, window);
        let told = !matches!(status, Status::Failed | Status::Warning)
            && !self.settings.settings.webhook_payload_conversation_pricingmodel_disabled;
        let failure = error_code.map(failure);
        let title = (error_code == Some(STRUCTURE_UNAVAILABLE)).then_some(STRUCTURE_UNAVAILABLE_TITLE);
        let body = event::status(&StatusEvent {
            message_id: &id.to_string(),
            recipient,
            status,
            at_ms,
            title: title.or_else(|| self.files.failure(at)),
            error: failure.as_ref().map(|(code, details)| (*code, details.as_ref())),
            errors_url: self.settings.settings.webhooks.errors_url.as_deref(),
            conversation: told
                .then_some(Conversation { id: &conversation_id, expires_at: (window + 1) * CONVERSATION_MS / 1000 }),
        });
        self.event(at.0, Some(recipient), "status_change", at_ms, body);
    }

    /// Tells a condition of the number, at most once in a quarter of an hour.
    pub(super) fn report(&mut self, code: Code, details: &str) {
        let now_ms = self.now_ms;
        let last = self.reported.get(details).copied().unwrap_or(i64::MIN / 2);
        if now_ms - last < REPORT_AGAIN_MS {
            return;
        }
        self.reported.insert(details.to_owned(), now_ms);
        let body = event::error(code, details, self.settings.settings.webhooks.errors_url.as_deref());
        self.event(*self.fence.slots().start(), None, "error", now_ms, body);
    }

    /// Opens the posts that are due.
    pub(super) fn open_posts(&mut self) {
        let due = self.outlets.due(&self.settings.settings.webhooks, self.now);
        self.posts.extend(due);
    }

    /// A post that cannot be opened: the poster is gone, the process ends.
    pub fn not_opened(&mut self, post: &Post) {
        self.outlets.failed(post.event, self.now, 0);
    }

    /// The end of a post.
    pub(super) fn posted(&mut self, posted: Posted) {
        let webhooks = &self.settings.settings.webhooks;
        self.metrics.post(webhooks.name_of(posted.event.endpoint), &posted.result);
        let Posted { event, result } = posted;
        match result {
            Ok(()) => {
                let keeps = webhooks.keep_delivered.is_some();
                self.outlets.delivered(event);
                self.pending.event_done(event, keeps.then_some(self.now_ms));
            }
            Err(failure) => self.not_taken(event, &failure.to_string()),
        }
    }

    fn not_taken(&mut self, event: EventRef, reason: &str) {
        tracing::debug!(slot = event.slot.get(), reason, "callback not taken");
        let (now, now_ms) = (self.now, self.now_ms);
        if self.outlets.failed(event, now, now_ms).is_some() {
            tracing::error!(number = %self.fence.number, reason, "callback given up, kept as a dead letter");
            self.metrics.dead_letters.add(1, &[]);
            self.pending.batch.dead_letters.push(DeadLetter { event, reason: reason.to_owned(), at_ms: now_ms });
            self.report(Code::Generic, "Callbacks older than the age limit were given up and kept as dead letters");
        }
    }

    pub(super) fn settings_changed(&mut self, settings: Versioned) {
        let config = &self.config;
        let rules = Rules::new(&settings.settings, config.callback_max_age(), config.strict_global_order);
        self.outlets.set(&settings.settings.webhooks, rules);
        self.settings = settings;
    }

    /// What its commits say of the database.
    pub fn writes(&self) -> crate::core::needs::Writes {
        self.writes
    }

    /// What waits for each receiver of callbacks.
    pub(crate) fn backlogs(&self) -> impl Iterator<Item = Backlog> {
        self.outlets.backlogs()
    }

    /// The state of the shard, for `/v1/health` and `estafet status`.
    pub fn state(&self) -> NumberState {
        let gateway_status = match self.upline {
            Upline::Up => GatewayStatus::Connected,
            Upline::Connecting => GatewayStatus::Connecting,
            Upline::Off => GatewayStatus::Disconnected,
        };
        NumberState {
            number: self.fence.number.as_u64(),
            gateway_status: gateway_status.into(),
            shard: self.fence.shard.get().into(),
            shard_count: self.fence.count.get().into(),
            epoch: self.fence.epoch.get().into(),
            // What was accepted in this epoch and does not fit into memory is only counted.
            outbox: self.unsettled.max(self.outbox.len() as u64),
            callbacks: self.backlogs().map(|backlog| backlog.waiting).sum(),
            arrived: (self.arrived.len() + self.deciding.as_ref().map_or(0, Vec::len)) as u64,
        }
    }
}

/// What an event of this kind tells of.
fn topic(kind: &str) -> Topic {
    match kind {
        "status_change" => Topic::Statuses,
        "error" => Topic::Errors,
        _ => Topic::Messages,
    }
}

/// Why a message failed, for the business. A code that the API does not have is 500; what the network said is told.
fn failure(code: u16) -> (Code, Cow<'static, str>) {
    match Code::from_number(code) {
        Some(code @ Code::UserNotValid) => (code, "The recipient is not on the network".into()),
        Some(code @ Code::UserPotentiallyChanged) => {
            (code, "The identity of the recipient has changed and was not acknowledged".into())
        }
        Some(code @ Code::MessageExpired) => (code, "The message was not delivered in time".into()),
        Some(code) => (code, "".into()),
        None if code == STRUCTURE_UNAVAILABLE => {
            (Code::MessageGenericError, "The phone has no such template, or its parameters do not fit".into())
        }
        None => (Code::MessageGenericError, format!("The network's code is {code}").into()),
    }
}

/// The same for every status of messages made on one day between the same two parties.
fn conversation_id(number: WaId, recipient: WaId, window: i64) -> String {
    let text = format!("{number}/{recipient}/{window}");
    format!("{:016x}{:016x}", xxh64(text.as_bytes(), 1), xxh64(text.as_bytes(), 2))
}
