//! An etcd of three members in memory: what it knows ([`state`]), which members agree ([`quorum`]) and how each is
//! asked ([`service`]).

mod quorum;
mod service;
mod state;

use std::sync::Mutex;

use tokio::sync::Notify;

pub(crate) use quorum::Quorum;
pub(crate) use service::serve;
pub(crate) use state::State;

/// What all members share.
pub(crate) struct Etcd {
    pub(crate) state: Mutex<State>,
    pub(crate) quorum: Mutex<Quorum>,
    /// Wakes watches in their order, so that a seed is always the same run.
    pub(crate) changed: Notify,
}
