//! What each drill does, once: measure undisturbed, strike, wait until it is over, undo, wait until all is well.

use std::time::Duration;

use anyhow::Context as _;
use estafet_harness::client::until;
use tokio::time::{interval, sleep, timeout};

use crate::{
    core::{gap, verdict::Sample},
    options::{Drill, Options},
    traffic::Traffic,
    world::{Owners, Part, Release, Verb, World},
};

/// How long accepting is watched before a fault, and after everything seems over.
const WATCH: Duration = Duration::from_millis(1500);
/// Distance of two looks at the leader.
const LOOK: Duration = Duration::from_millis(5);
/// Distance of two looks at the owners. Each costs processor time that the cluster under drill lacks then.
const LOOK_FOR_OWNERS: Duration = Duration::from_millis(100);
/// How long a new leader is waited for.
const NEW_LEADER: Duration = Duration::from_secs(30);
/// How long a node that wakes or comes back is given to do something wrong.
const TEMPTATION: Duration = Duration::from_secs(1);

/// Who is there before the fault.
struct Before {
    owners: Owners,
    owner: String,
    leader: String,
    term: i64,
}

/// Runs one repeat.
pub(crate) async fn repeat(drill: Drill, options: &Options, world: &mut World, traffic: &Traffic) -> anyhow::Result<Sample> {
    let begin = traffic.now();
    sleep(WATCH).await;
    let undisturbed = traffic.accepts(|accepts| gap::worst(accepts, begin, traffic.now()));
    let undisturbed = undisturbed.map(|(_, gap)| gap).unwrap_or_default();
    let (leader, status) = world.status().await?;
    let before = Before { owners: world.owners().await?, owner: world.busiest().await?, leader, term: status.term };

    let at = traffic.now();
    let mut sample = Sample { undisturbed, ..strike(drill, options, world, traffic, &before).await? };
    let since = traffic.now();
    all_shards_accept(traffic, since).await?;
    sleep(WATCH).await;
    let worst = traffic.accepts(|accepts| gap::worst(accepts, at, traffic.now()));
    (sample.shard, sample.gap) = worst.context("there is no shard")?;
    sample.wait = traffic.longest_wait(at);
    let after = world.owners().await?;
    sample.moves = before.owners.iter().filter(|(shard, owner)| after.get(*shard) != Some(*owner)).count() as u64;
    undo(drill, options, world, &before).await?;
    all_is_well(world, before.owners.len()).await?;
    Ok(sample)
}

/// Does the fault and returns when it has had its effect.
async fn strike(
    drill: Drill,
    options: &Options,
    world: &mut World,
    traffic: &Traffic,
    before: &Before,
) -> anyhow::Result<Sample> {
    let mut sample = Sample { victims: before.owner.clone(), ..Sample::default() };
    let verb = match drill {
        Drill::KillOwner => Verb::Kill,
        Drill::HangOwner => Verb::Hang,
        Drill::PartitionOwner => Verb::Cut,
        Drill::Drain => Verb::Drain,
        Drill::KillMaster | Drill::HangMaster => {
            let verb = if drill == Drill::KillMaster { Verb::Kill } else { Verb::Hang };
            let at = traffic.now();
            world.act(verb, &before.leader).await?;
            sample.victims.clone_from(&before.leader);
            sample.leader = Some(new_leader(world, traffic, before, at).await?);
            return Ok(sample);
        }
        Drill::KillEtcdLeader => {
            world.act(Verb::KillEtcdLeader, "").await?;
            sample.victims = "leader of etcd".to_owned();
            sleep(2 * WATCH).await;
            return Ok(sample);
        }
        Drill::KillTrio => {
            let at = traffic.now();
            world.act(Verb::KillEtcdLeader, "").await?;
            world.act(Verb::Kill, &before.leader).await?;
            world.act(Verb::Kill, &before.owner).await?;
            sample.victims = format!("{}, {} and the leader of etcd", before.leader, before.owner);
            sample.leader = Some(new_leader(world, traffic, before, at).await?);
            owned_without(world, before).await?;
            return Ok(sample);
        }
        Drill::EtcdAway => {
            world.act(Verb::StopEtcd, "").await?;
            sample.victims = "etcd".to_owned();
            sleep(Duration::from_secs(options.etcd_away_secs)).await;
            world.act(Verb::StartEtcd, "").await?;
            until("a master leads again", async || Ok(world.status().await.is_ok())).await?;
            return Ok(sample);
        }
        Drill::RestartDb => {
            world.act(Verb::RestartDatabase, "").await?;
            sample.victims = "database".to_owned();
            let ready = traffic.now();
            let back = all_shards_accept(traffic, ready).await?;
            sample.recovered = Some(back.saturating_sub(ready));
            return Ok(sample);
        }
        Drill::Rolling => {
            let replaced = roll(world, traffic, before.owners.len()).await?;
            sample.victims = format!("{replaced} processes one after the other");
            return Ok(sample);
        }
        Drill::Reshard => {
            let counts = drill.counts(options);
            sample.victims = format!("{} to {counts:?} shards", drill.begins_with(options));
            for count in counts {
                world.reshard(count).await?;
            }
            return Ok(sample);
        }
    };
    world.act(verb, &before.owner).await?;
    owned_without(world, before).await?;
    Ok(sample)
}

