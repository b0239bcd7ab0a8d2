//! What an operator may set, with units, defaults and allowed values. All problems are found by
//! [`Config::check`] before a port opens.

use std::{fmt, path::PathBuf, time::Duration};

use estafet_model::WaId;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Configuration of the webapp.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the process in statistics.
    pub node: String,
    /// Statistics show one member for each node, as the original did with several of them.
    pub multiconnect: bool,
    /// The business number served; without it every number of the database.
    pub number: Option<WaId>,
    /// `POST /v1/account/shards` must carry a certificate, as from v2.45 on.
    pub require_cert_for_shards: bool,
    /// Whether the number is registered; until then messages and contacts answer 1011.
    pub registered: bool,
    /// `meta.version` of every answer; clients compare it, keep it at `v2.35.2` or above.
    pub version: String,
    /// Accept `http://` callback URLs to loopback hosts (the sandbox).
    pub allow_loopback_http: bool,
    /// Refuse to switch `pass_through` on, as late versions of the original did.
    pub pass_through_locked: bool,
    /// Answer 1010 to unknown members of a settings change instead of ignoring them.
    pub reject_unknown_settings: bool,
    /// Answer 1010 to unknown members of a message instead of ignoring them.
    pub strict_params: bool,
    /// Whether contact checks are real look-ups.
    pub contact_mode: ContactMode,
    /// A number must have been checked before it can be messaged (before v2.39).
    pub legacy_contact_check: bool,
    /// `auth.api_key`: 12 to 128 characters; opens health and metrics only. Unset: switched off.
    pub api_key: Option<String>,
    /// Whether `/metrics` needs no credentials.
    pub open_metrics: bool,
    /// What a logout ends.
    pub logout_scope: LogoutScope,
    /// Life of a token, in seconds (7 days). With 0 tokens are expired from the start, for tests.
    #[serde(with = "seconds")]
    pub token_lifetime: Duration,
    /// Password `admin` starts with when the database has no account yet, usable at once; without
    /// it `admin` starts with `secret`, which must be changed at the first login.
    pub initial_admin_password: Option<String>,
    /// Callback URL set at start when the database has none.
    pub initial_webhook_url: Option<String>,
    /// Files with the templates that may be sent (docs/templates.md), read at start.
    pub template_files: Vec<PathBuf>,
    /// Whether the sample templates, namespace `estafet_sandbox`, may be sent as well.
    pub sample_templates: bool,
    /// Whether templates can be added and removed at `/sandbox/templates`, by loopback peers only.
    pub template_control: bool,
    /// `media.max_upload_bytes`: most bytes of an uploaded file, up to 100 MiB.
    pub max_upload_bytes: u64,
    /// Whether `/openapi.json` and its viewer `/docs` are served, to anybody who asks.
    pub docs: bool,
    /// One unary call for each request instead of the batched stream (for comparisons only).
    pub naive: bool,
    /// Caps and rates.
    pub limits: Limits,
}

/// Whether contact checks are real look-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactMode {
    /// The network is asked.
    Live,
    /// Every parseable number is `valid` (v2.43 and later; the only way on the Cloud API).
    AlwaysValid,
}

/// What a logout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogoutScope {
    /// All tokens of the account.
    User,
    /// The token of the request.
    Token,
}

