//! Rows of the requirement list (tests/requirements.txt) that only a cluster shows.

use std::fs;

use anyhow::{Context as _, ensure};
use estafet_harness::{
    Api, Cluster, Sink,
    bucket::{KEY, Moto, REGION, SECRET},
    client::{text_message, until},
    cluster::Role,
    sink::Reply,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

const PHONE: &str = "15550001001";

/// The callbacks that a process has posted with this result.
async fn posted(cluster: &mut Cluster, name: &str, result: &str) -> anyhow::Result<u64> {
    let metrics = cluster.member(name)?.ops()?.call(Method::GET, "/metrics", None).await?.text;
    let mut sum = 0;
    for line in metrics.lines().filter(|line| line.starts_with("callback_posts_total") && line.contains(result)) {
        sum += line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}

/// Sessions with the message database that are not ours.
async fn sessions(cluster: &Cluster) -> anyhow::Result<u32> {
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'cluster' AND application_name <> 'psql'";
    Ok(cluster.sql(count).await?.parse()?)
}

/// A cluster whose processes share a bucket and no disk.
async fn over_a_bucket(moto: &Moto, sink: &Sink) -> anyhow::Result<Cluster> {
    moto.bucket("media").await?;
    let options = Cluster::options().sizes(1, 2, 1).shards(1).phones(1).webhook(&sink.url());
    let variables = [
        ("ESTAFET_MEDIA_STORE", "s3://media/of/a/cluster"),
        ("ESTAFET_MEDIA_ENDPOINT", moto.url()),
        ("ESTAFET_MEDIA_REGION", REGION),
        ("ESTAFET_MEDIA_ACCESS_KEY_ID", KEY),
        ("ESTAFET_MEDIA_SECRET_ACCESS_KEY", SECRET),
    ];
    let options = variables.iter().fold(options, |options, (name, value)| options.environment(name, value));
    let cluster = options.start().await?;
    until("the shard has an owner", async || cluster.is_owned().await).await?;
    Ok(cluster)
}

/// A file goes from a webapp over the owner to a phone, and one of a phone the other way.
async fn files_pass(cluster: &Cluster, admin: &Api, network: &Api, sink: &Sink) -> anyhow::Result<()> {
    let content: Vec<u8> = (0..700_001_u32).map(|n| (n % 251) as u8).collect();
    let id = admin.upload("application/pdf", content.clone()).await?;
    let sent = admin.send(&json!({ "to": PHONE, "type": "document", "document": { "id": id } })).await?;
    sink.wait_for_status(&sent, "read").await?;
    let file = network.call(Method::GET, &format!("/sandbox/phones/{PHONE}/messages/{sent}/file"), None).await?;
    ensure!(file.bytes == content, "the phone has another file");
    let left = network.request(Method::POST, "/sandbox/files", Some(("application/pdf", content.clone()))).await?.body;
    let written = network.phone_sends(PHONE, &json!({ "type": "document", "document": left })).await?;
    let event = sink.wait_for_message(&written).await?.event;
    let id = event.pointer("/messages/0/document/id").and_then(Value::as_str).context("no id")?;
    ensure!(admin.call(Method::GET, &format!("/v1/media/{id}"), None).await?.bytes == content, "the webapp has another file");
    ensure!(!cluster.directory().join("media").exists(), "something was kept on a disk");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn r139_r147_r149_r172_the_next_owner_repeats_a_failed_callback_and_sessions_are_few() -> anyhow::Result<()> {
    let (sink, moto) = (Sink::start().await?, Moto::start().await?);
    let mut cluster = over_a_bucket(&moto, &sink).await?;
    let (admin, network) = (cluster.login().await?.remove(0), cluster.phones()?);
    files_pass(&cluster, &admin, &network, &sink).await?;

    // Each process has a few sessions, whatever is asked of it.
    let processes = [Role::Master, Role::Coreapp, Role::Webapp].map(|role| cluster.of(role).count()).iter().sum::<usize>();
    let message = text_message(PHONE, "one of many");
    let burst = (0..300).map(|_| admin.call(Method::POST, "/v1/messages", Some(&message)));
    let counting = async {
        let mut most = 0;
        for _ in 0..5 {
            most = most.max(sessions(&cluster).await?);
        }
        anyhow::Ok(most)
    };
    let (answers, most) = tokio::join!(join_all(burst), counting);
    for answer in answers {
        ensure!(answer?.status == 201, "a message of the burst was refused");
    }
    let (most, bound) = (most?, u32::try_from(processes)? * estafet_store::SESSIONS);
    ensure!((1..=bound).contains(&most), "{most} sessions of {processes} processes");

    // The back-off is longer than everything that follows: whoever tries again does not wait for it.
    admin.patch_settings(&json!({ "callback_backoff_delay_ms": 60_000, "max_callback_backoff_delay_ms": 600_000 })).await?;
    // `delivered` and `read` of the burst, and three callbacks about files.
    until("the callbacks of the burst are over", async || Ok(sink.arrivals().len() == 603)).await?;
    sink.reply_next([Reply::Status(500)]);
    let id = network.phone_sends_text(PHONE, "tell this twice").await?;
    sink.wait_for_one(|arrival| arrival.status == 500).await?;
    let owner = cluster.owners().await?.first().context("nobody owns the shard")?.1.clone();
    cluster.member(&owner)?.kill();
    let told = |status: u16| {
        let id = id.clone();
        sink.wait_for_one(move |arrival| arrival.status == status && arrival.messages().any(|brought| brought == id))
    };
    let again = told(200).await?;
    ensure!(again.body == told(500).await?.body, "the next owner told something else");
    let next = if owner == "coreapp-0" { "coreapp-1" } else { "coreapp-0" };
    until("the next owner has counted its callback", async || Ok(posted(&mut cluster, next, r#"result="success""#).await? == 1))
        .await?;
    ensure!(posted(&mut cluster, "webapp-0", "").await? == 0, "a webapp sent a callback");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn r201_a_template_that_is_new_in_the_files_is_sent_and_shown_without_a_restart() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("templates.json");
    let template = |name: &str| json!({ "namespace": "shop", "name": name, "language": "en", "components": [{ "type": "BODY", "text": "Hi" }] });
    fs::write(&file, template("old").to_string())?;
    let options = Cluster::options().sizes(1, 1, 1).shards(1).phones(1);
    let cluster = options.environment("ESTAFET_TEMPLATES", file.to_str().context("a plain path")?).start().await?;
    until("the shard has an owner", async || cluster.is_owned().await).await?;
    let (admin, network) = (cluster.login().await?.pop().context("no webapp")?, cluster.phones()?);

    fs::write(&file, template("new").to_string())?;
    let name = json!({ "namespace": "shop", "name": "new", "language": { "code": "en" } });
    until("the phone shows it", async || {
        // It fails what it does not know until the network has looked at its files.
        admin.send(&json!({ "to": PHONE, "type": "template", "template": name })).await?;
        let inbox = network.inbox(PHONE).await?;
        Ok(inbox.messages.iter().any(|message| message.content["rendered"]["body"] == "Hi"))
    })
    .await
}

/// The processes that health tells in this role, or without one, and how they are.
async fn nodes(admin: &Api, role: Option<&str>) -> anyhow::Result<Vec<(String, String)>> {
    let health = admin.call(Method::GET, "/v1/health", None).await?.body["health"].clone();
    let nodes = health.as_object().context("no nodes")?.iter().filter(|(_, node)| node["role"].as_str() == role);
    let word = |node: &Value| node["gateway_status"].as_str().unwrap_or("silent").to_owned();
    Ok(nodes.map(|(name, node)| (name.clone(), word(node))).collect())
}

/// The same without the names, sorted.
async fn words(admin: &Api, role: Option<&str>) -> anyhow::Result<Vec<String>> {
    let mut words: Vec<String> = nodes(admin, role).await?.into_iter().map(|(_, word)| word).collect();
    words.sort_unstable();
    Ok(words)
}

#[tokio::test(flavor = "multi_thread")]
async fn r93_health_tells_each_node_its_role_and_what_becomes_of_it() -> anyhow::Result<()> {
    let mut cluster = Cluster::options().sizes(2, 2, 1).shards(1).phones(1).start().await?;
    let admin = cluster.login().await?.remove(0);
    until("one coreapp is connected, and so is the primary master", async || {
        Ok(words(&admin, Some("coreapp")).await? == ["connected", "disconnected"]
            && words(&admin, Some("primary_master")).await? == ["connected"]
            && words(&admin, Some("secondary_master")).await? == ["disconnected"])
    })
    .await?;
    let owner = cluster.owners().await?.first().context("nobody owns the shard")?.1.clone();
    let told = nodes(&admin, Some("coreapp")).await?;
    let connected = told.iter().find(|(_, word)| word == "connected").context("nobody is connected")?;
    ensure!(connected.0.starts_with(&format!("{owner}:")), "{connected:?} and not {owner}");

    cluster.member(&owner)?.kill();
    until("the other one is connected and the dead one silent", async || {
        Ok(words(&admin, Some("coreapp")).await? == ["connected"] && words(&admin, None).await? == ["silent"])
    })
    .await?;
    let leader = cluster.leader().await?;
    cluster.member(&leader)?.kill();
    until("the other master is the primary one", async || {
        Ok(words(&admin, Some("primary_master")).await? == ["connected"]
            && words(&admin, Some("secondary_master")).await?.is_empty()
            && words(&admin, Some("coreapp")).await?.contains(&"connected".to_owned()))
    })
    .await?;
    cluster.member("chatd")?.kill();
    until("nobody is connected", async || {
        let coreapps = words(&admin, Some("coreapp")).await?;
        Ok(!coreapps.contains(&"connected".to_owned()) && words(&admin, Some("primary_master")).await? == ["disconnected"])
    })
    .await
}
