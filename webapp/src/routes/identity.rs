//! `/v1/contacts/{wa-id}/identity` (spec/contacts.md §2): which identity of a user is known, and that the business
//! accepts it. Both are answered by the owner of the user's slot.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use estafet_model::{ApiError, Code, Slot, WaId};
use estafet_proto::v1::{AcknowledgeIdentity, ReadIdentity, request::Action};
use serde_json::json;

use super::{Call, messages::ready};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    json::parse_object,
    route::Reply,
};

pub(super) async fn read(app: Arc<App>, mut call: Call) -> Outcome {
    ready(&app)?;
    let user = user(&mut call).await?;
    let action = Action::ReadIdentity(ReadIdentity { user: user.as_u64() });
    match app.router.call(call.tenant()?.number, Slot::of(user), action).await? {
        Reply::Identity(identity) => Ok(Answer::ok(&json!({
            // An object, not a list, and the time in milliseconds: as the original had it.
            "contacts": {
                "hash": STANDARD.encode(&identity.hash),
                "created_timestamp": identity.created_at_ms,
                "acknowledged": identity.acknowledged,
            }
        }))),
        other => Err(ApiError::new(Code::Internal, format!("An identity was asked for, {other:?} came")).into()),
    }
}

pub(super) async fn acknowledge(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.json(&app).await?;
    ready(&app)?;
    let user = user(&mut call).await?;
    let request = parse_object(&body)?;
    let hash = request.required_text("hash", "hash")?;
    let hash = STANDARD.decode(hash.trim()).map_err(|_| ApiError::invalid("hash", "must be a hash in base64"))?;
    let action = Action::AcknowledgeIdentity(AcknowledgeIdentity { user: user.as_u64(), hash: hash.into() });
    app.router.call(call.tenant()?.number, Slot::of(user), action).await?;
    Ok(Answer::nothing())
}

/// The user of the path.
async fn user(call: &mut Call) -> Result<WaId, ApiError> {
    let text = call.path_parameter().await;
    let user = text.and_then(|text| text.trim_start_matches('+').parse().ok());
    user.ok_or_else(|| ApiError::new(Code::NotFound, "No such contact"))
}