/// Caps and rates. At a cap the answer is 429 or 503 at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections.
    pub connections: usize,
    /// Bytes of a JSON body.
    pub body_bytes: usize,
    /// Bytes of a request head.
    pub head_bytes: usize,
    /// Milliseconds for the whole head of a request, and for the first byte of a connection.
    pub head_timeout_ms: u64,
    /// Milliseconds for a request body, and without progress while writing.
    pub body_timeout_ms: u64,
    /// Milliseconds a connection may idle between two requests.
    pub idle_timeout_ms: u64,
    /// `POST /v1/messages` in a second.
    pub messages_per_second: u32,
    /// Burst of `POST /v1/messages`.
    pub messages_burst: u32,
    /// All other requests in a second, health and metrics excepted.
    pub others_per_second: u32,
    /// Burst of all other requests.
    pub others_burst: u32,
    /// Requests waiting for one coreapp.
    pub queued_requests: usize,
    /// Requests waiting through a handoff.
    pub held_requests: usize,
    /// Bytes of the requests on their way to coreapps.
    pub held_bytes: usize,
    /// Milliseconds a request may wait through a handoff.
    pub hold_ms: u64,
    /// Milliseconds a coreapp may take for an answer.
    pub answer_ms: u64,
    /// Logins and password changes that wait for the hash function (two run at a time).
    pub waiting_hashes: usize,
    /// Uploads at once.
    pub uploads: usize,
    /// Failed logins of one user from one address in a minute.
    pub failures_per_user: u32,
    /// Failed logins from one address in a minute.
    pub failures_per_address: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: "webapp-0".to_owned(),
            multiconnect: false,
            number: None,
            require_cert_for_shards: true,
            registered: false,
            version: "v2.57.1".to_owned(),
            allow_loopback_http: false,
            pass_through_locked: false,
            reject_unknown_settings: false,
            strict_params: false,
            contact_mode: ContactMode::AlwaysValid,
            legacy_contact_check: false,
            api_key: None,
            open_metrics: false,
            logout_scope: LogoutScope::User,
            token_lifetime: Duration::from_secs(7 * 24 * 3600),
            initial_admin_password: None,
            initial_webhook_url: None,
            template_files: Vec::new(),
            sample_templates: false,
            template_control: false,
            max_upload_bytes: 64 << 20,
            docs: true,
            naive: false,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            body_bytes: 1 << 20,
            head_bytes: 64 << 10,
            head_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            messages_per_second: 20_000,
            messages_burst: 40_000,
            others_per_second: 2_000,
            others_burst: 4_000,
            queued_requests: 4_096,
            held_requests: 1_000,
            held_bytes: 64 << 20,
            hold_ms: 2_000,
            answer_ms: 10_000,
            waiting_hashes: 64,
            uploads: 64,
            failures_per_user: 10,
            failures_per_address: 30,
        }
    }
}

impl Limits {
    /// The same with other rates in a second, of messages and of everything else, and bursts of three times as many.
    #[must_use]
    pub fn with_rates(mut self, messages: Option<u32>, others: Option<u32>) -> Self {
        if let Some(rate) = messages {
            (self.messages_per_second, self.messages_burst) = (rate, rate.saturating_mul(3));
        }
        if let Some(rate) = others {
            (self.others_per_second, self.others_burst) = (rate, rate.saturating_mul(3));
        }
        self
    }
}

impl Config {
    /// Finds every setting at fault.
    pub fn check(&self) -> Result<(), Error> {
        let mut problems = Vec::new();
        if let Some(key) = &self.api_key
            && !(12..=128).contains(&key.chars().count())
        {
            problems.push("auth.api_key: must have 12 to 128 characters".to_owned());
        }
        if !self.version.starts_with('v') {
            problems.push("version: must begin with `v`, clients compare it".to_owned());
        }
        let limits = &self.limits;
        for (name, value) in [
            ("connections", limits.connections),
            ("body_bytes", limits.body_bytes),
            ("uploads", limits.uploads),
            ("queued_requests", limits.queued_requests),
            ("messages_per_second", limits.messages_per_second as usize),
            ("messages_burst", limits.messages_burst as usize),
            ("others_per_second", limits.others_per_second as usize),
            ("others_burst", limits.others_burst as usize),
        ] {
            if value == 0 {
                problems.push(format!("limits.{name}: must not be zero"));
            }
        }
        if !(1..=100 << 20).contains(&self.max_upload_bytes) {
            problems.push("media.max_upload_bytes: must be 1 to 104857600".to_owned());
        }
        if limits.head_bytes < 8192 {
            problems.push("limits.head_bytes: must be at least 8192".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Config(problems.join("; "))) }
    }
}

impl fmt::Debug for Config {
    /// Leaves the secrets out (I10).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("number", &self.number)
            .field("registered", &self.registered)
            .field("version", &self.version)
            .field("contact_mode", &self.contact_mode)
            .field("logout_scope", &self.logout_scope)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_key_of_a_wrong_length_is_named_before_a_port_opens() {
        for (length, fine) in [(11, false), (12, true), (128, true), (129, false)] {
            let config = Config { api_key: Some("k".repeat(length)), ..Config::default() };
            let checked = config.check();
            assert_eq!(checked.is_ok(), fine, "{length}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("auth.api_key"), "{error}");
            }
        }
    }

    #[test]
    fn secrets_are_not_in_the_debug_form() {
        let config = Config {
            api_key: Some("canary-key-0001".to_owned()),
            initial_admin_password: Some("canary-pass".to_owned()),
            ..Config::default()
        };
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn a_configuration_survives_serde() {
        let text = serde_json::to_string(&Config::default()).unwrap();
        let back: Config = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert!(text.contains(r#""token_lifetime":604800"#));
    }
}
