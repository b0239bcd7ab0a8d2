//! What most scenarios start from: a sandbox whose callbacks go to a sink, its admin logged in, and two phones.

use estafet_harness::{Api, Sandbox, Sink, sandbox};
use serde_json::json;

/// A phone that reads what it gets.
pub(crate) const KERRY: &str = "16315551234";
/// Another one.
pub(crate) const ANA: &str = "16315551001";

/// A sandbox with its surroundings.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) sink: Sink,
    pub(crate) admin: Api,
}

impl World {
    /// Starts everything with the defaults of tests.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(Sandbox::options()).await
    }

    /// Starts everything with chosen options.
    pub(crate) async fn start_with(options: sandbox::Options) -> anyhow::Result<Self> {
        let sink = Sink::start().await?;
        let sandbox = options.webhook(&sink.url()).start().await?;
        let admin = sandbox.login().await?;
        for (number, name) in [(KERRY, "Kerry"), (ANA, "Ana")] {
            admin.add_phone(number, name).await?;
            admin.set_phone(number, "read").await?;
        }
        Ok(Self { sandbox, sink, admin })
    }

    /// Makes `sent` callbacks part of the story.
    pub(crate) async fn report_sent(&self) -> anyhow::Result<()> {
        self.admin.patch_settings(&json!({ "webhooks": { "message": { "sent": true } } })).await
    }

    /// Repeats failed callbacks soon.
    pub(crate) async fn retry_soon(&self) -> anyhow::Result<()> {
        self.admin.patch_settings(&json!({ "callback_backoff_delay_ms": 100, "max_callback_backoff_delay_ms": 100 })).await
    }
}
