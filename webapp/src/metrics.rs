//! What the webapp measures. Labels are bounded: route templates, methods, statuses (S30).

use std::time::Duration;

use estafet_model::{ApiError, Code, ShardMap};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, UpDownCounter},
};

use crate::served::Served;

/// Instruments of the webapp.
pub(crate) struct Metrics {
    requests: Counter<u64>,
    duration: Histogram<f64>,
    held: UpDownCounter<i64>,
    unserved: Counter<u64>,
    connections: UpDownCounter<i64>,
    fallback_policies: Counter<u64>,
    untyped: Counter<u64>,
    map_epochs: Gauge<u64>,
    uploads: Counter<u64>,
    uploaded_bytes: Counter<u64>,
    downloads: Counter<u64>,
    downloaded_bytes: Counter<u64>,
    served: Served,
}

impl Metrics {
    pub(crate) fn new(served: Served) -> Self {
        let meter = estafet_runtime::metrics::meter("webapp");
        let counter =
            |name: &'static str, description: &'static str| meter.u64_counter(name).with_description(description).build();
        Self {
            served,
            requests: meter.u64_counter("webapp_requests").with_description("Requests answered").build(),
            duration: meter
                .f64_histogram("webapp_request_duration_seconds")
                .with_description("From the head of a request to its answer")
                .with_boundaries(vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0])
                .build(),
            held: meter.i64_up_down_counter("webapp_requests_held").with_description("Requests held through a handoff").build(),
            connections: meter.i64_up_down_counter("webapp_connections").with_description("Open client connections").build(),
            unserved: counter("webapp_requests_unserved", "Requests that no coreapp answered, by cause"),
            fallback_policies: meter
                .u64_counter("webapp_template_fallback_policies")
                .with_description("Template messages with the policy `fallback`, sent as `deterministic`")
                .build(),
            untyped: meter
                .u64_counter("webapp_untyped_requests")
                .with_description("Bodies without a Content-Type, taken for JSON")
                .build(),
            map_epochs: meter
                .u64_gauge("webapp_map_epochs")
                .with_description("Sum of the epochs of the shard map; all webapps tell the same unless one is behind (I12)")
                .build(),
            uploads: counter("media_uploads", "Files uploaded and stored"),
            uploaded_bytes: counter("media_uploaded_bytes", "Bytes of these files"),
            downloads: counter("media_downloads", "Downloads of files, or of ranges, that were begun"),
            downloaded_bytes: counter("media_downloaded_bytes", "Bytes that were asked for by these"),
        }
    }

    /// The shard map is this now. Epochs only grow and each has one owner, so equal sums are equal maps once nothing moves.
    pub(crate) fn map(&self, map: &ShardMap) {
        self.map_epochs.record(map.iter().map(|(_, owner)| u64::from(owner.epoch.get())).sum(), &[]);
    }

    /// The same in the words of the original, and what only it has.
    pub(crate) fn served(&self) -> &Served {
        &self.served
    }

    /// A request was answered.
    pub(crate) fn answered(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.served.answered((route, method, status), took);
        let route = KeyValue::new("route", route);
        self.duration.record(took.as_secs_f64(), std::slice::from_ref(&route));
        self.requests.add(1, &[route, KeyValue::new("method", method), KeyValue::new("status", i64::from(status))]);
    }

    /// Requests began (or, negative, ceased) to be held.
    pub(crate) fn held(&self, change: i64) {
        self.held.add(change, &[]);
    }

    /// No coreapp answered a request, which is refused with this error.
    pub(crate) fn unserved(&self, error: &ApiError) {
        let cause = match (error.code, error.status()) {
            (_, 504) => "in_doubt",
            (Code::NotReady, _) => "no_coreapp",
            (Code::NotPrimaryCoreapp, _) => "moving",
            _ => "overloaded",
        };
        self.unserved.add(1, &[KeyValue::new("cause", cause)]);
    }

    /// A file of so many bytes was uploaded and stored.
    pub(crate) fn uploaded(&self, bytes: u64) {
        self.uploads.add(1, &[]);
        self.uploaded_bytes.add(bytes, &[]);
    }

    /// A download of so many bytes begins.
    pub(crate) fn downloads(&self, bytes: u64) {
        self.downloads.add(1, &[]);
        self.downloaded_bytes.add(bytes, &[]);
    }

    /// A template message asked for the policy `fallback`.
    pub(crate) fn asked_fallback(&self) {
        self.fallback_policies.add(1, &[]);
    }

    /// A body came without a Content-Type.
    pub(crate) fn untyped(&self) {
        self.untyped.add(1, &[]);
    }

    /// Connections were opened (or, negative, closed).
    pub(crate) fn connections(&self, change: i64) {
        if change > 0 {
            self.served.opened()
        } else {
            self.served.closed()
        }
        self.connections.add(change, &[]);
    }
}
