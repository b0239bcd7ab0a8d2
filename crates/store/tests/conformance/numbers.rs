//! Numbers, and the steps by which their shard count changes.

use estafet_model::{Epoch, Layout, Shard, ShardCount};
use estafet_store::{Batch, Error, Fence, NumberRow, SharedStore, Switch};

use crate::given::*;

fn count(value: u32) -> ShardCount {
    ShardCount::new(value).unwrap()
}

fn shard(value: u32, of: u32) -> Shard {
    Shard::new(value, count(of)).unwrap()
}

const fn layout(from: ShardCount, to: ShardCount) -> (Layout, Layout, Layout) {
    (Layout::Stable(from), Layout::Prepare { from, to }, Layout::Switch { from, to })
}

/// Brings the number from its stable count into the switch to `to`.
async fn begin(store: &SharedStore, from: u32, to: u32) {
    let (stable, prepare, switch) = layout(count(from), count(to));
    assert!(store.want_shards(number(), count(to)).await.unwrap());
    assert!(store.set_layout(number(), stable, prepare, 1).await.unwrap());
    assert!(store.set_layout(number(), prepare, switch, 1).await.unwrap());
}

fn switch(from: u32, to: u32, retire: &[(u32, Epoch)], claim: &[u32]) -> Switch {
    Switch {
        number: number(),
        from: count(from),
        to: count(to),
        retire: retire.iter().map(|(s, seen)| (shard(*s, from), *seen)).collect(),
        claim: claim.iter().map(|s| (shard(*s, to), format!("core-{s}"), boot(*s as u8))).collect(),
        above: Epoch::default(),
        master_term: 1,
        now_ms: NOW,
    }
}

pub(crate) async fn numbers_are_added_listed_and_removed(store: SharedStore) {
    assert!(store.numbers().await.unwrap().is_empty());
    let one = NumberRow::new(number(), count(4), Some("one.example".to_owned()), NOW);
    let two = NumberRow::new(other_number(), count(1), None, NOW + 1);
    assert!(store.add_number(&two).await.unwrap());
    assert!(store.add_number(&one).await.unwrap());
    assert!(!store.add_number(&NumberRow::new(number(), count(8), None, NOW)).await.unwrap(), "it is there");
    assert_eq!(store.numbers().await.unwrap(), [one.clone(), two.clone()]);
    let third = NumberRow { number: recipient(1), ..one.clone() };
    assert!(!store.add_number(&third).await.unwrap(), "the host name is taken");
    assert!(store.add_number(&NumberRow { host: None, ..third.clone() }).await.unwrap());
    assert!(store.remove_number(third.number).await.unwrap() && !store.remove_number(third.number).await.unwrap());
    assert!(store.want_shards(number(), count(8)).await.unwrap());
    assert!(!store.remove_number(number()).await.unwrap(), "its shard count is changing");
    assert_eq!(store.numbers().await.unwrap(), [NumberRow { wanted: count(8), ..one }, two]);
}

pub(crate) async fn one_change_of_the_shard_count_at_a_time(store: SharedStore) {
    let wants = async |wanted| store.want_shards(number(), count(wanted)).await.unwrap();
    assert!(!wants(2).await, "there is no such number");
    store.add_number(&NumberRow::new(number(), count(2), None, NOW)).await.unwrap();
    assert!(wants(2).await && wants(8).await);
    assert!(!wants(4).await, "another change is under way");
    assert!(wants(2).await && wants(4).await, "what has not begun is called off");
    let (stable, prepare, switch) = layout(count(2), count(4));
    assert!(!store.set_layout(number(), prepare, switch, 5).await.unwrap(), "the layout is another one");
    assert!(store.set_layout(number(), stable, prepare, 5).await.unwrap());
    assert!(!store.set_layout(number(), prepare, switch, 4).await.unwrap(), "a newer term has written");
    assert!(wants(2).await && !wants(8).await, "it can be called off, and is not replaced");
    assert!(store.set_layout(number(), prepare, stable, 5).await.unwrap());
    assert!(wants(4).await);
    assert!(store.set_layout(number(), stable, prepare, 5).await.unwrap());
    assert!(store.set_layout(number(), prepare, switch, 6).await.unwrap());
    assert!(!wants(2).await, "a switch goes only forward");
    assert!(store.set_layout(number(), switch, Layout::Stable(count(4)), 6).await.unwrap());
    assert!(store.numbers().await.unwrap()[0].is_settled());
}

