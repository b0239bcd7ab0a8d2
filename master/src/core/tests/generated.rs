//! Thousands of random events; the world checks its rules after every step, and that calm brings order.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{
    key,
    world::{Life, World},
};
use crate::core::Event;

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const SHARDS: u32 = 16;

fn happen(world: &mut World, chance: &mut SmallRng) {
    let node = NODES[chance.random_range(0..NODES.len())];
    match chance.random_range(0..20) {
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
        (world.renews, world.database_up) = (true, true);
        for node in &NODES[..2] {
            world.start(node);
        }
        world.feed(Event::Elected { term: i64::MAX, renewed: world.now });
        world.wait(Duration::from_secs(10));
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
