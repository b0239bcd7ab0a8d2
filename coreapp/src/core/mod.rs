//! The decisions of a coreapp, without I/O, clock, randomness or SQL.
//!
//! * [`slot_queue`]: bounded windows over what is stored, slot by slot.
//! * [`outbox`]: which messages to send next, what is in flight, what to send again.
//! * [`lanes`]: which callbacks to post next, when to try again, when to give up. [`outlets`]: lanes to each receiver.
//! * [`peer`]: identity of a user and the sessions with it. [`receipts`]: which statuses are news. [`event`]: callback bodies, rendered once.
//! * [`pending`]: the transaction being put together and what follows its commit.
//! * [`limits`]: how much is taken in a time. [`identical`]: what was sent to somebody before.
//! * [`garbage`]: what may be removed. [`life`]: the states of a shard on this node. [`duties`]: the masters' orders, and what they are told.
//! * [`held`]: requests for shards that are about to be here.

pub mod duties;
pub mod event;
pub mod files;
pub mod garbage;
pub mod handoff;
pub mod held;
pub mod identical;
pub mod lanes;
pub mod life;
pub mod limits;
pub mod needs;
pub mod outbox;
pub mod outlets;
pub mod peer;
pub mod pending;
pub mod receipts;
pub mod slot_queue;
