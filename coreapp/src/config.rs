//! Configuration of a coreapp.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::limits::Allowed;

/// How a coreapp works. Durations are in the unit their name says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the node, for people and for the owner rows.
    pub node: String,
    /// Rows of accepted messages in one transaction; 1 switches group commit off (`bench --naive`).
    pub group_commit_rows: usize,
    /// Connect to the upstream; without it messages are accepted and kept (`bench accept`).
    pub connect_upstream: bool,
    /// Accepted messages a shard may hold that the upstream has not taken; past it 503/1016.
    pub max_outbox: u64,
    /// Messages of a number in a second, in all its shards together; past it 429/1015. 0: no limit.
    pub number_per_second: u32,
    /// Messages of a number at once; at least those of a second.
    pub number_burst: u32,
    /// Messages to one recipient in a minute; past it 429/1015. 0: no limit. WhatsApp allows 10.
    pub pair_per_minute: u32,
    /// Messages to one recipient at once. WhatsApp allows 45.
    pub pair_burst: u32,
    /// Seconds for which messages stay that were read, failed, or came in. 0 would remove them as soon as they are looked at.
    pub keep_messages_s: u64,
    /// Milliseconds a receiver may take to answer a callback.
    pub callback_timeout_ms: u64,
    /// Seconds after which an undeliverable callback becomes a dead letter.
    pub callback_max_age_s: u64,
    /// One lane for all callbacks of a number.
    pub strict_global_order: bool,
    /// Take any 2xx for success instead of 200 alone.
    pub accept_2xx: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: "coreapp-0".to_owned(),
            group_commit_rows: 256,
            connect_upstream: true,
            max_outbox: 1_000_000,
            number_per_second: 0,
            number_burst: 0,
            pair_per_minute: 0,
            pair_burst: 45,
            keep_messages_s: 7 * 24 * 3600,
            callback_timeout_ms: 10_000,
            callback_max_age_s: 7 * 24 * 3600,
            strict_global_order: false,
            accept_2xx: false,
        }
    }
}

impl Config {
    /// How much is taken in a time.
    pub fn allowed(&self) -> Allowed {
        Allowed {
            number_per_second: self.number_per_second,
            number_burst: self.number_burst.max(self.number_per_second),
            pair_per_minute: self.pair_per_minute,
            pair_burst: self.pair_burst,
        }
    }

    /// How long messages stay that are finished.
    pub fn keep_messages(&self) -> Duration {
        Duration::from_secs(self.keep_messages_s)
    }

    /// Age at which a callback is given up.
    pub fn callback_max_age(&self) -> Duration {
        Duration::from_secs(self.callback_max_age_s)
    }
}
