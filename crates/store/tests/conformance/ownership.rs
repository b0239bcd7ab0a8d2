//! Claims, fences and holds.

use estafet_model::{BootId, Epoch, Shard, ShardCount};
use estafet_store::{Batch, Claim, Counts, Error, Fence, Holder, SharedStore, StatusRow};
use futures::future::join_all;

use crate::given::*;

pub(crate) async fn a_claim_raises_the_epoch(store: SharedStore) {
    let first = owner(&*store).await;
    assert_eq!(first.epoch, Epoch::new(1));
    assert_eq!(claim(&*store, number(), None).await, None, "there is a row already");
    assert_eq!(claim(&*store, number(), Some(Epoch::new(7))).await, None, "the epoch seen is not the stored one");
    let four = ShardCount::new(4).unwrap();
    let third = Shard::new(3, four).unwrap();
    store.claim(other_number(), third, four, None, "core-2", boot(2), 1, NOW).await.unwrap().unwrap();
    let second = store.claim(number(), Shard::ZERO, ShardCount::ONE, Some(first.epoch), "core-3", boot(3), 1, NOW).await.unwrap();
    assert_eq!(second, Some(Fence { epoch: Epoch::new(2), ..first }));
    let owners = store.owners().await.unwrap();
    let seen: Vec<_> = owners.iter().map(|o| (o.number, o.shard, o.count, o.epoch.get(), o.owner.as_str(), o.boot)).collect();
    assert_eq!(
        seen,
        [(number(), Shard::ZERO, ShardCount::ONE, 2, "core-3", boot(3)), (other_number(), third, four, 1, "core-2", boot(2))]
    );
}

pub(crate) async fn a_warm_up_changes_nothing(store: SharedStore) {
    store.warm_up().await.unwrap();
    let fence = owner(&*store).await;
    let before = store.owners().await.unwrap();
    assert_eq!(store.raise_term(7).await.unwrap(), 1);
    store.warm_up().await.unwrap();
    assert_eq!(store.owners().await.unwrap(), before);
    assert_eq!(store.raise_term(7).await.unwrap(), 7);
    store.commit(&fence, &Batch::default()).await.unwrap();
    let counts = store.counts(number()).await.unwrap();
    assert_eq!((counts, store.counts(other_number()).await.unwrap()), (Counts::default(), Counts::default()));
}

