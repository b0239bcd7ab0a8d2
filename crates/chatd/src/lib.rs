//! The open chat network: what Estafet's sandbox, tests and drills send to instead of WhatsApp.
//!
//! Both halves are here, so that they agree: what a client needs ([`e2e`], [`noise`], [`frames`]) and the
//! service. The service keeps **I1** (one connection per number and slot), **I2** (no old epoch), **I4** (no
//! message twice) and **I5** (order per slot) on its side, and writes an audit log that proves them.
//!
//! * [`noise`], [`frames`]: the transport. [`e2e`]: end-to-end encryption.
//! * [`session`]: who may be connected (pure). `network`: every other decision (pure; open to the simulator).
//! * [`server`]: listeners and the one task that stores and sends. `connection`: one socket. `storage`: SQLite.
//! * [`attachment`]: encryption of files. [`blobs`]: where the network keeps them. `phone_files`: what phones do with them.
//! * [`templates`]: what phones know of templates.
//! * [`phones`]: simulated phones; [`view`]: what a person sees on them; [`control`]: their HTTP interface.
//! * [`audit`]: the log and its check.

pub mod attachment;
pub mod audit;
pub mod blobs;
mod connection;
pub mod control;
pub mod e2e;
pub mod frames;
#[doc(hidden)]
pub mod network;
pub mod noise;
mod phone_files;
pub mod phones;
pub mod server;
pub mod session;
mod storage;
pub mod templates;
pub mod view;

/// The version of the protocol that this build speaks, as client and as network.
pub const PROTOCOL: u32 = 1;

pub use phones::Phones;
pub use server::{Chatd, Config, Error, start};
pub use storage::Error as StorageError;
