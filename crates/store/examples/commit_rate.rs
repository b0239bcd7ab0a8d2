//! How many rows a second a back end commits: `commit_rate URL...`, each a fresh database that may be
//! filled. An order of magnitude on this machine, not a benchmark.
#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use estafet_model::{BootId, EndpointId, IdKey, Seq, SeqAllocator, Shard, ShardCount, Slot, StatusSet, WaId};
use estafet_store::{Batch, Error, EventRef, Fence, NewEvent, NewMessage, SessionRow, StatusRow, Store, Times};
use futures::future::try_join_all;
use tokio::time::Instant;

const FOR: Duration = Duration::from_secs(3);
const BODY: Bytes = Bytes::from_static(&[b'x'; 300]);
const OWNERS: u32 = 4;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Accepted messages.
    Messages,
    /// A status, a session and an event for each, and an event that is done: four rows.
    Receipts,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    for url in std::env::args().skip(1) {
        let store = estafet_store::open(&url, "commit_rate").await?;
        store.migrate().await?;
        let fences = claim_all(&*store).await?;
        println!("{}\n  owners  batch  kind      commits/s    rows/s", store.backend());
        for kind in [Kind::Messages, Kind::Receipts] {
            for (owners, rows) in [(1, 1), (1, 64), (1, 256), (4, 64), (4, 256)] {
                measure(&*store, &fences[..owners], rows, kind).await?;
            }
        }
    }
    Ok(())
}

async fn claim_all(store: &dyn Store) -> Result<Vec<Fence>, Error> {
    let number = WaId::from_u64(15_550_000_001).expect("a number");
    let count = ShardCount::new(OWNERS).expect("a power of two");
    let seen = store.owners().await?;
    let claims = count.shards().map(async |shard: Shard| {
        let epoch = seen.iter().find(|o| o.shard == shard && o.count == count).map(|o| o.epoch);
        store.claim(number, shard, count, epoch, "bench", BootId([1; 16]), 1, 0).await
    });
    Ok(try_join_all(claims).await?.into_iter().flatten().collect())
}

async fn measure(store: &dyn Store, fences: &[Fence], rows: usize, kind: Kind) -> Result<(), Error> {
    let start = Instant::now();
    let (commits, written) = (Cell::new(0u32), Cell::new(0usize));
    let seqs = Cell::new(store.next_tag().await?);
    let owners = fences.iter().map(async |fence| {
        let mut allocator = SeqAllocator::new(fence.epoch);
        // Each measurement numbers on where no other one did.
        let offset = i64::from(seqs.replace(seqs.get() + 1)) << 24;
        while start.elapsed() < FOR {
            let batch = batch(fence, rows, kind, || Seq::new(allocator.allocate().map_or(0, Seq::get) + offset));
            store.commit(fence, &batch).await?;
            commits.set(commits.get() + 1);
            written.set(written.get() + batch.rows());
        }
        Ok::<_, Error>(())
    });
    try_join_all(owners).await?;
    let seconds = start.elapsed().as_secs_f64();
    let kind = if kind == Kind::Messages { "messages" } else { "receipts" };
    let (per_second, rate) = (f64::from(commits.get()) / seconds, written.get() as f64 / seconds);
    println!("  {:>6}  {rows:>5}  {kind}  {per_second:>10.0}  {rate:>8.0}", fences.len());
    Ok(())
}

fn batch(fence: &Fence, rows: usize, kind: Kind, mut seq: impl FnMut() -> Seq) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..rows {
        let seq = seq();
        let recipient = WaId::from_u64(628_110_000_000 + seq.get().unsigned_abs() % 100_000).expect("a number");
        let within = u32::from(Slot::of(recipient).get()) % (1024 / OWNERS);
        let slot = Slot::new(u32::from(fence.slots().start().get()) + within).expect("a slot");
        match kind {
            Kind::Messages => {
                let mut id_key = [0; IdKey::LEN];
                id_key[0] = fence.shard.get() as u8;
                id_key[1..].copy_from_slice(&seq.get().to_be_bytes());
                batch.messages.push(NewMessage { slot, seq, id_key: IdKey(id_key), recipient, accepted_at_ms: 0, body: BODY });
            }
            Kind::Receipts => {
                let statuses = StatusSet::from_bits(3);
                batch.statuses.push(StatusRow {
                    slot,
                    seq,
                    statuses,
                    error_code: None,
                    changed_at_ms: 0,
                    times: Times::default(),
                });
                batch.sessions.push(SessionRow { slot, peer: recipient, state: BODY });
                let kind = "status_change";
                batch.events.push(NewEvent {
                    slot,
                    endpoint: EndpointId::MAIN,
                    seq,
                    contact: Some(recipient),
                    kind,
                    created_at_ms: 0,
                    body: BODY,
                });
                batch.events_done.push(EventRef { slot, endpoint: EndpointId::MAIN, seq: Seq::new(seq.get() - 1_000) });
            }
        }
    }
    batch
}
