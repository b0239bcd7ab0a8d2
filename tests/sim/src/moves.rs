//! Planned moves: a node gets ready, the owner raises the epoch for it in the modelled database, and both tell it.
//!
//! What is decided is the product's ([`estafet_coreapp::core::handoff`], the shard, and
//! [`estafet_coreapp::shard::handing::verdict`]); here an order becomes calls, and their answers inputs.

use std::time::Instant;

use estafet_coreapp::{
    Target,
    core::handoff::Key,
    shard::{
        Input,
        handing::{Raised, verdict},
    },
};
use estafet_master::core::Record;
use estafet_model::Epoch;
use estafet_store::Fence;

use crate::{
    messages::{Body, Read},
    tasks::Asked,
    world::{Place, SECOND, Time, World},
};

/// How long one try at the database may take.
const DATABASE: Time = 2 * SECOND;

/// An epoch that is being raised.
pub(crate) struct Raising {
    pub(crate) task: u64,
    pub(crate) target: Target,
    pub(crate) deadline: Instant,
}

fn key(fence: &Fence) -> Key {
    (fence.number, fence.count, fence.shard)
}

impl World {
    /// What a report says of moves: what the node is ready for, and what it handed off.
    pub(crate) fn moves_of(&mut self, i: usize, now: Instant) -> (Vec<(Key, Epoch)>, Vec<Record>) {
        let duties = &mut self.coreapps[i].duties;
        duties.standbys().expire(now);
        let warm = duties.standbys().warm().map(|(key, epoch)| (*key, epoch)).collect();
        let record = |(fence, target): &(Fence, Target)| Record {
            key: key(fence),
            epoch: fence.epoch,
            node: target.node.clone(),
            boot: target.boot,
            retired: false,
        };
        (warm, duties.handed().map(record).collect())
    }

    pub(crate) fn prepare(&mut self, i: usize, owned: Fence) {
        let now = self.instant(Place::Coreapp(i));
        if self.coreapps[i].duties.standbys().prepare(key(&owned), owned.epoch, now) {
            let call = self.fresh();
            self.coreapps[i].calls.insert(call, Asked::Prepare(owned));
            self.call(Place::Coreapp(i), Place::Database, call, DATABASE, Body::Read(Read::Keys));
        }
    }

    pub(crate) fn prepared(&mut self, i: usize, owned: &Fence, loaded: bool) {
        let standbys = self.coreapps[i].duties.standbys();
        if loaded {
            standbys.ready(&key(owned));
        } else {
            standbys.remove(&key(owned));
        }
        self.report(i);
    }

    pub(crate) fn hand_off(&mut self, i: usize, fence: &Fence, target: Target) {
        let task = self.coreapps[i].tasks.iter().find(|(_, task)| task.shard.fence() == fence).map(|(id, _)| *id);
        if let Some(task) = task {
            self.take(i, task, Input::ToldToHandOff(target));
        }
    }

    pub(crate) fn raise(&mut self, i: usize, raising: Raising) {
        let Some(fence) = self.coreapps[i].tasks.get(&raising.task).map(|task| *task.shard.fence()) else { return };
        let Target { node, boot, term, .. } = raising.target.clone();
        let claim = Body::Claim { term, key: key(&fence), node, boot, seen: Some(fence.epoch) };
        let call = self.fresh();
        self.coreapps[i].calls.insert(call, Asked::Raise(raising));
        self.call(Place::Coreapp(i), Place::Database, call, DATABASE, claim);
    }

    pub(crate) fn raised(&mut self, i: usize, raising: Raising, body: Body) {
        if let Body::Claimed(Some(epoch)) = body {
            return self.take(i, raising.task, Input::Raised(Raised::Handed(epoch)));
        }
        // Refused, or nobody knows: the row says.
        let call = self.fresh();
        self.coreapps[i].calls.insert(call, Asked::RaisedRow(raising));
        self.call(Place::Coreapp(i), Place::Database, call, DATABASE, Body::Owners);
    }

    pub(crate) fn row_of_raised(&mut self, i: usize, raising: Raising, body: Body) {
        let Some(fence) = self.coreapps[i].tasks.get(&raising.task).map(|task| *task.shard.fence()) else { return };
        let raised = match body {
            Body::OwnersRead(rows) => {
                let row = rows.into_iter().find(|row| row.key == key(&fence) && !row.retired);
                row.map_or(Raised::Lost, |row| verdict(&fence, &raising.target, row.epoch, &row.node, row.boot))
            }
            _ if self.instant(Place::Coreapp(i)) < raising.deadline => return self.raise(i, raising),
            _ => Raised::Kept,
        };
        self.take(i, raising.task, Input::Raised(raised));
    }
}
