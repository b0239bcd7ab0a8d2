//! What fuzzing needs of the inside: requests to send, judged as the API judges them, and lists of templates. Nothing
//! is decided here.

use estafet_model::{ApiError, WaId};
use serde_json::Value;

use crate::{
    message::{self, Rules},
    template::{self, Files, Library},
};

/// Templates that may be sent.
#[derive(Clone, Debug)]
pub struct Templates {
    library: Library,
    /// The same as phones know them.
    pub known: Value,
}

impl Templates {
    /// Those that are shipped.
    pub fn samples() -> Self {
        Self::of(Files::new(&[], true).read().expect("a test reads the samples"))
    }

    /// Those of a list as files have it; the reason if it is none.
    pub fn read(list: &[u8]) -> Result<Self, String> {
        template::of_list(list).map(Self::of)
    }

    fn of(library: Library) -> Self {
        let known = template::as_known(&library);
        Self { library, known }
    }
}

/// Judges the body of a request to send by 15550000001: whom it is for, and what travels on.
pub fn accept(body: &[u8], strict: bool, templates: &Templates) -> Result<(WaId, Vec<u8>), ApiError> {
    let sender = WaId::from_u64(15_550_000_001).map_err(|error| ApiError::invalid("number", error))?;
    let accepted = message::accept(body, Rules { sender, strict, templates: &templates.library })?;
    Ok((accepted.recipient, accepted.body))
}
