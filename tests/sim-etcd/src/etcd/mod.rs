//! An etcd of one member in memory: what it knows ([`state`]) and how it is asked ([`service`]).

mod service;
mod state;

pub(crate) use service::serve;
pub(crate) use state::State;
