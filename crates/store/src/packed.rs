//! How a list of rows travels in two parameters of a statement whose text never changes.
//!
//! SQLite and MySQL have no arrays, and a statement per row or per list length costs a thread hop, a
//! round trip or a parse each. So the narrow columns are one JSON array of arrays, read with `json_each`
//! or `JSON_TABLE`, and everything that may hold any byte (keys, bodies) is cut out of one blob with `substr`.

use serde::Serialize;

/// Bytes of all rows, one after the other.
pub(crate) struct Packed(Vec<u8>);

impl Packed {
    /// The first byte is padding: `substr` of an empty blob would be NULL.
    pub(crate) fn new() -> Self {
        Self(vec![0])
    }

    /// Adds a part; its place for `substr`, which counts from one, and its length.
    pub(crate) fn push(&mut self, part: &[u8]) -> (usize, usize) {
        let start = self.0.len() + 1;
        self.0.extend_from_slice(part);
        (start, part.len())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Rows as JSON.
pub(crate) fn json<T: Serialize>(rows: impl IntoIterator<Item = T>) -> String {
    let rows: Vec<T> = rows.into_iter().collect();
    serde_json::to_string(&rows).expect("numbers and text always serialize")
}
