//! Orders of a planned move: get ready for a shard, hand a shard off; and the word of what came of them.
//!
//! The word that a shard was handed off goes to every master, with each report for a while. The leader then tells
//! the target to start. No coreapp takes orders from another: if leader and owner die in between, the owner row
//! names the target, and whoever leads next reads it.

use estafet_model::{BootId, Epoch};
use estafet_proto::v1;
use estafet_store::Fence;
use tokio::time::Instant;

use super::{Cluster, ownership, read};
use crate::core::handoff::{Key, Target};

impl Cluster {
    /// Gets ready for a shard in the background; the reports say when that is done.
    pub(super) fn prepare(&self, owned: Fence) {
        let key = (owned.number, owned.count, owned.shard);
        if !self.duties().standbys().prepare(key, owned.epoch, Instant::now().into_std()) {
            return self.touch();
        }
        let cluster = self.clone();
        self.tasks.spawn("prepare", async move {
            let prepared = cluster.node.prepare(key).await;
            let wanted = match prepared {
                Ok(()) => cluster.duties().standbys().ready(&key),
                Err(error) => {
                    tracing::warn!(number = %key.0, shard = %key.2, %error, "not ready for a shard");
                    cluster.duties().standbys().remove(&key);
                    false
                }
            };
            if wanted {
                cluster.touch();
            } else {
                cluster.node.unprepare(&key);
            }
        });
    }

    pub(super) fn hand_off(&self, order: v1::HandOff, term: i64) {
        let v1::HandOff { ownership: Some(ownership), node, boot, address } = order else { return };
        let (Some(fence), Some(boot)) = (read(&ownership), BootId::from_slice(&boot)) else { return };
        self.node.hand_off(&fence, Target { node, boot, address, term });
    }
}

pub(super) fn fence((number, count, shard): Key, epoch: Epoch) -> Fence {
    Fence { number, shard, count, epoch }
}

pub(super) fn wire((fence, target): &(Fence, Target)) -> v1::Handed {
    v1::Handed { ownership: Some(ownership(fence)), node: target.node.clone(), boot: target.boot.0.to_vec().into() }
}
