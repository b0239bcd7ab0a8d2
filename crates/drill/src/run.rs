//! One drill from beginning to end: a cluster, traffic, the fault again and again, the ledgers, the verdict.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use estafet_harness::{Api, Ledger, client::Inbox, ledger::Difference};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    callbacks::Receiver,
    core::verdict::{Counts, Sample, breaches},
    options::{Drill, Options},
    progress,
    report::Outcome,
    script,
    traffic::{Audience, Sent, Traffic},
    world::World,
};

/// What a phone that reads causes for each message, in this order.
const STATUSES: [&str; 2] = ["delivered", "read"];
/// Traffic before the first measure.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long what was accepted may take to arrive after the last message, and the distance of two looks.
const SETTLE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(1);
/// Inboxes fetched at a time.
const FETCHES: usize = 4;

/// Runs a drill; an error means it could not be judged.
pub(crate) async fn run(drill: Drill, options: &Options) -> anyhow::Result<Outcome> {
    progress(&format!("{}: {}", drill.name(), drill.describe()));
    let is_local = options.webapp.is_empty();
    let receiver = match options.sink {
        None if !is_local => None,
        listen => Some(Receiver::start(listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))).await.context("--sink")?),
    };
    let url = receiver.as_ref().map(Receiver::url);
    let mut world = match &url {
        Some(url) if is_local => World::start(drill, options, url).await?,
        url => World::attach(options, url.as_deref()).await?,
    };
    let judged = drilled(drill, options, &mut world, receiver.as_ref()).await;
    let ended = world.end().await.context("the cluster did not end in order");
    let outcome = judged?;
    ended?;
    Ok(outcome)
}

async fn drilled(drill: Drill, options: &Options, world: &mut World, receiver: Option<&Receiver>) -> anyhow::Result<Outcome> {
    let ranges = drill.ranges(options);
    let audience = Audience::pick(&phones(&world.phones).await?, ranges, options.numbers)?;
    for phone in audience.probes.iter().flatten() {
        world.phones.set_phone(phone, "ignore").await?;
    }
    let earlier = inboxes(&world.phones, &audience).await?;
    script::all_is_well(world, usize::try_from(options.shards_of_all(drill))?).await?;
    let traffic = Traffic::start(world.webapps.clone(), &audience, options.probe(), options.load(ranges * options.numbers));
    let samples = repeats(drill, options, world, &traffic).await;
    let length = traffic.now();
    progress(&format!("{}: comparing the ledgers", drill.name()));
    let sent = traffic.stop().await?;
    let samples = samples?;
    let counts = settle(world, &audience, &sent, &earlier, receiver).await?;
    let breaches = breaches(&drill.bounds(), &samples, &counts, options.probe());
    Ok(Outcome::new(drill, length, samples, counts, breaches))
}

async fn repeats(drill: Drill, options: &Options, world: &mut World, traffic: &Traffic) -> anyhow::Result<Vec<Sample>> {
    sleep(WARM_UP).await;
    let mut samples = Vec::new();
    let repeat = drill.repeats(options.repeat);
    for n in 1..=repeat {
        let sample = script::repeat(drill, options, world, traffic).await.with_context(|| format!("repeat {n}"))?;
        progress(&format!(
            "{} {n}/{}: gap {} ms on shard {}, longest wait {} ms (undisturbed {} ms){}, {} failed, {}",
            drill.name(),
            repeat,
            sample.gap.as_millis(),
            sample.shard,
            sample.wait.as_millis(),
            sample.undisturbed.as_millis(),
            sample.leader.map(|time| format!(", new leader after {} ms", time.as_millis())).unwrap_or_default(),
            traffic.failures(),
            sample.victims,
        ));
        samples.push(sample);
    }
    Ok(samples)
}

async fn phones(network: &Api) -> anyhow::Result<Vec<String>> {
    let answer = network.call(Method::GET, "/sandbox/phones", None).await?;
    let list = answer.body.as_array().with_context(|| format!("no list of phones: {}", answer.text))?;
    Ok(list.iter().filter_map(|phone| Some(phone["number"].as_str()?.to_owned())).collect())
}

async fn inboxes(network: &Api, audience: &Audience) -> anyhow::Result<Vec<Inbox>> {
    let fetches = audience.everybody().map(|phone| network.inbox(phone));
    stream::iter(fetches).buffer_unordered(FETCHES).try_collect().await
}

/// What came since the drill began.
fn news(inboxes: Vec<Inbox>, earlier: &[Inbox]) -> Vec<Inbox> {
    let known: HashMap<&str, (u64, u64)> = earlier
        .iter()
        .map(|inbox| (inbox.phone.as_str(), (inbox.messages.last().map_or(0, |last| last.n), inbox.duplicates)))
        .collect();
    let since = |mut inbox: Inbox| {
        let (n, duplicates) = known.get(inbox.phone.as_str()).copied().unwrap_or_default();
        inbox.messages.retain(|message| message.n > n);
        inbox.duplicates = inbox.duplicates.saturating_sub(duplicates);
        inbox
    };
    inboxes.into_iter().map(since).collect()
}

