//! Many runs of the election: none breaks a rule, every rule that is taken out is missed, a seed is always the same run.

use estafet_sim_etcd::{Mutation, run, run_many};

const SEEDS: u64 = 40;

#[test]
fn no_rule_of_the_election_is_broken_in_many_runs() {
    match run_many(0..SEEDS, 2, None) {
        Ok(sum) => {
            assert!(sum.terms > 2 * SEEDS, "leaders followed each other: {sum:?}");
            assert!(sum.claims > 50 * SEEDS && sum.writes > 10 * SEEDS, "leaders worked: {sum:?}");
        }
        Err(violation) => panic!("{}", violation.report()),
    }
}

/// A build without the rule breaks one of these within as many runs.
fn is_missed(mutation: Mutation, rules: &[&str]) {
    let violation = run_many(0..SEEDS, 2, Some(mutation)).expect_err("the rule is needed");
    assert!(rules.iter().any(|rule| violation.what.contains(rule)), "{}", violation.report());
    assert!(violation.report().contains("--mutate"), "the replay takes the rule out too");
}

#[test]
fn a_write_that_is_not_on_condition_of_the_leaders_key_takes_effect_under_another() {
    is_missed(Mutation::TakesAnyWriter, &["took effect while"]);
}

#[test]
fn a_leader_that_does_not_step_down_before_its_lease_ends_acts_beside_the_next() {
    is_missed(Mutation::NeverStepsDown, &["act as leader at once"]);
}

#[test]
fn after_a_loss_of_etcds_data_a_term_that_is_not_raised_is_had_twice_or_refused() {
    is_missed(Mutation::TermNotRaised, &["claimed in term", "the database knows the leader's term"]);
}

#[test]
fn a_seed_of_the_election_is_always_the_same_run() {
    for seed in 1_000..1_002 {
        assert_eq!(run(seed, None).expect("no rule is broken"), run(seed, None).expect("no rule is broken"), "seed {seed}");
    }
}
