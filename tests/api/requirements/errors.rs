//! Errors: what keeps Estafet from working is said in words that lead to its cause.

use std::{fs, path::Path, process::Output};

use estafet_harness::{Ledger, Postgres, Sandbox, Sink, environment::estafet_binary, ledger::assert_none};
use serde_json::json;
use tokio::process::Command;

/// A sandbox that cannot start with this message database.
async fn refused(database_url: &str) -> anyhow::Result<Output> {
    let directory = tempfile::tempdir()?;
    let mut command = Command::new(estafet_binary()?);
    command.args(["sandbox", "--listen", "127.0.0.1:0", "--database-url", database_url]).arg("--data-dir").arg(directory.path());
    Ok(command.output().await?)
}

/// A password with everything that the original could not bear, and more.
const PASSWORD: &str = "?{}&~!()^ @:/#% '\"\\ pässwörd 密";

#[tokio::test]
async fn r164_r166_r170_a_database_that_cannot_be_used_is_named_and_no_password_is_at_fault() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let url = postgres.create_database("closed").await?;
    // From here on a role with a password has to give it.
    let rules = postgres.query("closed", "SHOW hba_file").await?;
    let open = fs::read_to_string(&rules)?;
    fs::write(&rules, format!("host all guarded 127.0.0.1/32 scram-sha-256\n{open}"))?;
    let guarded = format!("CREATE ROLE guarded LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''"));
    for statement in [
        "SELECT pg_reload_conf()",
        "CREATE ROLE nobody NOLOGIN",
        "CREATE ROLE reader LOGIN",
        &guarded,
        "GRANT ALL ON DATABASE closed TO guarded",
        "REVOKE ALL ON DATABASE closed FROM PUBLIC",
        "GRANT CONNECT ON DATABASE closed TO reader",
    ] {
        postgres.query("closed", statement).await?;
    }
    let owner = url.split_once("://").and_then(|(_, rest)| rest.split(['@', ':']).next()).unwrap_or_default();
    let as_role = |role: &str| url.replacen(&format!("//{owner}"), &format!("//{role}"), 1);
    let table = [
        ("unreachable", "postgres://estafet@127.0.0.1:1/closed".to_owned(), "refused"),
        ("not there", postgres.url("absent"), "does not exist"),
        ("denied", as_role("nobody"), "not permitted to log in"),
        ("a wrong password", as_role("guarded:wrong"), "password authentication failed"),
        ("no rights", as_role("reader"), "permission denied"),
    ];
    for (what, url, cause) in table {
        let ended = refused(&url).await?;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && ended.stdout.is_empty(), "{what}: it started");
        assert!(said.contains("Unable to initialize config store") && said.contains("--database-url"), "{what}: {said}");
        assert!(said.contains(cause), "{what}: {said}");
        assert!(!said.contains("wrong@"), "{what}: the password is shown: {said}");
    }
    let sandbox = Sandbox::options().database(&as_role(&format!("guarded:{PASSWORD}"))).start().await?;
    sandbox.login().await?.send_text("15550001001", "any password will do").await.map(drop)
}

#[test]
fn r161_operations_have_a_page_and_drills_are_run_by_make() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let read = |name: &str| fs::read_to_string(root.join(name));
    let (operations, drills, makefile) = (read("docs/operations.md")?, read("docs/drills.md")?, read("Makefile")?);
    assert!(operations.contains("/readyz") && operations.contains("/metrics"));
    assert!(makefile.lines().any(|line| line.starts_with("drill:")) && makefile.contains("drill run all --local"));
    for drill in estafet_drill::Drill::ALL {
        assert!(drills.contains(&format!("`{}`", drill.name())), "docs/drills.md says nothing about {}", drill.name());
    }
    Ok(())
}

#[tokio::test]
async fn r163_a_move_to_a_restored_database_loses_nothing() -> anyhow::Result<()> {
    const MESSAGES: usize = 20;
    const PHONE: &str = "15550001001";
    let postgres = Postgres::start().await?;
    let before = postgres.create_database("before").await?;
    let (mut sink, directory) = (Sink::start().await?, tempfile::tempdir()?);
    let options = || Sandbox::options().data_dir(directory.path()).webhook(&sink.url());
    let (first, second) = (options().database(&before), options());
    let mut sandbox = first.start().await?;
    let admin = sandbox.login().await?;
    admin.patch_settings(&json!({ "callback_backoff_delay_ms": 100, "max_callback_backoff_delay_ms": 100 })).await?;
    sink.close().await?;
    admin.set_phone(PHONE, "offline").await?;
    let mut sent = Ledger::new();
    for n in 0..MESSAGES {
        let text = format!("message {n}");
        sent.accepted(PHONE, &text, &admin.send_text(PHONE, &text).await?);
    }
    let written = admin.phone_sends_text("15550001002", "to the business").await?;
    sandbox.terminate().await?;

    // Restored elsewhere: the configuration is changed, and the process starts again.
    postgres.query("postgres", "CREATE DATABASE after TEMPLATE before").await?;
    postgres.query("postgres", "DROP DATABASE before").await?;
    let moved = second.database(&postgres.url("after")).start().await?;
    sink.open().await?;
    let admin = moved.login().await?;
    admin.set_phone(PHONE, "read").await?;
    for id in sent.ids().collect::<Vec<_>>() {
        sink.wait_for_status(id, "read").await?;
    }
    sink.wait_for_message(&written).await?;
    assert_none(&sent.compare_callbacks(&sink.arrivals(), &["delivered", "read"]));
    assert_none(&sent.compare_phones(&[admin.inbox(PHONE).await?]));
    Ok(())
}
