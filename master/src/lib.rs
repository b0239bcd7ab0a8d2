//! The master role: gives shards to coreapps.
//!
//! What it decides: which node should own which shard ([`core::placement`], a pure function). What it
//! does not: safety. An assignment takes effect only through the epoch in the message database
//! ([`estafet_store::Store::claim`]); a master that is wrong or late makes somebody work in vain (**I2**).
//!
//! * `core`: placement.
//! * `local`: the coordination of a single process, without etcd: the sandbox, and simulations.
//!
//! When the process dies, ownership stays in the database; the next start claims every shard under a
//! higher epoch.

pub mod core;
pub mod local;
