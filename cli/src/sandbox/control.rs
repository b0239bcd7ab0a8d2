//! The sandbox's own control interface beside the phones': status, and word of a second instance.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use estafet_chatd::phones::Phones;
use estafet_coreapp::Node;
use estafet_model::{ShardMap, Slot, WaId};
use estafet_proto::v1::{GatewayStatus, NumberState};
use estafet_store::{Error, Holder, SharedStore};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What the control interface shows.
#[derive(Clone)]
pub(crate) struct Sandbox {
    pub(crate) number: WaId,
    pub(crate) node: Node,
    pub(crate) store: SharedStore,
    pub(crate) map: watch::Receiver<ShardMap>,
    pub(crate) phones: Phones,
    /// What it was started with, without secrets.
    pub(crate) configuration: Value,
}

/// Routes below `/sandbox/`.
pub(crate) fn router(sandbox: Sandbox) -> Router {
    Router::new()
        .route("/sandbox/status", get(status))
        .route("/sandbox/configuration", get(configuration))
        .route("/sandbox/conflict", post(conflict))
        .with_state(sandbox)
}

async fn configuration(State(sandbox): State<Sandbox>) -> Json<Value> {
    Json(sandbox.configuration)
}

async fn status(State(sandbox): State<Sandbox>) -> Json<Value> {
    let shards: Vec<Value> = sandbox.node.state().snapshot().iter().map(|state| shard(&sandbox, state)).collect();
    Json(json!({
        "number": sandbox.number,
        "node": super::NODE,
        "database": sandbox.store.backend(),
        "map_version": sandbox.map.borrow().version,
        "phones": sandbox.phones.list().await.map(|phones| phones.len()).ok(),
        "shards": shards,
    }))
}

fn shard(sandbox: &Sandbox, state: &NumberState) -> Value {
    let connection = match state.gateway_status() {
        GatewayStatus::Connected => "connected",
        GatewayStatus::Connecting => "connecting",
        GatewayStatus::Uninitialized => "uninitialized",
        GatewayStatus::Unregistered => "unregistered",
        GatewayStatus::Disconnected | GatewayStatus::Unspecified => "disconnected",
    };
    let first_slot = state.shard * (u32::from(estafet_model::slot::SLOTS) / state.shard_count.max(1));
    let map = sandbox.map.borrow();
    let owner = Slot::new(first_slot).and_then(|slot| map.owner(sandbox.number, slot)).map(|owner| owner.address.clone());
    json!({
        "shard": state.shard,
        "shard_count": state.shard_count,
        "owner": owner,
        "epoch": state.epoch,
        "connection": connection,
        "outbox": state.outbox,
        "callbacks": state.callbacks,
    })
}

/// A second process wanted what this one holds; the business hears of it (spec/webhooks.md §7).
async fn conflict(State(sandbox): State<Sandbox>) -> StatusCode {
    tracing::error!(number = %sandbox.number, "another instance tried to take the number and was refused");
    sandbox.node.report(sandbox.number, estafet_coreapp::CONFLICT);
    StatusCode::NO_CONTENT
}

/// Tells the holder of a number that somebody else wanted it.
pub(crate) async fn tell_holder(error: &Error) {
    if let Error::Held { holder: Some(holder), .. } = error {
        report_conflict(holder).await;
    }
}

/// Tells a running sandbox of the conflict; it may have just ended, then nobody needs to know.
pub(crate) async fn report_conflict(holder: &Holder) {
    let Some(base_url) = &holder.base_url else { return };
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build();
    if let Ok(client) = client
        && let Err(error) = client.post(format!("{base_url}/sandbox/conflict")).send().await
    {
        tracing::debug!(%error, "the holder does not answer");
    }
}
