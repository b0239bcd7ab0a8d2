//! `estafet master`, `coreapp`, `webapp`, `chatd`: one role in one process.
//!
//! Each prints one line of JSON when it has started, `{"ready":true,"role":...,"address":...}`, and ends in order
//! at SIGTERM: a coreapp hands its shards over first, a leading master gives its lease back.

pub(crate) mod args;
mod ops;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use estafet_coreapp::cluster::{Cluster, Membership};
use estafet_etcd::{Access, Members, Timing};
use estafet_media::guard::Policy;
use estafet_model::ShardCount;
use estafet_runtime::{Clock, Tasks};
use estafet_store::SharedStore;
use estafet_tls::{Flags, Https, Role, Transport};
use estafet_upstream::chat::ChatUpstream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::args::Misconfigured;
use args::{ChatdArgs, CoreappArgs, EtcdArgs, MasterArgs, WebappArgs};
use ops::Listener;

/// How long the tasks may take to end.
const STOP: Duration = Duration::from_secs(5);
/// How long shards without a new owner may take to finish what runs.
const FINISH: Duration = Duration::from_secs(3);

/// Runs a master until SIGTERM or SIGINT.
pub(crate) async fn master(args: MasterArgs, configuration: Value) -> anyhow::Result<()> {
    let Some(count) = ShardCount::new(args.shards) else {
        return Err(Misconfigured(vec![format!("--shards {}: a power of two, 1 to 256", args.shards)]).into());
    };
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let ops = Listener::open(&args.ops, "master", &configuration, &tasks).await?;
    let store = open_store(&args.database_url, "estafet-master").await?;
    let (listener, bound) = bind(args.listen).await?;
    let config = estafet_master::Config {
        prefix: args.etcd.etcd_prefix.clone(),
        etcd: members(args.etcd)?,
        transport: transport(&args.tls, Role::Master, None, Some(args.listen), &tasks)?,
        address: args.advertise.unwrap_or_else(|| bound.to_string()),
        numbers: args.number.into_iter().map(|number| (number, count)).collect(),
    };
    estafet_master::seed(&store, &config.numbers, &clock).await.context("the numbers could not be written")?;
    let standing = estafet_master::start(listener, config, store.clone(), clock, &tasks);
    ops.of_master(standing, store);
    ready("master", bound, &ops, &json!({}))?;
    let result = until_end(&tasks).await;
    stop(&tasks).await;
    result
}

/// Runs a coreapp until SIGTERM or SIGINT; then hands its shards over.
pub(crate) async fn coreapp(args: CoreappArgs, configuration: Value) -> anyhow::Result<()> {
    let key = args.network_key.as_deref().map(read_key).transpose()?;
    let (boot, tasks) = (estafet_runtime::boot_id(), Tasks::new());
    let transport = transport(&args.tls, Role::Coreapp, Some(&args.node), Some(args.listen), &tasks)?;
    let prefix = args.etcd.etcd_prefix.clone();
    let etcd = if args.etcd.etcd.is_empty() { None } else { Some(members(args.etcd)?) };
    let ops = Listener::open(&args.ops, "coreapp", &configuration, &tasks).await?;
    let application = estafet_store::session_name(&args.node, boot);
    let store = open_store(&args.database_url, &application).await?;
    let blobs = args.media.open(None).await?;
    let (listener, bound) = bind(args.listen).await?;
    let deps = estafet_coreapp::Deps {
        store: store.clone(),
        blobs,
        links: Policy { allow_private: args.media_allow_private_links, allow_loopback: false },
        upstream: Arc::new(ChatUpstream::new(args.network, key, tasks.clone())),
        clock: Clock::system(),
        tasks: tasks.clone(),
        boot,
        holder: format!("{} (process {} on {})", args.node, std::process::id(), estafet_runtime::host_name()),
    };
    let config = estafet_coreapp::Config {
        node: args.node.clone(),
        max_outbox: args.max_outbox,
        number_per_second: args.number_per_second,
        pair_per_minute: args.pair_per_minute,
        keep_messages_s: u64::from(args.keep_finished_days) * 24 * 3600,
        ..estafet_coreapp::Config::default()
    };
    let (node, endings) = estafet_coreapp::Node::new(config, deps)?;
    node.warm_up().await;
    let shutdown = tasks.shutdown().clone();
    let server = tonic::transport::Server::builder()
        .add_service(estafet_coreapp::grpc::service(node.clone()))
        .serve_with_incoming_shutdown(transport.incoming(listener, &tasks), async move { shutdown.cancelled().await });
    tasks.spawn("data service", async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "data service ended");
        }
    });
    let address = args.advertise.unwrap_or_else(|| bound.to_string());
    if let Some(etcd) = etcd {
        let (record, id) = (estafet_etcd::Node::new("coreapp", &address, boot), args.node.clone());
        let registering = estafet_etcd::register(Arc::new(etcd), Timing::default(), prefix, id, record, tasks.clone());
        tasks.spawn("registration", registering);
    }
    let membership = Membership { node: args.node, boot, address, masters: args.master, transport };
    let cluster = Cluster::join(membership, node.clone(), endings, &tasks);
    ops.of_coreapp(cluster.clone(), store);
    ready("coreapp", bound, &ops, &json!({ "boot": boot.to_string() }))?;
    let result = until_end(&tasks).await;
    if !cluster.leave(Duration::from_secs(args.drain_seconds)).await {
        tracing::warn!("shards were not handed over in time; they finish what runs and end");
        node.drain();
        // In vain only if the database is away: what is left goes on elsewhere.
        let _ = cluster.leave(FINISH).await;
    }
    stop(&tasks).await;
    result
}