/// Makes good what the fault left.
async fn undo(drill: Drill, options: &Options, world: &mut World, before: &Before) -> anyhow::Result<()> {
    match drill {
        Drill::KillOwner | Drill::Drain => world.act(Verb::Restore, &before.owner).await,
        Drill::HangOwner => {
            world.act(Verb::Wake, &before.owner).await?;
            sleep(TEMPTATION).await;
            Ok(())
        }
        Drill::PartitionOwner => {
            world.act(Verb::Join, &before.owner).await?;
            sleep(TEMPTATION).await;
            Ok(())
        }
        Drill::KillMaster => world.act(Verb::Restore, &before.leader).await,
        Drill::HangMaster => {
            world.act(Verb::Wake, &before.leader).await?;
            sleep(TEMPTATION).await;
            Ok(())
        }
        Drill::KillEtcdLeader => world.act(Verb::StartEtcd, "").await,
        Drill::KillTrio => {
            world.act(Verb::StartEtcd, "").await?;
            world.act(Verb::Restore, &before.leader).await?;
            world.act(Verb::Restore, &before.owner).await
        }
        Drill::EtcdAway | Drill::RestartDb | Drill::Rolling => Ok(()),
        Drill::Reshard => world.reshard(drill.begins_with(options)).await,
    }
}

/// Replaces every process by one of the other release, and then all of them by the first again; how many that were.
async fn roll(world: &mut World, traffic: &Traffic, shards: usize) -> anyhow::Result<usize> {
    let mut replaced = 0;
    for release in [Release::Other, Release::First] {
        for part in world.parts().await? {
            replace(world, traffic, &part, release, shards).await.with_context(|| format!("{part:?} by the {release:?}"))?;
            replaced += 1;
        }
    }
    Ok(replaced)
}

/// Replaces a process. A webapp gets no requests meanwhile, as load balancers see to it.
async fn replace(world: &mut World, traffic: &Traffic, part: &Part, release: Release, shards: usize) -> anyhow::Result<()> {
    if let Part::Webapp(webapp) = part {
        traffic.take_out(*webapp).await?;
    }
    world.replace(part, release).await?;
    if let Part::Webapp(webapp) = part {
        traffic.put_in(*webapp);
    }
    let since = traffic.now();
    all_is_well(world, shards).await?;
    all_shards_accept(traffic, since).await.map(drop)
}

/// Waits for a leader of a later term among the other masters; how long that took since `at`.
async fn new_leader(world: &World, traffic: &Traffic, before: &Before, at: Duration) -> anyhow::Result<Duration> {
    let others = world.masters_but(&before.leader);
    let looking = async {
        loop {
            for master in &others {
                if world.status_of(master).await.is_ok_and(|status| status.term > before.term) {
                    return;
                }
            }
            sleep(LOOK).await;
        }
    };
    timeout(NEW_LEADER, looking).await.context("no other master leads")?;
    Ok(traffic.now().saturating_sub(at))
}

async fn owned_without(world: &World, before: &Before) -> anyhow::Result<()> {
    let mut pace = interval(LOOK_FOR_OWNERS);
    until("the victim has no shard", async || {
        pace.tick().await;
        // While nobody leads there is no answer.
        let Ok(owners) = world.owners().await else { return Ok(false) };
        Ok(owners.len() == before.owners.len() && owners.values().all(|(node, _)| *node != before.owner))
    })
    .await
}

/// Waits until every shard has accepted after `since`; when the last one had.
async fn all_shards_accept(traffic: &Traffic, since: Duration) -> anyhow::Result<Duration> {
    let back = || traffic.accepts(|accepts| gap::all_back(accepts, since));
    until("every shard accepts", async || Ok(back().is_some())).await?;
    back().context("a shard that accepted has not")
}

/// Waits until there is a leader, every shard has an owner, and two coreapps could take over from a third.
pub(crate) async fn all_is_well(world: &World, shards: usize) -> anyhow::Result<()> {
    until("the cluster is whole", async || {
        let (Ok(owners), Ok(living)) = (world.owners().await, world.living().await) else { return Ok(false) };
        Ok(owners.len() == shards && living >= 3)
    })
    .await
}
