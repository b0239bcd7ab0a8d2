//! The library in use: shipped samples, then files, a later template in place of an earlier one;
//! in the sandbox changed at run time. Requests take the library as it is and keep it to their end.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    definition::{self, Entry},
    language::Language,
    library,
    library::Library,
    model::Template,
};
use crate::error::Error;

const SAMPLES: &[u8] = include_bytes!("samples.json");

/// The library in use.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    library: Mutex<Arc<Library>>,
    /// Who else wants to know the templates.
    published: Option<watch::Sender<Value>>,
}

/// There is no room for more templates.
#[derive(Debug, thiserror::Error)]
#[error("there would be more than {} templates", library::CAPACITY)]
pub(crate) struct Full;

/// Finds every template file that cannot be read, with the entry at fault.
pub fn check_files(files: &[PathBuf]) -> Result<(), Error> {
    let problems: Vec<String> = files.iter().filter_map(|file| read(file).err()).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Config(problems.join("; "))) }
}

/// The templates of files, and the samples, as phones are to know them, see [`crate::Deps::templates`].
pub fn read_files(files: &[PathBuf], with_samples: bool) -> Result<Value, Error> {
    let (published, templates) = watch::channel(Value::Null);
    Shelf::load_and_publish(files, with_samples, Some(published))?;
    Ok(templates.borrow().clone())
}

fn read(file: &Path) -> Result<Vec<Template>, String> {
    let told = |why: &dyn Display| format!("templates in {}: {why}", file.display());
    let text = std::fs::read(file).map_err(|error| told(&error))?;
    definition::read(&text).map_err(|error| told(&error))
}

impl Shelf {
    /// Reads the files; `with_samples` puts the shipped templates in first.
    #[cfg(test)]
    pub(crate) fn load(files: &[PathBuf], with_samples: bool) -> Result<Self, Error> {
        Self::load_and_publish(files, with_samples, None)
    }

    /// Reads the files; `with_samples` puts the shipped templates in first. Tells the templates now and whenever they
    /// change.
    pub(crate) fn load_and_publish(
        files: &[PathBuf],
        with_samples: bool,
        published: Option<watch::Sender<Value>>,
    ) -> Result<Self, Error> {
        check_files(files)?;
        let shelf = Self { published, ..Self::default() };
        if with_samples {
            shelf.add(definition::read(SAMPLES).expect("a test reads the samples")).expect("the samples are few");
        }
        for file in files {
            let templates = read(file).map_err(Error::Config)?;
            shelf.add(templates).map_err(|full| Error::Config(format!("templates in {}: {full}", file.display())))?;
        }
        Ok(shelf)
    }

    /// The library as it is now.
    pub(crate) fn current(&self) -> Arc<Library> {
        self.library.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, library: &Library) {
        if let Some(published) = &self.published {
            let entries: Vec<Entry> = library.templates().map(|template| template.entry_as_known()).collect();
            published.send_replace(json!({ "templates": entries }));
        }
    }

    /// Adds all of the templates or none.
    pub(super) fn add(&self, templates: Vec<Template>) -> Result<(), Full> {
        let mut current = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let mut library = Library::clone(&current);
        templates.into_iter().for_each(|template| library.insert(template));
        if library.len() > library::CAPACITY {
            return Err(Full);
        }
        self.publish(&library);
        *current = Arc::new(library);
        Ok(())
    }

    /// Removes a template in one language or in all; says how many there were.
    pub(super) fn remove(&self, namespace: &str, name: &str, language: Option<&Language>) -> usize {
        let mut current = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = Arc::make_mut(&mut current).remove(namespace, name, language);
        self.publish(&current);
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_samples_are_the_ones_of_the_sandbox_contract() {
        let library = Shelf::load(&[], true).unwrap().current();
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
        assert_eq!(Shelf::load(std::slice::from_ref(&fine), false).unwrap().current().len(), 1);
        let told = Shelf::load(&[fine, broken, wrong, dir.path().join("none.json")], false).unwrap_err().to_string();
        for part in ["broken.json: not a list", "wrong.json: template 1 (b): a body is needed", "none.json: No such file"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_request_keeps_the_library_it_began_with() {
        let shelf = Shelf::load(&[], true).unwrap();
        let before = shelf.current();
        assert_eq!(shelf.remove("estafet_sandbox", "order_update", None), 2);
        assert_eq!((before.len(), shelf.current().len()), (4, 2));
    }
}
