//! The application settings of a number (spec/settings.md §1): the typed model here, changes to it
//! in [`patch`], further receivers of callbacks in [`endpoint`], the rules for callback URLs in [`webhook_url`], texts
//! nobody reads back in [`secret`].

pub mod endpoint;
pub mod patch;
pub mod secret;
pub mod webhook_url;

use serde::{Deserialize, Serialize};

use endpoint::{Endpoint, Topic};
use secret::Secret;

use crate::{EndpointId, profile::Profile};

/// Everything `/v1/settings/application` holds. The JSON form is the one of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Step of the linear back-off after a failed callback, milliseconds.
    pub callback_backoff_delay_ms: u64,
    /// Longest distance between two tries of a callback, milliseconds.
    pub max_callback_backoff_delay_ms: u64,
    /// Whether callbacks are stored until acknowledged.
    pub callback_persist: bool,
    /// Seconds; an upper bound for the faster detector of ours.
    pub heartbeat_interval: u64,
    /// Seconds; an upper bound for the faster detector of ours.
    pub unhealthy_interval: u64,
    /// Incoming media.
    pub media: MediaSettings,
    /// Where and what callbacks are sent.
    pub webhooks: WebhookSettings,
    /// Messages leave the database once delivered or read, and `read` is not reported.
    pub pass_through: bool,
    /// Which garbage is collected.
    pub garbagecollector_enable: GarbageCollectorSettings,
    /// Extension: the same message to the same recipient again.
    #[serde(skip_serializing_if = "IdenticalMessages::is_default")]
    pub identical_messages: IdenticalMessages,
    /// Tell when a user changes number.
    pub notify_user_change_number: bool,
    /// Tell when a user's identity key changes, and hold messages until acknowledged.
    pub show_security_notifications: bool,
    /// Do not fetch the media of an ad referral.
    pub skip_referral_media_download: bool,
    /// Leave `conversation` and `pricing` out of status callbacks.
    pub webhook_payload_conversation_pricingmodel_disabled: bool,
    /// Shrink the connection pool of each coreapp.
    pub axolotl_context_striping_disabled: bool,
    /// Old pager number; stored, not acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_call_pager: Option<String>,
    /// Alias of `log_level=debug`.
    pub verbose_logging: bool,
    /// `error`, `warning`, `info` or `debug`.
    pub log_level: String,
    /// What the business says of itself. Not a member of the API: `/v1/settings/business/profile` changes it.
    #[serde(skip_serializing_if = "Profile::is_empty")]
    pub business_profile: Profile,
    /// The line below its name. Not a member of the API: `/v1/settings/profile/about` changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// `media.*`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MediaSettings {
    /// Kinds of incoming media stored at once.
    pub auto_download: Vec<String>,
}

/// `webhooks.*`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookSettings {
    /// Target of all callbacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Callbacks in flight: 6, 12, 18 or 24.
    pub max_concurrent_requests: u32,
    /// Switches per status.
    pub message: MessageSwitches,
    /// Extension: signs callbacks with `X-Hub-Signature-256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_secret: Option<Secret>,
    /// Extension: signs callbacks with the headers of Standard Webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<Secret>,
    /// Extension: one lane for all callbacks, in the order they happened. `None`: as the node is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_global_order: Option<bool>,
    /// Extension: seconds after which an undeliverable callback becomes a dead letter. `None`: as the node is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Extension: any 2xx is success instead of 200 alone. `None`: as the node is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_2xx: Option<bool>,
    /// Extension: milliseconds a receiver may take to answer. `None`: as the node is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Extension: seconds for which callbacks are kept after they were taken, to be posted again on demand. `None`: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_delivered: Option<u64>,
    /// Extension: callbacks go to public addresses only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deny_private: bool,
    /// Extension: page that explains errors; `href` in the errors of callbacks is this, `#` and the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors_url: Option<String>,
    /// Extension: further receivers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// The last id that was given to a receiver, so that none is given twice. Not a member of the API.
    #[serde(skip_serializing_if = "is_main")]
    pub last_endpoint: EndpointId,
    /// Certificates trusted beside the system's, PEM. Not a member of the API: `/v1/certificates/webhooks/ca` changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// `webhooks.message.*`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageSwitches {
    /// Send `sent`.
    pub sent: bool,
    /// Send `delivered`.
    pub delivered: bool,
    /// Send `read`.
    pub read: bool,
}

