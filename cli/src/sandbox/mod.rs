//! `estafet sandbox`: every role in one process.
//!
//! The roles are the ones a cluster runs; only coordination ([`estafet_master::local`]), the transport
//! between webapp and coreapp (memory instead of TCP) and the configuration differ.

mod control;
mod data_dir;
mod wiring;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use estafet_chatd::Chatd;
use estafet_coreapp::Node;
use estafet_master::local::Local;
use estafet_media::guard::Policy;
use estafet_model::{BootId, ShardCount, WaId};
use estafet_proto::v1::{GatewayStatus, NumberState};
use estafet_runtime::{Clock, Tasks};
use estafet_store::{Hold, Holder, SharedStore};
use estafet_upstream::chat::ChatUpstream;
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch};

use crate::args::{ContactMode, Misconfigured, SandboxArgs};
use data_dir::DataDir;
use wiring::{InProcess, SandboxNode};

/// Name of the process's one node.
const NODE: &str = "sandbox";
/// How long the tasks may take to end.
const STOP: Duration = Duration::from_secs(5);
/// How long shards may take to finish what runs.
const DRAIN: Duration = Duration::from_secs(3);

/// How long shards may take to log in at the network before the sandbox is called ready without it.
const LOGIN: Duration = Duration::from_secs(2);

/// How often, and at what distance, a held number is asked for.
const HOLD_TRIES: u32 = 10;
const HOLD_PAUSE: Duration = Duration::from_millis(100);

/// Runs a sandbox until SIGTERM or SIGINT.
pub(crate) async fn run(args: SandboxArgs, configuration: serde_json::Value) -> anyhow::Result<()> {
    let shards = check(&args)?;
    let (clock, boot, tasks) = (Clock::system(), estafet_runtime::boot_id(), Tasks::new());
    let mut holder = Holder {
        node: NODE.to_owned(),
        host: estafet_runtime::host_name(),
        pid: std::process::id(),
        since_ms: clock.now_ms(),
        base_url: None,
    };
    let mut dir = DataDir::open(args.data_dir.as_deref(), &holder).await?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("--listen {}", args.listen))?;
    let address = listener.local_addr()?;
    holder.base_url = Some(format!("http://{address}"));
    dir.announce(&holder)?;

    let store = open_store(&args, dir.path()).await?;
    let blobs = args.media.open(Some(&dir.path().join("media"))).await?;
    let hold = take_number(&store, &args, &holder).await?;
    // Phones know the templates that the webapp does, also those for which messages have waited.
    let (published, templates) = watch::channel(estafet_webapp::read_template_files(&args.templates, true)?);
    let chatd = start_chatd(&args, dir.path(), templates, &clock, &tasks).await?;
    let upstream = Arc::new(ChatUpstream::new(
        if args.network.is_empty() { chatd.addresses.iter().map(SocketAddr::to_string).collect() } else { args.network.clone() },
        args.network.is_empty().then_some(chatd.public_key),
        tasks.clone(),
    ));
    let deps = estafet_coreapp::Deps {
        store: store.clone(),
        blobs: blobs.clone(),
        links: Policy { allow_private: false, allow_loopback: true },
        upstream,
        clock: clock.clone(),
        tasks: tasks.clone(),
        boot,
        holder: holder.to_string(),
    };
    let (node, endings) = Node::new(coreapp_config(&args), deps)?;
    let local = Arc::new(Local::new(store.clone(), clock.clone(), SandboxNode(node.clone()), NODE.to_owned(), boot));
    let connect = Arc::new(InProcess::serve(&node, &tasks));
    let control = control::router(control::Sandbox {
        number: args.number,
        node: node.clone(),
        store: store.clone(),
        map: local.map(),
        phones: chatd.phones.clone(),
        configuration,
    });
    let deps = estafet_webapp::Deps {
        store: store.clone(),
        blobs,
        clock,
        tasks: tasks.clone(),
        map: local.map(),
        connect,
        extra: Some(control.merge(estafet_chatd::control::router(chatd.phones.clone()))),
        templates: Some(published),
    };
    // The webapp writes the first settings, so it comes before the shards that read them.
    estafet_webapp::start(listener, webapp_config(&args), deps).await?;
    local.place(args.number, shards).await?;
    let (following, tasks_of_it, number) = (local.clone(), tasks.clone(), args.number);
    tasks.spawn("shard count", async move { following.follow(number, tasks_of_it).await });
    tasks.spawn("retake", wiring::retake(local, endings, Arc::from(hold), tasks.clone()));
    if !args.hold_upstream {
        connected(&node).await;
    }
    ready(&args, address, boot, &chatd, store.backend())?;

    let result = tokio::select! {
        signal = estafet_runtime::tasks::termination() => signal.context("signals"),
        () = tasks.shutdown().cancelled() => Err(anyhow::anyhow!("stopped after a failure, see the log")),
    };
    stop(&node, &tasks).await;
    drop(dir);
    result
}

