//! What callers of the API rely on, over a real socket, against the `estafet sandbox` process.
//!
//! [`vectors`] runs the shared vectors. The other modules are scenarios, one rule a test.

mod bad_input;
mod callbacks;
mod conflict;
mod dead_letters;
mod endpoints;
mod first_login;
mod idempotency;
mod identity;
mod limits;
mod media;
mod openapi;
mod reading;
mod replay;
mod requirements;
mod shards;
mod statistics;
mod support;
mod templates;
mod text;
mod trace;
mod types;
mod vectors;
mod webhook_trust;
mod world;
