//! Metrics: OpenTelemetry instruments, pulled in the Prometheus text format.

use std::sync::OnceLock;

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

struct Exporter {
    registry: Registry,
    provider: SdkMeterProvider,
}

fn exporter() -> &'static Exporter {
    static EXPORTER: OnceLock<Exporter> = OnceLock::new();
    EXPORTER.get_or_init(|| {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .build()
            .expect("a fresh registry takes the exporter");
        Exporter { registry, provider: SdkMeterProvider::builder().with_reader(reader).build() }
    })
}

/// The meter of a role or crate.
pub fn meter(name: &'static str) -> Meter {
    exporter().provider.meter(name)
}

/// Everything measured, in the Prometheus text format.
pub fn render() -> String {
    TextEncoder::new().encode_to_string(&exporter().registry.gather()).unwrap_or_default()
}
