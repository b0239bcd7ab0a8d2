//! What processes say of themselves is true (**I11**): each role misses what it needs, and nothing else.

use anyhow::ensure;
use estafet_harness::{Cluster, client::until, cluster::Role};
use nix::sys::signal::Signal;
use reqwest::Method;

const ALL: [&str; 4] = ["chatd", "master-0", "coreapp-0", "webapp-0"];
const DATABASE: &str = "the message database";
const ELECTION: &str = "a place in the election (etcd)";
const MASTER: &str = "a master";
const MAP: &str = "the shard map";
const FUTURE: &str = "a future: it hands its shards over and ends";

/// What a process says it misses; it says so with the right status, and is live.
async fn missing(cluster: &mut Cluster, name: &str) -> anyhow::Result<Vec<String>> {
    let ops = cluster.member(name)?.ops()?;
    let ready = ops.call(Method::GET, "/readyz", None).await?;
    let missing: Vec<String> = serde_json::from_value(ready.body["missing"].clone())?;
    ensure!(ready.status == if missing.is_empty() { 200 } else { 503 }, "{}: {}", ready.status, ready.text);
    ensure!(ready.body["role"] == cluster.member(name)?.role().command(), "{}", ready.text);
    ensure!(ops.call(Method::GET, "/livez", None).await?.status == 200, "{name} is not live");
    Ok(missing)
}

async fn misses(cluster: &mut Cluster, name: &str, what: &[&str]) -> anyhow::Result<()> {
    let said = async || Ok(missing(cluster, name).await? == what);
    until(&format!("{name} misses {what:?}"), said).await
}

async fn all_are_ready(cluster: &mut Cluster) -> anyhow::Result<()> {
    for name in ALL {
        misses(cluster, name, &[]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_ready_while_it_has_what_its_role_needs() -> anyhow::Result<()> {
    let mut cluster = Cluster::options().sizes(1, 1, 1).phones(1).start().await?;
    all_are_ready(&mut cluster).await?;
    let metrics = cluster.member("webapp-0")?.ops()?.call(Method::GET, "/metrics", None).await?;
    ensure!(metrics.text.contains("# TYPE webapp_map_epochs gauge"), "{}", metrics.text);
    for name in ALL {
        let member = cluster.member(name)?;
        let (ops, command) = (member.ops()?, member.role().command());
        let configuration = ops.call(Method::GET, "/configuration", None).await?;
        ensure!(configuration.body["command"] == command, "{name}: {}", configuration.text);
        ensure!(configuration.body["options"]["ops_listen"]["from"] == "command line", "{name}: {}", configuration.text);
    }
    without_the_database(&mut cluster).await?;
    without_etcd(&mut cluster).await?;
    without_a_master(&mut cluster).await?;

    // Nobody is there to take its shard, so it drains for a while.
    cluster.member("coreapp-0")?.signal(Signal::SIGTERM)?;
    misses(&mut cluster, "coreapp-0", &[FUTURE]).await
}

async fn without_the_database(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.postgres().expect("a database of its own").halt(Signal::SIGINT).await?;
    misses(cluster, "master-0", &[DATABASE]).await?;
    misses(cluster, "coreapp-0", &[DATABASE]).await?;
    misses(cluster, "webapp-0", &[]).await?;
    misses(cluster, "chatd", &[]).await?;
    cluster.postgres().expect("a database of its own").restart().await?;
    all_are_ready(cluster).await
}

async fn without_etcd(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.etcd()[0].kill();
    misses(cluster, "master-0", &[ELECTION]).await?;
    misses(cluster, "coreapp-0", &[]).await?;
    misses(cluster, "webapp-0", &[]).await?;
    cluster.etcd()[0].restart().await?;
    all_are_ready(cluster).await
}

async fn without_a_master(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.member("master-0")?.kill();
    misses(cluster, "coreapp-0", &[MASTER]).await?;
    // The map it has stays good; a newcomer has none.
    misses(cluster, "webapp-0", &[]).await?;
    cluster.add(Role::Webapp).await?;
    misses(cluster, "webapp-1", &[MAP]).await?;
    cluster.member("master-0")?.restart().await?;
    misses(cluster, "webapp-1", &[]).await?;
    all_are_ready(cluster).await
}
