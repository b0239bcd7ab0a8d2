//! What every Estafet process needs and no role should write again: the clock, named tasks with
//! an orderly end, and telemetry.
//!
//! This is the only place that reads the system clock, the environment and spawns tasks; the
//! workspace's `clippy.toml` bans these elsewhere.
#![allow(clippy::disallowed_methods)]

pub mod backoff;
pub mod clock;
pub mod metrics;
pub mod ops;
pub mod tasks;
pub mod telemetry;

pub use backoff::Backoff;
pub use clock::Clock;
pub use ops::Ops;
pub use tasks::Tasks;

use estafet_model::BootId;

/// A new random boot id.
pub fn boot_id() -> BootId {
    BootId(rand::random())
}

/// Makes ring the process-wide provider of rustls. Call first in `main` and in every test that
/// uses TLS or an HTTP client; repeating it is harmless.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The name of this host, for people.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}
