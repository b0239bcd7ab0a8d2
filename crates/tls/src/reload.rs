//! Files that may change while the process runs.
//!
//! They are read every two seconds and compared by content, so the swap of a symbolic link (as Kubernetes does
//! it with secrets) is seen like any other change. A new set that cannot be used leaves the old one in place.
//! Certificate and key are often written one after the other, so a set is called broken only when it is still
//! the same at the next look.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use estafet_runtime::Tasks;
use opentelemetry::KeyValue;

use crate::material::Error;

/// How often the files are read.
const EVERY: Duration = Duration::from_secs(2);

type Contents = Vec<Vec<u8>>;
type Build<T> = dyn Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync;

/// What is built from files, and built anew when they change.
pub(crate) struct Reloading<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    build: Box<Build<T>>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

struct Seen {
    /// `None`: they could not be read.
    contents: Option<Contents>,
    /// Whether the current value is of `contents`, or they were called broken already.
    settled: bool,
}

/// What a look at the files led to.
#[derive(Debug)]
pub(crate) enum Look {
    Same,
    Taken,
    /// Cannot be used; perhaps only half of it is written.
    Unsettled,
    /// Still cannot be used.
    Broken(Error),
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Reads the files for the first time.
    pub(crate) fn load(
        what: &'static str,
        files: Vec<PathBuf>,
        build: impl Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let contents = read(&files)?;
        let first = build(&contents)?;
        let seen = Mutex::new(Seen { contents: Some(contents), settled: true });
        Ok(Self { what, files, build: Box::new(build), current: RwLock::new(Arc::new(first)), seen })
    }

    /// The newest value.
    pub(crate) fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files and takes them if they changed and can be used.
    pub(crate) fn look(&self) -> Look {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read(&self.files);
        let contents = read.as_ref().ok().cloned();
        let again = contents == seen.contents;
        if again && seen.settled {
            return Look::Same;
        }
        let built = read.and_then(|contents| (self.build)(&contents));
        *seen = Seen { contents, settled: again || built.is_ok() };
        match built {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                Look::Taken
            }
            Err(error) if again => Look::Broken(error),
            Err(_) => Look::Unsettled,
        }
    }

    /// Looks at the files until the tasks are shut down; `taken` is told of every new value.
    pub(crate) fn follow(self: Arc<Self>, tasks: &Tasks, taken: impl Fn(&T) + Send + 'static) {
        let shutdown = tasks.shutdown().clone();
        let reloads = estafet_runtime::metrics::meter("estafet_tls")
            .u64_counter("estafet_tls_reloads")
            .with_description("Changed certificate files, by whether they could be used")
            .build();
        taken(&self.current());
        tasks.spawn("certificates", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    () = shutdown.cancelled() => return,
                }
                let outcome = match self.look() {
                    Look::Same | Look::Unsettled => continue,
                    Look::Taken => {
                        tracing::info!(of = self.what, "certificates were reloaded");
                        taken(&self.current());
                        "taken"
                    }
                    Look::Broken(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(of = self.what, error, "changed certificates cannot be used, the old ones stay");
                        "broken"
                    }
                };
                reloads.add(1, &[KeyValue::new("of", self.what), KeyValue::new("outcome", outcome)]);
            }
        });
    }
}

fn read(files: &[PathBuf]) -> Result<Contents, Error> {
    files.iter().map(|path| std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One file whose content is a number, taken when it is even.
    fn even(path: &std::path::Path) -> Result<Reloading<u32>, Error> {
        let file = path.to_owned();
        Reloading::load("test", vec![path.to_owned()], move |contents| {
            let number: Option<u32> = std::str::from_utf8(&contents[0]).ok().and_then(|text| text.parse().ok());
            number.filter(|number| number % 2 == 0).ok_or_else(|| Error::Pem { path: file.clone(), what: "even number" })
        })
    }

    #[test]
    fn a_usable_change_is_taken_and_a_broken_one_is_told_once_and_leaves_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("3");
        assert!(even(&path).is_err(), "the first set must be usable");
        write("2");
        let reloading = even(&path).unwrap();
        assert!(matches!(reloading.look(), Look::Same));
        write("4");
        assert!(matches!(reloading.look(), Look::Taken));
        write("5");
        assert!(matches!(reloading.look(), Look::Unsettled), "may be half written");
        assert!(matches!(reloading.look(), Look::Broken(_)));
        assert!(matches!(reloading.look(), Look::Same), "told once");
        assert_eq!(*reloading.current(), 4);
        write("7");
        assert!(matches!(reloading.look(), Look::Unsettled));
        write("6");
        assert!(matches!(reloading.look(), Look::Taken));
        assert_eq!(*reloading.current(), 6);
    }

    #[test]
    fn files_that_vanish_leave_the_old_and_are_taken_when_they_return() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "2").unwrap();
        let reloading = even(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(reloading.look(), Look::Unsettled));
        assert!(matches!(reloading.look(), Look::Broken(Error::Read { .. })));
        assert!(matches!(reloading.look(), Look::Same));
        std::fs::write(&path, "8").unwrap();
        assert!(matches!(reloading.look(), Look::Taken));
        assert_eq!(*reloading.current(), 8);
    }

    #[test]
    fn a_swapped_symbolic_link_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (now, next, link) = (directory.path().join("1"), directory.path().join("2"), directory.path().join("data"));
        for (folder, text) in [(&now, "10"), (&next, "12")] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("file"), text).unwrap();
        }
        std::os::unix::fs::symlink(&now, &link).unwrap();
        let reloading = even(&link.join("file")).unwrap();
        let new_link = directory.path().join("data.new");
        std::os::unix::fs::symlink(&next, &new_link).unwrap();
        std::fs::rename(new_link, &link).unwrap();
        assert!(matches!(reloading.look(), Look::Taken));
        assert_eq!(*reloading.current(), 12);
    }
}
