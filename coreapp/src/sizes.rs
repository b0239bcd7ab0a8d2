//! How large the tables of the message database are, as metrics: estimates of the server, read each minute. All coreapps
//! tell the same.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use estafet_runtime::Tasks;
use estafet_store::{SharedStore, TableSize};
use opentelemetry::KeyValue;

/// How often they are read.
const PAUSE: Duration = Duration::from_secs(60);

type Sizes = Mutex<Vec<TableSize>>;

/// Reads sizes until the tasks are shut down.
pub(crate) fn watch(store: SharedStore, tasks: &Tasks) {
    let sizes = Arc::new(Sizes::default());
    register(&sizes);
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("sizes of the database", async move {
        loop {
            match store.sizes().await {
                Ok(read) => *sizes.lock().unwrap_or_else(PoisonError::into_inner) = read,
                Err(error) => tracing::debug!(%error, "sizes of the database cannot be read"),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
        }
    });
}

/// Tells as long as the sizes are being read.
fn register(sizes: &Arc<Sizes>) {
    let meter = estafet_runtime::metrics::meter("coreapp");
    let told = |sizes: &Weak<Sizes>, of: fn(&TableSize) -> Option<u64>| -> Vec<(u64, KeyValue)> {
        let Some(sizes) = sizes.upgrade() else { return Vec::new() };
        let sizes = sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sizes.iter().filter_map(|size| Some((of(size)?, KeyValue::new("table", size.table.clone()))));
        known.collect()
    };
    let rows = Arc::downgrade(sizes);
    meter
        .u64_observable_gauge("database_rows")
        .with_description("Rows of the tables of the message database, estimated")
        .with_callback(move |gauge| told(&rows, |size| size.rows).into_iter().for_each(|(n, table)| gauge.observe(n, &[table])))
        .build();
    let bytes = Arc::downgrade(sizes);
    meter
        .u64_observable_gauge("database_bytes")
        .with_description("Bytes of the tables of the message database with their indexes")
        .with_callback(move |gauge| told(&bytes, |size| size.bytes).into_iter().for_each(|(n, table)| gauge.observe(n, &[table])))
        .build();
}
