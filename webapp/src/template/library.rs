//! The templates that may be sent, by namespace, language and name, and the refusals of a look-up
//! in the words of the original (spec/templates.md §3, checks 2 to 5).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use estafet_model::{ApiError, Code};
use serde::Serialize;

use super::{
    definition::Entry,
    language::Language,
    model::{Status, Template},
};

/// Most templates of a library; more than any account has.
pub(super) const CAPACITY: usize = 20_000;

/// A set of templates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Library {
    namespaces: BTreeMap<String, Packs>,
}

/// A template that cannot be sent in a language.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gap {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) language: String,
}

/// The templates of a namespace.
type Packs = BTreeMap<Language, Pack>;
/// The templates in a language, by name.
type Pack = BTreeMap<String, Arc<Template>>;

impl Library {
    /// Adds a template; one of the same namespace, language and name is replaced.
    pub(super) fn insert(&mut self, template: Template) {
        let Entry { namespace, name, .. } = template.entry.clone();
        let packs = self.namespaces.entry(namespace).or_default();
        packs.entry(template.language.clone()).or_default().insert(name, Arc::new(template));
    }

    /// Removes a template in one language, or in all; says how many there were.
    pub(super) fn remove(&mut self, namespace: &str, name: &str, language: Option<&Language>) -> usize {
        let Some(packs) = self.namespaces.get_mut(namespace) else { return 0 };
        let mut removed = 0;
        packs.retain(|of, pack| {
            if language.is_none_or(|language| language == of) {
                removed += usize::from(pack.remove(name).is_some());
            }
            !pack.is_empty()
        });
        if packs.is_empty() {
            self.namespaces.remove(namespace);
        }
        removed
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.namespaces.values().flat_map(Packs::values).map(Pack::len).sum()
    }

    /// Whether there is a template of this namespace.
    pub(super) fn knows(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Whether a message of this namespace may have been refused with this code for what the templates are.
    pub(crate) fn may_refuse(&self, namespace: &str, code: Code) -> bool {
        // Other parameters are wrong with the code of an unknown namespace, too.
        (2000..2100).contains(&code.number()) || (code == Code::ParameterInvalid && !self.knows(namespace))
    }

    /// All of them.
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.namespaces.values().flat_map(Packs::values).flat_map(Pack::values).map(AsRef::as_ref)
    }