pub(crate) async fn a_split_fences_the_parent_and_its_halves_number_above_it(store: SharedStore) {
    store.add_number(&NumberRow::new(number(), count(1), None, NOW)).await.unwrap();
    let first = owner(&*store).await;
    let parent = claim(&*store, number(), Some(first.epoch)).await.unwrap();
    let split = switch(1, 2, &[(0, parent.epoch)], &[0, 1]);
    assert_eq!(store.switch_shards(&split).await.unwrap(), None, "the number is not switching");
    begin(&store, 1, 2).await;
    store.commit(&parent, &messages([message((7, 1), 1)])).await.unwrap();
    for wrong in [
        switch(1, 2, &[(0, first.epoch)], &[0, 1]),
        Switch { master_term: 0, ..split.clone() },
        Switch { number: other_number(), ..split.clone() },
    ] {
        assert_eq!(store.switch_shards(&wrong).await.unwrap(), None);
    }
    store.commit(&parent, &messages([message((7, 2), 2)])).await.unwrap();
    let children = store.switch_shards(&split).await.unwrap().unwrap();
    assert_eq!(children.iter().map(|child| (child.shard.get(), child.count.get())).collect::<Vec<_>>(), [(0, 2), (1, 2)]);
    assert!(children.iter().all(|child| child.epoch > parent.epoch));
    let late = store.commit(&parent, &messages([message((7, 3), 3)])).await;
    assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
    for child in &children {
        store.commit(child, &Batch::default()).await.unwrap();
    }
    assert_eq!(store.switch_shards(&split).await.unwrap(), None, "it is done already");
    let states: Vec<_> =
        store.owners().await.unwrap().iter().map(|row| (row.count.get(), row.shard.get(), row.retired)).collect();
    assert_eq!(states, [(1, 0, true), (2, 0, false), (2, 1, false)]);
}

pub(crate) async fn a_retired_shard_is_never_claimed(store: SharedStore) {
    store.add_number(&NumberRow::new(number(), count(1), None, NOW)).await.unwrap();
    let parent = owner(&*store).await;
    begin(&store, 1, 2).await;
    let children = store.switch_shards(&switch(1, 2, &[(0, parent.epoch)], &[0, 1])).await.unwrap().unwrap();
    let stored = store.owners().await.unwrap()[0].epoch;
    assert_eq!(claim(&*store, number(), Some(parent.epoch)).await, None);
    assert_eq!(claim(&*store, number(), Some(stored)).await, None);
    let together = [next(&Fence { epoch: stored, ..parent }), next(&children[0])];
    let together = store.claim_all(&together).await;
    assert!(matches!(together[..], [Ok(None), Ok(Some(_))]), "{together:?}");
    let of_four = store.claim(number(), shard(3, 4), count(4), None, "core-1", boot(1), 1, NOW).await.unwrap();
    assert_eq!(of_four, None, "another count owns these slots");
    assert_eq!(store.forget_retired(NOW).await.unwrap(), 0);
    assert_eq!(store.forget_retired(NOW + 1).await.unwrap(), 1);
    assert_eq!(claim(&*store, number(), None).await, None, "its halves own its slots");
    let next = store.claim(number(), children[1].shard, count(2), Some(children[1].epoch), "core-9", boot(9), 1, NOW).await;
    assert_eq!(next.unwrap().unwrap().epoch, children[1].epoch.next(), "what lives is claimed as ever");
}

