//! `/v1/settings/business/profile` and `/v1/settings/profile/about`: what a business says of itself (spec/settings.md §3
//! and §4). Members that are not set are left out, those that are set are there, whatever the others are.

use std::sync::Arc;

use estafet_model::profile;
use serde_json::json;

use super::{Call, settings::object};
use crate::{
    answer::{Answer, Outcome},
    app::App,
};

pub(super) async fn read(_: Arc<App>, call: Call) -> Outcome {
    let profile = call.tenant()?.settings.read().await?.business_profile;
    Ok(Answer::ok(&json!({ "settings": { "business": { "profile": profile } } })))
}

pub(super) async fn change(app: Arc<App>, mut call: Call) -> Outcome {
    let change = object(&call.json(&app).await?)?;
    call.tenant()?.settings.change_profile(&change).await?;
    Ok(Answer::nothing())
}

pub(super) async fn read_about(_: Arc<App>, call: Call) -> Outcome {
    let about = call.tenant()?.settings.read().await?.about.unwrap_or_default();
    Ok(Answer::ok(&json!({ "settings": { "profile": { "about": { "text": about } } } })))
}

pub(super) async fn change_about(app: Arc<App>, mut call: Call) -> Outcome {
    let line = profile::about(&object(&call.json(&app).await?)?)?;
    call.tenant()?.settings.set_about(&line).await?;
    Ok(Answer::nothing())
}
