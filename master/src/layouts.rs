//! Changes of a number's shard count, as the core orders them ([`crate::core::resharding`]): a step of its layout, and a
//! group of shards that hands its slots to another. Whether one without an answer took place is read before the next try.

use std::time::Duration;

use estafet_model::{BootId, Epoch, Layout, Shard, WaId};
use estafet_store::{Fence, SharedStore, Switch};
use tokio::time::timeout;

use crate::{
    core::{Event, Record, placement::NodeName},
    driver::{DATABASE, Handle},
};

/// How long owner rows are kept that retired.
const RETIRED_FOR: Duration = Duration::from_secs(24 * 3600);

/// A step of a layout.
pub(crate) struct Change {
    pub(crate) term: i64,
    pub(crate) number: WaId,
    pub(crate) from: Layout,
    pub(crate) to: Layout,
    pub(crate) now_ms: i64,
}

/// Stores the step, says what became of it, and forgets what retired long ago.
pub(crate) async fn set(change: Change, store: SharedStore, handle: Handle) {
    let Change { term, number, from, to, now_ms } = change;
    let event = match timeout(DATABASE, store.set_layout(number, from, to, term)).await {
        Ok(Ok(true)) => {
            tracing::info!(%number, ?from, ?to, "layout changed");
            Event::LayoutSet { term, number, layout: to }
        }
        refused => {
            tracing::warn!(%number, ?from, ?to, ?refused, "layout not changed");
            Event::NotSwitched { term, number }
        }
    };
    handle.happened(event).await;
    let before_ms = now_ms.saturating_sub_unsigned(RETIRED_FOR.as_millis() as u64);
    if let Err(error) = store.forget_retired(before_ms).await {
        tracing::debug!(%error, "retired owner rows stay");
    }
}

/// Retires the old shards and claims the new ones in one transaction, and says what became of it.
pub(crate) async fn switch(switch: Switch, store: SharedStore, handle: Handle) {
    let Switch { master_term: term, number, from, to, .. } = switch;
    tracing::info!(%number, from = from.get(), to = to.get(), retire = ?switch.retire, "switching");
    let event = match timeout(DATABASE, store.switch_shards(&switch)).await {
        Ok(Ok(Some(fences))) => switched(&switch, &fences),
        refused => {
            tracing::warn!(%number, ?refused, "shards not switched");
            Event::NotSwitched { term, number }
        }
    };
    handle.happened(event).await;
}

fn switched(switch: &Switch, fences: &[Fence]) -> Event {
    let Switch { master_term: term, number, from, to, .. } = *switch;
    let epoch = |shard: Shard| fences.iter().find(|fence| fence.shard == shard).map_or(Epoch::default(), |fence| fence.epoch);
    let record = |(shard, node, boot): &(Shard, NodeName, BootId)| Record {
        key: (number, to, *shard),
        epoch: epoch(*shard),
        node: node.clone(),
        boot: *boot,
        retired: false,
    };
    let retired = switch.retire.iter().map(|(shard, _)| (number, from, *shard)).collect();
    Event::Switched { term, number, retired, records: switch.claim.iter().map(record).collect() }
}
