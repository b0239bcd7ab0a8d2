//! Where shards went: what a node answers to who asks it for slots of another.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use estafet_model::{Slot, WaId};
use estafet_proto::v1::outcome::Result as Answer;
use estafet_store::Fence;

use crate::{
    core::duties::overlap,
    request::{not_owner, owned_by},
};

/// Where shards went that this node had, or heard of: at most one entry for each slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved(Arc<RwLock<HashMap<WaId, Owners>>>);

/// Ownerships, and the addresses of their nodes.
type Owners = Vec<(Fence, String)>;

impl Moved {
    /// Notes a newer owner; an older word about the same slots is dropped.
    pub(crate) fn to(&self, fence: &Fence, address: &str) {
        let mut numbers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = numbers.entry(fence.number).or_default();
        if known.iter().all(|(other, _)| !overlap(other, fence) || other.epoch < fence.epoch) {
            known.retain(|(other, _)| !overlap(other, fence));
            known.push((*fence, address.to_owned()));
        }
    }

    /// This node owns the slots itself now.
    pub(super) fn returned(&self, fence: &Fence) {
        let mut numbers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = numbers.get_mut(&fence.number) {
            known.retain(|(other, _)| !overlap(other, fence) || other.epoch > fence.epoch);
        }
    }

    /// The answer to a request for a slot that is not this node's.
    pub(crate) fn answer(&self, number: WaId, slot: Slot) -> Answer {
        let numbers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let owner = numbers.get(&number).and_then(|known| known.iter().find(|(fence, _)| fence.slots().contains(&slot)));
        owner.map_or_else(not_owner, |(fence, address)| owned_by(address, fence.epoch))
    }
}
