//! `POST /v1/contacts` (spec/contacts.md §1).

use std::sync::Arc;

use serde::Serialize;

use super::{Call, messages::ready};
use crate::{
    answer::{Answer, Outcome},
    app::App,
    config::ContactMode,
    contacts::{self, Finding, Row},
};

#[derive(Serialize)]
struct Contacts<'a> {
    contacts: Vec<Row<'a>>,
}

pub(super) async fn check(app: Arc<App>, mut call: Call) -> Outcome {
    let body = call.json(&app).await?;
    ready(&app)?;
    let query = contacts::read(&body)?;
    let contacts = match app.config.contact_mode {
        ContactMode::AlwaysValid => contacts::rows(&query, |_| Finding::Valid),
        ContactMode::Live => {
            let found = call.tenant()?.contacts.find(&query).await;
            contacts::rows(&query, |number| found.get(&number).copied().unwrap_or(Finding::Processing))
        }
    };
    Ok(Answer::ok(&Contacts { contacts }))
}
