//! Opens the message database. A server process that cannot use it yet says so in the words of the original, with the
//! cause, and tries again until it can: the process may start before its database, and needs no restart once rights are
//! granted or the server is back. What no waiting heals ends it: a URL that is none, a file that cannot be opened.

use std::time::Duration;

use anyhow::{Context as _, bail};
use estafet_runtime::Backoff;
use estafet_store::{Error, SharedStore};
use tokio::time::Instant;

use crate::args::Misconfigured;

/// What the original said when its database could not be used, whatever the cause.
const UNUSABLE: &str = "Unable to initialize config store (--database-url)";

/// Bounds of the distance between two tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often the same cause is told again.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Opens the database as `application` and brings its schema up to date.
pub(crate) async fn open(url: &str, application: &str) -> anyhow::Result<SharedStore> {
    attempt(url, application).await.map_err(ended)
}

/// The same for a server process: returns when the database can be used.
pub(crate) async fn open_when_ready(url: &str, application: &str) -> anyhow::Result<SharedStore> {
    tokio::select! {
        // First, so that signals are heard before anything is said.
        biased;
        signal = estafet_runtime::tasks::termination() => {
            signal.context("signals")?;
            bail!("told to end while the message database could not be used")
        }
        opened = keep_trying(url, application) => opened,
    }
}

async fn keep_trying(url: &str, application: &str) -> anyhow::Result<SharedStore> {
    let (mut backoff, mut told) = (Backoff::new(RETRY.0, RETRY.1), Told::default());
    loop {
        let failed = match attempt(url, application).await {
            Ok(store) => return Ok(store),
            Err(failed) if failed.is_final(url) => return Err(ended(failed)),
            Err(failed) => failed,
        };
        if told.is_news(&failed.to_string(), Instant::now()) {
            tracing::error!("{UNUSABLE}: {failed}; trying again until it can be used");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Which step failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Open(#[source] Error),
    #[error("the message database could not be brought up to date: {0}")]
    Migrate(#[source] Error),
}

impl Failed {
    /// Whether nothing but another setting can help. A file is nobody's to repair but ours.
    fn is_final(&self, url: &str) -> bool {
        let (Self::Open(error) | Self::Migrate(error)) = self;
        matches!(error, Error::Setting(_)) || url.starts_with("sqlite:")
    }
}

async fn attempt(url: &str, application: &str) -> Result<SharedStore, Failed> {
    let store = estafet_store::open(url, application).await.map_err(Failed::Open)?;
    store.migrate().await.map_err(Failed::Migrate)?;
    Ok(store)
}

fn ended(failed: Failed) -> anyhow::Error {
    let text = format!("{UNUSABLE}: {failed}");
    match failed {
        Failed::Open(Error::Setting(_)) => Misconfigured(vec![text]).into(),
        _ => anyhow::Error::msg(text),
    }
}

/// What was told last, and when.
#[derive(Debug, Default)]
struct Told(Option<(String, Instant)>);

impl Told {
    /// Whether a cause is to be told: another one at once, the same one now and then.
    fn is_news(&mut self, cause: &str, now: Instant) -> bool {
        let known = self.0.as_ref().is_some_and(|(told, at)| told == cause && now.duration_since(*at) < TELL_AGAIN);
        if !known {
            self.0 = Some((cause.to_owned(), now));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r164_a_cause_is_told_when_it_changes_and_otherwise_twice_a_minute() {
        let (mut told, start) = (Told::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(told.is_news("no answer", after(0)));
        assert!(!told.is_news("no answer", after(29)));
        assert!(told.is_news("no rights", after(29)));
        assert!(!told.is_news("no rights", after(58)));
        assert!(told.is_news("no rights", after(59)));
        assert!(told.is_news("no answer", after(60)));
    }

    #[tokio::test]
    async fn r164_what_no_waiting_heals_ends_the_start_and_names_the_setting() {
        for (url, cause) in [
            ("postgres://wa@db:port/x", "port"),
            ("postgres://wa@db/x?sslmode=sometimes", "sslmode"),
            ("mongodb://wa@db/x", "must begin with"),
            ("sqlite:/nowhere/at/all.db", "unable to open"),
        ] {
            let error = open_when_ready(url, "test").await.map(drop).expect_err(url);
            let text = format!("{error:#}");
            assert!(text.contains("--database-url") && text.contains(cause), "{url}: {text}");
            assert_eq!(error.is::<Misconfigured>(), !url.starts_with("sqlite:"), "{url}");
        }
    }
}