/// Waits until everything accepted has arrived, or nothing more does, and compares.
async fn settle(
    world: &World,
    audience: &Audience,
    sent: &Sent,
    earlier: &[Inbox],
    receiver: Option<&Receiver>,
) -> anyhow::Result<Counts> {
    let mut everything = sent.probes.clone();
    everything.merge(sent.loads.clone());
    let deadline = Instant::now() + SETTLE;
    let (inboxes, differences) = loop {
        let inboxes = news(inboxes(&world.phones, audience).await?, earlier);
        let mut differences = everything.compare_phones(&inboxes);
        differences.extend(receiver.map(|receiver| callbacks(&sent.loads, receiver)).unwrap_or_default());
        let is_missing = |difference: &Difference| matches!(difference, Difference::Lost { .. } | Difference::NoCallback { .. });
        if !differences.iter().any(is_missing) || Instant::now() > deadline {
            break (inboxes, differences);
        }
        sleep(LOOK).await;
    };
    differences.iter().take(10).for_each(|difference| progress(&difference.to_string()));
    let mut counts = count(&differences, receiver.is_some());
    counts.accepted = everything.ids().count() as u64;
    counts.doubled += inboxes.iter().map(|inbox| inbox.duplicates).sum::<u64>();
    counts.failed.clone_from(&sent.failed);
    counts.skipped = sent.skipped;
    counts.audit_violations = match world.audit.clone() {
        Some(path) => Some(tokio::task::spawn_blocking(move || audit(&path)).await?),
        None => None,
    };
    Ok(counts)
}

fn callbacks(loads: &Ledger, receiver: &Receiver) -> Vec<Difference> {
    receiver.reports(|reports| {
        let reports = reports.iter().enumerate().map(|(n, (id, status))| (n, (&**id, &**status)));
        loads.compare_reports(reports, &STATUSES)
    })
}

fn audit(path: &std::path::Path) -> u64 {
    match estafet_chatd::audit::check(path) {
        Ok(_) => 0,
        Err(violations) => {
            violations.iter().take(10).for_each(|violation| progress(&violation.to_string()));
            violations.len() as u64
        }
    }
}

fn count(differences: &[Difference], with_callbacks: bool) -> Counts {
    let mut counts = Counts::default();
    let (mut lost, mut reordered) = (0, 0);
    for difference in differences {
        match difference {
            Difference::Lost { .. } | Difference::NoInbox { .. } => counts.lost += 1,
            Difference::Stranger { .. } => counts.strange += 1,
            Difference::Twice { .. } => counts.doubled += 1,
            Difference::Inverted { .. } => counts.reordered += 1,
            Difference::NoCallback { .. } => lost += 1,
            Difference::CallbackInverted { .. } | Difference::LaneNotHeld { .. } => reordered += 1,
        }
    }
    if with_callbacks {
        (counts.callbacks_lost, counts.callbacks_reordered) = (Some(lost), Some(reordered));
    }
    counts
}

/// The commit this was built from, as far as it can be told where it runs.
pub(crate) fn commit() -> Option<String> {
    let output = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// A line of a system's file, for the report.
pub(crate) fn line_of(path: &str) -> Value {
    std::fs::read_to_string(path).map_or(Value::Null, |text| Value::String(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use estafet_harness::Message;
    use serde_json::json;

    use super::*;

    fn inbox(messages: &[(u64, &str, &str)], duplicates: u64) -> Inbox {
        let message = |(n, id, text): &(u64, &str, &str)| Message {
            n: *n,
            id: (*id).to_owned(),
            from: "1".to_owned(),
            received_at: 0,
            content: json!({ "type": "text", "text": { "body": text } }),
        };
        Inbox { phone: "7".to_owned(), messages: messages.iter().map(message).collect(), duplicates }
    }

    #[test]
    fn fabricated_loss_doubling_and_reordering_are_counted() {
        let mut ledger = Ledger::new();
        for (text, id) in [("0", "a"), ("1", "b"), ("2", "c")] {
            ledger.accepted("7", text, id);
        }
        let earlier = [inbox(&[(1, "x", "0")], 2)];
        let now = news(vec![inbox(&[(1, "x", "0"), (2, "c", "2"), (3, "b", "1"), (4, "b", "1"), (5, "z", "9")], 3)], &earlier);
        assert_eq!(now[0].duplicates, 1);
        let counts = count(&ledger.compare_phones(&now), false);
        assert_eq!((counts.lost, counts.doubled, counts.reordered, counts.strange), (1, 1, 1, 1));
        assert_eq!(counts.callbacks_lost, None);
        let whole = news(vec![inbox(&[(1, "x", "0"), (2, "a", "0"), (3, "b", "1"), (4, "c", "2")], 2)], &earlier);
        assert_eq!(count(&ledger.compare_phones(&whole), false), Counts::default());
    }

    #[test]
    fn fabricated_losses_of_callbacks_are_counted() {
        let mut ledger = Ledger::new();
        ledger.accepted("7", "0", "a");
        ledger.accepted("7", "1", "b");
        let found = ledger.compare_reports([(0, ("b", "delivered")), (1, ("a", "delivered")), (2, ("a", "read"))], &STATUSES);
        let counts = count(&found, true);
        assert_eq!((counts.callbacks_lost, counts.callbacks_reordered), (Some(1), Some(1)));
    }
}
