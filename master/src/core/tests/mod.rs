//! The core against a world of played nodes and a played database, by transcript and by chance.

mod generated;
mod registered;
mod transcripts;
mod world;

use estafet_model::{Shard, ShardCount, WaId};

use super::placement::ShardKey;

/// A shard of the one number of these tests.
pub(super) fn key(shard: u32, count: u32) -> ShardKey {
    let count = ShardCount::new(count).expect("a power of two");
    (WaId::from_u64(15_550_000_001).expect("eleven digits"), count, Shard::new(shard, count).expect("below the count"))
}
