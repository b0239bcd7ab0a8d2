//! Which certificate may call which method of a running cluster.

use anyhow::Context as _;
use estafet_harness::{
    Cluster,
    client::until,
    cluster::{Member, Role as Part},
};
use estafet_proto::v1::{
    NodeReport, ReachReport, ReadStatsRequest, ReloadSettingsRequest, Request, StatusRequest, WatchMapRequest,
    cluster_client::ClusterClient, data_client::DataClient,
};
use estafet_tls::{Role, Transport};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

const METHODS: [&str; 8] =
    ["attach", "watch_map", "report_reach", "status", "exchange", "single", "reload_settings", "read_stats"];

fn may(role: Role, method: &str) -> bool {
    match method {
        "attach" => role == Role::Coreapp,
        "status" => true,
        _ => role == Role::Webapp,
    }
}

/// A first report, without holdings.
fn report(node: &str) -> NodeReport {
    NodeReport {
        node: node.to_owned(),
        boot: vec![7; 16].into(),
        address: "127.0.0.1:1".to_owned(),
        draining: true,
        ..NodeReport::default()
    }
}

/// What a method answers: not to what was asked, only whether it may be asked.
async fn call(method: &str, master: Channel, coreapp: Channel, node: &str) -> Code {
    let (mut cluster, mut data) = (ClusterClient::new(master), DataClient::new(coreapp));
    let answered = match method {
        "attach" => match cluster.attach(tokio_stream::iter([report(node)])).await {
            // The refusal of a report comes as the first word of the stream.
            Ok(orders) => orders.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        },
        "watch_map" => cluster.watch_map(WatchMapRequest::default()).await.map(drop),
        "report_reach" => cluster.report_reach(ReachReport::default()).await.map(drop),
        "status" => cluster.status(StatusRequest {}).await.map(drop),
        "exchange" => data.exchange(tokio_stream::empty()).await.map(drop),
        "single" => data.single(Request::default()).await.map(drop),
        "reload_settings" => data.reload_settings(ReloadSettingsRequest::default()).await.map(drop),
        "read_stats" => data.read_stats(ReadStatsRequest::default()).await.map(drop),
        other => panic!("{other}"),
    };
    answered.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_opens_the_methods_of_its_role_only() -> anyhow::Result<()> {
    let cluster = Cluster::options().sizes(1, 1, 1).phones(1).encrypted().start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    let endpoint = |member: Option<&Member>| {
        let address = member.map(Member::address).context("a process of each role runs")?;
        Ok::<_, anyhow::Error>(Endpoint::from_shared(format!("http://{address}"))?)
    };
    let (master, coreapp) = (endpoint(cluster.of(Part::Master).next())?, endpoint(cluster.of(Part::Coreapp).next())?);
    for role in Role::ALL {
        let transport = cluster.transport(role, "visitor")?;
        for method in METHODS {
            let master = transport.connect(&master, Role::Master).await?;
            let code = call(method, master, transport.connect(&coreapp, Role::Coreapp).await?, "visitor").await;
            assert_eq!(code != Code::PermissionDenied, may(role, method), "{role} {method}: {code:?}");
        }
    }
    let visitor = cluster.transport(Role::Coreapp, "visitor")?;
    let (to_master, to_coreapp) =
        (visitor.connect(&master, Role::Master).await?, visitor.connect(&coreapp, Role::Coreapp).await?);
    let code = call("attach", to_master, to_coreapp, "coreapp-0").await;
    assert_eq!(code, Code::PermissionDenied, "nobody reports under another node's name");
    for endpoint in [&master, &coreapp] {
        let plain = Transport::plain().connect(endpoint, Role::Master).await;
        let answered = match plain {
            Ok(channel) => ClusterClient::new(channel).status(StatusRequest {}).await.is_ok(),
            Err(_) => false,
        };
        assert!(!answered, "nobody is served without a certificate");
    }
    Ok(())
}
