//! The language of a template: `en`, or `en_US` with a locale. Case does not matter, and `-` is
//! taken for `_`; what is shown is the usual spelling.

use std::fmt;

/// A language, with or without a locale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Language {
    language: String,
    locale: Option<String>,
}

impl Language {
    /// Reads a code; `None` if it is none.
    pub(crate) fn parse(code: &str) -> Option<Self> {
        let (language, locale) = match code.split_once(['_', '-']) {
            Some((language, locale)) => (language, Some(locale)),
            None => (code, None),
        };
        let is_language = matches!(language.len(), 2 | 3) && language.bytes().all(|byte| byte.is_ascii_alphabetic());
        let is_locale = |locale: &str| matches!(locale.len(), 2..=8) && locale.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_language || !locale.is_none_or(is_locale) {
            return None;
        }
        Some(Self { language: language.to_ascii_lowercase(), locale: locale.map(str::to_ascii_uppercase) })
    }

    /// As refusals of the original say it: `language en and locale US`.
    pub(crate) fn in_words(&self) -> String {
        match &self.locale {
            Some(locale) => format!("language {} and locale {locale}", self.language),
            None => format!("language {}", self.language),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.language)?;
        self.locale.as_ref().map_or(Ok(()), |locale| write!(f, "_{locale}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_hyphens_do_not_matter() {
        for (code, shown) in [("en", "en"), ("EN_us", "en_US"), ("pt-br", "pt_BR"), ("es_419", "es_419"), ("fil", "fil")] {
            assert_eq!(Language::parse(code).unwrap().to_string(), shown);
        }
        assert_eq!(Language::parse("en_US").unwrap().in_words(), "language en and locale US");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for code in ["", "e", "english", "en_", "_US", "en_U", "en_US_x", "e1", "日本", "en_ÜS", "en US"] {
            assert_eq!(Language::parse(code), None, "{code:?}");
        }
    }
}