/// Runs a webapp until SIGTERM or SIGINT.
pub(crate) async fn webapp(args: WebappArgs, configuration: Value) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let transport = transport(&args.tls, Role::Webapp, None, None, &tasks)?;
    let https = https(args.https_cert.as_deref().zip(args.https_key.as_deref()), &tasks)?;
    let ops = Listener::open(&args.ops, "webapp", &configuration, &tasks).await?;
    let store = open_store(&args.database_url, "estafet-webapp").await?;
    let blobs = args.media.open(None).await?;
    let (listener, bound) = bind(args.listen).await?;
    let config = estafet_webapp::Config {
        node: format!("{}:{:.12}", estafet_runtime::host_name(), estafet_runtime::boot_id().to_string()),
        multiconnect: true,
        number: args.number,
        registered: true,
        allow_loopback_http: args.allow_loopback_http,
        max_upload_bytes: args.max_upload_bytes,
        template_files: args.templates,
        contact_mode: estafet_webapp::ContactMode::Live,
        api_key: args.api_key,
        initial_admin_password: args.admin_password,
        initial_webhook_url: args.webhook_url,
        limits: estafet_webapp::Limits::default().with_rates(Some(args.messages_per_second), Some(args.requests_per_second)),
        docs: !args.no_docs,
        ..estafet_webapp::Config::default()
    };
    let map = estafet_webapp::cluster::follow(&args.master, &transport, &tasks);
    let deps = estafet_webapp::Deps {
        templates: None,
        store,
        blobs,
        clock: Clock::system(),
        tasks: tasks.clone(),
        map: map.clone(),
        connect: Arc::new(estafet_webapp::cluster::Tcp::new(&args.master, estafet_runtime::boot_id(), transport, &tasks)),
        extra: None,
    };
    let scheme = if https.is_some() { "https" } else { "http" };
    estafet_webapp::start_with(listener, https, config, deps).await?;
    ops.of_webapp(map, args.number);
    ready("webapp", bound, &ops, &json!({ "base_url": format!("{scheme}://{bound}") }))?;
    let result = until_end(&tasks).await;
    stop(&tasks).await;
    result
}

/// Runs the chat network until SIGTERM or SIGINT.
pub(crate) async fn chatd(args: ChatdArgs, configuration: Value) -> anyhow::Result<()> {
    ensure!(args.control.ip().is_loopback(), "--control {}: a loopback address", args.control);
    let tasks = Tasks::new();
    let ops = Listener::open(&args.ops, "chatd", &configuration, &tasks).await?;
    std::fs::create_dir_all(&args.data_dir).with_context(|| format!("--data-dir {}", args.data_dir.display()))?;
    let templates = estafet_webapp::read_template_files(&args.templates, false).context("--templates")?;
    let (published, templates) = watch::channel(templates);
    let (following, shutdown) = (estafet_webapp::follow_template_files(args.templates, published), tasks.shutdown().clone());
    tasks.spawn("templates", async move {
        tokio::select! {
            () = following => {}
            () = shutdown.cancelled() => {}
        }
    });
    let days = |count: u32| Duration::from_secs(u64::from(count) * 24 * 3600);
    let config = estafet_chatd::Config {
        listen: args.listen,
        phones: args.phones,
        keep_messages: days(args.keep_messages_days),
        keep_files: days(args.keep_files_days),
        oldest_protocol: args.oldest_protocol,
        templates: Some(templates),
        ..estafet_chatd::Config::new(args.data_dir)
    };
    let chatd = estafet_chatd::start(config, Clock::system(), tasks.clone()).await.context("the chat network")?;
    let (listener, control) = bind(args.control).await?;
    let router = estafet_chatd::control::router(chatd.phones.clone());
    let shutdown = tasks.shutdown().clone();
    tasks.spawn("control", async move {
        let server = axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await });
        if let Err(error) = server.await {
            tracing::error!(%error, "the control interface ended");
        }
    });
    let first = *chatd.addresses.first().context("--listen: at least one address")?;
    let more = json!({
        "network": chatd.addresses,
        "network_key": chatd.public_key.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "base_url": format!("http://{control}"),
        "chatd_audit": chatd.audit_path,
    });
    ops.of_chatd();
    ready("chatd", first, &ops, &more)?;
    let result = until_end(&tasks).await;
    stop(&tasks).await;
    result
}

