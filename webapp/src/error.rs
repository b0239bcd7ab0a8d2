//! Why the webapp did not start, and how a failing database is told to clients.

use estafet_model::{ApiError, Code};

/// Why the webapp did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings at fault, all of them.
    #[error("configuration: {0}")]
    Config(String),
    /// The database could not be prepared.
    #[error("prepare {what}")]
    Store {
        /// What was being prepared.
        what: &'static str,
        /// Why it failed.
        source: estafet_store::Error,
    },
    /// A password could not be hashed.
    #[error("hash the initial password: {0}")]
    Hash(String),
    /// The listener failed.
    #[error("listen")]
    Listen(#[from] std::io::Error),
}

impl Error {
    /// Whether another try may succeed without a change by the operator.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_retryable())
    }
}

/// The answer for a failed database operation, logged here once.
pub(crate) fn store_failure(what: &'static str, error: &estafet_store::Error) -> ApiError {
    tracing::warn!(what, %error, "database operation failed");
    match error {
        estafet_store::Error::NoConnection(_) => {
            ApiError::new(Code::Database, "The database has too few connections, try again").with_status(503)
        }
        error if error.is_retryable() => ApiError::new(Code::NotReady, "The database does not answer, try again"),
        _ => ApiError::new(Code::Database, "The database refused the operation"),
    }
}
