//! What surrounds Estafet in tests, drills and benches: the things it needs and the things it is compared with.
//!
//! * [`postgres`]: a PostgreSQL of its own. [`sandbox`]: the `estafet sandbox` process. [`client`]: what callers and phones do.
//! * [`etcd`]: an etcd of its own. [`cluster`]: every role as a process of its own, with all it needs.
//! * [`sink`]: a receiver of callbacks with scripted answers. [`raw`]: bytes on a socket, well-formed or not.
//! * [`ledger`]: what was accepted against what phones and the receiver saw (**I3**-**I6**).
//! * [`proxy`]: stands between two processes and does to their connections what networks do.
//!   [`roads`]: one between any two processes of a cluster. [`network`]: the kernel loses packets instead.
//! * [`load`]: senders that go on through faults. [`verdict`]: what must hold afterwards.
//! * [`volume`]: a small volume that can be filled.
//! * [`bucket`]: a server that speaks S3. [`schemathesis`]: requests made from an OpenAPI document.
//! * [`vectors`]: requests, answers and callbacks as data. [`process`]: children that end with their owner.
//!
//! Everything listens on a port of its own on loopback and lives in a temporary directory. Nothing here sleeps:
//! waiting is for an event, with a deadline after which it is an error that shows what was seen.

pub mod bucket;
pub mod client;
pub mod cluster;
pub mod environment;
pub mod etcd;
pub mod files;
pub mod ledger;
pub mod load;
pub mod network;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod roads;
pub mod sandbox;
pub mod schemathesis;
pub mod sink;
pub mod vectors;
pub mod verdict;
pub mod volume;
pub mod web;

pub use client::{Answer, Api, Message};
pub use cluster::Cluster;
pub use etcd::Etcd;
pub use ledger::Ledger;
pub use load::Traffic;
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use roads::FaultyRoads;
pub use sandbox::Sandbox;
pub use sink::Sink;

use std::time::Duration;

/// How long a test waits for something that should happen at once. Generous, because machines are
/// shared; it bounds a hang and asserts nothing about speed.
pub const PATIENCE: Duration = Duration::from_secs(30);