async fn open_store(url: &str, application: &str) -> anyhow::Result<SharedStore> {
    if url.starts_with("sqlite:") {
        let wrong = "--database-url: processes of a cluster share a server, SQLite is none";
        return Err(Misconfigured(vec![wrong.to_owned()]).into());
    }
    crate::database::open_when_ready(url, application).await
}

/// The members of etcd, and how they are told who asks.
fn members(args: EtcdArgs) -> anyhow::Result<Members> {
    let members = args.etcd;
    let encrypted = members.iter().filter(|member| member.starts_with("https://")).count();
    if (encrypted > 0) != args.etcd_ca.is_some() || !(encrypted == 0 || encrypted == members.len()) {
        return Err(Misconfigured(vec![
            "--etcd, --etcd-ca: https:// for all members, with their authority, or for none".to_owned(),
        ])
        .into());
    }
    let password = match args.etcd_password_file {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("--etcd-password-file {}", path.display()))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => args.etcd_password,
    };
    let user = args.etcd_user.zip(password);
    let access = Access { ca: args.etcd_ca, cert: args.etcd_cert.zip(args.etcd_key), user };
    Ok(Members { endpoints: members, access })
}

/// The certificate of the API.
fn https(files: Option<(&Path, &Path)>, tasks: &Tasks) -> anyhow::Result<Option<Https>> {
    let Some((cert, key)) = files else { return Ok(None) };
    let https = Https::load(cert, key, Clock::system()).context("--https-cert, --https-key")?;
    https.follow(tasks);
    Ok(Some(https))
}

/// How this process reaches other roles, and they it.
pub(crate) fn transport(
    flags: &Flags,
    role: Role,
    node: Option<&str>,
    listen: Option<SocketAddr>,
    tasks: &Tasks,
) -> anyhow::Result<Transport> {
    let transport = flags.transport(role, node, tasks).context("--tls-ca, --tls-cert, --tls-key")?;
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback() && !transport.is_encrypted()) {
        tracing::warn!(%listen, "plain text beyond loopback: anybody who reaches the port is obeyed, see --tls-cert");
    }
    Ok(transport)
}

async fn bind(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

fn read_key(text: &str) -> anyhow::Result<[u8; 32]> {
    let digits = || text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let key: Option<Vec<u8>> = digits().collect();
    key.and_then(|key| key.try_into().ok()).context("--network-key: 64 hexadecimal digits")
}

/// Prints the ready line.
fn ready(role: &str, address: SocketAddr, ops: &Listener, more: &Value) -> anyhow::Result<()> {
    let mut line = json!({ "ready": true, "role": role, "address": address, "ops": ops.address(), "pid": std::process::id() });
    if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
        line.extend(more.clone());
    }
    crate::output::line(&line.to_string())
}

async fn until_end(tasks: &Tasks) -> anyhow::Result<()> {
    tokio::select! {
        signal = estafet_runtime::tasks::termination() => signal.context("signals"),
        () = tasks.shutdown().cancelled() => bail!("stopped after a failure, see the log"),
    }
}

async fn stop(tasks: &Tasks) {
    if !tasks.stop(STOP).await {
        tracing::warn!("tasks did not end in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_needs_etcd_and_a_coreapp_may_do_without() {
        use clap::Parser as _;
        let coreapp =
            ["estafet", "coreapp", "--node", "a", "--master", "m:1", "--database-url", "postgres://", "--network", "n:1"];
        let master = ["estafet", "master", "--database-url", "postgres://"];
        let parsed = |args: &[&str], more: &[&str]| crate::args::Cli::try_parse_from(args.iter().chain(more));
        assert!(parsed(&coreapp, &[]).is_ok() && parsed(&coreapp, &["--etcd", "http://a:1,http://b:1"]).is_ok());
        let refused = parsed(&master, &[]).expect_err("a master cannot be elected without etcd").to_string();
        assert!(refused.contains("--etcd"), "{refused}");
        assert!(parsed(&master, &["--etcd", "http://a:1"]).is_ok());
        assert!(parsed(&coreapp, &["--etcd-ca", "ca.pem"]).is_err(), "an authority for nothing");
    }

    #[test]
    fn a_network_key_is_64_hexadecimal_digits() {
        assert_eq!(read_key(&"0f".repeat(32)).unwrap(), [15; 32]);
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &"é".repeat(32)] {
            assert!(read_key(wrong).is_err(), "{wrong}");
        }
    }
}
