//! What this replica serves, under the names of the original's web server (spec/health-and-stats.md §3).
//!
//! There is no pool of workers here: a place for a connection stands for one, and the queue is that of the listener.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::exposition::{Metric, Sample};

/// Connections the system keeps for a listener that is slow to take them.
const LISTEN_QUEUE: f64 = 1024.0;

#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    count: u64,
    took: Duration,
}

impl Timed {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.took += took;
    }
}

/// Route template, method, status.
type Kind = (&'static str, &'static str, u16);

/// Counters of one replica.
#[derive(Debug)]
pub(crate) struct Served {
    node: String,
    started: Instant,
    places: usize,
    accepted: AtomicU64,
    open: AtomicU64,
    in_progress: Arc<AtomicU64>,
    requests: Mutex<HashMap<Kind, Timed>>,
    coreapps: Mutex<BTreeMap<String, Timed>>,
}

/// A request that is being served; it ends when this is dropped.
pub(crate) struct InProgress(Arc<AtomicU64>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Served {
    /// A replica with room for so many connections.
    pub(crate) fn new(node: &str, places: usize) -> Self {
        Self {
            node: node.to_owned(),
            started: Instant::now(),
            places,
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            in_progress: Arc::default(),
            requests: Mutex::default(),
            coreapps: Mutex::default(),
        }
    }

    /// A connection was taken.
    pub(crate) fn opened(&self) {
        self.accepted.fetch_add(1, Relaxed);
        self.open.fetch_add(1, Relaxed);
    }

    /// A connection is gone.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// A request begins.
    pub(crate) fn begin(&self) -> InProgress {
        self.in_progress.fetch_add(1, Relaxed);
        InProgress(self.in_progress.clone())
    }

    /// A request was answered.
    pub(crate) fn answered(&self, kind: Kind, took: Duration) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default().add(took);
    }

    /// A coreapp had something to do.
    pub(crate) fn coreapp(&self, address: &str, took: Duration) {
        let mut coreapps = self.coreapps.lock().unwrap_or_else(PoisonError::into_inner);
        match coreapps.get_mut(address) {
            Some(known) => known.add(took),
            None => coreapps.entry(address.to_owned()).or_default().add(took),
        }
    }

    /// Everything, each value with the label `node`.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let read = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        let (places, open) = (self.places as f64, read(&self.open));
        let plain = |name: &str, is_counter, help: &str, value| self.labelled(name, is_counter, help, vec![(Vec::new(), value)]);
        let mut metrics = vec![
            plain("web_uptime", false, "Number of seconds since web server has started", self.started.elapsed().as_secs() as f64),
            plain("web_connections", true, "Connections accepted", read(&self.accepted)),
            plain("web_pending_connections", false, "Connections waiting in the queue", 0.0),
            plain("web_max_pending_connections", false, "Highest number of connections waiting in the queue", 0.0),
            plain("web_queue_len", false, "Size of the queue of connections", LISTEN_QUEUE),
            plain("web_idle_processes", false, "Places without a connection", (places - open).max(0.0)),
            plain("web_active_processes", false, "Places with a connection", open),
            plain("web_total_processes", false, "Places for connections", places),
        ];
        let handled = (vec![("state".to_owned(), "handle-request".to_owned())], read(&self.in_progress));
        metrics.push(self.labelled("web_requests", false, "Requests in progress", vec![handled]));
        metrics.extend(self.timed("api_requests_duration_ms", "API requests", &self.by_method()));
        let coreapps = self.coreapps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let coreapps: Vec<_> = coreapps.into_iter().map(|(app, timed)| (vec![("app".to_owned(), app)], timed)).collect();
        metrics.extend(self.timed("api_requests_coreapp_duration_ms", "Requests handled by a coreapp", &coreapps));
        metrics
    }

    fn by_method(&self) -> Vec<(Vec<(String, String)>, Timed)> {
        let mut merged: BTreeMap<(String, u16), Timed> = BTreeMap::new();
        for ((route, method, status), timed) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let merged = merged.entry((method_label(route, method), *status)).or_default();
            merged.count += timed.count;
            merged.took += timed.took;
        }
        let labels = |method, status: u16| vec![("method".to_owned(), method), ("result".to_owned(), status.to_string())];
        merged.into_iter().map(|((method, status), timed)| (labels(method, status), timed)).collect()
    }

    fn timed(&self, name: &str, help: &str, rows: &[(Vec<(String, String)>, Timed)]) -> [Metric; 2] {
        let of = |value: fn(&Timed) -> f64| rows.iter().map(|(labels, timed)| (labels.clone(), value(timed))).collect();
        let sums = of(|timed| timed.took.as_micros() as f64 / 1000.0);
        [
            self.labelled(&format!("{name}_count"), true, help, of(|timed| timed.count as f64)),
            self.labelled(&format!("{name}_sum"), true, &format!("{help}: milliseconds in all"), sums),
        ]
    }

    fn labelled(&self, name: &str, is_counter: bool, help: &str, values: Vec<(Vec<(String, String)>, f64)>) -> Metric {
        let node = ("node".to_owned(), self.node.clone());
        let sample = |(labels, value): (Vec<(String, String)>, f64)| Sample {
            labels: std::iter::once(node.clone()).chain(labels).collect(),
            value,
        };
        let data = values.into_iter().map(sample).collect();
        Metric { name: name.to_owned(), is_counter, help: help.to_owned(), data }
    }
}