pub(crate) async fn a_merge_goes_above_both_halves_and_back_again(store: SharedStore) {
    store.add_number(&NumberRow::new(number(), count(2), None, NOW)).await.unwrap();
    let mut halves = Vec::new();
    for (half, claims) in [(0, 1), (1, 7)] {
        let mut seen: Option<Fence> = None;
        for _ in 0..claims {
            let seen_epoch = seen.map(|fence| fence.epoch);
            seen = store.claim(number(), shard(half, 2), count(2), seen_epoch, "core", boot(1), 1, NOW).await.unwrap();
        }
        halves.push((half, seen.unwrap().epoch));
    }
    begin(&store, 2, 1).await;
    let one_only = switch(2, 1, &halves[..1], &[0]);
    assert_eq!(store.switch_shards(&one_only).await.unwrap(), None, "the other half still owns its slots");
    let merged = store.switch_shards(&switch(2, 1, &halves, &[0])).await.unwrap().unwrap();
    assert!(merged[0].epoch > halves[1].1);
    assert!(store.set_layout(number(), layout(count(2), count(1)).2, Layout::Stable(ShardCount::ONE), 1).await.unwrap());
    begin(&store, 1, 2).await;
    let above = Epoch::new(40);
    let again = Switch { above, ..switch(1, 2, &[(0, merged[0].epoch)], &[0, 1]) };
    let children = store.switch_shards(&again).await.unwrap().unwrap();
    assert!(children.iter().all(|child| child.epoch > above && child.epoch > merged[0].epoch));
}

pub(crate) async fn a_former_leader_changes_no_layout_and_switches_no_shards(store: SharedStore) {
    store.add_number(&NumberRow::new(number(), count(1), None, NOW)).await.unwrap();
    let parent = owner(&*store).await;
    begin(&store, 1, 2).await;
    let (_, _, switching) = layout(count(1), count(2));
    let split = |master_term| Switch { master_term, ..switch(1, 2, &[(0, parent.epoch)], &[0, 1]) };
    // The term is the cluster's: neither the number nor its shards were touched by the new leader.
    store.raise_term(9).await.unwrap();
    assert_eq!(store.switch_shards(&split(8)).await.unwrap(), None);
    assert!(!store.set_layout(number(), switching, Layout::Stable(count(2)), 8).await.unwrap());
    store.commit(&parent, &messages([message((7, 1), 1)])).await.expect("nothing was retired");
    assert_eq!(store.numbers().await.unwrap()[0].layout, switching);
    assert!(store.switch_shards(&split(9)).await.unwrap().is_some());
    assert!(!store.set_layout(number(), switching, Layout::Stable(count(2)), 8).await.unwrap());
    assert!(store.set_layout(number(), switching, Layout::Stable(count(2)), 9).await.unwrap());
}

pub(crate) async fn a_layout_and_a_switch_make_their_term_known(store: SharedStore) {
    store.add_number(&NumberRow::new(number(), count(1), None, NOW)).await.unwrap();
    let parent = owner(&*store).await;
    let elsewhere =
        async |term| store.claim(other_number(), Shard::ZERO, ShardCount::ONE, None, "core-1", boot(1), term, NOW).await.unwrap();
    let (stable, prepare, switching) = layout(count(1), count(2));
    assert!(store.want_shards(number(), count(2)).await.unwrap());
    assert!(store.set_layout(number(), stable, prepare, 20).await.unwrap());
    assert_eq!(elsewhere(19).await, None, "the leader of a layout was a newer one");
    assert!(store.set_layout(number(), prepare, switching, 20).await.unwrap());
    let split = Switch { master_term: 30, ..switch(1, 2, &[(0, parent.epoch)], &[0, 1]) };
    assert!(store.switch_shards(&split).await.unwrap().is_some());
    assert_eq!(elsewhere(29).await, None, "the leader of a switch was a newer one");
    assert!(elsewhere(30).await.is_some());
}
