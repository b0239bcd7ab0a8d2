//! Logs: human-readable on stderr, filtered by `ESTAFET_LOG` (default `info`). Stdout is left for
//! what a command prints.

use tracing_subscriber::EnvFilter;

/// Starts logging for the process; a second call changes nothing.
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_env("ESTAFET_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,h2=warn,hyper=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // An error only says that a subscriber is installed already.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
