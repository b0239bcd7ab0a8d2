//! What a route says about itself, and how that becomes an operation of the document. Who may call it and how often
//! is taken from the route, so that the answers 401, 403 and 429 are never forgotten.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::{
    Content, ContentBuilder, Ref, RefOr, Required, Response, ResponseBuilder, SecurityRequirement,
    path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::{RequestBody, RequestBodyBuilder},
};

use super::words::{Member, Schema, closed, list, named, need, open, text_of};
use crate::{auth::Access, limiter::Class};

/// What a route says about itself.
pub(crate) struct Description {
    pub(super) id: &'static str,
    tag: &'static str,
    summary: &'static str,
    details: Option<&'static str>,
    parameters: Vec<Parameter>,
    body: Option<Body>,
    answers: Vec<(u16, &'static str, Contents)>,
    refusals: Vec<u16>,
}

/// Types an answer may have; without a schema anything may be in it.
type Contents = Vec<(&'static str, Option<Schema>)>;

struct Parameter {
    place: ParameterIn,
    name: &'static str,
    meaning: &'static str,
    schema: Schema,
}

struct Body {
    is_needed: bool,
    contents: Vec<(&'static str, Schema)>,
    example: Option<Value>,
}

const JSON: &str = "application/json";

/// Begins a description.
pub(crate) fn describe(id: &'static str, tag: &'static str, summary: &'static str) -> Description {
    Description { id, tag, summary, details: None, parameters: Vec::new(), body: None, answers: Vec::new(), refusals: Vec::new() }
}

impl Description {
    /// More than a line about it.
    pub(crate) fn details(mut self, details: &'static str) -> Self {
        self.details = Some(details);
        self
    }

    /// The variable part of its path.
    pub(crate) fn path(mut self, name: &'static str, meaning: &'static str) -> Self {
        self.parameters.push(Parameter { place: ParameterIn::Path, name, meaning, schema: text_of(1, usize::MAX, None) });
        self
    }

    /// A header it reads.
    pub(crate) fn header(mut self, name: &'static str, schema: Schema, meaning: &'static str) -> Self {
        self.parameters.push(Parameter { place: ParameterIn::Header, name, meaning, schema });
        self
    }

    /// A parameter of its query.
    pub(crate) fn query(mut self, name: &'static str, schema: Schema, meaning: &'static str) -> Self {
        self.parameters.push(Parameter { place: ParameterIn::Query, name, meaning, schema });
        self
    }

    /// It takes JSON.
    pub(crate) fn takes(self, schema: Schema) -> Self {
        self.takes_as(true, vec![(JSON, schema)])
    }

    /// It takes JSON, and works without.
    pub(crate) fn may_take(self, schema: Schema) -> Self {
        self.takes_as(false, vec![(JSON, schema)])
    }

    /// It takes one of these types.
    pub(crate) fn takes_as(mut self, is_needed: bool, contents: Vec<(&'static str, Schema)>) -> Self {
        self.body = Some(Body { is_needed, contents, example: None });
        self
    }

    /// What a body may look like.
    pub(crate) fn example(mut self, example: Value) -> Self {
        if let Some(body) = &mut self.body {
            body.example = Some(example);
        }
        self
    }

    /// It answers with the envelope and these members.
    pub(crate) fn answers(self, status: u16, meaning: &'static str, members: impl IntoIterator<Item = Member>) -> Self {
        self.answers_as(status, meaning, vec![(JSON, Some(envelope(members)))])
    }

    /// It answers with one of these types, or, if there are none, without a body.
    pub(crate) fn answers_as(mut self, status: u16, meaning: &'static str, contents: Contents) -> Self {
        self.answers.push((status, meaning, contents));
        self
    }

    /// It refuses with these statuses beside those that follow from the route.
    pub(crate) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend_from_slice(statuses);
        self
    }

    /// The operation, for those who may call it.
    pub(super) fn operation(self, access: Access, class: Class) -> Operation {
        let mut responses: BTreeMap<u16, RefOr<Response>> = BTreeMap::new();
        for status in refusals(access, class, self.body.is_some()).into_iter().chain(self.refusals) {
            responses.insert(status, refusal(status));
        }
        for (status, meaning, contents) in self.answers {
            let response = contents.into_iter().fold(ResponseBuilder::new().description(meaning), |response, (kind, schema)| {
                response.content(kind, schema.map_or_else(Content::default, |schema| Content::new(Some(schema))))
            });
            responses.insert(status, response.build().into());
        }
        let begun = OperationBuilder::new()
            .operation_id(Some(self.id))
            .tag(self.tag)
            .summary(Some(self.summary))
            .description(self.details)
            .request_body(self.body.map(request_body))
            .securities(Some(securities(access, self.id)));
        let described = self.parameters.into_iter().fold(begun, |operation, given| operation.parameter(parameter(given)));
        let all = responses
            .into_iter()
            .fold(described, |operation, (status, response)| operation.response(status.to_string(), response));
        all.build()
    }
}

/// An object with these members and `meta`.
pub(super) fn envelope(members: impl IntoIterator<Item = Member>) -> Schema {
    closed(members.into_iter().chain([need("meta", named("Meta"))]))
}

fn parameter(Parameter { place, name, meaning, schema }: Parameter) -> ParameterBuilder {
    let required = if matches!(place, ParameterIn::Path) { Required::True } else { Required::False };
    let built = ParameterBuilder::new().name(name).parameter_in(place).required(required);
    built.description(Some(meaning)).schema(Some(schema))
}

fn request_body(body: Body) -> RequestBody {
    let required = if body.is_needed { Required::True } else { Required::False };
    let mut built = RequestBodyBuilder::new().required(Some(required));
    for (kind, schema) in body.contents {
        let content = ContentBuilder::new().schema(Some(schema)).example(body.example.clone().filter(|_| kind == JSON));
        built = built.content(kind, content.build());
    }
    built.build()
}

/// What may be answered by what every route does before its own work.
fn refusals(access: Access, class: Class, has_body: bool) -> Vec<u16> {
    let mut statuses = Vec::new();
    if access != Access::Open {
        // 400: a header names a number that is not served; 503: who calls cannot be found out.
        statuses.extend([400, 401, 503]);
    }
    if access == Access::Admin {
        statuses.push(403);
    }
    if class != Class::Free {
        statuses.push(429);
    }
    if has_body {
        statuses.extend([400, 413, 415]);
    }
    statuses
}

/// The response every refusal with this status is.
fn refusal(status: u16) -> RefOr<Response> {
    Ref::from_response_name(name_of(status)).into()
}

/// Statuses of refusals, their names among the responses, and what they mean.
pub(super) const REFUSALS: [(u16, &str, &str); 12] = [
    (400, "BadRequest", "The request is not in order; `details` names the parameter at fault"),
    (401, "Unauthorized", "Credentials are missing, wrong or expired (1005)"),
    (403, "Forbidden", "The account may not do that (1005), or must change its password first (1024)"),
    (404, "NotFound", "There is no such thing (1006), or no such template (2001, 2003)"),
    (409, "Conflict", "Another change is under way"),
    (413, "TooLarge", "The body is too large"),
    (415, "Encoded", "The body is compressed (`Content-Encoding`), which is not supported"),
    (422, "OtherRequest", "The `Idempotency-Key` was used for another message to this recipient"),
    (429, "TooManyRequests", "Too many requests (1015); repeat it after `Retry-After`"),
    (500, "InternalError", "It failed; nothing was done"),
    (503, "Unavailable", "Not ready, moving or overloaded (1011, 1016, 1018); safe to repeat after `Retry-After`"),
    (504, "Timeout", "No answer in time; it may have been done all the same"),
];

fn name_of(status: u16) -> &'static str {
    REFUSALS.iter().find(|(known, ..)| *known == status).map_or("BadRequest", |(_, name, _)| name)
}

/// The envelope of a refusal.
pub(super) fn errors(entry: Schema) -> Schema {
    open([need("errors", list(entry, 1, 1)), need("meta", named("Meta"))])
}

fn securities(access: Access, id: &str) -> Vec<SecurityRequirement> {
    let scheme = |name: &str| SecurityRequirement::new(name, std::iter::empty::<String>());
    match access {
        Access::Open if id == super::LOGIN => vec![scheme("basic")],
        Access::Open => Vec::new(),
        Access::Account | Access::Admin => vec![scheme("bearer")],
        Access::AccountOrKey => vec![scheme("bearer"), scheme("apikey")],
    }
}
