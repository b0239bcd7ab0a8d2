//! What a new master makes of the processes that are registered in etcd, and of shards that nobody has.

use std::{collections::BTreeMap, time::Duration};

use super::{
    key,
    world::{Life, World},
};
use crate::core::{
    Core, Event,
    step::{BEGINNINGS, TAKEOVERS},
};

/// A cluster whose only master starts anew while the owner `a` is silent; `b` reports.
fn masters_restart(is_registered: bool) -> World {
    let mut world = World::new(1);
    world.start("a");
    world.feed(Event::Elected { term: 1, renewed: world.now });
    world.wait(Duration::from_millis(1500));
    assert_eq!(world.database[&key(0, 1)].node, "a");
    world.set("a", Life::Hung);
    world.core = Core::new(BTreeMap::from([(key(0, 1).0, key(0, 1).1)]));
    world.start("b");
    if is_registered {
        let boot = world.process("a").boot;
        world.feed(Event::Registered(BTreeMap::from([("a".to_owned(), boot)])));
    }
    world.feed(Event::Elected { term: 2, renewed: world.now });
    world
}

#[test]
fn an_owner_that_is_registered_is_waited_for_longer_than_one_that_is_not() {
    let owner_after = |is_registered, wait| {
        let mut world = masters_restart(is_registered);
        world.wait(Duration::from_millis(wait));
        world.database[&key(0, 1)].node.clone()
    };
    assert_eq!(owner_after(false, 2000), "b");
    assert_eq!(owner_after(true, 2000), "a");
    assert_eq!(owner_after(true, 4000), "b", "a registration is no proof of life");
}

#[test]
fn a_leader_says_who_owns_what_and_a_follower_says_nothing() {
    let mut world = World::new(2);
    world.start("a");
    assert!(world.core.assignments().is_none() && world.core.picture().is_none());
    world.feed(Event::Elected { term: 1, renewed: world.now });
    let before = world.core.picture();
    world.wait(Duration::from_millis(1500));
    assert_ne!(world.core.picture(), before, "what changed has another number");
    let said: Vec<_> = world.core.assignments().unwrap().map(|(key, node, epoch)| (*key, node.clone(), epoch)).collect();
    let stored: Vec<_> = world.database.values().map(|record| (record.key, record.node.clone(), record.epoch)).collect();
    assert_eq!(said, stored);
    world.want(4);
    world.wait(Duration::from_millis(3000));
    let said: Vec<_> = world.core.assignments().unwrap().map(|(key, ..)| *key).collect();
    assert_eq!(said, [key(0, 4), key(1, 4), key(2, 4), key(3, 4)], "retired shards are no assignments");
    world.feed(Event::Deposed);
    assert!(world.core.assignments().is_none());
}

#[test]
fn a_new_cluster_begins_slowly_and_the_shards_of_a_dead_node_are_taken_many_at_once() {
    let mut world = World::new(256);
    world.start("a");
    world.feed(Event::Elected { term: 1, renewed: world.now });
    world.wait(Duration::from_secs(10));
    let claimed_at_once = |log: &[String]| {
        let is_claim = |line: &&String| line.contains(" claim ");
        log.iter().skip_while(|line| !is_claim(line)).take_while(is_claim).count()
    };
    assert_eq!((claimed_at_once(&world.log), world.loads()["a"]), (BEGINNINGS, 256));
    world.start("b");
    world.wait(Duration::from_millis(500));
    let before = world.log.len();
    world.set("a", Life::Gone);
    world.wait(Duration::from_millis(1500));
    assert_eq!((claimed_at_once(&world.log[before..]), world.loads()["b"]), (TAKEOVERS, 256));
}
