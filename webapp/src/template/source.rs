//! Where language packs come from. A network that has them answers [`Source`]; here it is files, which is what a cluster
//! on chatd has: they are read again when the packs are, so a changed file counts without a restart.

use std::{
    fmt::{Debug, Display},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    definition::{self, Entry},
    library,
    library::Library,
    model::Template,
};
use crate::error::Error;

const SAMPLES: &[u8] = include_bytes!("samples.json");
/// How often followed files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// There is no room for more templates.
#[derive(Debug, thiserror::Error)]
#[error("there would be more than {} templates", library::CAPACITY)]
pub(crate) struct Full;

/// Whoever has the templates of an account.
#[async_trait]
pub(crate) trait Source: Debug + Send + Sync {
    /// All templates as they are now. May fail at any time; may be cancelled.
    async fn fetch(&self) -> Result<Library, Error>;
}

/// Files, later ones before earlier ones.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    files: Vec<PathBuf>,
    with_samples: bool,
}

impl Files {
    /// `with_samples` puts the shipped templates in first.
    pub(crate) fn new(files: &[PathBuf], with_samples: bool) -> Self {
        Self { files: files.to_vec(), with_samples }
    }

    /// Reads them. Every file that is at fault is told.
    pub(crate) fn read(&self) -> Result<Library, Error> {
        check_files(&self.files)?;
        let mut library = Library::default();
        if self.with_samples {
            add(&mut library, definition::read(SAMPLES).expect("a test reads the samples")).expect("the samples are few");
        }
        for file in &self.files {
            let templates = read(file).map_err(Error::Config)?;
            add(&mut library, templates).map_err(|full| Error::Config(format!("templates in {}: {full}", file.display())))?;
        }
        Ok(library)
    }
}

#[async_trait]
impl Source for Files {
    async fn fetch(&self) -> Result<Library, Error> {
        let files = self.clone();
        let reading = tokio::task::spawn_blocking(move || files.read());
        reading.await.unwrap_or_else(|stopped| Err(Error::Config(format!("templates: {stopped}"))))
    }
}

/// Adds all of the templates, or says that there is no room; what was added then is of no use.
pub(super) fn add(library: &mut Library, templates: Vec<Template>) -> Result<(), Full> {
    templates.into_iter().for_each(|template| library.insert(template));
    if library.len() > library::CAPACITY { Err(Full) } else { Ok(()) }
}

/// The library of a list as files have it; the reason if it is none.
pub(crate) fn of_list(list: &[u8]) -> Result<Library, String> {
    let mut library = Library::default();
    let templates = definition::read(list).map_err(|error| error.to_string())?;
    add(&mut library, templates).map_err(|full| full.to_string())?;
    Ok(library)
}

/// Templates as phones are to know them.
pub(crate) fn as_known(library: &Library) -> Value {
    let entries: Vec<Entry> = library.templates().map(|template| template.entry_as_known()).collect();
    json!({ "templates": entries })
}

fn read(file: &Path) -> Result<Vec<Template>, String> {
    let told = |why: &dyn Display| format!("templates in {}: {why}", file.display());
    let text = std::fs::read(file).map_err(|error| told(&error))?;
    definition::read(&text).map_err(|error| told(&error))
}

/// Finds every template file that cannot be read, with the entry at fault.
pub fn check_files(files: &[PathBuf]) -> Result<(), Error> {
    let problems: Vec<String> = files.iter().filter_map(|file| read(file).err()).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Config(problems.join("; "))) }
}

/// The templates of files, and the samples, as phones are to know them, see [`crate::Deps::templates`].
pub fn read_files(files: &[PathBuf], with_samples: bool) -> Result<Value, Error> {
    Files::new(files, with_samples).read().map(|library| as_known(&library))
}

/// Reads the files again each two seconds, for as long as somebody wants to know, and tells when they say something else. Files
/// that are at fault change nothing, and are logged once.
pub async fn follow_files(files: Vec<PathBuf>, known: watch::Sender<Value>) {
    if files.is_empty() {
        return;
    }
    let files = Files::new(&files, false);
    let mut fault = String::new();
    while !known.is_closed() {
        tokio::time::sleep(LOOK).await;
        match files.fetch().await {
            Ok(library) => {
                let now = as_known(&library);
                let changed = known.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
                if changed {
                    tracing::info!(templates = library.len(), "templates were read again");
                }
                fault.clear();
            }
            Err(error) => {
                let told = error.to_string();
                if told != fault {
                    tracing::warn!(error = told, "templates stay as they are");
                    fault = told;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_samples_are_the_ones_of_the_sandbox_contract() {
        let library = Files::new(&[], true).read().unwrap();
        let entries: Vec<_> = library.templates().map(|template| &template.entry).collect();
        let names: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.language.as_str())).collect();
        let expected = [("hello_world", "en_US"), ("order_update", "en_US"), ("promo_image", "en_US"), ("order_update", "id")];
        assert_eq!(names, expected);
        assert!(entries.iter().all(|entry| entry.namespace == "estafet_sandbox"));
    }

    #[test]
    fn files_are_refused_all_at_once_with_file_and_entry() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let body = r#"[{"type":"BODY","text":"Hi"}]"#;
        let fine = file(
            "fine.json",
            &format!(r#"{{"namespace":"n","templates":[{{"name":"a","language":"en","components":{body}}}]}}"#),
        );
        let broken = file("broken.json", "{");
        let wrong = file("wrong.json", r#"{"namespace":"n","templates":[{"name":"b","language":"en","components":[]}]}"#);
        assert_eq!(Files::new(std::slice::from_ref(&fine), false).read().unwrap().len(), 1);
        let told = Files::new(&[fine, broken, wrong, dir.path().join("none.json")], false).read().unwrap_err().to_string();
        for part in ["broken.json: not a list", "wrong.json: template 1 (b): a body is needed", "none.json: No such file"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn followed_files_tell_what_they_say_now_and_nothing_while_they_are_at_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("templates.json");
        let list = |name: &str| {
            json!({ "namespace": "n", "name": name, "language": "en", "components": [{ "type": "BODY", "text": "Hi" }] })
                .to_string()
        };
        fs::write(&path, list("a")).unwrap();
        let (sender, mut known) = watch::channel(read_files(std::slice::from_ref(&path), false).unwrap());
        let following = follow_files(vec![path.clone()], sender);
        let changing = async {
            fs::write(&path, "{").unwrap();
            assert!(tokio::time::timeout(LOOK * 5, known.changed()).await.is_err(), "a broken file changed something");
            fs::write(&path, list("b")).unwrap();
            known.changed().await.unwrap();
            assert_eq!(known.borrow_and_update()["templates"][0]["name"], "b");
            drop(known);
        };
        tokio::join!(following, changing);
    }
}
