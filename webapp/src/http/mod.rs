//! The HTTP server below the routes: an accept loop of its own around hyper's HTTP/1 connection.
//!
//! It adds what hyper leaves out: a cap on connections, timers for heads, idleness and stalled
//! writes, the On-Premises envelope on answers that hyper makes by itself, and a close that lets
//! the client read the answer before the connection goes.

mod guard;
mod head;
mod server;

pub(crate) use guard::Overload;
pub(crate) use server::serve;

use std::net::SocketAddr;

/// The address a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);
