//! What fuzzing runs: one function for each place where input from outside is read, that panics if something does
//! not hold of it. `fuzz/` lets libFuzzer look for such input; a test here replays seeds, what was found before, and
//! generated input, so that targets neither rot nor forget.
//!
//! * `messages`: requests to send, templates. `numbers`: phone numbers, URLs of callbacks.
//! * `files`: types and beginnings of files. `frames`: the wire of the network and between the roles.
//! * [`seeds`]: where looking begins. [`mutation`]: generated input for the test.

mod files;
mod frames;
mod messages;
pub mod mutation;
mod numbers;
pub mod seeds;

pub use files::media;
pub use frames::{chatd, data};
pub use messages::{message, template};
pub use numbers::{phone, webhook_url};

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its binary and directories in `fuzz/`.
    pub name: &'static str,
    /// Panics if something does not hold.
    pub run: fn(&[u8]),
}

/// Every target.
pub const ALL: [Target; 7] = [
    Target { name: "message", run: message },
    Target { name: "template", run: template },
    Target { name: "phone", run: phone },
    Target { name: "webhook_url", run: webhook_url },
    Target { name: "media", run: media },
    Target { name: "chatd", run: chatd },
    Target { name: "data", run: data },
];

/// The first line and the rest.
fn line_and_rest(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    (&data[..end], data.get(end + 1..).unwrap_or_default())
}