/// What can be checked before anything starts; all problems at once.
fn check(args: &SandboxArgs) -> anyhow::Result<Option<ShardCount>> {
    let mut problems = Vec::new();
    let shards = args.shards.and_then(ShardCount::new);
    if let (Some(given), None) = (args.shards, shards) {
        problems.push(format!("--shards {given}: a power of two, 1 to 256"));
    }
    if let Err(error) = webapp_config(args).check() {
        problems.push(error.to_string());
    }
    if let Err(error) = estafet_webapp::check_template_files(&args.templates) {
        problems.push(format!("--templates: {error}"));
    }
    if problems.is_empty() { Ok(shards) } else { Err(Misconfigured(problems).into()) }
}

async fn open_store(args: &SandboxArgs, dir: &Path) -> anyhow::Result<SharedStore> {
    let url = args.database_url.clone().unwrap_or_else(|| format!("sqlite:{}", dir.join("estafet.db").display()));
    crate::database::open_when_ready(&url, "estafet-sandbox").await
}

/// Holds the number in the message database. A predecessor that was killed this moment may still seem to
/// hold it until the database has noticed, so a refusal is final only after a few tries.
async fn take_number(store: &SharedStore, args: &SandboxArgs, holder: &Holder) -> anyhow::Result<Box<dyn Hold>> {
    let mut tries = 0;
    loop {
        match store.hold(args.number, holder).await {
            Ok(hold) => return Ok(hold),
            Err(estafet_store::Error::Held { .. }) if tries < HOLD_TRIES => {
                tries += 1;
                tokio::time::sleep(HOLD_PAUSE).await;
            }
            Err(error) => {
                control::tell_holder(&error).await;
                return Err(anyhow::Error::from(error).context(format!("number {} is not free", args.number)));
            }
        }
    }
}

async fn start_chatd(
    args: &SandboxArgs,
    dir: &Path,
    templates: watch::Receiver<serde_json::Value>,
    clock: &Clock,
    tasks: &Tasks,
) -> anyhow::Result<Chatd> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = estafet_chatd::Config {
        // The second stands for port 443, the fallback.
        listen: vec![any_port, any_port],
        phones: args.phones,
        seed: args.seed,
        templates: Some(templates),
        ..estafet_chatd::Config::new(dir.join("chatd"))
    };
    estafet_chatd::start(config, clock.clone(), tasks.clone()).await.context("the chat network could not be started")
}

fn coreapp_config(args: &SandboxArgs) -> estafet_coreapp::Config {
    let defaults = estafet_coreapp::Config::default();
    estafet_coreapp::Config {
        node: NODE.to_owned(),
        group_commit_rows: if args.naive { 1 } else { defaults.group_commit_rows },
        connect_upstream: !args.hold_upstream,
        max_outbox: args.max_outbox,
        number_per_second: args.number_per_second,
        pair_per_minute: args.pair_per_minute,
        keep_messages_s: u64::from(args.keep_finished_days) * 24 * 3600,
        strict_global_order: args.strict_global_order,
        callback_max_age_s: u64::from(args.callback_max_age_days) * 24 * 3600,
        ..defaults
    }
}

