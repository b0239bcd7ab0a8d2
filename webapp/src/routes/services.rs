//! `/v1/services/media/gc` (spec/health-and-stats.md §6): removes files that nobody used for 30 days, now, whether
//! that is switched on or not. The owner of the first shard does it, one collection at a time, and tells its end
//! with a callback; a node that ends meanwhile tells nothing, and the call is to be repeated.

use std::sync::Arc;

use estafet_model::{ApiError, Code, Slot};
use estafet_proto::v1::{CollectMedia, request::Action};
use serde_json::json;

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
};

pub(super) async fn collect_media(app: Arc<App>, call: Call) -> Outcome {
    let first = Slot::new(0).ok_or_else(|| ApiError::new(Code::Generic, "There is no first slot"))?;
    app.router.call(call.tenant()?.number, first, Action::CollectMedia(CollectMedia {})).await?;
    Ok(Answer::ok(&json!({ "services": { "media": { "gc": { "status": "processing" } } } })))
}
