//! `GET /v1/health` in its single form (spec/health-and-stats.md §1).

use std::sync::Arc;

use estafet_model::{ApiError, Code};
use estafet_proto::v1::GatewayStatus;
use serde::Serialize;

use super::Call;
use crate::{
    answer::{Answer, Outcome},
    app::App,
    route::states::word,
};

#[derive(Serialize)]
struct Health {
    health: Node,
}

#[derive(Serialize)]
struct Node {
    gateway_status: &'static str,
}

pub(super) async fn read(app: Arc<App>, call: Call) -> Outcome {
    let number = call.tenant()?.number;
    let status = if app.config.registered {
        app.router
            .gateway_status(number)
            .ok_or_else(|| ApiError::new(Code::Internal, "Connection timed out. Please check if a coreapp is running"))?
    } else {
        GatewayStatus::Unregistered
    };
    Ok(Answer::ok(&Health { health: Node { gateway_status: word(status) } }))
}
