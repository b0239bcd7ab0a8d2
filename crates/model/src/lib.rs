//! The words of Estafet: ids, slots, epochs, receipts, settings and error codes.
//!
//! No tokio, no sockets, no SQL: this crate cannot reach them, so every role can share it.
//!
//! * [`wa_id`]: phone numbers of people and businesses, and how users write them.
//! * [`slot`]: slots, shards and the shard map. [`layout`]: how a number is cut into shards, and how that changes.
//! * [`epoch`]: epochs, sequence numbers, boots. [`endpoint`]: receivers of callbacks.
//! * [`message_id`]: ids in the layout of the original. [`receipt`]: the lattice of statuses.
//! * [`protocol`]: which releases understand each other.
//! * [`settings`]: application settings. [`profile`]: what a business says of itself. [`error`]: codes and titles of the On-Premises API.

pub mod endpoint;
pub mod epoch;
pub mod error;
pub mod layout;
pub mod message_id;
pub mod profile;
pub mod protocol;
pub mod receipt;
pub mod settings;
pub mod slot;
pub mod wa_id;

pub use endpoint::EndpointId;
pub use epoch::{BootId, Epoch, Seq, SeqAllocator};
pub use error::{ApiError, Code};
pub use layout::{Group, Layout};
pub use message_id::{IdGenerator, IdKey, MessageId};
pub use receipt::{Status, StatusSet};
pub use slot::{Owner, Shard, ShardCount, ShardMap, Slot};
pub use wa_id::WaId;
