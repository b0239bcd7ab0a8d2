//! What a new master makes of the processes that are registered in etcd, and of shards that nobody has.

use std::{collections::BTreeMap, time::Duration};

use super::{
    key,
    world::{Life, World},
};
use crate::core::{Core, Event, step::TAKEOVERS};

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
fn a_node_is_given_many_shards_at_once_and_the_rest_as_it_starts_them() {
    let mut world = World::new(256);
    world.start("a");
    world.feed(Event::Elected { term: 1, renewed: world.now });
    world.wait(Duration::from_millis(1500));
    let is_claim = |line: &&String| line.contains(" claim ");
    let before = world.log.iter().position(|line| is_claim(&line)).unwrap();
    let at_once = world.log[before..].iter().take_while(is_claim).count();
    assert_eq!(at_once, TAKEOVERS);
    assert_eq!(world.loads()["a"], 256);
}
