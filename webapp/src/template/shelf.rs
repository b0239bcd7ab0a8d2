//! The library in use: what its source had when it was fetched last; in the sandbox changed at run time. Requests take the
//! library as it is and keep it to their end.
//!
//! One fetch runs at a time, and who needs one waits for the one that runs. It may take [`FETCH`]; if it fails the library
//! stays as it is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::watch;

use super::{
    language::Language,
    library::Library,
    model::Template,
    packs::Packs,
    source::{self, Full, Source},
};

/// How long a fetch may take.
const FETCH: Duration = Duration::from_secs(5);

/// The library in use.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    packs: Mutex<Packs>,
    /// Where the library is fetched from again; none where it is changed by hand.
    source: Option<Arc<dyn Source>>,
    fetching: tokio::sync::Mutex<()>,
    /// Who else wants to know the templates.
    published: Option<watch::Sender<Value>>,
}

impl Shelf {
    /// A library that only changes by hand. Tells the templates now and whenever they change.
    pub(crate) fn of(library: Library, published: Option<watch::Sender<Value>>) -> Self {
        let shelf = Self { published, ..Self::default() };
        shelf.publish(&library);
        shelf.packs().replace(Arc::new(library));
        shelf
    }

    /// A library that was fetched from `source` just now.
    pub(crate) fn fetched_from(source: Arc<dyn Source>, library: Library, now_ms: i64) -> Self {
        let shelf = Self { source: Some(source), ..Self::default() };
        shelf.packs().fetched(Arc::new(library), now_ms);
        shelf
    }

    /// The library as it is now.
    pub(crate) fn current(&self) -> Arc<Library> {
        self.packs().library().clone()
    }

    /// Whether a fetch is due whatever a request is about.
    pub(crate) fn is_old(&self, now_ms: i64) -> bool {
        self.source.is_some() && self.packs().are_old(now_ms)
    }

    /// Another library to judge a template message by that was judged by `seen`, if there is reason for one: `seen` is old, or
    /// it refused the message.
    pub(crate) async fn renewed(
        &self,
        seen: &Arc<Library>,
        namespace: &str,
        was_refused: bool,
        now_ms: i64,
    ) -> Option<Arc<Library>> {
        let source = self.source.as_ref()?;
        let _turn = self.fetching.lock().await;
        let current = self.current();
        if !Arc::ptr_eq(&current, seen) {
            return Some(current);
        }
        if !self.packs().begin_fetch(namespace, was_refused, now_ms) {
            return None;
        }
        let why = match tokio::time::timeout(FETCH, source.fetch()).await {
            Ok(Ok(library)) => {
                let library = Arc::new(library);
                self.packs().fetched(library.clone(), now_ms);
                return Some(library);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {FETCH:?}"),
        };
        tracing::warn!(error = why, "templates could not be fetched, what there was goes on");
        None
    }

    fn packs(&self) -> MutexGuard<'_, Packs> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, library: &Library) {
        if let Some(published) = &self.published {
            published.send_replace(source::as_known(library));
        }
    }

    /// Adds all of the templates or none.
    pub(super) fn add(&self, templates: Vec<Template>) -> Result<(), Full> {
        let mut packs = self.packs();
        let mut library = Library::clone(packs.library());
        source::add(&mut library, templates)?;
        self.publish(&library);
        packs.replace(Arc::new(library));
        Ok(())
    }

    /// Removes a template in one language or in all; says how many there were.
    pub(super) fn remove(&self, namespace: &str, name: &str, language: Option<&Language>) -> usize {
        let mut packs = self.packs();
        let mut library = Library::clone(packs.library());
        let removed = library.remove(namespace, name, language);
        self.publish(&library);
        packs.replace(Arc::new(library));
        removed
    }
}

/// A shelf for tests, with the samples or empty.
#[cfg(test)]
pub(crate) fn sampled(with_samples: bool) -> Shelf {
    Shelf::of(source::Files::new(&[], with_samples).read().unwrap(), None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;
    use crate::error::Error;

    /// Answers when it is told to: with a template `new`, or not at all.
    #[derive(Debug, Default)]
    struct Slow {
        fetches: AtomicUsize,
        go: Notify,
        is_broken: bool,
    }

    #[async_trait]
    impl Source for Slow {
        async fn fetch(&self) -> Result<Library, Error> {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            self.go.notified().await;
            if self.is_broken { Err(Error::Config("broken".to_owned())) } else { Ok(library("new")) }
        }
    }

    fn library(name: &str) -> Library {
        let body = json!([{ "type": "BODY", "text": "Hi" }]);
        super::super::library(&json!([{ "name": name, "language": "en", "components": body }]))
    }

    #[test]
    fn a_request_keeps_the_library_it_began_with() {
        let shelf = sampled(true);
        let before = shelf.current();
        assert_eq!(shelf.remove("estafet_sandbox", "order_update", None), 2);
        assert_eq!((before.len(), shelf.current().len()), (4, 2));
    }

    #[tokio::test]
    async fn r142_many_that_miss_a_name_wait_for_one_fetch_and_all_find_it() {
        let source = Arc::new(Slow::default());
        let shelf = Shelf::fetched_from(source.clone(), library("a"), 0);
        let seen = shelf.current();
        let waiting = futures::future::join_all((0..20).map(|_| shelf.renewed(&seen, "ns", true, 1000)));
        source.go.notify_one();
        let newer = waiting.await;
        let english = Language::parse("en").unwrap();
        assert!(newer.iter().all(|library| library.as_ref().is_some_and(|library| library.find("ns", "new", &english).is_ok())));
        assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
        assert!(shelf.renewed(&shelf.current(), "ns", true, 2000).await.is_none(), "a second one within the minute");
    }

    #[tokio::test(start_paused = true)]
    async fn r142_what_cannot_be_fetched_leaves_the_packs_as_they_are() {
        let source = Arc::new(Slow { is_broken: true, ..Slow::default() });
        let shelf = Shelf::fetched_from(source.clone(), library("a"), 0);
        let seen = shelf.current();
        source.go.notify_one();
        assert!(shelf.renewed(&seen, "ns", true, 1000).await.is_none());
        assert!(shelf.renewed(&seen, "ns", true, 100_000).await.is_none(), "no answer at all");
        assert_eq!(source.fetches.load(Ordering::SeqCst), 2);
        assert!(Arc::ptr_eq(&seen, &shelf.current()));
    }
}
