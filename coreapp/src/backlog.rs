//! How many callbacks wait in this process, and how old the oldest is, by receiver: gauges that are read when somebody
//! looks. The number is no label; who wants it by number asks `/v1/stats/app`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use estafet_model::WaId;
use estafet_runtime::Clock;
use opentelemetry::{KeyValue, metrics::AsyncInstrument};

use crate::{
    core::outlets::Backlog,
    node::{NodeState, States},
    settings::LiveSettings,
};

/// The settings of the numbers, which name the receivers.
pub(crate) type Names = Mutex<HashMap<WaId, Arc<LiveSettings>>>;

/// What waits for a receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Callbacks.
    pub(crate) count: u64,
    /// Age of the oldest in seconds; 0 if there is none.
    pub(crate) oldest_seconds: u64,
}

/// What waits for the receivers of these names, in all shards together.
pub(crate) fn by_name(backlogs: impl Iterator<Item = (String, Backlog)>, now_ms: i64) -> BTreeMap<String, Waiting> {
    let mut all: BTreeMap<String, Waiting> = BTreeMap::new();
    for (name, backlog) in backlogs {
        let waiting = all.entry(name).or_default();
        let age_ms = backlog.oldest_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms).max(0));
        waiting.count += backlog.waiting;
        waiting.oldest_seconds = waiting.oldest_seconds.max(age_ms as u64 / 1000);
    }
    all
}

/// Tells as long as the node is there.
#[derive(Clone)]
pub(crate) struct Gauges {
    states: Weak<Mutex<States>>,
    names: Weak<Names>,
    clock: Clock,
}

impl Gauges {
    /// Registers the gauges of a node.
    pub(crate) fn register(state: &NodeState, names: &Arc<Names>, clock: &Clock) {
        let gauges = Self { states: state.downgrade(), names: Arc::downgrade(names), clock: clock.clone() };
        let meter = estafet_runtime::metrics::meter("coreapp");
        let own = gauges.clone();
        meter
            .u64_observable_gauge("callbacks_waiting")
            .with_description("Callbacks that their receiver has not taken")
            .with_callback(move |gauge| own.observe(gauge, |waiting| waiting.count))
            .build();
        meter
            .u64_observable_gauge("callback_oldest_seconds")
            .with_description("Age of the oldest callback that waits")
            .with_callback(move |gauge| gauges.observe(gauge, |waiting| waiting.oldest_seconds))
            .build();
    }

    fn observe(&self, gauge: &dyn AsyncInstrument<u64>, value: fn(&Waiting) -> u64) {
        let (Some(states), Some(names)) = (self.states.upgrade(), self.names.upgrade()) else { return };
        let backlogs = states.lock().unwrap_or_else(PoisonError::into_inner).backlogs();
        let named = backlogs.into_iter().map(|(number, backlog)| (name(&names, number, backlog), backlog));
        for (name, waiting) in by_name(named, self.clock.now_ms()) {
            gauge.observe(value(&waiting), &[KeyValue::new("endpoint", name)]);
        }
    }
}

/// The name of the receiver.
pub(crate) fn name(names: &Names, number: WaId, backlog: Backlog) -> String {
    let live = names.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
    live.map(|live| live.subscribe().borrow().settings.webhooks.name_of(backlog.endpoint).to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use estafet_model::EndpointId;

    use super::*;

    #[test]
    fn r92_shards_are_added_up_and_the_oldest_of_all_counts() {
        let backlog = |waiting, oldest_ms| Backlog { endpoint: EndpointId::MAIN, waiting, oldest_ms };
        let told = [
            ("main".to_owned(), backlog(2, Some(7_000))),
            ("main".to_owned(), backlog(3, Some(4_000))),
            ("crm".to_owned(), backlog(0, None)),
            ("ahead".to_owned(), backlog(1, Some(99_000))),
        ];
        let all = by_name(told.into_iter(), 10_000);
        assert_eq!(all["main"], Waiting { count: 5, oldest_seconds: 6 });
        assert_eq!(all["crm"], Waiting::default());
        assert_eq!(all["ahead"], Waiting { count: 1, oldest_seconds: 0 }, "clocks differ");
    }
}