/// `garbagecollector_enable.*`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GarbageCollectorSettings {
    /// Remove old messages.
    pub messages: bool,
    /// Remove unused media.
    pub media: bool,
}

/// `identical_messages.*`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdenticalMessages {
    /// Seconds within which the same content counts as repeated. `None`: nothing is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Refuse it.
    pub refuse: bool,
}

impl IdenticalMessages {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            callback_backoff_delay_ms: 3000,
            max_callback_backoff_delay_ms: 900_000,
            callback_persist: true,
            heartbeat_interval: 5,
            unhealthy_interval: 30,
            media: MediaSettings::default(),
            webhooks: WebhookSettings::default(),
            pass_through: false,
            garbagecollector_enable: GarbageCollectorSettings::default(),
            identical_messages: IdenticalMessages::default(),
            notify_user_change_number: false,
            show_security_notifications: false,
            skip_referral_media_download: false,
            webhook_payload_conversation_pricingmodel_disabled: false,
            axolotl_context_striping_disabled: false,
            on_call_pager: None,
            verbose_logging: false,
            log_level: "info".to_owned(),
            business_profile: Profile::default(),
            about: None,
        }
    }
}

impl Settings {
    /// The defaults a reset goes back to. Certificates and profile stay: they have paths of their own.
    #[must_use]
    pub fn reset(&self) -> Self {
        let (ca, last_endpoint) = (self.webhooks.ca.clone(), self.webhooks.last_endpoint);
        let webhooks = WebhookSettings { ca, last_endpoint, ..WebhookSettings::default() };
        let (business_profile, about) = (self.business_profile.clone(), self.about.clone());
        Self { webhooks, business_profile, about, ..Self::default() }
    }
}

impl WebhookSettings {
    /// The receivers that hear of this. Without a URL nobody posts to the main one, but its callbacks wait, unless
    /// others are there to hear them.
    pub fn receivers(&self, topic: Topic) -> impl Iterator<Item = EndpointId> {
        let main = self.url.is_some() || self.endpoints.is_empty();
        let others = self.endpoints.iter().filter(move |endpoint| endpoint.wants(topic)).map(|endpoint| endpoint.id);
        main.then_some(EndpointId::MAIN).into_iter().chain(others)
    }

    /// Every receiver that may have something stored for it.
    pub fn all_receivers(&self) -> impl Iterator<Item = EndpointId> {
        std::iter::once(EndpointId::MAIN).chain(self.endpoints.iter().map(|endpoint| endpoint.id))
    }

    /// A further receiver.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.id == id)
    }

    /// The name of a receiver; that of one that was removed is not known.
    pub fn name_of(&self, id: EndpointId) -> &str {
        match self.endpoint(id) {
            Some(endpoint) => &endpoint.name,
            None if id == EndpointId::MAIN => endpoint::MAIN,
            None => "removed",
        }
    }

    /// The receiver of this name.
    pub fn receiver(&self, name: &str) -> Option<EndpointId> {
        let other = || self.endpoints.iter().find(|endpoint| endpoint.name == name).map(|endpoint| endpoint.id);
        if name == endpoint::MAIN { Some(EndpointId::MAIN) } else { other() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_main(endpoint: &EndpointId) -> bool {
    *endpoint == EndpointId::MAIN
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self { auto_download: ["image", "video", "voice", "sticker", "audio", "document"].map(str::to_owned).to_vec() }
    }
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            url: None,
            max_concurrent_requests: 6,
            message: MessageSwitches::default(),
            app_secret: None,
            signing_secret: None,
            strict_global_order: None,
            max_age: None,
            accept_2xx: None,
            timeout_ms: None,
            keep_delivered: None,
            deny_private: false,
            errors_url: None,
            endpoints: Vec::new(),
            last_endpoint: EndpointId::MAIN,
            ca: None,
        }
    }
}

impl Default for MessageSwitches {
    fn default() -> Self {
        Self { sent: false, delivered: true, read: true }
    }
}

impl Default for GarbageCollectorSettings {
    fn default() -> Self {
        Self { messages: true, media: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r157_messages_are_collected_unless_somebody_says_otherwise() {
        let defaults = Settings::default().garbagecollector_enable;
        assert_eq!((defaults.messages, defaults.media), (true, false));
    }
}
