//! Certificates: who a process is, encrypted connections between the roles, reloading without a restart.
//!
//! * [`identity`]: the role and node a certificate is for, and who may call what.
//! * [`transport`]: what a role is given to listen and to dial with; plain text when nothing is configured.
//! * [`peer`]: who is at the other end of a request.
//! * `flags`: by which commands are told their files.
//! * `https`: the certificate of the API. `reload`: files that change while the process runs.
//! * [`issue`]: makes a certificate authority and role certificates, for local clusters and tests.
//!
//! One stack: rustls with ring. The decisions are in `docs/decisions/0009-roles-in-certificates.md`.

pub mod identity;
pub mod issue;
pub mod peer;
pub mod transport;

#[cfg(feature = "flags")]
mod flags;
mod https;
mod material;
mod reload;
mod warnings;

#[cfg(feature = "flags")]
pub use flags::Flags;
pub use https::Https;
pub use identity::{Identity, Role};
pub use material::{Error, Files};
pub use peer::Peer;
pub use transport::Transport;
