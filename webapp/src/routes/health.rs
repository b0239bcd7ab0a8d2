//! `GET /v1/health` (spec/health-and-stats.md §1): of the number as a whole where all runs in one process, by node in a
//! cluster.

use std::sync::Arc;

use estafet_model::{ApiError, Code};
use estafet_proto::v1::GatewayStatus;
use serde_json::{Map, Value, json};

use super::{Call, stats::errors};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    route::{
        roster::{Duty, NodeState},
        states::word,
    },
};

pub(super) async fn read(app: Arc<App>, call: Call) -> Outcome {
    let number = call.tenant()?.number;
    if app.config.multiconnect {
        let nodes = app.router.nodes(number);
        if !nodes.is_empty() {
            let shown: Map<String, Value> =
                nodes.into_iter().map(|(name, state)| (name, show(state, app.config.registered))).collect();
            return Ok(Answer::ok(&json!({ "health": shown })));
        }
    }
    let status = if app.config.registered {
        app.router.gateway_status(number).ok_or_else(|| not_running("a coreapp is running"))?
    } else {
        GatewayStatus::Unregistered
    };
    Ok(Answer::ok(&json!({ "health": { "gateway_status": word(status) } })))
}

fn show(state: NodeState, is_registered: bool) -> Value {
    match state {
        NodeState::Told(duty, status) => {
            let status = if is_registered { status } else { GatewayStatus::Unregistered };
            json!({ "gateway_status": word(status), "role": role(duty) })
        }
        NodeState::Silent(address) => errors(&not_running(&format!("wacore is running: {address}"))),
    }
}

fn role(duty: Duty) -> &'static str {
    match duty {
        Duty::PrimaryMaster => "primary_master",
        Duty::SecondaryMaster => "secondary_master",
        Duty::Coreapp => "coreapp",
    }
}

fn not_running(what: &str) -> ApiError {
    ApiError::new(Code::Internal, format!("Connection timed out. Please check if {what}"))
}