/// Method and path as the original joined them, without ids.
fn method_label(route: &str, method: &str) -> String {
    let fixed = route.split('/').filter(|part| !part.is_empty() && !part.starts_with('{'));
    std::iter::once(method).chain(fixed).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(metrics: &[Metric], name: &str, label: (&str, &str)) -> Option<f64> {
        let metric = metrics.iter().find(|metric| metric.name == name)?;
        let has = |sample: &&Sample| sample.labels.iter().any(|(name, value)| (name.as_str(), value.as_str()) == label);
        metric.data.iter().find(has).map(|sample| sample.value)
    }

    #[test]
    fn requests_are_told_by_method_and_path_without_ids() {
        for (route, method, label) in [
            ("/v1/settings/backup", "POST", "POST_v1_settings_backup"),
            ("/v1/messages/{id}", "PUT", "PUT_v1_messages"),
            ("/v1/contacts/{wa_id}/identity", "GET", "GET_v1_contacts_identity"),
            ("/", "GET", "GET"),
        ] {
            assert_eq!(method_label(route, method), label);
        }
        let served = Served::new("web-0", 10);
        served.answered(("/v1/users/{username}", "GET", 200), Duration::from_millis(2));
        served.answered(("/v1/users", "GET", 200), Duration::from_micros(500));
        served.coreapp("core:6250", Duration::from_millis(7));
        let metrics = served.metrics();
        assert_eq!(value(&metrics, "api_requests_duration_ms_count", ("method", "GET_v1_users")), Some(2.0));
        assert_eq!(value(&metrics, "api_requests_duration_ms_sum", ("result", "200")), Some(2.5));
        assert_eq!(value(&metrics, "api_requests_coreapp_duration_ms_sum", ("app", "core:6250")), Some(7.0));
    }

    #[test]
    fn what_ends_is_in_progress_no_more() {
        let served = Served::new("web-0", 10);
        served.opened();
        served.opened();
        let request = served.begin();
        let gauges = || {
            let metrics = served.metrics();
            ["web_requests", "web_active_processes", "web_idle_processes", "web_connections"]
                .map(|name| value(&metrics, name, ("node", "web-0")).unwrap())
        };
        assert_eq!(gauges(), [1.0, 2.0, 8.0, 2.0]);
        drop(request);
        served.closed();
        assert_eq!(gauges(), [0.0, 1.0, 9.0, 2.0]);
    }
}
