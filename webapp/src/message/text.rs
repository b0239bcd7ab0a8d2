//! `type: text` (spec/messages.md §2.1): 1 to 4096 code points; `preview_url` at the top level, or
//! inside `text` as the Cloud API has it.

use estafet_model::{ApiError, Code};
use serde::Serialize;

use super::shape::is_longer_than;
use crate::json::Object;

/// Longest text, in code points.
pub(super) const LIMIT: usize = 4096;

#[derive(Serialize)]
pub(super) struct Text<'a> {
    text: Body<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    preview_url: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    body: &'a str,
}

pub(super) fn read<'a>(request: &'a Object<'_>) -> Result<Text<'a>, ApiError> {
    let text = request.object("text", "text")?.ok_or_else(|| super::object_missing("text"))?;
    let body = text.required_text("body", "text.body")?;
    if body.is_empty() {
        return Err(ApiError::missing("text.body"));
    }
    if is_longer_than(body, LIMIT) {
        return Err(ApiError::new(Code::MessageTooLong, format!("Parameter 'text.body' is longer than {LIMIT} characters")));
    }
    let inner = text.bool("preview_url", "text.preview_url")?;
    let preview_url = request.bool("preview_url", "preview_url")?.or(inner).unwrap_or(false);
    Ok(Text { text: Body { body }, preview_url })
}
