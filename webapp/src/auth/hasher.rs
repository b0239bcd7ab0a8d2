//! Argon2id on a bounded pool: two at a time, a bounded line behind them, the rest refused with
//! 1016 (S8). Unknown users cost the same as wrong passwords (S6).

use std::sync::Arc;

use argon2::{
    Argon2, PasswordHash,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use estafet_model::{ApiError, Code};
use tokio::sync::{Semaphore, TryAcquireError};

/// Hashes computed at the same time.
const PARALLEL: usize = 2;

/// The password of nobody; verified when the user is unknown.
const NOBODY: &str = "nobody has this password";

/// Hashes and verifies passwords.
#[derive(Clone)]
pub(crate) struct Hasher {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    dummy: Arc<str>,
}

impl Hasher {
    /// A pool behind which at most `waiting` callers stand.
    pub(crate) fn new(waiting: usize) -> Result<Self, argon2::password_hash::Error> {
        Ok(Self {
            running: Arc::new(Semaphore::new(PARALLEL)),
            waiting: Arc::new(Semaphore::new(PARALLEL + waiting)),
            dummy: hash(NOBODY)?.into(),
        })
    }

    /// The PHC string of a password.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, ApiError> {
        let password = password.to_owned();
        self.run(move || hash(&password)).await?.map_err(|error| {
            tracing::error!(%error, "password hashing failed");
            ApiError::new(Code::Internal, "The password could not be stored")
        })
    }

    /// Whether `password` is the one behind `stored`; without `stored` it takes as long and is not.
    pub(crate) async fn verify(&self, password: &str, stored: Option<&str>) -> Result<bool, ApiError> {
        let known = stored.is_some();
        let (password, stored) = (password.to_owned(), stored.unwrap_or(&self.dummy).to_owned());
        Ok(self.run(move || verify(&password, &stored)).await? && known)
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
        let full = || ApiError::new(Code::Overloaded, "Too many logins at once");
        let in_line = match self.waiting.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return Err(full()),
        };
        let running = self.running.clone().acquire_owned().await.map_err(|_| full())?;
        tokio::task::spawn_blocking(move || {
            let value = job();
            drop((running, in_line));
            value
        })
        .await
        .map_err(|_| ApiError::new(Code::Generic, "The request could not be completed"))
    }
}

fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())?;
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt)?.to_string())
}

fn verify(password: &str, stored: &str) -> bool {
    PasswordHash::new(stored).is_ok_and(|stored| Argon2::default().verify_password(password.as_bytes(), &stored).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_passes() {
        let hasher = Hasher::new(8).unwrap();
        let stored = hasher.hash("Adm1n!pass").await.unwrap();
        assert!(stored.starts_with("$argon2id$"));
        assert!(hasher.verify("Adm1n!pass", Some(&stored)).await.unwrap());
        assert!(!hasher.verify("wrong", Some(&stored)).await.unwrap());
        assert!(!hasher.verify(NOBODY, None).await.unwrap());
        assert!(!hasher.verify("x", Some("no hash")).await.unwrap());
    }

    #[tokio::test]
    async fn the_line_is_bounded() {
        let hasher = Hasher::new(0).unwrap();
        let tries = futures::future::join_all((0..5).map(|_| hasher.verify("x", None))).await;
        assert_eq!(tries.iter().filter(|result| result.is_err()).count(), 3);
    }
}
