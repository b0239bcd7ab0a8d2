//! The OpenAPI 3.1 document, made from the code when the process starts: paths, methods and who may call them from
//! the table of routes, message types from the descriptions they are checked with, codes from their list.
//!
//! * [`operations`]: one function an operation. [`operation`]: what the route adds to it.
//! * [`words`]: how schemas are written. [`settings`]: the largest of them. [`viewer`]: `/openapi.json` and `/docs`.

mod operation;
pub(crate) mod operations;
mod settings;
pub(crate) mod viewer;
pub(crate) mod words;

pub(crate) use operation::Description;

use axum::http::Method;
use estafet_model::Code;
use utoipa::openapi::{
    Components, Content, HttpMethod, InfoBuilder, License, OpenApi, OpenApiBuilder, PathsBuilder, ResponseBuilder, Tag,
    path::PathItemBuilder,
    schema::ComponentsBuilder,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{auth::Access, limiter::Class, message};
use words::{Schema, closed, may, named, need, one_of, one_of_numbers, text, text_that, word};

/// Id of the operation with Basic credentials.
const LOGIN: &str = "login";

const ABOUT: &str = "The On-Premises API as this server has it. Members of requests that are not listed are ignored, \
    `null` is as good as absent. A path may have a slash at its end. A server with several numbers is told which one \
    is meant by the header `X-Estafet-Number`, by its host name, or by the token. Every answer has a `X-Request-ID`.";

/// One method of one path, as the table of routes has it.
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) method: Method,
    pub(crate) access: Access,
    pub(crate) class: Class,
    pub(crate) description: Description,
}

/// The document of these routes. `version` is that of the API.
pub(crate) fn document(rows: impl IntoIterator<Item = Row>, version: &str) -> OpenApi {
    let mut paths: Vec<(&'static str, PathItemBuilder)> = Vec::new();
    for Row { path, method, access, class, description } in rows {
        let Some(method) = method_of(&method) else { continue };
        let operation = description.operation(access, class);
        match paths.iter_mut().find(|(known, _)| *known == path) {
            Some((_, item)) => *item = std::mem::take(item).operation(method, operation),
            None => paths.push((path, PathItemBuilder::new().operation(method, operation))),
        }
    }
    let paths = paths.into_iter().fold(PathsBuilder::new(), |all, (path, item)| all.path(path, item.build()));
    let info =
        InfoBuilder::new().title("Estafet").version(version).description(Some(ABOUT)).license(Some(License::new("Apache-2.0")));
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(operations::TAGS.map(Tag::new)))
        .paths(paths)
        .components(Some(components(version)))
        .build()
}

fn method_of(method: &Method) -> Option<HttpMethod> {
    match *method {
        Method::GET => Some(HttpMethod::Get),
        Method::POST => Some(HttpMethod::Post),
        Method::PUT => Some(HttpMethod::Put),
        Method::PATCH => Some(HttpMethod::Patch),
        Method::DELETE => Some(HttpMethod::Delete),
        _ => None,
    }
}

fn components(version: &str) -> Components {
    let mut all = ComponentsBuilder::new()
        .schema("Meta", closed([need("version", word(&[version])), need("api_status", word(&["stable"]))]))
        .schema("Error", error())
        .schema("Errors", operation::errors(named("Error")));
    let mut kinds = Vec::new();
    for (kind, schema) in message::schema::all() {
        let name = format!("Message_{kind}");
        kinds.push(named(&name));
        all = all.schema(name, schema);
    }
    all = all.schema("Message", one_of(kinds));
    for (_, name, meaning) in operation::REFUSALS {
        let refusal =
            ResponseBuilder::new().description(meaning).content("application/json", Content::new(Some(named("Errors"))));
        all = all.response(name, refusal.build());
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The token of a login"));
    let basic = HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some("Name and password, for the login"));
    let key = ApiKeyValue::with_description("Authorization", "`Apikey KEY`, for health and metrics");
    all.security_scheme("bearer", SecurityScheme::Http(bearer.build()))
        .security_scheme("basic", SecurityScheme::Http(basic.build()))
        .security_scheme("apikey", SecurityScheme::ApiKey(ApiKey::Header(key)))
        .build()
}

fn error() -> Schema {
    let mut codes: Vec<u16> = Code::ALL.iter().map(|code| code.number()).collect();
    codes.sort_unstable();
    closed([need("code", one_of_numbers(codes)), need("title", text()), may("details", text_that("What exactly is wrong"))])
}
