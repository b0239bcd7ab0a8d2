//! The traffic of a drill: probes of every shard at a fixed distance, and load that makes full cycles.
//!
//! Both are open: messages are due at fixed times whatever the server does. A sender is a recipient: it takes the
//! next message that is due, sends it, and waits for the answer before its next one, so the order per recipient is
//! known (**I5**). While a shard pauses its senders wait and the others take what is due; what nobody could take in
//! its time is skipped and counted. Callers spread over both webapps; only a connection that was not made is tried at
//! the other one, as load balancers do.
//!
//! Probe recipients are phones that take messages without a word: a probe costs an accept and a send, and no receipts
//! or callbacks, so the fine grain of the measure does not become the load.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use estafet_harness::{Answer, Api, Ledger, client::text_message};
use estafet_model::{ShardCount, Slot, WaId};
use estafet_runtime::Tasks;
use reqwest::{Method, StatusCode};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{balancer::Balancer, core::gap};

/// Senders of probes for each shard: so many probes may wait for an answer at a time. Many numbers share them.
pub(crate) const PROBERS: usize = 8;
/// Senders of load for each shard; many numbers share them.
pub(crate) const LOADERS: usize = 8;
/// How long senders may take to end: longer than any answer is waited for.
const END: Duration = Duration::from_secs(60);

/// Who is written to: the recipients of each shard of the first number, then of the second, and so on. Each phone
/// hears one number only, so the order at a phone is the order of one sender.
#[derive(Clone, Debug)]
pub(crate) struct Audience {
    pub(crate) probes: Vec<Vec<String>>,
    pub(crate) loads: Vec<Vec<String>>,
    /// Shards of one number.
    shards: usize,
}

impl Audience {
    /// Picks recipients for every shard of every number from these phones.
    pub(crate) fn pick(phones: &[String], shards: u32, numbers: u32) -> anyhow::Result<Self> {
        let count = ShardCount::new(shards).with_context(|| format!("{shards} shards: a power of two, 1 to 256"))?;
        let mut by_shard: Vec<Vec<String>> = vec![Vec::new(); usize::from(count.get())];
        for phone in phones {
            let wa_id: WaId = phone.parse().map_err(|error| anyhow::anyhow!("{phone} is not a phone: {error}"))?;
            by_shard[usize::from(count.shard_of(Slot::of(wa_id)).get())].push(phone.clone());
        }
        let fewest = by_shard.iter().map(Vec::len).min().unwrap_or_default();
        let (probers, needed) = (senders(PROBERS, numbers), phones_per_shard(numbers));
        ensure!(fewest >= needed, "a shard has {fewest} phones, {needed} are needed: add phones");
        let parts = (0..usize::try_from(numbers)?).flat_map(|number| by_shard.iter().map(move |phones| (number, phones)));
        let (probes, loads) = parts
            .map(|(number, phones)| {
                let size = needed / numbers as usize;
                let part = &phones[number * size..(number + 1) * size];
                (part[..probers].to_vec(), part[probers..].to_vec())
            })
            .unzip();
        Ok(Self { probes, loads, shards: by_shard.len() })
    }

    /// The number that a shard is of.
    fn number_of(&self, shard: usize) -> usize {
        shard / self.shards
    }

    pub(crate) fn everybody(&self) -> impl Iterator<Item = &String> {
        self.probes.iter().chain(&self.loads).flatten()
    }
}

/// So many senders of a kind write to each shard of each of so many numbers.
fn senders(of_one: usize, numbers: u32) -> usize {
    (of_one / numbers as usize).max(1)
}

/// Phones that each shard needs.
pub(crate) fn phones_per_shard(numbers: u32) -> usize {
    (senders(PROBERS, numbers) + senders(LOADERS, numbers)) * numbers as usize
}

/// Times at which messages are due, shared by senders.
struct Line {
    every: Duration,
    next: Mutex<Instant>,
    skipped: Arc<AtomicU64>,
}

