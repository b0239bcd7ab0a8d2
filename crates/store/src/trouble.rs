//! Counts what databases did not do, by cause: the metric of every role. Attempts count, also those that are repeated
//! and succeed then.

use std::sync::OnceLock;

use opentelemetry::{KeyValue, metrics::Counter};

use crate::Error;

/// Counts a failure and gives it back.
pub(crate) fn counted(error: Error) -> Error {
    static FAILURES: OnceLock<Counter<u64>> = OnceLock::new();
    let failures = FAILURES.get_or_init(|| {
        let meter = estafet_runtime::metrics::meter("store");
        meter.u64_counter("database_failures").with_description("What the message database did not do, by cause").build()
    });
    failures.add(1, &[KeyValue::new("cause", error.cause())]);
    error
}