fn webapp_config(args: &SandboxArgs) -> estafet_webapp::Config {
    estafet_webapp::Config {
        node: estafet_runtime::host_name(),
        number: Some(args.number),
        registered: !args.unregistered,
        allow_loopback_http: true,
        open_metrics: true,
        contact_mode: match args.contact_mode {
            ContactMode::Live => estafet_webapp::ContactMode::Live,
            ContactMode::AlwaysValid => estafet_webapp::ContactMode::AlwaysValid,
        },
        legacy_contact_check: args.legacy_contact_check,
        api_key: args.api_key.clone(),
        token_lifetime: Duration::from_secs(args.token_lifetime),
        initial_admin_password: args.admin_password.clone(),
        initial_webhook_url: args.webhook_url.clone(),
        template_files: args.templates.clone(),
        sample_templates: true,
        template_control: true,
        max_upload_bytes: args.max_upload_bytes,
        docs: !args.no_docs,
        naive: args.naive,
        limits: estafet_webapp::Limits::default().with_rates(args.messages_per_second, args.requests_per_second),
        ..estafet_webapp::Config::default()
    }
}

/// Waits until every shard has logged in: phones cannot write to a number the network has not seen. A network
/// that refuses or is away does not keep the API from being served.
async fn connected(node: &Node) {
    let mut changes = node.state().subscribe();
    let is_connected = |state: &NumberState| state.gateway_status() == GatewayStatus::Connected;
    let all = async {
        while node.state().snapshot().iter().filter(|state| is_connected(state)).count() < node.shard_count() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(LOGIN, all).await.is_err() {
        tracing::warn!("not every shard is connected to the network yet");
    }
}

/// The ready line of the sandbox contract.
#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    base_url: String,
    business_number: WaId,
    pid: u32,
    boot: String,
    database: &'a str,
    network: &'a [SocketAddr],
    chatd_audit: &'a Path,
}

/// Prints the ready line on stdout, and a line for people on stderr.
#[allow(clippy::print_stderr, reason = "the contract of the command")]
fn ready(args: &SandboxArgs, address: SocketAddr, boot: BootId, chatd: &Chatd, database: &str) -> anyhow::Result<()> {
    let ready = Ready {
        ready: true,
        base_url: format!("http://{address}"),
        business_number: args.number,
        pid: std::process::id(),
        boot: boot.to_string(),
        database,
        network: &chatd.addresses,
        chatd_audit: &chatd.audit_path,
    };
    eprintln!("estafet sandbox: http://{address} serves {} with {} phones from 15550001001 on", args.number, args.phones);
    crate::output::line(&serde_json::to_string(&ready)?)
}

/// Lets the shards finish what runs, then ends every task.
async fn stop(node: &Node, tasks: &Tasks) {
    node.drain();
    let drained = tokio::time::timeout(DRAIN, async {
        while node.shard_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if drained.await.is_err() {
        tracing::warn!("shards did not finish in time; what is left goes on at the next start");
    }
    if !tasks.stop(STOP).await {
        tracing::warn!("tasks did not end in time");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn every_setting_at_fault_is_named_at_once() {
        let cli = Cli::try_parse_from(["estafet", "sandbox", "--shards", "3", "--api-key", "short"]).unwrap();
        let Command::Sandbox(args) = cli.command else { panic!("not a sandbox") };
        let error = check(&args).unwrap_err();
        assert!(error.is::<Misconfigured>());
        let text = error.to_string();
        assert!(text.contains("--shards 3") && text.contains("api_key"), "{text}");
    }
}
