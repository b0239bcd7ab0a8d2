//! What `/v1/stats/app` tells of a number: counters of this process under the names of the original
//! (spec/health-and-stats.md §4). Our own metrics are apart from them, for all numbers together.
//!
//! Counting costs an atomic addition; what has labels that depend on what others answer has a lock of its own.
//! Labels are bounded: kinds, HTTP statuses, codes of the API.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use estafet_model::{Code, Status, WaId};
use estafet_proto::v1::{NumberState, Stat, StatLabel, StatSample, outcome::Result as Answer};
use tokio::time::Instant;

use crate::{backlog::Waiting, callbacks::Failure};

/// How often something happened and how long it took in all.
#[derive(Debug, Default)]
pub struct Tally {
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Tally {
    /// It happened once more.
    pub fn add(&self, took: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.microseconds.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn read(&self) -> Timed {
        Timed { count: self.count.load(Relaxed), microseconds: self.microseconds.load(Relaxed) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    count: u64,
    microseconds: u64,
}

/// Tallies by two labels.
#[derive(Debug, Default)]
struct Labelled(Mutex<BTreeMap<(String, String), Timed>>);

impl Labelled {
    fn add(&self, labels: (&str, &str), took: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let timed = known.entry((labels.0.to_owned(), labels.1.to_owned())).or_default();
        timed.count += 1;
        timed.microseconds += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    }

    fn read(&self) -> Vec<((String, String), Timed)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(labels, timed)| (labels.clone(), *timed)).collect()
    }
}

/// The counters of one number.
#[derive(Debug, Default)]
pub struct AppStats {
    callbacks: Labelled,
    endpoints: Labelled,
    connections: Labelled,
    /// Requests refused because a limit or a queue was at its end.
    pub limited: AtomicU64,
    /// Transactions that took place.
    pub commits: Tally,
    /// Transactions that did not, or nobody knows.
    pub failed_commits: Tally,
    /// Encrypted messages that arrived.
    pub from_server: AtomicU64,
    /// Those that could be decrypted.
    pub decoded: AtomicU64,
    /// Incoming messages that were stored.
    pub persisted_in: AtomicU64,
    /// Outgoing messages that were stored.
    pub persisted_out: AtomicU64,
    /// From acceptance until the network took a message.
    pub sent: Tally,
    statuses: [AtomicU64; Status::ALL.len()],
    uploads: [AtomicU64; 2],
    downloads: [AtomicU64; 2],
    identical: [AtomicU64; 2],
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}

impl AppStats {
    /// A message reached a status.
    pub fn status(&self, status: Status) {
        count(&self.statuses[status as usize], 1);
    }

    /// A callback was tried. What never left this process is no request.
    pub fn callback(&self, kind: &str, result: &Result<(), Failure>, took: Duration) {
        let result = match result {
            Ok(()) => "success".to_owned(),
            Err(Failure::Status(status)) => status.to_string(),
            Err(Failure::Connection(_)) => CONNECTION_FAILED.to_owned(),
            Err(Failure::Timeout) => NO_ANSWER.to_owned(),
            Err(Failure::NoFile(_) | Failure::NotConfigured) => return,
        };
        self.callbacks.add((kind, &result), took);
    }

    /// A connection to the network was tried.
    pub fn connection(&self, made: bool, took: Duration) {
        self.connections.add((result(made), ""), took);
    }

    /// The files of an outgoing message were left with the network, or could not be.
    pub fn upload(&self, done: bool) {
        count(&self.uploads[usize::from(done)], 1);
    }

    /// The file of an incoming message was fetched, or not yet.
    pub fn download(&self, done: bool) {
        count(&self.downloads[usize::from(done)], 1);
    }

    /// A message had the content of an earlier one to its recipient.
    pub fn identical(&self, is_refused: bool) {
        count(&self.identical[usize::from(is_refused)], 1);
    }

    /// Everything, with the gauges of the number's shards here and what waits for each receiver.
    pub(crate) fn stats(&self, shards: &[NumberState], waiting: &BTreeMap<String, Waiting>, uptime: Duration) -> Vec<Stat> {
        let sum = |of: fn(&NumberState) -> u64| shards.iter().map(of).sum::<u64>() as f64;
        let callbacks = sum(|shard| shard.callbacks);
        let read = |counter: &AtomicU64| vec![sample(&[], counter.load(Relaxed) as f64)];
        let mut stats = vec![
            gauge("app_uptime", "Seconds since the coreapp started", uptime.as_secs() as f64),
            gauge("callback_queue_size", "Current callback queue size", callbacks),
            gauge("pending_callbacks", "Callbacks that are not acknowledged", callbacks),
            waiting_of(waiting, "callbacks_waiting", "Callbacks that their receiver has not taken", |waiting| waiting.count),
            waiting_of(waiting, "callback_oldest_seconds", "Age of the oldest callback that waits", |waiting| {
                waiting.oldest_seconds
            }),
            gauge("pending_messages", "Outgoing messages that are not sent", sum(|shard| shard.outbox)),
            gauge("in_messages_pending_processing", "Messages received and not processed", sum(|shard| shard.arrived)),
            counter("concurrent_rate_limit_triggered", "Requests refused because of a limit", read(&self.limited)),
            counter("in_message_from_server", "Encrypted messages received", read(&self.from_server)),
            counter("in_message_decoded", "Messages decrypted", read(&self.decoded)),
            counter("in_message_persisted", "Incoming messages stored", read(&self.persisted_in)),
            counter("out_message_persisted", "Outgoing messages stored", read(&self.persisted_out)),
            counter("out_message_status", "Statuses of outgoing messages", self.reached()),
            counter("identical_messages", "Messages with the content of an earlier one to the recipient", self.repeated()),
            counter("media_uploads", "Messages whose files were left with the network", files(&self.uploads)),
            counter("media_downloads", "Files of incoming messages fetched", files(&self.downloads)),
        ];
        stats.extend(self.timed());
        stats
    }

    fn reached(&self) -> Vec<StatSample> {
        let of = |status: Status| sample(&[("status", status.as_str())], self.statuses[status as usize].load(Relaxed) as f64);
        Status::ALL.into_iter().map(of).collect()
    }

    fn repeated(&self) -> Vec<StatSample> {
        let of = |(result, counter): (&str, &AtomicU64)| sample(&[("result", result)], counter.load(Relaxed) as f64);
        ["accepted", "refused"].into_iter().zip(&self.identical).map(of).collect()
    }

    fn timed(&self) -> Vec<Stat> {
        let commit = [("db", "messageStore"), ("request", "commit")];
        let one = |labels: &[(&str, &str)], tally: &Tally| vec![(labels_of(labels), tally.read())];
        let callbacks = labelled(&self.callbacks, &["type", "result"]);
        let endpoints = labelled(&self.endpoints, &["method", "result"]);
        let older =
            |name, help, rows: &[Row]| counter(name, help, rows.iter().map(|row| row.sample(row.1.count as f64)).collect());
        let mut stats = vec![
            older("callback_requests", "Callback requests", &callbacks),
            older("endpoint_requests", "Requests of webapps", &endpoints),
        ];
        let families: [(&str, &str, f64, Vec<Row>); 6] = [
            ("callback_requests_duration_ms", "Callback requests", 1000.0, callbacks),
            ("endpoint_requests_duration_ms", "Requests of webapps", 1000.0, endpoints),
            ("internal_server_conn_duration_ms", "Connections to the network", 1000.0, labelled(&self.connections, &["result"])),
            ("db_request_duration_us", "Successful database requests", 1.0, one(&commit, &self.commits)),
            ("db_request_error_duration_us", "Failed database requests", 1.0, one(&commit, &self.failed_commits)),
            ("out_message_sent_duration_ms", "Messages sent", 1000.0, one(&[("retry", "0"), ("type", "")], &self.sent)),
        ];
        for (name, help, unit, rows) in families {
            let counts = rows.iter().map(|row| row.sample(row.1.count as f64)).collect();
            let sums = rows.iter().map(|row| row.sample(row.1.microseconds as f64 / unit)).collect();
            stats.push(counter(&format!("{name}_count"), help, counts));
            stats.push(counter(&format!("{name}_sum"), &format!("{help}: time in all"), sums));
        }
        stats
    }
}

/// `result` of callbacks that found no connection, or lost it: a network error as the original numbered them.
const CONNECTION_FAILED: &str = "1";
/// `result` of callbacks that were not answered in time.
const NO_ANSWER: &str = "2";

fn result(done: bool) -> &'static str {
    if done { "success" } else { "failed" }
}

fn files(counters: &[AtomicU64; 2]) -> Vec<StatSample> {
    [true, false].map(|done| sample(&[("result", result(done))], counters[usize::from(done)].load(Relaxed) as f64)).into()
}

type Row = (Vec<StatLabel>, Timed);

trait Sampled {
    fn sample(&self, value: f64) -> StatSample;
}

impl Sampled for Row {
    fn sample(&self, value: f64) -> StatSample {
        StatSample { labels: self.0.clone(), value }
    }
}

fn labelled(tallies: &Labelled, names: &[&str]) -> Vec<Row> {
    let row = |((first, second), timed): ((String, String), Timed)| {
        let values = [first, second];
        let labels: Vec<(&str, &str)> = names.iter().copied().zip(values.iter().map(String::as_str)).collect();
        (labels_of(&labels), timed)
    };
    tallies.read().into_iter().map(row).collect()
}

fn labels_of(labels: &[(&str, &str)]) -> Vec<StatLabel> {
    labels.iter().map(|(name, value)| StatLabel { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
}

fn sample(labels: &[(&str, &str)], value: f64) -> StatSample {
    StatSample { labels: labels_of(labels), value }
}

fn gauge(name: &str, help: &str, value: f64) -> Stat {
    Stat { name: name.to_owned(), is_counter: false, help: help.to_owned(), data: vec![sample(&[], value)] }
}

/// A gauge for each receiver.
fn waiting_of(waiting: &BTreeMap<String, Waiting>, name: &str, help: &str, value: fn(&Waiting) -> u64) -> Stat {
    let data = waiting.iter().map(|(endpoint, waiting)| sample(&[("endpoint", endpoint)], value(waiting) as f64)).collect();
    Stat { name: name.to_owned(), is_counter: false, help: help.to_owned(), data }
}

fn counter(name: &str, help: &str, data: Vec<StatSample>) -> Stat {
    Stat { name: name.to_owned(), is_counter: true, help: help.to_owned(), data }
}

/// The counters of all numbers of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<RwLock<HashMap<WaId, Arc<AppStats>>>>);

impl Registry {
    /// The counters of a number.
    pub fn of(&self, number: WaId) -> Arc<AppStats> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return known.clone();
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(number).or_default().clone()
    }
}

/// Measures a request until it is answered.
#[derive(Debug)]
pub struct Measure {
    stats: Arc<AppStats>,
    method: &'static str,
    began: Instant,
}

impl Measure {
    /// A request begins.
    pub fn begin(stats: Arc<AppStats>, method: &'static str) -> Self {
        Self { stats, method, began: Instant::now() }
    }

    /// It is answered.
    pub fn end(self, answer: &Answer) {
        let code = match answer {
            Answer::Refused(refused) => Some(refused.code),
            Answer::NotOwner(_) => Some(u32::from(Code::NotPrimaryCoreapp.number())),
            Answer::Done(_) | Answer::Contacts(_) | Answer::Identity(_) => None,
        };
        let limits = [Code::RateLimitHit, Code::TooManyRequests, Code::Overloaded].map(|code| u32::from(code.number()));
        if code.is_some_and(|code| limits.contains(&code)) {
            count(&self.stats.limited, 1);
        }
        let result = code.map_or_else(|| "ok".to_owned(), |code| code.to_string());
        self.stats.endpoints.add((self.method, &result), self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(stats: &[Stat], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let stat = stats.iter().find(|stat| stat.name == name)?;
        stat.data.iter().find(|sample| sample.labels == labels_of(labels)).map(|sample| sample.value)
    }

    #[test]
    fn what_happened_is_told_under_the_names_of_the_original() {
        let stats = AppStats::default();
        stats.callback("status_change", &Ok(()), Duration::from_millis(3));
        stats.callback("status_change", &Ok(()), Duration::from_micros(1500));
        stats.callback("inbound_message", &Err(Failure::Status(301)), Duration::ZERO);
        stats.callback("inbound_message", &Err(Failure::NotConfigured), Duration::ZERO);
        stats.commits.add(Duration::from_micros(750));
        stats.status(Status::Read);
        stats.upload(true);
        let shards = [
            NumberState { outbox: 2, callbacks: 3, ..NumberState::default() },
            NumberState { outbox: 5, ..NumberState::default() },
        ];
        let waiting = BTreeMap::from([("crm".to_owned(), Waiting { count: 3, oldest_seconds: 60 })]);
        let told = stats.stats(&shards, &waiting, Duration::from_secs(9));
        let success = [("type", "status_change"), ("result", "success")];
        assert_eq!(value(&told, "callback_requests_duration_ms_count", &success), Some(2.0));
        assert_eq!(value(&told, "callback_requests_duration_ms_sum", &success), Some(4.5));
        assert_eq!(value(&told, "callback_requests", &[("type", "inbound_message"), ("result", "301")]), Some(1.0));
        let callbacks = told.iter().find(|stat| stat.name == "callback_requests").unwrap();
        assert_eq!(callbacks.data.len(), 2, "what was no request is not counted");
        assert_eq!(value(&told, "db_request_duration_us_sum", &[("db", "messageStore"), ("request", "commit")]), Some(750.0));
        assert_eq!((value(&told, "pending_messages", &[]), value(&told, "callback_queue_size", &[])), (Some(7.0), Some(3.0)));
        assert_eq!(value(&told, "out_message_status", &[("status", "read")]), Some(1.0));
        assert_eq!(value(&told, "media_uploads", &[("result", "success")]), Some(1.0));
        assert_eq!(value(&told, "callback_oldest_seconds", &[("endpoint", "crm")]), Some(60.0));
        assert_eq!(value(&told, "app_uptime", &[]), Some(9.0));
    }

    #[test]
    fn requests_are_measured_by_what_they_are_answered_with() {
        let stats = Arc::new(AppStats::default());
        let refused = |code| Answer::Refused(estafet_proto::v1::Refused { code, ..Default::default() });
        for answer in [crate::request::done(), refused(1028), refused(1016), crate::request::not_owner()] {
            Measure::begin(stats.clone(), "submit").end(&answer);
        }
        let told = stats.stats(&[], &BTreeMap::new(), Duration::ZERO);
        for result in ["ok", "1028", "1016", "1018"] {
            assert_eq!(value(&told, "endpoint_requests", &[("method", "submit"), ("result", result)]), Some(1.0), "{result}");
        }
        assert_eq!(value(&told, "concurrent_rate_limit_triggered", &[]), Some(1.0));
    }
}
