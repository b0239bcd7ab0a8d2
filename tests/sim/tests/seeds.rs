//! Thousands of runs: none breaks a rule, every rule that is taken out is missed, and a seed is always the same run.

use estafet_sim::{Mutation, Options, run, run_many};

const SEEDS: u64 = 1_000;

#[test]
fn no_rule_is_broken_in_a_thousand_runs() {
    let options = Options::default();
    match run_many(0..SEEDS, 2, &options) {
        Ok(sum) => {
            assert!(sum.answered as u64 > 10 * SEEDS, "the load was taken: {sum:?}");
            assert!(sum.logins > 5 * SEEDS, "ownership moved: {sum:?}");
            assert!(sum.left > SEEDS / 20, "owners that lacked something lost their shards: {sum:?}");
            assert!(sum.switches > 2 * SEEDS, "shard counts changed: {sum:?}");
        }
        Err(failure) => panic!("{}", failure.report(&options)),
    }
}

/// A build without the rule breaks what the rule keeps, within as many runs.
fn is_missed(mutation: Mutation, rules: &[&str]) {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let failure = run_many(0..SEEDS, 2, &options).expect_err("the rule is needed");
    assert!(rules.contains(&failure.violation.rule), "{failure:?}");
    assert!(failure.replay(&options).contains("--mutate"), "the replay takes the rule out too");
}

#[test]
fn without_the_database_fence_an_old_epoch_commits() {
    is_missed(Mutation::NoDatabaseFence, &["I2"]);
}

#[test]
fn without_the_fence_of_the_network_an_old_epoch_logs_in() {
    is_missed(Mutation::NoChatdFence, &["I2"]);
}

#[test]
fn with_an_epoch_that_is_not_raised_two_write_under_the_same() {
    // Or a node never starts what it was handed, because it did so under that epoch before: then messages stay where
    // they are, in either direction.
    is_missed(Mutation::EpochNotRaised, &["I2", "I3", "I6"]);
}

#[test]
fn with_leases_alone_an_owner_that_lost_its_shard_writes_on() {
    is_missed(Mutation::LeaseOnly, &["I2"]);
}

#[test]
fn with_a_lock_that_does_not_conflict_a_takeover_overtakes_a_commit() {
    is_missed(Mutation::WrongLock, &["I2"]);
}

#[test]
fn without_a_fence_of_shards_that_are_split_or_merged_their_owner_writes_on() {
    is_missed(Mutation::SwitchWithoutFence, &["I2"]);
}

#[test]
fn without_word_of_what_is_not_reached_shards_stay_with_an_owner_that_is_of_no_use() {
    is_missed(Mutation::SaysNothing, &["I7"]);
}

#[test]
fn a_seed_is_always_the_same_run() {
    let options = Options::default();
    for seed in 2_000..2_004 {
        let (one, other) = (run(seed, &options), run(seed, &options));
        assert_eq!(one.expect("no rule is broken"), other.expect("no rule is broken"), "seed {seed}");
    }
}
