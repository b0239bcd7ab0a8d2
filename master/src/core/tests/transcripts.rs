//! What is decided in situations a person can follow: `transcripts/*.txt`.
//!
//! A line `> ...` is what happens; the lines after it are what the core orders, with the time in milliseconds.

use std::time::Duration;

use super::{
    key,
    world::{Life, World},
};
use crate::core::Event;

/// Plays the commands of a transcript and writes it anew.
fn play(text: &str) -> String {
    let mut world = World::new(1);
    let mut out = String::new();
    for line in text.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            if line.starts_with('#') || line.is_empty() {
                out += &format!("{line}\n");
            }
            continue;
        };
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["shards", count] => world = World::new(count.parse().unwrap()),
            ["start", node] => world.start(node),
            ["kill", node] => world.set(node, Life::Gone),
            ["hang", node] => world.set(node, Life::Hung),
            ["wake", node] => world.set(node, Life::Running),
            ["cut", node, seconds] => world.cut(node, seconds.parse().unwrap()),
            ["break", node] => world.break_down(node),
            ["mend", node] => world.process(node).broken = false,
            ["lacks", node, what] => world.reaches(node, what, false),
            ["has", node, what] => world.reaches(node, what, true),
            ["drain", node] => world.drain(node),
            ["cold", node] => world.process(node).stays_cold = true,
            ["clings", node] => world.process(node).clings = true,
            ["dies-handing", node] => world.process(node).dies_handing = true,
            ["lose", shard, count, above] => {
                world.lose(key(shard.parse().unwrap(), count.parse().unwrap()), above.parse().unwrap());
            }
            ["raised", shard, count, node] => world.raised(key(shard.parse().unwrap(), count.parse().unwrap()), node),
            ["elect", term] => world.feed(Event::Elected { term: term.parse().unwrap(), renewed: world.now }),
            ["depose"] => world.feed(Event::Deposed),
            ["etcd", state] => world.renews = state == "up",
            ["database", state] => world.database_up = state == "up",
            ["want", count] => world.want(count.parse().unwrap()),
            ["answers", state] => world.loses_answers = state == "lost",
            ["wait", ms] => world.wait(Duration::from_millis(ms.parse().unwrap())),
            _ => panic!("unknown command: {command}"),
        }
        out += &format!("> {command}\n");
        for line in world.log.drain(..) {
            out += &format!("{line}\n");
        }
    }
    out
}

fn follows(transcript: &str) {
    let played = play(transcript);
    assert!(played == transcript, "the transcript has become:\n{played}");
}

#[test]
fn a_node_that_the_webapps_do_not_reach_hands_its_shards_to_others() {
    follows(include_str!("../transcripts/cut.txt"));
}

#[test]
fn an_owner_that_lacks_what_others_have_gives_its_shards_to_them_and_what_nobody_has_moves_nothing() {
    follows(include_str!("../transcripts/needs.txt"));
}

#[test]
fn what_one_node_cannot_start_another_does_and_what_nobody_can_is_tried_less_and_less() {
    follows(include_str!("../transcripts/broken.txt"));
}

#[test]
fn a_leader_places_every_shard_and_a_follower_none() {
    follows(include_str!("../transcripts/placement.txt"));
}

#[test]
fn a_dead_owners_shards_move_at_once_and_a_hung_owners_after_the_threshold() {
    follows(include_str!("../transcripts/failover.txt"));
}

#[test]
fn a_draining_node_hands_its_shards_over_one_at_a_time_for_each_target() {
    follows(include_str!("../transcripts/drain.txt"));
}

#[test]
fn a_handoff_that_fails_leaves_the_shard_and_the_next_target_is_tried() {
    follows(include_str!("../transcripts/handoff.txt"));
}

#[test]
fn a_leader_without_its_lease_steps_down_and_the_next_keeps_living_owners() {
    follows(include_str!("../transcripts/leadership.txt"));
}

#[test]
fn an_epoch_is_given_out_once_and_the_next_is_above_all_that_was_seen() {
    follows(include_str!("../transcripts/epochs.txt"));
}

#[test]
fn a_count_changes_group_by_group_and_the_next_leader_goes_on() {
    follows(include_str!("../transcripts/resharding.txt"));
}

#[test]
fn balance_moves_wait_for_quiet_and_keep_their_budget() {
    follows(include_str!("../transcripts/balance.txt"));
}
