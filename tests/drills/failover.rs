//! The drills that people run, at a low rate: a cluster loses owners by death and by orderly end, a number changes its
//! shard count, every process is replaced, and nothing is lost, doubled or reordered (**I1**-**I6**, F1, F16). How long accepting paused is measured on quiet machines, not here.

use std::collections::BTreeMap;

use estafet_drill::{Drill, Options, Outcome};

async fn drill(drill: Drill, repeat: u32) -> anyhow::Result<Outcome> {
    let options = Options { rate: 40, repeat, probe_ms: 100, shards: 4, no_fsync: true, ..Options::local([drill]) };
    let mut finished = estafet_drill::run(&options).await?;
    let outcome = finished.outcomes.remove(0);
    assert_eq!(outcome.samples.len(), repeat as usize, "{}", finished.table);
    Ok(outcome)
}

/// Nothing is wrong; a request may have been told to come again, and was not accepted then (**I9**).
pub(crate) fn assert_whole(outcome: &Outcome) {
    let counts = &outcome.counts;
    let wrong = [
        ("lost", counts.lost),
        ("doubled", counts.doubled),
        ("reordered", counts.reordered),
        ("strange", counts.strange),
        ("callbacks lost", counts.callbacks_lost.unwrap_or(u64::MAX)),
        ("callbacks reordered", counts.callbacks_reordered.unwrap_or(u64::MAX)),
        ("violations of the audit", counts.audit_violations.unwrap_or(u64::MAX)),
    ];
    let wrong: Vec<(&str, u64)> = wrong.into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(wrong, [], "{:?}", outcome.breaches);
    assert!(counts.accepted > 0);
    let strange: BTreeMap<&u16, &u64> = counts.failed.iter().filter(|(status, _)| ![503, 504].contains(*status)).collect();
    assert!(strange.is_empty(), "requests that failed otherwise than for the moment: {strange:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_killed_lose_double_and_reorder_nothing() -> anyhow::Result<()> {
    let outcome = drill(Drill::KillOwner, 3).await?;
    assert_whole(&outcome);
    // A victim that owned nothing would prove nothing.
    assert!(outcome.samples.iter().all(|sample| sample.moves > 0), "{:?}", outcome.samples);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_asked_to_end_lose_double_and_reorder_nothing() -> anyhow::Result<()> {
    let outcome = drill(Drill::Drain, 2).await?;
    assert_whole(&outcome);
    assert!(outcome.samples.iter().all(|sample| sample.moves > 0), "{:?}", outcome.samples);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_count_that_changes_loses_doubles_and_reorders_nothing() -> anyhow::Result<()> {
    let outcome = drill(Drill::Reshard, 1).await?;
    assert_whole(&outcome);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn r190_a_rolling_upgrade_and_its_way_back_cost_no_request() -> anyhow::Result<()> {
    let outcome = drill(Drill::Rolling, 1).await?;
    assert_whole(&outcome);
    assert_eq!(outcome.counts.failures(), 0, "{:?}", outcome.counts.failed);
    // Two masters, three coreapps and two webapps, forth and back.
    assert!(outcome.samples[0].moves > 0 && outcome.samples[0].victims.starts_with("14 "), "{:?}", outcome.samples);
    Ok(())
}
