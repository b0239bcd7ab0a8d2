//! The coreapp role: owns shards, accepts messages, sends them in order, records receipts, delivers
//! callbacks.
//!
//! It decides what becomes durable when, and in which order things leave. It keeps **I2** (every write
//! carries the epoch, [`estafet_store::Store::commit`]), **I3** and **I5** ([`core::outbox`]), **I6**
//! ([`core::lanes`]) and **I9** ([`core::pending`]). Who owns which shard is the master's decision; what
//! a request means in HTTP is the webapp's.
//!
//! * [`core`]: the decisions, pure.
//! * [`shard`]: one task per owned shard, which turns every input into decisions, commits, then acts.
//! * [`node`]: the shards of this process, and how requests find them.
//! * [`cluster`]: reports to the masters and takes their orders.
//! * [`grpc`]: the data service the webapps talk to. [`callbacks`]: posts them, signed by `signing`.
//! * `retention`: removes delivered callbacks that were kept long enough. [`collector`]: removes messages that are over.
//!   `sizes`: of the database, as metrics. [`settings`]: live settings.
//! * [`stats`]: what is counted for a number. `backlog`: callbacks that wait, as metrics.
//!
//! On a crash nothing is lost that was answered: the next owner loads the outbox and the callbacks from
//! the database and goes on under a higher epoch.

mod backlog;
pub mod callbacks;
pub mod cluster;
pub mod collector;
pub mod config;
pub mod core;
pub mod grpc;
pub mod media;
mod node;
pub mod request;
mod retention;
pub mod settings;
pub mod shard;
mod signing;
mod sizes;
pub mod stats;

pub use config::Config;
pub use core::handoff::Target;
pub use node::{Deps, Node, ShardEnded};
pub use shard::CONFLICT;
