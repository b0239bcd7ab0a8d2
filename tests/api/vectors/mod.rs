//! Runs the shared vectors, `tests/vectors/vectors.json`, one group a test.
//!
//! `pending.txt` names vectors that belong to later milestones. They are run as well: one that passes must be
//! taken off the list, so the list only shrinks. A failure names every vector at fault and how it differs.

mod callback;
mod setup;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use estafet_harness::{
    PATIENCE, client,
    vectors::{self, Names, RequestVector, Vectors},
};
use estafet_runtime::Clock;
use reqwest::Method;
use serde_json::Value;

use setup::{Stage, Stages};

/// Groups and the beginnings of the names in them. The first that fits counts.
const GROUPS: &[(&str, &[&str])] = &[
    ("callbacks", &["cb-"]),
    ("contacts", &["contacts-", "identity-", "send-blocked-"]),
    ("templates", &["tpl-", "hsm-"]),
    ("media", &["media-", "msg-type-object-", "msg-image-", "msg-audio-", "msg-sticker"]),
    ("messages", &["msg-", "mark-read", "rate-limit-", "overload", "not-registered"]),
    (
        "access",
        &[
            "login-",
            "logout-",
            "user-",
            "garbage-token",
            "expired-token",
            "api-key-",
            "health-",
            "stats-",
            "settings-",
            "webhook-",
        ],
    ),
    ("protocol", &["unknown-endpoint", "wrong-method"]),
];

/// How long a pending vector may wait for what will probably not come.
const PENDING_PATIENCE: Duration = Duration::from_secs(3);

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn load() -> anyhow::Result<(Vectors, BTreeSet<String>)> {
    Ok((vectors::load(&directory().join("vectors.json"))?, vectors::load_names(&directory().join("pending.txt"))?))
}

fn group_of(name: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(_, beginnings)| beginnings.iter().any(|beginning| name.starts_with(beginning))).map(|(group, _)| *group)
}

fn now_s() -> i64 {
    Clock::system().now_ms() / 1000
}

/// What is wrong, by name.
#[derive(Default)]
struct Report {
    failures: Vec<String>,
    passed: usize,
}

impl Report {
    fn add(&mut self, name: &str, is_pending: bool, result: anyhow::Result<()>) {
        match (result, is_pending) {
            (Ok(()), false) => self.passed += 1,
            (Err(_), true) => {}
            (Ok(()), true) => self.failures.push(format!("{name}: passes; take it out of pending.txt")),
            (Err(error), false) => self.failures.push(format!("{name}: {error:#}")),
        }
    }

    fn conclude(self, group: &str) {
        let count = self.failures.len();
        assert!(count == 0, "{group}: {count} vectors fail, {} pass\n  {}", self.passed, self.failures.join("\n  "));
    }
}

async fn run_requests(group: &str) -> anyhow::Result<()> {
    let (file, pending) = load()?;
    let mut stages = Stages::default();
    let mut report = Report::default();
    for vector in file.vectors.iter().filter(|vector| group_of(&vector.name) == Some(group)) {
        let result = run_request(vector, &mut stages).await;
        report.add(&vector.name, pending.contains(&vector.name), result);
    }
    report.conclude(group);
    Ok(())
}

async fn run_request(vector: &RequestVector, stages: &mut Stages) -> anyhow::Result<()> {
    let (stage, names) = stages.prepare(vector).await.context("set-up")?;
    let answer = send(vector, stage, &names).await?;
    let expect = &vector.expect;
    ensure!(answer.status == expect.status, "status {} instead of {}: {}", answer.status, expect.status, answer.text);
    ensure!(!expect.body_empty || answer.text.is_empty(), "the body is not empty: {}", answer.text);
    let found = vectors::mismatches(&answer.body, &expect.body_has, &expect.body_lacks, &names, now_s());
    ensure!(found.is_empty(), "{} in {}", found.join("; "), answer.text);
    for (name, wanted) in &expect.headers_have {
        let value = answer.headers.get(name).and_then(|value| value.to_str().ok()).map(|value| Value::String(value.to_owned()));
        if let Err(why) = vectors::matches(value.as_ref(), wanted, now_s()) {
            anyhow::bail!("header {name} {why}");
        }
    }
    Ok(())
}

async fn send(vector: &RequestVector, stage: &Stage, names: &Names) -> anyhow::Result<client::Answer> {
    let request = &vector.request;
    let mut api = stage.anonymous.clone();
    let mut content_type = None;
    for (name, value) in &request.headers {
        let value = names.fill(value)?;
        match name.to_ascii_lowercase().as_str() {
            "authorization" => api = api.with_authorization(value),
            "content-type" => content_type = Some(value),
            other => anyhow::bail!("header {other} is not sent by the runner"),
        }
    }
    let bytes = match (&request.body, &request.raw_body) {
        (Some(body), _) => names.fill_value(body)?.to_string().into_bytes(),
        (None, Some(raw)) => names.fill_bytes(raw)?,
        (None, None) => Vec::new(),
    };
    let (method, path) = (Method::from_bytes(request.method.as_bytes())?, names.fill(&request.path)?);
    match content_type.as_deref() {
        None if request.raw_body.is_some() => api.request_untyped(method, &path, bytes).await,
        content_type => api.request(method, &path, content_type.map(|content_type| (content_type, bytes))).await,
    }
}

async fn run_callbacks() -> anyhow::Result<()> {
    let (file, pending) = load()?;
    let mut report = Report::default();
    for vector in &file.callback_vectors {
        let is_pending = pending.contains(&vector.name);
        let patience = if is_pending { PENDING_PATIENCE } else { PATIENCE };
        report.add(&vector.name, is_pending, callback::run(vector, patience).await);
    }
    report.conclude("callbacks");
    Ok(())
}

#[test]
fn every_vector_is_in_a_group_and_every_pending_name_exists() -> anyhow::Result<()> {
    let (file, pending) = load()?;
    let names: BTreeSet<&str> = file.names().collect();
    let homeless: Vec<&&str> = names.iter().filter(|name| group_of(name).is_none()).collect();
    assert!(homeless.is_empty(), "no group runs {homeless:?}");
    let unknown: Vec<&String> = pending.iter().filter(|name| !names.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "pending.txt names what does not exist: {unknown:?}");
    Ok(())
}

#[tokio::test]
async fn access_vectors_hold() -> anyhow::Result<()> {
    run_requests("access").await
}

#[tokio::test]
async fn contacts_vectors_hold() -> anyhow::Result<()> {
    run_requests("contacts").await
}

#[tokio::test]
async fn messages_vectors_hold() -> anyhow::Result<()> {
    run_requests("messages").await
}

#[tokio::test]
async fn media_vectors_hold() -> anyhow::Result<()> {
    run_requests("media").await
}

#[tokio::test]
async fn templates_vectors_hold() -> anyhow::Result<()> {
    run_requests("templates").await
}

#[tokio::test]
async fn protocol_vectors_hold() -> anyhow::Result<()> {
    run_requests("protocol").await
}

#[tokio::test]
async fn callbacks_vectors_hold() -> anyhow::Result<()> {
    run_callbacks().await
}
