//! Errors: what keeps Estafet from working is said in words that lead to its cause.

use std::{fs, path::Path, process::Stdio};

use anyhow::Context as _;
use estafet_harness::{
    Api, Ledger, PATIENCE, Postgres, Sandbox, Sink,
    client::{text_message, until},
    environment::estafet_binary,
    ledger::assert_none,
};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

/// A sandbox that was started over a database that it may not be able to use.
struct Starting {
    process: Child,
    said: Lines<BufReader<ChildStderr>>,
    announced: Lines<BufReader<ChildStdout>>,
    _directory: tempfile::TempDir,
}

impl Starting {
    fn over(database_url: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(estafet_binary()?);
        command
            .args(["sandbox", "--listen", "127.0.0.1:0", "--database-url", database_url])
            .arg("--data-dir")
            .arg(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let said = BufReader::new(process.stderr.take().context("no stderr")?).lines();
        let announced = BufReader::new(process.stdout.take().context("no stdout")?).lines();
        Ok(Self { process, said, announced, _directory: directory })
    }

    /// The first thing it says of a database that it cannot use.
    async fn complains(&mut self) -> anyhow::Result<String> {
        let said = async {
            while let Some(line) = self.said.next_line().await? {
                if line.contains("Unable to initialize config store") {
                    return Ok(line);
                }
            }
            anyhow::bail!("it ended without a complaint")
        };
        tokio::time::timeout(PATIENCE, said).await?
    }

    /// Whether it says that it is ready.
    async fn is_ready(&mut self) -> anyhow::Result<bool> {
        let line = tokio::time::timeout(PATIENCE, self.announced.next_line()).await??;
        Ok(line.is_some_and(|line| line.contains("\"ready\":true")))
    }
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
        let mut starting = Starting::over(&url)?;
        let said = starting.complains().await?;
        assert!(said.contains("--database-url") && said.contains(cause), "{what}: {said}");
        assert!(!said.contains("wrong@"), "{what}: the password is shown: {said}");
        assert!(starting.process.try_wait()?.is_none(), "{what}: it ended instead of trying again");
    }
    let sandbox = Sandbox::options().database(&as_role(&format!("guarded:{PASSWORD}"))).start().await?;
    sandbox.login().await?.send_text("15550001001", "any password will do").await.map(drop)
}

#[tokio::test]
async fn r164_a_process_that_starts_before_its_database_is_ready_when_that_can_be_used() -> anyhow::Result<()> {
    let mut postgres = Postgres::start().await?;
    let url = postgres.create_database("late").await?;
    for statement in ["CREATE ROLE app LOGIN", "REVOKE ALL ON DATABASE late FROM PUBLIC", "GRANT CONNECT ON DATABASE late TO app"]
    {
        postgres.query("late", statement).await?;
    }
    postgres.halt(Signal::SIGINT).await?;
    let mut starting = Starting::over(&url.replacen("//estafet", "//app", 1))?;
    assert!(starting.complains().await?.contains("refused"));
    postgres.restart().await?;
    // Another cause is told at once.
    assert!(starting.complains().await?.contains("permission denied"));
    postgres.query("late", "GRANT ALL ON DATABASE late TO app").await?;
    assert!(starting.is_ready().await?, "it ended");
    Ok(())
}

#[tokio::test]
async fn r164_a_process_that_waits_for_its_database_ends_when_it_is_told_to() -> anyhow::Result<()> {
    let mut starting = Starting::over("postgres://estafet@127.0.0.1:1/absent")?;
    starting.complains().await?;
    let pid = starting.process.id().context("it ended")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
    let status = tokio::time::timeout(PATIENCE, starting.process.wait()).await??;
    assert_eq!(status.code(), Some(1), "it ends by itself");
    Ok(())
}

/// A sum of the samples of a metric that have this label.
fn counted(metrics: &str, name: &str, label: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// While the database does what it is made to do, one message waits for its answer and others are refused, with this
/// code and as this cause; when it is `mended`, the one that waited is stored.
async fn costs_no_message(
    admin: &Api,
    (code, cause): (u64, &str),
    text: &str,
    mended: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const PHONE: &str = "15550001001";
    let label = format!("cause=\"{cause}\"");
    let failures = async || anyhow::Ok(counted(&admin.metrics().await?, "database_failures_total", &label));
    let before = failures().await?;
    let lost = async || {
        let app = admin.call(Method::GET, "/v1/stats/app", None).await?.body;
        anyhow::Ok(
            app.pointer("/stats/app/db_request_error_duration_us_count/data/0/value").and_then(Value::as_f64).unwrap_or(0.0),
        )
    };
    let lost_before = lost().await?;
    let others = async {
        until("the owner has lost the database", async || Ok(lost().await? > lost_before)).await?;
        let refused = admin.call(Method::POST, "/v1/messages", Some(&text_message(PHONE, "refused"))).await?;
        assert_eq!((refused.status, refused.error_code()), (503, Some(code)), "{cause}: {}", refused.text);
        assert_eq!(refused.headers["retry-after"], "1", "{cause}");
        assert!(failures().await? > before, "{cause} is not counted");
        mended().await
    };
    let message = text_message(PHONE, text);
    let (waited, others) = tokio::join!(admin.call(Method::POST, "/v1/messages", Some(&message)), others);
    others?;
    let waited = waited?;
    // The mending may take longer than a request waits; then nobody knows, and it is stored nevertheless.
    assert!([201, 504].contains(&waited.status), "{cause}: {}", waited.text);
    until("the phone has the message", async || {
        Ok(admin.inbox(PHONE).await?.messages.iter().filter(|message| message.text() == text).count() == 1)
    })
    .await
}

#[tokio::test]
async fn r171_a_database_without_connections_one_that_refuses_and_one_that_is_away_are_told_apart() -> anyhow::Result<()> {
    let mut postgres = Postgres::start().await?;
    let url = postgres.create_database("scarce").await?;
    for statement in ["CREATE ROLE app LOGIN", "GRANT ALL ON DATABASE scarce TO app"] {
        postgres.query("scarce", statement).await?;
    }
    let sandbox = Sandbox::options().database(&url.replacen("//estafet", "//app", 1)).start().await?;
    let admin = sandbox.login().await?;
    admin.send_text("15550001001", "first").await?;

    // F52: nobody gets a new connection, and the owner goes on with those it has.
    postgres.query("scarce", "ALTER ROLE app CONNECTION LIMIT 0").await?;
    admin.send_text("15550001001", "over the connection that is there").await?;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app' \
        AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')";
    postgres.query("scarce", cut).await?;
    costs_no_message(&admin, (1023, "connections"), "waited for a connection", async || {
        postgres.query("scarce", "ALTER ROLE app CONNECTION LIMIT -1").await.map(drop)
    })
    .await?;

    postgres.query("scarce", "ALTER TABLE estafet.message_out RENAME TO mislaid").await?;
    costs_no_message(&admin, (1023, "refused"), "waited for its table", async || {
        postgres.query("scarce", "ALTER TABLE estafet.mislaid RENAME TO message_out").await.map(drop)
    })
    .await?;

    // F48.
    postgres.halt(Signal::SIGINT).await?;
    costs_no_message(&admin, (1011, "unavailable"), "waited for the server", async || postgres.restart().await).await
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