impl Line {
    fn new(begin: Instant, every: Duration, skipped: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { every, next: Mutex::new(begin), skipped: skipped.clone() })
    }

    /// The next due time. Those that passed while nobody was free are skipped.
    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let late = now.saturating_duration_since(*next).as_nanos() / self.every.as_nanos().max(1);
        let late = u32::try_from(late).unwrap_or(u32::MAX);
        self.skipped.fetch_add(late.into(), Ordering::Relaxed);
        let due = *next + self.every * late;
        *next = due + self.every;
        due
    }
}

#[derive(Default)]
struct Record {
    /// Times of accepting answers since the start, by shard.
    accepts: Vec<Vec<Duration>>,
    /// When each accepted message was due, and when it was accepted, since the start.
    waits: Vec<(Duration, Duration)>,
    failed: BTreeMap<u16, u64>,
}

struct Shared {
    /// Of each number.
    webapps: Vec<Vec<Api>>,
    started: Instant,
    record: Mutex<Record>,
    balancer: Balancer,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, at another webapp if the connection to the first is not made.
    async fn post(&self, number: usize, turn: usize, to: &str, text: &str) -> anyhow::Result<Answer> {
        let body = text_message(to, text);
        let mut refused = None;
        let webapps = &self.webapps[number];
        for n in 0..webapps.len() {
            let place = (turn + n) % webapps.len();
            let Some(_pass) = self.balancer.enter(place) else { continue };
            match webapps[place].call(Method::POST, "/v1/messages", Some(&body)).await {
                Err(error) if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect) => {
                    refused = Some(error);
                }
                answer => return answer,
            }
        }
        Err(refused.unwrap_or_else(|| anyhow::anyhow!("there is no webapp")))
    }
}

/// Traffic that runs.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    skipped: Arc<AtomicU64>,
    tasks: Tasks,
    ledgers: mpsc::Receiver<(bool, Ledger)>,
}

/// What was sent, in the end.
pub(crate) struct Sent {
    /// Messages to phones that say nothing.
    pub(crate) probes: Ledger,
    /// Messages to phones that read.
    pub(crate) loads: Ledger,
    pub(crate) failed: BTreeMap<u16, u64>,
    pub(crate) skipped: u64,
}

impl Traffic {
    /// Begins: a probe of each shard every `probe`, and `load` messages a second beside.
    pub(crate) fn start(webapps: Vec<Vec<Api>>, audience: &Audience, probe: Duration, load: u32) -> Self {
        let shards = audience.probes.len();
        let record = Mutex::new(Record { accepts: vec![Vec::new(); shards], ..Record::default() });
        let balancer = Balancer::of(webapps.iter().map(Vec::len).max().unwrap_or_default());
        let shared = Arc::new(Shared { webapps, started: Instant::now(), record, balancer });
        let (tasks, skipped) = (Tasks::new(), Arc::default());
        let (sender, ledgers) = mpsc::channel(audience.everybody().count().max(1));
        let begin = shared.started;
        let load_line = Line::new(begin, Duration::from_secs(1) / load.max(1), &skipped);
        for shard in 0..shards {
            // Shards take turns within the distance of two probes.
            let offset = probe * u32::try_from(shard).unwrap_or_default() / u32::try_from(shards).unwrap_or(1);
            let probe_line = Line::new(begin + offset, probe, &skipped);
            let probers = audience.probes[shard].iter().map(|phone| (true, phone, &probe_line));
            let loaders = audience.loads[shard].iter().map(|phone| (false, phone, &load_line));
            for (n, (is_probe, phone, line)) in probers.chain(loaders).enumerate() {
                let (number, phone) = (audience.number_of(shard), phone.clone());
                let sender_of = Sender { shared: shared.clone(), line: line.clone(), number, shard, phone, turn: shard + n };
                let (shutdown, ledgers) = (tasks.shutdown().clone(), sender.clone());
                tasks.spawn("sender", async move {
                    let ledger = sender_of.run(shutdown).await;
                    // The channel has room for everybody; nobody listens only after an error.
                    let _ = ledgers.try_send((is_probe, ledger));
                });
            }
        }
        Self { shared, skipped, tasks, ledgers }
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.shared.started.elapsed()
    }

