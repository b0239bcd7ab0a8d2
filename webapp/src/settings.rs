//! Reads and changes the application settings in the store: compare and set, then every owner is
//! told, so that a change is in force when its answer is sent.

use std::{sync::Arc, time::Duration};

use estafet_model::{
    ApiError, Code, WaId,
    settings::{
        Settings,
        patch::{self, Policy},
    },
};
use estafet_runtime::Tasks;
use estafet_store::SharedStore;
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, store_failure},
    route::Router,
};

/// Tries before a change gives way to others that come faster.
const TRIES: usize = 16;
/// How long the first settings wait for an owner to be told.
const FIRST_OWNER: Duration = Duration::from_secs(30);

/// The settings of one number.
pub(crate) struct SettingsService {
    store: SharedStore,
    number: WaId,
    policy: Policy,
    router: Arc<Router>,
}

impl SettingsService {
    pub(crate) fn new(store: SharedStore, number: WaId, policy: Policy, router: Arc<Router>) -> Self {
        Self { store, number, policy, router }
    }

    /// The settings in force.
    pub(crate) async fn read(&self) -> Result<Settings, ApiError> {
        Ok(self.load().await?.1)
    }

    /// Applies a change whole, or not at all.
    pub(crate) async fn change(&self, change: &Map<String, Value>) -> Result<(), ApiError> {
        let version = self.write(|current| patch::apply(current, change, self.policy)).await?;
        self.router.reload_settings(self.number, version).await;
        Ok(())
    }

    /// Sets or removes the certificates that callbacks trust beside the system's.
    pub(crate) async fn set_webhook_ca(&self, pem: Option<&str>) -> Result<(), ApiError> {
        let changed = |current: &Settings| {
            let mut next = current.clone();
            next.webhooks.ca = pem.map(str::to_owned);
            Ok(next)
        };
        let version = self.write(changed).await?;
        self.router.reload_settings(self.number, version).await;
        Ok(())
    }

    /// Changes members of the business profile, all or none. Owners have no use for it.
    pub(crate) async fn change_profile(&self, change: &Map<String, Value>) -> Result<(), ApiError> {
        let changed =
            |current: &Settings| Ok(Settings { business_profile: current.business_profile.changed(change)?, ..current.clone() });
        self.write(changed).await.map(drop)
    }

    /// Sets the line about the business.
    pub(crate) async fn set_about(&self, line: &str) -> Result<(), ApiError> {
        self.write(|current| Ok(Settings { about: Some(line.to_owned()), ..current.clone() })).await.map(drop)
    }

    /// Back to the defaults.
    pub(crate) async fn reset(&self) -> Result<(), ApiError> {
        let version = self.write(|current| Ok(current.reset())).await?;
        self.router.reload_settings(self.number, version).await;
        Ok(())
    }

    /// Sets the callback URL if none is set; owners are told as soon as there are any.
    pub(crate) async fn set_initial_url(&self, url: &str, tasks: &Tasks) -> Result<(), Error> {
        let problem = |error: ApiError| Error::Config(format!("initial_webhook_url: {}", error.details));
        if self.read().await.map_err(problem)?.webhooks.url.is_some() {
            return Ok(());
        }
        let change = json!({ "webhooks": { "url": url } });
        let change = change.as_object().cloned().unwrap_or_default();
        let version = self.write(|current| patch::apply(current, &change, self.policy)).await.map_err(problem)?;
        let (router, number, shutdown) = (self.router.clone(), self.number, tasks.shutdown().clone());
        tasks.spawn("webapp-first-settings", async move {
            let told = tokio::time::timeout(FIRST_OWNER, async {
                router.until_owned(number).await;
                router.reload_settings(number, version).await;
            });
            tokio::select! {
                _ = told => {}
                () = shutdown.cancelled() => {}
            }
        });
        Ok(())
    }

    async fn load(&self) -> Result<(u64, Settings), ApiError> {
        let stored = self.store.settings(self.number).await.map_err(|error| store_failure("read settings", &error))?;
        let Some((version, body)) = stored else { return Ok((0, Settings::default())) };
        let settings = serde_json::from_str(&body).map_err(|error| {
            tracing::error!(%error, version, "stored settings are not readable");
            ApiError::new(Code::Database, "The stored settings are not readable")
        })?;
        Ok((version, settings))
    }

    async fn write(&self, change: impl Fn(&Settings) -> Result<Settings, ApiError>) -> Result<u64, ApiError> {
        for _ in 0..TRIES {
            let (version, current) = self.load().await?;
            let body = serde_json::to_string(&change(&current)?).expect("settings are strings, numbers and booleans");
            let written = self
                .store
                .put_settings(self.number, version, &body)
                .await
                .map_err(|error| store_failure("write settings", &error))?;
            if let Some(version) = written {
                return Ok(version);
            }
        }
        Err(ApiError::new(Code::Overloaded, "The settings are being changed by others, try again"))
    }
}
