//! `estafet support-bundle`: health, settings, statistics, status, configuration and logs in one file, without secrets,
//! for whoever helps. What cannot be had is named in the bundle instead: a bundle is made when something is wrong.

mod archive;
pub(crate) mod redaction;

use std::{
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use chrono::DateTime;
use clap::Args;
use estafet_runtime::{Clock, Tasks};
use estafet_tls::Role;
use serde_json::{Value, json};

use crate::{api::Api, callbacks::Server, output::line, status};
use archive::Entry;
use redaction::Redaction;

/// Of a log, what is taken from its end.
const LOG_BYTES: u64 = 20 << 20;

/// What an administrator may see; some of it is open to others.
const PAGES: [(&str, &str); 8] = [
    ("api/health.json", "/v1/health"),
    ("api/settings.json", "/v1/settings/application"),
    ("api/media-providers.json", "/v1/settings/application/media/providers"),
    ("api/shards.json", "/v1/account/shards"),
    ("api/stats-app.json", "/v1/stats/app"),
    ("api/stats-db.json", "/v1/stats/db"),
    ("api/metrics.json", "/v1/metrics"),
    ("api/metrics.txt", "/metrics"),
];
/// What a sandbox tells callers on the same machine.
const SANDBOX: [(&str, &str); 2] =
    [("sandbox/status.json", "/sandbox/status"), ("sandbox/configuration.json", "/sandbox/configuration")];
/// What the listeners for probes and metrics tell.
const OPS: [(&str, &str); 4] =
    [("livez.txt", "/livez"), ("readyz.json", "/readyz"), ("metrics.txt", "/metrics"), ("configuration.json", "/configuration")];

/// Options of `estafet support-bundle`.
#[derive(Debug, Args)]
pub(crate) struct SupportArgs {
    /// The file that is written; there must be none of that name. Without it estafet-support-TIME.tar.gz in this directory.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
    /// Masters of a cluster (host:port), for its status.
    #[arg(long, env = "ESTAFET_MASTERS", value_delimiter = ',')]
    masters: Vec<String>,
    #[command(flatten)]
    tls: estafet_tls::Flags,
    /// Listeners for probes and metrics of the processes of a cluster (host:port, `ops` of their ready lines). They
    /// tell their configuration only to callers on the same machine.
    #[arg(long, env = "ESTAFET_OPS", value_delimiter = ',')]
    ops: Vec<String>,
    /// Files with logs, may be repeated; of each the last 20 MiB are taken.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,
}

/// Makes the bundle and prints its name.
pub(crate) async fn run(args: SupportArgs) -> anyhow::Result<()> {
    let now_ms = Clock::system().now_ms();
    let made_at = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
    let name = format!("estafet-support-{}", made_at.format("%Y%m%dT%H%M%SZ"));
    let mut bundle = Bundle { redaction: Redaction::knowing([args.server.password().to_owned()]), ..Bundle::default() };
    bundle.add_api(&args).await?;
    if !args.masters.is_empty() {
        let tasks = Tasks::new();
        let transport = crate::cluster::transport(&args.tls, Role::Operator, None, None, &tasks)?;
        let status = status::cluster::ask(&transport, &args.masters).await;
        bundle.add("cluster/status.json", &args.masters.join(","), status.map(|status| (None, status.to_string())));
    }
    for address in &args.ops {
        let api = Api::new(&format!("http://{address}"))?;
        let directory = address.replace([':', '/', '[', ']'], "_");
        bundle.add_pages(&api, &format!("processes/{directory}/"), &OPS).await;
    }
    for (position, path) in args.log.iter().enumerate() {
        let log = end_of(path).with_context(|| path.display().to_string()).map(|text| (None, text));
        bundle.add(&archive::name_of(position, path), &path.display().to_string(), log);
    }
    ensure!(!bundle.entries.is_empty(), "nothing answers: {}", bundle.problems());
    bundle.add("machine.json", "this machine", Ok((None, machine().to_string())));
    let index = json!({
        "made_at": made_at.to_rfc3339(),
        "version": env!("CARGO_PKG_VERSION"),
        "contents": bundle.contents,
    });
    bundle.entries.push(Entry { name: "bundle.json".to_owned(), content: bundle.redaction.document(&index.to_string()) });
    let path = args.out.unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let made_at_s = u64::try_from(now_ms / 1000).unwrap_or_default();
    archive::write(&path, &archive::packed(&name, &bundle.entries, made_at_s)?)?;
    line(&path.display().to_string())
}

/// What was gathered, without secrets.
#[derive(Default)]
struct Bundle {
    redaction: Redaction,
    entries: Vec<Entry>,
    /// A line for each thing that was asked for, also for what could not be had.
    contents: Vec<Value>,
}

impl Bundle {
    /// The API, and what a sandbox tells beside it.
    async fn add_api(&mut self, args: &SupportArgs) -> anyhow::Result<()> {
        let logged_in = match args.server.password() {
            "" => Err(anyhow::anyhow!("no --password: only what is open to everybody")),
            _ => args.server.log_in().await,
        };
        let api = match logged_in {
            Ok(api) => api,
            Err(error) => {
                self.contents.push(json!({ "from": "login", "problem": self.redaction.text(&format!("{error:#}")) }));
                args.server.anonymous()?
            }
        };
        self.add_pages(&api, "", &PAGES).await;
        if args.masters.is_empty() {
            self.add_pages(&api, "", &SANDBOX).await;
        }
        Ok(())
    }

    async fn add_pages(&mut self, api: &Api, prefix: &str, pages: &[(&str, &str)]) {
        for (name, path) in pages {
            let page = api.look(path).await.map(|(status, text)| (Some(status), text));
            self.add(&format!("{prefix}{name}"), path, page);
        }
    }

    /// Takes what came, with its HTTP status if it has one; or the reason why nothing did.
    fn add(&mut self, name: &str, from: &str, came: anyhow::Result<(Option<u16>, String)>) {
        let told = match came {
            Ok((status, text)) => {
                self.entries.push(Entry { name: name.to_owned(), content: self.redaction.document(&text) });
                json!({ "file": name, "from": from, "status": status })
            }
            Err(error) => json!({ "file": name, "from": from, "problem": self.redaction.text(&format!("{error:#}")) }),
        };
        self.contents.push(told);
    }

    /// Why nothing came, each reason once.
    fn problems(&self) -> String {
        let mut problems: Vec<&str> = self.contents.iter().filter_map(|told| told["problem"].as_str()).collect();
        problems.dedup();
        problems.join("; ")
    }
}

/// The end of a log, from the beginning of a line on.
fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(LOG_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole_lines = if skipped == 0 { &text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(whole_lines.to_owned())
}

/// What is known of the machine that the command runs on.
fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).ok();
    let memory = read("/proc/meminfo").map(|text| text.lines().take(3).map(str::to_owned).collect::<Vec<_>>());
    json!({
        "host": estafet_runtime::host_name(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "load": read("/proc/loadavg"),
        "memory": memory,
        "processors": std::thread::available_parallelism().map(usize::from).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_last_whole_lines_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "first\nlast\n").unwrap();
        assert_eq!(end_of(&path).unwrap(), "first\nlast\n");
        let line = format!("{}\n", "x".repeat(1023));
        let lines = usize::try_from(LOG_BYTES).unwrap() / line.len();
        std::fs::write(&path, format!("first\n{}last\n", line.repeat(lines))).unwrap();
        let end = end_of(&path).unwrap();
        assert!(end.starts_with(&line) && end.ends_with("\nlast\n") && end.len() < usize::try_from(LOG_BYTES).unwrap());
        assert!(end_of(&directory.path().join("absent")).is_err());
    }
}
