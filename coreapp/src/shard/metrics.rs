//! What a shard counts. No phone numbers, no ids in labels.

use estafet_model::Status;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};

use std::sync::Arc;

use crate::{callbacks::Failure, core::receipts::Latency, stats::AppStats};

/// Boundaries for what may take milliseconds or weeks.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 60.0, 600.0, 3_600.0, 86_400.0];

pub(super) struct Metrics {
    pub(super) commits: Counter<u64>,
    pub(super) commit_seconds: Histogram<f64>,
    pub(super) rows: Counter<u64>,
    pub(super) accepted: Counter<u64>,
    pub(super) sent: Counter<u64>,
    receipts: Counter<u64>,
    to_network: Histogram<f64>,
    to_phone: Histogram<f64>,
    pub(super) inbound: Counter<u64>,
    pub(super) undecryptable: Counter<u64>,
    pub(super) identity_changes: Counter<u64>,
    pub(super) fenced: Counter<u64>,
    pub(super) dead_letters: Counter<u64>,
    posts: Counter<u64>,
    identical: Counter<u64>,
    /// What the number's own statistics tell.
    pub(super) stats: Arc<AppStats>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = estafet_runtime::metrics::meter("coreapp");
        let counter =
            |name: &'static str, description: &'static str| meter.u64_counter(name).with_description(description).build();
        let seconds = |name: &'static str, description: &'static str| {
            meter.f64_histogram(name).with_description(description).with_boundaries(SECONDS.to_vec()).build()
        };
        Self {
            commits: counter("store_commits", "Transactions committed by shard owners"),
            commit_seconds: meter
                .f64_histogram("store_commit_duration_seconds")
                .with_description("From the start of a transaction to its durable end")
                .with_boundaries(vec![0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.25, 1.0, 4.0])
                .build(),
            rows: counter("store_commit_rows", "Rows written by these transactions"),
            accepted: counter("messages_accepted", "Messages stored durably"),
            sent: counter("messages_sent", "Messages the upstream took"),
            receipts: counter("receipts", "Receipts recorded, by status"),
            to_network: seconds("message_network_seconds", "From the acceptance of a message until the network took it: ours"),
            to_phone: seconds("message_delivery_seconds", "From then until the phone had it: the phone's"),
            inbound: counter("messages_inbound", "Incoming messages stored"),
            undecryptable: counter("messages_inbound_undecryptable", "Incoming messages that could not be decrypted"),
            identity_changes: counter("identity_changes", "Users whose identity was found changed"),
            fenced: counter("writes_fenced", "Transactions refused because a newer epoch owns the shard"),
            dead_letters: counter("callback_dead_letters", "Callbacks given up after the age limit"),
            posts: counter("callback_posts", "Callbacks posted, by result and receiver"),
            identical: counter("messages_identical", "Messages with the content of an earlier one to the recipient, by result"),
            stats: Arc::default(),
        }
    }

    /// A message has the content of an earlier one to its recipient.
    pub(super) fn identical(&self, is_refused: bool) {
        let result = if is_refused { "refused" } else { "accepted" };
        self.identical.add(1, &[KeyValue::new("result", result)]);
        self.stats.identical(is_refused);
    }

    /// A message reached a status.
    pub(super) fn reached(&self, status: Status) {
        self.receipts.add(1, &[KeyValue::new("status", status.as_str())]);
    }

    /// A step of a message took so long.
    pub(super) fn took(&self, latency: Latency) {
        match latency {
            Latency::ToNetwork(took) => self.to_network.record(took.as_secs_f64(), &[]),
            Latency::ToPhone(took) => self.to_phone.record(took.as_secs_f64(), &[]),
        }
    }

    /// Counts a post to the receiver of this name, which an administrator chose.
    pub(super) fn post(&self, endpoint: &str, result: &Result<(), Failure>) {
        let result = match result {
            Ok(()) => "success",
            Err(Failure::Status(_)) => "status",
            Err(Failure::Timeout) => "timeout",
            Err(Failure::Connection(_)) => "connection",
            Err(Failure::NoFile(_)) => "no_file",
            Err(Failure::NotConfigured) => "not_configured",
        };
        self.posts.add(1, &[KeyValue::new("result", result), KeyValue::new("endpoint", endpoint.to_owned())]);
    }
}
