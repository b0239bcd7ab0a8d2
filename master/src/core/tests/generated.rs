//! Thousands of random events; the world checks its rules after every step, and that calm brings order.

use std::time::Duration;

use estafet_model::ShardCount;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    key,
    world::{Life, World},
};
use crate::core::{Event, resharding::Shape};

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const SHARDS: u32 = 16;

fn happen(world: &mut World, chance: &mut SmallRng) {
    let node = NODES[chance.random_range(0..NODES.len())];
    match chance.random_range(0..26) {
        0..=2 => world.start(node),
        3 => world.set(node, Life::Gone),
        4 => world.set(node, Life::Hung),
        5 | 6 if world.processes.get(node).is_some_and(|process| process.life == Life::Hung) => world.set(node, Life::Running),
        7 => world.drain(node),
        8 => {
            let above = chance.random_range(0..40);
            world.lose(key(chance.random_range(0..SHARDS), SHARDS), above);
        }
        9 => world.feed(Event::Elected { term: world.now.as_millis() as i64, renewed: world.now }),
        10 => world.feed(Event::Deposed),
        11 => world.renews = !world.renews,
        12 => world.database_up = !world.database_up,
        13 => world.want(1 << chance.random_range(0..6)),
        14 => world.loses_answers = !world.loses_answers,
        15 => {
            if let Some(process) = world.processes.get_mut(node) {
                process.stays_cold = chance.random_bool(0.5);
                process.clings = chance.random_bool(0.5);
                process.dies_handing = chance.random_bool(0.3);
            }
        }
        16 => world.reaches(node, "network", chance.random_bool(0.4)),
        17 => world.reaches(node, "database", chance.random_bool(0.4)),
        18 => world.cut(node, 2),
        19 => {
            if let Some(process) = world.processes.get_mut(node) {
                process.broken = !process.broken;
            }
        }
        _ => world.wait(Duration::from_millis(chance.random_range(1..16) * 50)),
    }
}

#[test]
fn whatever_happens_the_rules_hold_and_calm_brings_every_shard_to_a_living_node() {
    for seed in 0..8 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut world = World::new(SHARDS);
        for _ in 0..150 {
            happen(&mut world, &mut chance);
        }
        (world.renews, world.database_up, world.loses_answers) = (true, true, false);
        world.want(SHARDS);
        for node in NODES {
            world.reaches(node, "network", true);
            world.reaches(node, "database", true);
        }
        world.processes.values_mut().for_each(|process| process.broken = false);
        for node in &NODES[..2] {
            world.start(node);
        }
        world.feed(Event::Elected { term: i64::MAX, renewed: world.now });
        let goal = Shape::settled(ShardCount::new(SHARDS).unwrap());
        // A shard that failed often waits for half a minute, a node in trouble gets nothing for ten seconds.
        for _ in 0..60 {
            world.wait(Duration::from_secs(1));
            if world.numbers.values().all(|shape| *shape == goal) && world.loads().values().sum::<usize>() == SHARDS as usize {
                break;
            }
        }
        assert!(world.numbers.values().all(|shape| *shape == goal), "seed {seed}");
        let held: usize = world.loads().values().sum();
        assert_eq!(
            held,
            SHARDS as usize,
            "seed {seed}: {:?}\n{}",
            world.loads(),
            world.log[world.log.len().saturating_sub(40)..].join("\n")
        );
    }
}

/// Whatever the nodes held when all lost it, they hold when it comes back.
#[test]
fn what_no_node_reaches_moves_nothing() {
    for need in ["network", "database"] {
        for seed in 0..2 {
            let mut chance = SmallRng::seed_from_u64(seed);
            let mut world = World::new(SHARDS);
            NODES.iter().for_each(|node| world.start(node));
            world.feed(Event::Elected { term: 1, renewed: world.now });
            world.wait(Duration::from_secs(3));
            let before = world.database.clone();
            // All within the time after which one of them alone would be judged.
            for node in NODES {
                world.reaches(node, need, false);
                world.wait(Duration::from_millis(chance.random_range(0..5) * 50));
            }
            world.wait(Duration::from_secs(chance.random_range(5..20)));
            for node in NODES {
                world.reaches(node, need, true);
                world.wait(Duration::from_millis(chance.random_range(0..5) * 50));
            }
            world.wait(Duration::from_secs(15));
            assert_eq!(world.database, before, "{need}, seed {seed}:\n{}", world.log.join("\n"));
        }
    }
}

/// A new leader after every step: whatever the last one had begun is finished.
#[test]
fn a_leader_that_changes_at_every_step_finishes_what_the_last_one_began() {
    for lost in [false, true] {
        let mut world = World::new(1);
        ["a", "b", "c"].iter().for_each(|node| world.start(node));
        world.feed(Event::Elected { term: 1, renewed: world.now });
        world.wait(Duration::from_secs(2));
        for (turn, wanted) in [2, 4, 8, 4, 1].into_iter().enumerate() {
            let goal = Shape::settled(ShardCount::new(wanted).unwrap());
            world.want(wanted);
            for round in 0.. {
                assert!(round < 400, "{wanted} shards: {:?}\n{}", world.numbers, world.log.join("\n"));
                world.wait(Duration::from_millis(50 * (1 + (round % 7))));
                if world.numbers.values().all(|shape| *shape == goal) {
                    break;
                }
                world.loses_answers = lost && round % 3 == 0;
                world.feed(Event::Deposed);
                world.feed(Event::Elected { term: (turn as i64 + 1) * 1000 + round as i64, renewed: world.now });
            }
            world.loses_answers = false;
            world.wait(Duration::from_secs(4));
            assert_eq!(world.loads().values().sum::<usize>(), wanted as usize);
        }
    }
}
