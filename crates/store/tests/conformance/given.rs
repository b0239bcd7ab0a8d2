//! What the checks start from: a number, an owner, rows that differ in every column.

use bytes::Bytes;
use estafet_model::{BootId, EndpointId, Epoch, IdKey, Seq, Shard, ShardCount, Slot, WaId};
use estafet_store::{Batch, Claim, EventRef, Fence, NewEvent, NewInbound, NewMessage, Store};

pub(crate) const NOW: i64 = 1_800_000_000_000;
/// Every byte, NUL first and last.
pub(crate) const ANY_BYTES: &[u8] = b"\x00{\"text\":\"\xff\xfe \xc3\x28\"}\n\x00";

pub(crate) fn number() -> WaId {
    WaId::from_u64(15_550_000_001).unwrap()
}

pub(crate) fn other_number() -> WaId {
    WaId::from_u64(15_550_000_002).unwrap()
}

pub(crate) fn recipient(i: u64) -> WaId {
    WaId::from_u64(628_110_000_000 + i).unwrap()
}

pub(crate) fn slot(value: u32) -> Slot {
    Slot::new(value).unwrap()
}

pub(crate) fn seq(value: i64) -> Seq {
    Seq::new(value)
}

pub(crate) fn boot(byte: u8) -> BootId {
    BootId([byte; 16])
}

/// Claims the only shard of `number`.
pub(crate) async fn claim(store: &dyn Store, number: WaId, seen: Option<Epoch>) -> Option<Fence> {
    store.claim(number, Shard::ZERO, ShardCount::ONE, seen, "core-1", boot(1), 1, NOW).await.unwrap()
}

/// The first owner of [`number`].
pub(crate) async fn owner(store: &dyn Store) -> Fence {
    claim(store, number(), None).await.unwrap()
}

/// A claim by the next owner of what somebody owns, under the first term.
pub(crate) fn next(held: &Fence) -> Claim<'static> {
    let Fence { number, shard, count, epoch } = *held;
    Claim { number, shard, count, seen: Some(epoch), owner: "core-2", boot: boot(2), master_term: 1, now_ms: NOW }
}

/// Owners of the shards of [`number`], `count` of them.
pub(crate) async fn owners(store: &dyn Store, count: u32) -> Vec<Fence> {
    let count = ShardCount::new(count).unwrap();
    let claims: Vec<Claim<'_>> = count.shards().map(|shard| Claim { shard, count, seen: None, ..first() }).collect();
    store.claim_all(&claims).await.into_iter().map(|outcome| outcome.unwrap().unwrap()).collect()
}

fn first() -> Claim<'static> {
    let (shard, count) = (Shard::ZERO, ShardCount::ONE);
    Claim { number: number(), shard, count, seen: None, owner: "core-1", boot: boot(1), master_term: 1, now_ms: NOW }
}

pub(crate) fn message(at: (u32, i64), key: u64) -> NewMessage {
    let mut id_key = [0; IdKey::LEN];
    id_key[1..].copy_from_slice(&key.to_be_bytes());
    NewMessage {
        slot: slot(at.0),
        seq: seq(at.1),
        id_key: IdKey(id_key),
        recipient: recipient(key),
        accepted_at_ms: NOW + at.1,
        body: Bytes::from(format!("body {key}")),
    }
}

pub(crate) fn messages(list: impl IntoIterator<Item = NewMessage>) -> Batch {
    Batch { messages: list.into_iter().collect(), ..Batch::default() }
}

pub(crate) fn event(at: (u32, i64)) -> NewEvent {
    NewEvent {
        slot: slot(at.0),
        endpoint: EndpointId::MAIN,
        seq: seq(at.1),
        contact: Some(recipient(at.1.unsigned_abs())),
        kind: "status_change",
        created_at_ms: NOW + at.1,
        body: Bytes::from(format!("event {} {}", at.0, at.1)),
    }
}

pub(crate) fn event_at(slot_: u32, seq_: i64) -> EventRef {
    EventRef { slot: slot(slot_), endpoint: EndpointId::MAIN, seq: seq(seq_) }
}

pub(crate) fn inbound(id: &str) -> NewInbound {
    NewInbound {
        slot: slot(5),
        id: id.to_owned(),
        sender: recipient(5),
        profile_name: "Ana \u{1f600} \0 \"'".to_owned(),
        sent_at_ms: NOW,
        stored_at_ms: NOW + 7,
        body: Bytes::from_static(ANY_BYTES),
    }
}

/// (slot, seq) of what came back, in the order it came.
pub(crate) fn places<'a>(rows: impl IntoIterator<Item = (&'a Slot, &'a Seq)>) -> Vec<(u16, i64)> {
    rows.into_iter().map(|(slot, seq)| (slot.get(), seq.get())).collect()
}
