//! What holds when links between processes fail, one kind of fault a file (reliability: F3-F14, F21-F34, F38-F50).
//!
//! Nothing here asserts how long something took: it must come, and nothing may be lost on the way. Bounds of time
//! are measured by drills.

mod coordination;
mod database;
mod links;
mod partitions;
