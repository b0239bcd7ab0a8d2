//! Typed configuration: a file, then the environment (`ESTAFET_*`, `__` for nesting), then flags.

use std::path::Path;

use figment::{
    Figment,
    providers::{Env, Format as _, Serialized, Toml},
};
use serde::{Serialize, de::DeserializeOwned};

/// A configuration that could not be read; names every setting at fault.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct Error(String);

/// Reads a configuration: `defaults`, overlaid by the file (if given), overlaid by environment
/// variables that begin with `prefix`.
pub fn load<T: Serialize + DeserializeOwned>(defaults: T, file: Option<&Path>, prefix: &str) -> Result<T, Error> {
    let mut figment = Figment::from(Serialized::defaults(defaults));
    if let Some(file) = file {
        figment = figment.merge(Toml::file_exact(file));
    }
    figment.merge(Env::prefixed(prefix).split("__")).extract().map_err(|error| {
        let problems: Vec<String> = error.into_iter().map(|problem| problem.to_string()).collect();
        Error(problems.join("; "))
    })
}
