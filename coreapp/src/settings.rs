//! The application settings of a number, live: a webapp that wrote them says so at once
//! (`Data.ReloadSettings`), and a look at the version each second finds what it could not say.

use std::time::Duration;

use estafet_model::{WaId, settings::Settings};
use estafet_runtime::Tasks;
use estafet_store::SharedStore;
use tokio::{
    sync::{Mutex, watch},
    time::{MissedTickBehavior, interval},
};

/// How often the version is compared when nobody says anything.
const LOOK: Duration = Duration::from_secs(1);

/// The settings in force, with the version they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versioned {
    /// 0: never written.
    pub version: u64,
    /// The settings.
    pub settings: Settings,
}

/// Keeps the settings of one number up to date.
#[derive(Debug)]
pub struct LiveSettings {
    number: WaId,
    current: watch::Sender<Versioned>,
    loading: Mutex<()>,
}

impl LiveSettings {
    /// Settings that are the defaults until the first [`Self::reload`].
    pub fn new(number: WaId) -> Self {
        Self { number, current: watch::Sender::default(), loading: Mutex::new(()) }
    }

    /// The settings, and word of their changes.
    pub fn subscribe(&self) -> watch::Receiver<Versioned> {
        self.current.subscribe()
    }

    /// Loads the settings unless at least `version` is in force already; the version in force.
    pub async fn reload(&self, store: &SharedStore, version: u64) -> estafet_store::Result<u64> {
        let _one_at_a_time = self.loading.lock().await;
        let known = self.current.borrow().version;
        if known >= version && version > 0 {
            return Ok(known);
        }
        let Some((version, body)) = store.settings(self.number).await? else { return Ok(0) };
        match serde_json::from_str(&body) {
            Ok(settings) => {
                self.current.send_if_modified(|current| {
                    let is_newer = version > current.version;
                    if is_newer {
                        *current = Versioned { version, settings };
                    }
                    is_newer
                });
            }
            Err(error) => {
                tracing::error!(number = %self.number, version, %error, "stored settings are unreadable, keeping the old ones")
            }
        }
        Ok(version)
    }

    /// Looks at the version each second until shutdown.
    pub async fn watch(&self, store: SharedStore, tasks: Tasks) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = tasks.shutdown().cancelled() => return,
            }
            let known = self.current.borrow().version;
            match store.versions(self.number).await {
                Ok(versions) if versions.settings != known => {
                    if let Err(error) = self.reload(&store, 0).await {
                        tracing::warn!(number = %self.number, %error, "settings could not be read");
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(number = %self.number, %error, "settings version could not be read"),
            }
        }
    }
}
