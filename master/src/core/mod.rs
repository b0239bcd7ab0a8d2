//! The decisions of the master, without I/O, clock or randomness.
//!
//! [`Core::step`] takes one fact ([`Event`]) and the time, and says what is to be done ([`Effect`]). A
//! follower knows the nodes and the map but has nothing it could assign with: that lives in
//! [`state::Term`], which only a leader has.
//!
//! * [`membership`]: which nodes are alive. [`fitness`]: which of them may own. [`hints`]: what webapps say of them.
//! * [`placement`]: who should own what. [`failures`]: shards that cannot be started.
//! * [`state`]: what is known. [`step`]: from fact to orders. [`handoff`]: planned moves.
//! * [`resharding`]: a number changes its shard count.

pub mod effect;
pub mod event;
pub mod failures;
pub mod fitness;
pub mod handoff;
pub mod hints;
pub mod membership;
pub mod placement;
pub mod resharding;
pub mod state;
pub mod step;
#[cfg(test)]
mod tests;

pub use effect::{Effect, MapEntry};
pub use event::{Ending, Event, Holding, Needs, Reach, Record, Redial, Report};
pub use state::Core;

/// Monotonic time since a moment that stays the same while the process runs.
pub type Moment = std::time::Duration;
