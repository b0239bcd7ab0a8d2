//! Templates: what may be sent outside the window, checked here before anything is stored, because
//! only names and parameters travel to a phone (spec/templates.md).
//!
//! * `language`, `pattern`, `model`: a template. `definition`: how templates are written down.
//! * `library`: the templates there are. `call`: a request. `fill`: both together. All pure.
//! * `packs`: when they are fetched again (pure). `source`: where they are fetched from.
//! * `shelf`: the library in use. `control`: changing it, in the sandbox.
//!
//! The library is in memory: files are what lasts, and a replica has what its own files say.

mod call;
pub(crate) mod control;
mod definition;
mod fill;
mod language;
mod library;
mod model;
mod packs;
mod pattern;
mod shelf;
mod source;

use estafet_model::ApiError;
pub(crate) use estafet_model::settings::webhook_url::is_web_address;

pub(crate) use call::{ButtonCall, Call, Currency, DateTime, Media, Parameter, Provider};
pub(crate) use definition::is_name;
pub(crate) use language::Language;
pub(crate) use library::Library;
pub(crate) use shelf::Shelf;
#[cfg(test)]
pub(crate) use shelf::sampled;
pub(crate) use source::{Files, as_known, of_list};
pub use source::{check_files as check_template_files, follow_files as follow_template_files, read_files as read_template_files};

/// Longest text of a header, before and after substitution, in characters.
const HEADER_LIMIT: usize = 60;
/// Longest text of a body.
const BODY_LIMIT: usize = 1024;
/// Longest text of a footer.
const FOOTER_LIMIT: usize = 60;
/// Longest address of a button.
const URL_LIMIT: usize = 2000;

/// Finds the template of a request and renders it (checks 2 to 13).
pub(crate) fn render<'a>(library: &Library, call: &Call<'a>) -> Result<fill::Rendered<'a>, ApiError> {
    fill::fill(library.find(call.namespace, call.name, &call.language)?, call)
}

/// A library for tests, of templates as a list has them.
#[cfg(test)]
pub(crate) fn library(templates: &serde_json::Value) -> Library {
    let list = serde_json::json!({ "namespace": "ns", "templates": templates }).to_string();
    let mut library = Library::default();
    definition::read(list.as_bytes()).unwrap().into_iter().for_each(|template| library.insert(template));
    library
}
