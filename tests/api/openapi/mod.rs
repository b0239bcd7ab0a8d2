//! The OpenAPI document against the running server: schemathesis sends what the document allows and what it does not,
//! and every answer must be one the document has.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, ensure};
use estafet_harness::{
    client::basic,
    files,
    sandbox::{ADMIN_PASSWORD, API_KEY},
    schemathesis::Run,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{ANA, KERRY, World};

/// Requests made up for each operation.
const CASES: u32 = 6;
/// Messages made up.
const MESSAGES: &str = "150";
const PASSWORD: &str = "Ag3nt!pass";
/// Nobody guesses the number with its shards, nor a certificate.
const NEVER_DONE: [&str; 2] = ["/v1/account/shards", "/v1/certificates/webhooks/ca"];

/// Things that exist: messages that came and went, files, accounts.
async fn known(world: &World) -> anyhow::Result<Value> {
    let (mut files, mut sent, mut received) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..8 {
        files.push(world.admin.upload("image/jpeg", files::jpeg()).await?);
        sent.push(world.admin.send_text(KERRY, &format!("text {n}")).await?);
        received.push(world.admin.phone_sends_text(ANA, "hello").await?);
        world.admin.create_user(&format!("agent-{n}"), PASSWORD).await?;
        let provider = json!([{ "name": format!("provider-{n}"), "type": "www", "config": { "bearer": "token" } }]);
        world.admin.call(Method::POST, "/v1/settings/application/media/providers", Some(&provider)).await?;
    }
    for (sent, received) in sent.iter().zip(&received) {
        world.sink.wait_for_status(sent, "read").await?;
        world.sink.wait_for_message(received).await?;
    }
    let named = |what: &str| (0..8).map(|n| format!("{what}-{n}")).collect::<Vec<_>>();
    let identity = world.admin.identity(KERRY).await?.body;
    let messages: Vec<&String> = sent.iter().chain(&received).collect();
    Ok(json!({
        "sink": world.sink.url(),
        "members": {
            "to": [KERRY, ANA, "+1 (631) 555-1234"],
            "contacts": [KERRY, ANA],
            "hash": [identity["contacts"]["hash"]],
            "password": [PASSWORD],
        },
        "places": {
            "/v1/users/{username}": named("agent"),
            "/v1/settings/application/media/providers/{name}": named("provider"),
            "/v1/media/{id}": files,
            "/v1/messages/{id}": received,
            "/v1/estafet/messages/{id}/trace": messages,
            "/v1/contacts/{wa_id}/identity": [KERRY],
            "/docs/{file}": ["index.html", "swagger-ui.css", "swagger-initializer.js"],
        },
    }))
}

/// What was answered: method and path without ids, and the statuses.
async fn answered(world: &World) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let api = world.sandbox.anonymous()?.with_authorization(format!("Apikey {API_KEY}"));
    let metrics = api.call(Method::GET, "/v1/metrics", None).await?.body;
    let data = metrics["metrics"]["api_requests_duration_ms_count"]["data"].as_array().cloned().unwrap_or_default();
    let mut answered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for labels in data.iter().map(|sample| &sample["labels"]) {
        let label = |name: &str| labels[name].as_str().unwrap_or_default().to_owned();
        answered.entry(label("method")).or_default().insert(label("result"));
    }
    Ok(answered)
}

/// How an operation is called in the metrics.
fn label(method: &str, path: &str) -> String {
    let fixed = path.split('/').filter(|part| !part.is_empty() && !part.starts_with('{'));
    std::iter::once(method.to_uppercase().as_str()).chain(fixed).collect::<Vec<_>>().join("_")
}

#[tokio::test]
async fn no_answer_is_undeclared_and_none_is_a_failure_of_the_server() -> anyhow::Result<()> {
    let world = World::start().await?;
    let known = known(&world).await?;
    let document = format!("{}/openapi.json", world.admin.base_url());
    let bearer = format!("Bearer {}", world.admin.token().unwrap_or_default());
    let run = Run {
        document: &document,
        authorization: &bearer,
        cases: CASES,
        options: &[],
        hooks: Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/api/openapi/hooks.py")),
        known: &known,
    };
    // A token is no password, and a logout would end the session of all others. The edges of what a message may be are
    // too many.
    let runs: [(&str, &[&str]); 4] = [
        (&basic("admin", ADMIN_PASSWORD), &["--include-operation-id", "login"]),
        (&bearer, &["--include-operation-id", "sendMessage", "--phases", "examples,fuzzing", "--max-examples", MESSAGES]),
        (&bearer, &["--exclude-operation-id-regex", "^(login|logout|sendMessage)$"]),
        (&bearer, &["--include-operation-id", "logout"]),
    ];
    for (authorization, options) in runs {
        Run { authorization, options, ..run.clone() }.finds_nothing().await?;
    }
    everything_was_asked_for_and_done(&world).await
}

/// A run that leaves operations out, or is always refused, proves nothing.
async fn everything_was_asked_for_and_done(world: &World) -> anyhow::Result<()> {
    let document = world.sandbox.anonymous()?.call(Method::GET, "/openapi.json", None).await?.body;
    let answered = answered(world).await?;
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, _) in item.as_object().into_iter().flatten() {
            let statuses = answered.get(&label(method, path)).with_context(|| format!("{method} {path} was not asked for"))?;
            let done = statuses.iter().any(|status| status.starts_with('2'));
            ensure!(done || NEVER_DONE.contains(&path.as_str()), "{method} {path} was always refused: {statuses:?}");
            operations += 1;
        }
    }
    ensure!(operations > 40, "{operations} operations");
    Ok(())
}
