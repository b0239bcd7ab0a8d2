//! The support bundle: what is in it, and what is not.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use anyhow::{Context as _, ensure};
use estafet_harness::{Postgres, Sandbox, environment::estafet_binary, sandbox::API_KEY};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

/// In every secret, and nowhere else.
const CANARY: &str = "c4nary";
const PASSWORD: &str = "c4nary!Adm1n";

/// What a process may write that was careless.
const CARELESS: &str = r#"2026-11-23T21:00:00Z  INFO estafet_coreapp: an ordinary line
authorization: Bearer c4nary.c4nary.c4nary
cannot reach postgres://me:c4n@ry/c4nary@db.example.net/x
{"level":"INFO","body":"{\"password\":\"c4nary\"}"}
GET /hook?token=c4nary&x=1
-----BEGIN PRIVATE KEY-----
c4nary
-----END PRIVATE KEY-----
"#;

/// Sets every setting that is secret.
async fn with_secrets(sandbox: &Sandbox) -> anyhow::Result<()> {
    let admin = sandbox.anonymous()?.login("admin", PASSWORD).await?;
    let (app, standard) = ("c4nary-app-secret-0001", "whsec_c4naryc4naryc4naryc4naryc4naryc4nary");
    admin
        .patch_settings(&json!({ "webhooks": { "url": "https://u.example.net/c4nary?key=c4nary", "app_secret": app,
            "signing_secret": standard, "endpoints": [{ "name": "crm", "url": "https://crm.example.net/c4nary",
                "headers": { "Authorization": "Bearer c4nary-crm", "X-Shop": "c4nary" }, "app_secret": app }] } }))
        .await?;
    let path = "/v1/settings/application/media/providers";
    for config in [json!({ "basic": { "username": "shop", "password": "c4nary" } }), json!({ "bearer": "c4nary-bearer" })] {
        let name = if config.get("basic").is_some() { "basic" } else { "bearer" };
        let provider = json!([{ "name": name, "type": "www", "config": config }]);
        let answer = admin.call(Method::POST, path, Some(&provider)).await?;
        ensure!(answer.status == 200, "{}", answer.text);
    }
    Ok(())
}

/// Runs the command; its output.
async fn bundle(url: &str, more: &[&str]) -> anyhow::Result<std::process::Output> {
    let mut command = Command::new(estafet_binary()?);
    command.args(["support-bundle", "--url", url]).args(more).env("ESTAFET_PASSWORD", PASSWORD);
    Ok(command.output().await?)
}

/// The files of a bundle by their names below its directory.
fn unpacked(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(path)?));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let (_, name) = name.split_once('/').context("all files are in one directory")?;
        let (name, mut content) = (name.to_owned(), String::new());
        entry.read_to_string(&mut content)?;
        files.insert(name, content);
    }
    Ok(files)
}

#[tokio::test]
async fn r173_a_support_bundle_tells_what_there_is_and_no_secret() -> anyhow::Result<()> {
    let (postgres, directory) = (Postgres::start().await?, tempfile::tempdir()?);
    // The server asks nobody for a password; any is taken.
    let database = postgres.create_database("support").await?.replacen('@', ":c4nary@", 1);
    let sandbox = Sandbox::options().database(&database).webhook("http://127.0.0.1:9/c4nary?x=c4nary");
    let sandbox = sandbox.flag("--admin-password", PASSWORD).flag("--media-secret-access-key", "c4nary-media");
    let sandbox = sandbox.with_initial_password().start().await?;
    with_secrets(&sandbox).await?;
    let (log, out) = (directory.path().join("estafet.log"), directory.path().join("bundle.tar.gz"));
    std::fs::write(&log, CARELESS)?;
    let (log, file) = (log.display().to_string(), out.display().to_string());
    let url = sandbox.ready().base_url.clone();
    let made = bundle(&url, &["--out", &file, "--log", &log]).await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(String::from_utf8_lossy(&made.stdout).trim_end(), file);

    let files = unpacked(&out)?;
    for (name, content) in &files {
        // Tokens of a login begin like the last one.
        for secret in [CANARY, API_KEY, "eyJhbGci"] {
            ensure!(!content.contains(secret), "{name} has a secret: {content}");
        }
    }
    let part = |name: &str| -> anyhow::Result<Value> {
        serde_json::from_str(files.get(name).with_context(|| format!("{name} is missing"))?).context(name.to_owned())
    };
    assert!(part("api/health.json")?["health"].is_object());
    let webhooks = part("api/settings.json")?["settings"]["application"]["webhooks"].clone();
    assert_eq!((&webhooks["url"], &webhooks["app_secret"]), (&json!("https://u.example.net/..."), &json!("********")));
    let options = part("sandbox/configuration.json")?["options"].clone();
    assert!(options["database_url"]["value"].as_str().is_some_and(|url| url.starts_with("postgres://********@127.0.0.1")));
    assert_eq!(options["phones"]["from"], "default");
    assert_eq!(part("sandbox/status.json")?["database"], "postgres");
    assert_eq!(
        part("api/media-providers.json")?.pointer("/settings/application/media/providers/0/config/basic/username"),
        Some(&json!("shop"))
    );
    let contents = part("bundle.json")?["contents"].clone();
    let problems: Vec<&Value> = contents.as_array().into_iter().flatten().filter(|told| told["problem"].is_string()).collect();
    assert!(problems.is_empty(), "{problems:?}");
    assert!(files["logs/00-estafet.log"].contains("INFO estafet_coreapp: an ordinary line\n"));
    assert!(files["api/metrics.txt"].contains("# TYPE"));

    // What is there already stays; and where nothing answers there is nothing to write.
    assert!(!bundle(&url, &["--out", &file]).await?.status.success());
    let nowhere = directory.path().join("nowhere.tar.gz").display().to_string();
    let refused = bundle("http://127.0.0.1:1", &["--out", &nowhere]).await?;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("nothing answers"));
    assert!(!Path::new(&nowhere).exists());
    Ok(())
}