    /// Callers are sent to the other webapps; returns when this one has answered everything.
    pub(crate) async fn take_out(&self, webapp: usize) -> anyhow::Result<()> {
        self.shared.balancer.take_out(webapp).await
    }

    /// Callers are sent to this webapp again.
    pub(crate) fn put_in(&self, webapp: usize) {
        self.shared.balancer.put_in(webapp);
    }

    /// Looks at the times of accepting answers, by shard.
    pub(crate) fn accepts<T>(&self, look: impl FnOnce(&[Vec<Duration>]) -> T) -> T {
        look(&self.shared.record().accepts)
    }

    /// The longest that a message which was due since then, or waited then, has waited until it was accepted.
    pub(crate) fn longest_wait(&self, since: Duration) -> Duration {
        gap::longest_wait(&self.shared.record().waits, since)
    }

    /// Requests that failed until now.
    pub(crate) fn failures(&self) -> u64 {
        self.shared.record().failed.values().sum()
    }

    /// Ends: whoever waits for an answer gets it first.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Sent> {
        ensure!(self.tasks.stop(END).await, "senders did not end");
        let mut sent = Sent {
            probes: Ledger::new(),
            loads: Ledger::new(),
            failed: std::mem::take(&mut self.shared.record().failed),
            skipped: self.skipped.load(Ordering::Relaxed),
        };
        while let Ok((is_probe, ledger)) = self.ledgers.try_recv() {
            if is_probe { sent.probes.merge(ledger) } else { sent.loads.merge(ledger) }
        }
        Ok(sent)
    }
}

struct Sender {
    shared: Arc<Shared>,
    line: Arc<Line>,
    number: usize,
    shard: usize,
    phone: String,
    /// Decides which webapp is next.
    turn: usize,
}

impl Sender {
    async fn run(mut self, shutdown: CancellationToken) -> Ledger {
        let mut ledger = Ledger::new();
        for n in 0u64.. {
            let due = self.line.take(Instant::now());
            tokio::select! {
                () = sleep_until(due) => {}
                () = shutdown.cancelled() => break,
            }
            if shutdown.is_cancelled() {
                break;
            }
            self.turn += 1;
            let text = format!("{n}");
            let answer = self.shared.post(self.number, self.turn, &self.phone, &text).await;
            self.note(&mut ledger, due, &text, answer);
        }
        ledger
    }

    fn note(&self, ledger: &mut Ledger, due: Instant, text: &str, answer: anyhow::Result<Answer>) {
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let id = answer.as_ref().ok().and_then(|answer| answer.text_at("/messages/0/id"));
        match id.filter(|_| status == StatusCode::CREATED.as_u16()) {
            Some(id) => {
                let at = self.shared.started.elapsed();
                ledger.accepted(&self.phone, text, id);
                let mut record = self.shared.record();
                record.accepts[self.shard].push(at);
                record.waits.push((due.saturating_duration_since(self.shared.started), at));
            }
            None => {
                ledger.unanswered(&self.phone, text);
                *self.shared.record().failed.entry(status).or_default() += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_phone_hears_one_number_and_belongs_to_the_shard_it_is_counted_for() {
        let phones: Vec<String> = (0..400u64).map(|n| (15_550_001_001 + n).to_string()).collect();
        for (numbers, senders_each) in [(1, 8), (4, 2), (20, 1)] {
            let audience = Audience::pick(&phones, 4, numbers).unwrap();
            let everybody: Vec<_> = audience.everybody().collect();
            assert_eq!(everybody.len(), 4 * 2 * senders_each * numbers as usize);
            assert_eq!(everybody.iter().collect::<BTreeSet<_>>().len(), everybody.len());
            let count = ShardCount::new(4).unwrap();
            for (range, phones) in audience.probes.iter().enumerate().chain(audience.loads.iter().enumerate()) {
                assert_eq!((phones.len(), audience.number_of(range)), (senders_each, range / 4));
                let shard_of = |phone: &String| usize::from(count.shard_of(Slot::of(phone.parse().unwrap())).get());
                assert!(phones.iter().all(|phone| shard_of(phone) == range % 4));
            }
        }
        assert!(Audience::pick(&phones[..20], 4, 20).is_err(), "too few");
    }
}