/// Shard and epoch of what was taken.
async fn taken(store: &SharedStore, claims: &[Claim<'_>]) -> Vec<Option<(u16, u32)>> {
    let granted = |fence: Fence| (fence.shard.get(), fence.epoch.get());
    store.claim_all(claims).await.into_iter().map(|outcome| outcome.unwrap().map(granted)).collect()
}

/// Shard, epoch, owner and process.
async fn owned(store: &SharedStore) -> Vec<(u16, u32, String, BootId)> {
    let owners = store.owners().await.unwrap();
    owners.into_iter().map(|row| (row.shard.get(), row.epoch.get(), row.owner, row.boot)).collect()
}

pub(crate) async fn many_shards_are_claimed_each_for_its_own_node(store: SharedStore) {
    assert_eq!(taken(&store, &[]).await, []);
    let held = owners(&*store, 4).await;
    assert_eq!(
        held.iter().map(|fence| (fence.shard.get(), fence.epoch.get())).collect::<Vec<_>>(),
        [(0, 1), (1, 1), (2, 1), (3, 1)]
    );
    let third = Claim { owner: "core-3 \u{1f600}", boot: boot(3), ..next(&held[1]) };
    assert_eq!(taken(&store, &[next(&held[3]), third, next(&held[0])]).await, [Some((3, 2)), Some((1, 2)), Some((0, 2))]);
    let expected =
        [(0, 2, "core-2", boot(2)), (1, 2, "core-3 \u{1f600}", boot(3)), (2, 1, "core-1", boot(1)), (3, 2, "core-2", boot(2))];
    assert_eq!(owned(&store).await, expected.map(|(shard, epoch, owner, boot)| (shard, epoch, owner.to_owned(), boot)));
}

pub(crate) async fn a_stale_claim_among_others_is_refused_alone(store: SharedStore) {
    let held = owners(&*store, 4).await;
    let stale = Claim { seen: Some(Epoch::new(9)), ..next(&held[0]) };
    let absent = Claim { number: other_number(), ..next(&held[2]) };
    let claims = [next(&held[3]), stale, absent, next(&held[1])];
    assert_eq!(taken(&store, &claims).await, [Some((3, 2)), None, None, Some((1, 2))]);
    assert_eq!(taken(&store, &claims).await, [None; 4], "what was taken is stale by now");
    assert_eq!(owned(&store).await.iter().map(|row| row.1).collect::<Vec<_>>(), [1, 2, 1, 2]);
}

pub(crate) async fn claims_together_under_an_older_term_take_nothing(store: SharedStore) {
    let held = owners(&*store, 4).await;
    let under = |term| held.iter().map(|fence| Claim { master_term: term, ..next(fence) }).collect::<Vec<_>>();
    let newer = Claim { master_term: 3, ..next(&held[0]) };
    store.claim_all(&[newer]).await.pop().unwrap().unwrap().unwrap();
    assert_eq!(taken(&store, &under(2)).await, [None; 4]);
    assert_eq!(owned(&store).await.iter().map(|row| row.1).collect::<Vec<_>>(), [2, 1, 1, 1]);
    assert_eq!(taken(&store, &under(4)).await, [None, Some((1, 2)), Some((2, 2)), Some((3, 2))]);
    assert_eq!(store.raise_term(1).await.unwrap(), 4, "and the term is known");
}

/// In whatever order they lock what they take.
pub(crate) async fn each_shard_of_two_claims_of_many_has_one_winner(store: SharedStore) {
    let mut held = owners(&*store, 8).await;
    for round in 2..=5 {
        let claims: Vec<Claim<'_>> = held.iter().map(next).collect();
        let reversed: Vec<Claim<'_>> = claims.iter().rev().copied().collect();
        held = join_all([won(&store, claims), won(&store, reversed)]).await.concat();
        held.sort_by_key(|fence| fence.shard.get());
        let winners: Vec<_> = held.iter().map(|fence| (fence.shard.get(), fence.epoch.get())).collect();
        assert_eq!(winners, (0..8).map(|shard| (shard, round)).collect::<Vec<_>>());
    }
}

/// What was taken, when those that the other one held for long were tried again.
async fn won(store: &SharedStore, mut claims: Vec<Claim<'_>>) -> Vec<Fence> {
    let mut won = Vec::new();
    while !claims.is_empty() {
        let outcomes = store.claim_all(&claims).await;
        claims = claims
            .into_iter()
            .zip(outcomes)
            .filter_map(|(claim, outcome)| match outcome {
                Err(Error::Unavailable(_)) => Some(claim),
                outcome => {
                    won.extend(outcome.unwrap());
                    None
                }
            })
            .collect();
    }
    won
}

pub(crate) async fn two_claims_of_the_same_epoch_have_one_winner(store: SharedStore) {
    let mut seen = None;
    for round in 1..=5 {
        let claims = join_all((0..2).map(|_| claim(&*store, number(), seen))).await;
        let winners: Vec<Fence> = claims.into_iter().flatten().collect();
        assert_eq!(winners.iter().map(|w| w.epoch.get()).collect::<Vec<_>>(), [round]);
        seen = Some(winners[0].epoch);
    }
}

pub(crate) async fn an_older_master_term_claims_nothing(store: SharedStore) {
    let claim = |seen, term| store.claim(number(), Shard::ZERO, ShardCount::ONE, seen, "core-1", boot(1), term, NOW);
    let first = claim(None, 5).await.unwrap().unwrap();
    assert_eq!(claim(Some(first.epoch), 4).await.unwrap(), None);
    assert!(claim(Some(first.epoch), 5).await.unwrap().is_some());
    // The term is the cluster's: a former leader takes nothing that the new one has not touched yet either.
    let untouched = |term| store.claim(other_number(), Shard::ZERO, ShardCount::ONE, None, "core-1", boot(1), term, NOW);
    assert_eq!(untouched(4).await.unwrap(), None);
    assert!(untouched(6).await.unwrap().is_some());
    assert_eq!(claim(Some(Epoch::new(2)), 5).await.unwrap(), None);
    assert!(claim(Some(Epoch::new(2)), 6).await.unwrap().is_some());
}

pub(crate) async fn a_term_that_is_made_known_refuses_older_ones(store: SharedStore) {
    assert_eq!(store.raise_term(5).await.unwrap(), 0);
    assert_eq!(store.raise_term(5).await.unwrap(), 5, "somebody had it");
    assert_eq!(store.raise_term(4).await.unwrap(), 5, "it is not lowered");
    assert_eq!(store.raise_term(9).await.unwrap(), 5);
    let claim = |term| store.claim(number(), Shard::ZERO, ShardCount::ONE, None, "core-1", boot(1), term, NOW);
    assert_eq!(claim(8).await.unwrap(), None);
    assert!(claim(9).await.unwrap().is_some());
    let both = join_all((0..2).map(|_| store.raise_term(20))).await;
    let first = both.into_iter().filter(|before| before.as_ref().is_ok_and(|before| *before < 20)).count();
    assert_eq!(first, 1, "two leaders had the same term first");
}

pub(crate) async fn a_fenced_commit_writes_nothing(store: SharedStore) {
    let old = owner(&*store).await;
    let before = Batch { events: vec![event((7, 1))], ..messages([message((7, 1), 1)]) };
    store.commit(&old, &before).await.unwrap();
    let new = claim(&*store, number(), Some(old.epoch)).await.unwrap();
    let late = Batch {
        statuses: vec![StatusRow {
            slot: slot(7),
            seq: seq(1),
            statuses: estafet_model::StatusSet::from_bits(1),
            error_code: None,
            times: estafet_store::Times::default(),
            changed_at_ms: NOW,
        }],
        events_done: vec![event_at(7, 1)],
        inbound: vec![inbound("in-1")],
        ..messages([message((7, 2), 2)])
    };
    match store.commit(&old, &late).await {
        Err(Error::Fenced { ours, .. }) => assert_eq!(ours, old.epoch),
        other => panic!("not fenced: {other:?}"),
    }
    let outbox = store.outbox(number(), &[(slot(7), seq(0))], 10).await.unwrap();
    assert_eq!(places(outbox.iter().map(|m| (&m.slot, &m.seq))), [(7, 1)]);
    assert_eq!(store.backlog(number(), new.slots()).await.unwrap(), (1, 1));
    assert!(store.inbound(number(), &["in-1".to_owned()]).await.unwrap().is_empty());
    store.commit(&new, &late).await.unwrap();
    assert_eq!(store.backlog(number(), new.slots()).await.unwrap(), (0, 1));
}

pub(crate) async fn a_shard_without_owner_takes_no_commit(store: SharedStore) {
    let fence = Fence { number: number(), shard: Shard::ZERO, count: ShardCount::ONE, epoch: Epoch::new(1) };
    assert!(matches!(store.commit(&fence, &Batch::default()).await, Err(Error::Fenced { .. })));
    owner(&*store).await;
    store.commit(&fence, &Batch::default()).await.unwrap();
    let other_count = Fence { count: ShardCount::new(2).unwrap(), ..fence };
    assert!(matches!(store.commit(&other_count, &Batch::default()).await, Err(Error::Fenced { .. })));
}

pub(crate) async fn a_number_is_held_once(store: SharedStore) {
    let holder = |node: &str| Holder { node: node.to_owned(), host: "box".to_owned(), pid: 42, since_ms: NOW, base_url: None };
    let held = store.hold(number(), &holder("first")).await.unwrap();
    assert!(held.is_held());
    match store.hold(number(), &holder("second")).await {
        Err(Error::Held { holder, .. }) => assert_eq!(holder.unwrap().to_string(), "first (process 42 on box)"),
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("held twice"),
    }
    let _other = store.hold(other_number(), &holder("first")).await.unwrap();
    drop(held);
    // The server notices a closed connection a moment later.
    let free = async {
        loop {
            match store.hold(number(), &holder("third")).await {
                Ok(held) => break held,
                Err(Error::Held { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    assert!(free.await.is_held());
}
