//! The protocol buffers of Estafet, compiled at build time by `build.rs`.
//!
//! [`v1`] is the data path between webapp and coreapp, and coordination; [`chat`] is the wire of the
//! chatd network. Nothing is decided here; written by hand is only what an [`ownership`] is in the words of the
//! model. `vectors/slots.json` holds the test vectors
//! of the slot function, which is protocol: chatd and coreapp must agree on it.

pub mod ownership;

/// Webapp to coreapp (`estafet/v1/data.proto`), and both to the masters (`estafet/v1/cluster.proto`).
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("estafet.v1");
}

/// Coreapp to chatd (`estafet/v1/chat.proto`).
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod chat {
    tonic::include_proto!("estafet.chat.v1");
}
