//! The OpenAPI document and its viewer.

use std::collections::BTreeMap;

use estafet_webapp::Config;
use reqwest::Method;
use serde_json::Value;

use crate::world::{Webapp, World, registered};

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

async fn document(webapp: &Webapp) -> Value {
    let response = webapp.client.get(webapp.url("/openapi.json")).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    response.json().await.unwrap()
}

#[tokio::test]
async fn what_is_documented_is_served_and_no_other_method_is() {
    let (_world, _core, webapp) = World::ready().await;
    let document = document(&webapp).await;
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 15 && paths.contains_key("/v1/messages/{id}"));
    for (path, item) in paths {
        let real = path
            .replace("{username}", "x")
            .replace("{wa_id}", "16315551234")
            .replace("{id}", "x")
            .replace("{name}", "x")
            .replace("{file}", "x");
        for method in METHODS {
            let response = webapp.client.request(method.clone(), webapp.url(&real)).send().await.unwrap();
            let status = response.status().as_u16();
            let text = response.text().await.unwrap();
            let is_documented = item.get(method.as_str().to_lowercase()).is_some();
            assert_eq!(status != 405, is_documented, "{method} {path}: {status}");
            assert!(!is_documented || !text.contains("endpoint not found"), "{method} {path}: {status} {text}");
        }
    }
}

#[tokio::test]
async fn every_operation_has_an_id_of_its_own_and_the_answers_that_follow_from_its_route() {
    let (_world, _core, webapp) = World::ready().await;
    let document = document(&webapp).await;
    let mut ids = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert_eq!(ids.insert(id.to_owned(), path.clone()), None, "{id}");
            let answers = operation["responses"].as_object().unwrap();
            let needs_login = operation["security"].as_array().is_some_and(|schemes| {
                schemes.iter().any(|scheme| scheme.as_object().is_some_and(|scheme| scheme.contains_key("bearer")))
            });
            assert_eq!(needs_login, answers.contains_key("401") && id != "login", "{method} {path}");
            assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
            assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
            assert_eq!(variable_parts(path), path_parameters(operation), "{method} {path}");
        }
    }
}

fn variable_parts(path: &str) -> Vec<&str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect()
}

fn path_parameters(operation: &Value) -> Vec<&str> {
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    parameters.iter().filter(|parameter| parameter["in"] == "path").filter_map(|parameter| parameter["name"].as_str()).collect()
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| references(value, found));
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_message_type_is_one_of_the_messages() {
    let (_world, _core, webapp) = World::ready().await;
    let document = document(&webapp).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let kinds = document["components"]["schemas"]["Message"]["oneOf"].as_array().unwrap();
    let kinds: Vec<&str> = kinds.iter().filter_map(|kind| kind["$ref"].as_str()?.rsplit('_').next()).collect();
    let all =
        ["text", "image", "audio", "video", "document", "sticker", "location", "contacts", "interactive", "reaction", "template"];
    assert_eq!(kinds, [&all[..], &["hsm"]].concat());
    let buttons = "/components/schemas/Message_interactive/properties/interactive/oneOf/0/properties/action/properties/buttons";
    assert_eq!(document.pointer(buttons).unwrap()["maxItems"], 3, "from the description it is checked with");
}

#[tokio::test]
async fn the_viewer_is_served_whole_and_asks_nobody_else() {
    let (_world, _core, webapp) = World::ready().await;
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let moved = client.get(webapp.url("/docs")).send().await.unwrap();
    assert_eq!((moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()), (308, "docs/"));
    let page = client.get(webapp.url("/docs/")).send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    let page = page.text().await.unwrap();
    let files: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()))
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let name = file.strip_prefix("./").unwrap_or(file);
        assert!(!name.contains('/'), "{file}");
        let answer = client.get(webapp.url(&format!("/docs/{name}"))).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{file}");
        if name == "swagger-initializer.js" {
            let text = answer.text().await.unwrap();
            assert!(text.contains("../openapi.json") && !text.contains("http"), "{text}");
        }
    }
    assert_eq!(client.get(webapp.url("/docs/nothing.js")).send().await.unwrap().status().as_u16(), 404);
    assert_eq!(client.get(webapp.url("/docs/..%2f..%2fetc%2fpasswd")).send().await.unwrap().status().as_u16(), 404);
}

#[tokio::test]
async fn document_and_viewer_can_be_switched_off() {
    let (_world, _core, webapp) = World::ready_with(Config { docs: false, ..registered() }).await;
    for path in ["/openapi.json", "/docs", "/docs/", "/docs/index.html"] {
        let got = webapp.call(Method::GET, path, "", None).await;
        assert_eq!(got.refusal(), (404, 1014), "{path}");
    }
}