    /// Where a template can be sent in one language and not in another that the namespace uses: who changes the
    /// language of a message meets 2001 there.
    pub(super) fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (namespace, packs) in &self.namespaces {
            let sendable = |pack: &Pack| -> BTreeSet<String> {
                let approved = pack.iter().filter(|(_, template)| template.status == Status::Approved);
                approved.map(|(name, _)| name.clone()).collect()
            };
            let used: BTreeMap<&Language, BTreeSet<String>> =
                packs.iter().map(|(language, pack)| (language, sendable(pack))).filter(|(_, names)| !names.is_empty()).collect();
            let names: BTreeSet<&String> = used.values().flatten().collect();
            for name in names {
                let missing = used.iter().filter(|(_, there)| !there.contains(name));
                gaps.extend(missing.map(|(language, _)| Gap {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    language: language.to_string(),
                }));
            }
        }
        gaps
    }

    /// A template that may be sent. Languages are taken exactly: the fallback to another locale
    /// ended with v2.27.8.
    pub(super) fn find(&self, namespace: &str, name: &str, language: &Language) -> Result<&Template, ApiError> {
        let packs = self
            .namespaces
            .get(namespace)
            .ok_or_else(|| ApiError::invalid("namespace", "is not valid: the namespace does not correspond to the WABA id"))?;
        let pack = packs.get(language).ok_or_else(|| {
            ApiError::new(Code::TemplatePackMissing, format!("No message templates exist in {}", language.in_words()))
        })?;
        let missing =
            || ApiError::new(Code::TemplateMissing, format!("Template {name} does not exist in {}", language.in_words()));
        let template = pack.get(name).ok_or_else(missing)?;
        let refused =
            |code, what: &str| Err(ApiError::new(code, format!("Template {name} is {what} in {}", language.in_words())));
        match template.status {
            Status::Approved => Ok(template),
            Status::NotApproved => Err(missing()),
            Status::Rejected => refused(Code::TemplateRejected, "rejected"),
            Status::Paused => refused(Code::TemplatePaused, "paused"),
            Status::Disabled => refused(Code::TemplateDisabled, "disabled"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::definition::read, *};

    fn library(statuses: &[(&str, &str, &str)]) -> Library {
        let mut library = Library::default();
        for (name, language, status) in statuses {
            let text = format!(
                r#"{{"namespace":"ns","name":"{name}","language":"{language}","status":"{status}","components":[{{"type":"BODY","text":"Hi"}}]}}"#
            );
            read(text.as_bytes()).unwrap().into_iter().for_each(|template| library.insert(template));
        }
        library
    }

    fn language(code: &str) -> Language {
        Language::parse(code).unwrap()
    }

    #[test]
    fn a_look_up_is_refused_with_the_code_and_the_words_of_the_original() {
        let library = library(&[
            ("fine", "en_US", "APPROVED"),
            ("waits", "en_US", "PENDING"),
            ("bad", "en_US", "REJECTED"),
            ("low", "en_US", "PAUSED"),
            ("off", "en_US", "DISABLED"),
            ("short", "de", "APPROVED"),
        ]);
        for (namespace, name, code, refusal, details) in [
            ("other", "fine", "en_US", 1009, "does not correspond to the WABA id"),
            ("ns", "fine", "fi", 2003, "No message templates exist in language fi"),
            ("ns", "fine", "en_GB", 2003, "No message templates exist in language en and locale GB"),
            ("ns", "fine", "en", 2003, "No message templates exist in language en"),
            ("ns", "none", "en_US", 2001, "Template none does not exist in language en and locale US"),
            ("ns", "none", "de", 2001, "Template none does not exist in language de"),
            ("ns", "waits", "en_US", 2001, "Template waits does not exist in language en and locale US"),
            ("ns", "bad", "en_US", 2060, "rejected"),
            ("ns", "low", "en_US", 2061, "paused"),
            ("ns", "off", "en_US", 2062, "disabled"),
        ] {
            let error = library.find(namespace, name, &language(code)).unwrap_err();
            assert_eq!(error.code.number(), refusal, "{namespace} {name} {code}");
            assert!(error.details.contains(details), "{error}");
        }
        assert!(library.find("ns", "fine", &language("EN-us")).is_ok());
        assert!(library.find("ns", "short", &language("de")).is_ok());
    }

    #[test]
    fn r183_r184_a_template_that_lacks_a_language_the_others_have_is_a_gap() {
        let gaps = |statuses: &[(&str, &str, &str)]| -> Vec<(String, String)> {
            library(statuses).gaps().into_iter().map(|gap| (gap.name, gap.language)).collect()
        };
        let both = [("a", "en_US", "APPROVED"), ("a", "id", "APPROVED"), ("b", "en_US", "APPROVED")];
        let gap = |name: &str, language: &str| (name.to_owned(), language.to_owned());
        assert_eq!(gaps(&both), [gap("b", "id")]);
        assert_eq!(gaps(&[both.as_slice(), &[("b", "id", "PENDING")]].concat()), [gap("b", "id")], "not yet approved");
        assert_eq!(gaps(&[both.as_slice(), &[("b", "id", "APPROVED")]].concat()), []);
        assert_eq!(gaps(&[both.as_slice(), &[("c", "de", "REJECTED")]].concat()), [gap("b", "id")], "nobody can use it");
        let three = gaps(&[both.as_slice(), &[("c", "de", "APPROVED")]].concat());
        assert_eq!(three, [gap("a", "de"), gap("b", "de"), gap("b", "id"), gap("c", "en_US"), gap("c", "id")]);
        assert_eq!(gaps(&[]), []);
    }

    #[test]
    fn a_template_is_replaced_and_removed_in_one_language_or_all() {
        let mut library =
            library(&[("a", "en", "PENDING"), ("a", "en", "APPROVED"), ("a", "de", "APPROVED"), ("b", "de", "APPROVED")]);
        assert_eq!(library.len(), 3);
        assert!(library.find("ns", "a", &language("en")).is_ok());
        assert_eq!(library.remove("ns", "a", Some(&language("en"))), 1);
        assert_eq!(library.find("ns", "a", &language("en")).unwrap_err().code, Code::TemplatePackMissing);
        assert_eq!(library.remove("other", "a", None) + library.remove("ns", "none", None), 0);
        assert_eq!(library.remove("ns", "a", None) + library.remove("ns", "b", None), 2);
        assert_eq!(library.find("ns", "b", &language("de")).unwrap_err().code, Code::ParameterInvalid);
    }
}
