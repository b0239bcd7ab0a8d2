//! The election against a real etcd.
#![allow(clippy::print_stderr, reason = "shown by the test runner with the failure it explains")]

use estafet_harness::{Etcd, PATIENCE};
use estafet_master::election::{Candidate, Error, Leadership};
use estafet_runtime::Tasks;
use tokio::{net::TcpListener, sync::oneshot, time::timeout};

const PREFIX: &str = "/test";

async fn candidate(etcd: &Etcd, address: &str) -> anyhow::Result<Candidate> {
    Ok(Candidate::connect(&[etcd.url().to_owned()], PREFIX, address, Tasks::new()).await?)
}

/// Campaigns until it leads. On a busy machine a call may miss its deadline; then it stands again.
async fn leads(candidate: &mut Candidate) -> anyhow::Result<Leadership> {
    let campaigning = async {
        loop {
            match candidate.campaign().await {
                Ok(leadership) => return leadership,
                Err(error) => eprintln!("campaign: {error}"),
            }
        }
    };
    Ok(timeout(PATIENCE, campaigning).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_is_gone_is_followed_under_a_higher_term() -> anyhow::Result<()> {
    let etcd = Etcd::start().await?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    // A runtime of its own stands for a process: when it is gone, its sockets and its lease's keeper are.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (sender, elected) = oneshot::channel();
    let url = etcd.url().to_owned();
    process.spawn(async move {
        let listener = TcpListener::from_std(listener).expect("a listener that was bound");
        let mut candidate = Candidate::connect(&[url], PREFIX, &address, Tasks::new()).await.expect("etcd answers");
        let leadership = leads(&mut candidate).await.expect("nobody else stands");
        let _ = sender.send(leadership.term());
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    let first_term = timeout(PATIENCE, elected).await??;

    let mut second = candidate(&etcd, "127.0.0.1:1").await?;
    let campaign = leads(&mut second);
    tokio::pin!(campaign);
    // Longer than a watch is trusted: it lists again and still waits, because the first one lives.
    assert!(timeout(std::time::Duration::from_millis(1500), &mut campaign).await.is_err(), "two leaders");
    process.shutdown_background();
    let leadership = campaign.await?;
    assert!(leadership.term() > first_term, "{} after {first_term}", leadership.term());
    Ok(())
}

#[tokio::test]
async fn a_leader_that_resigns_is_followed_and_its_late_write_is_refused() -> anyhow::Result<()> {
    let etcd = Etcd::start().await?;
    let mut first = candidate(&etcd, "127.0.0.1:1").await?;
    let mut second = candidate(&etcd, "127.0.0.1:1").await?;
    let mut stale = leads(&mut first).await?;
    stale.put("/test/plan", "of the first").await?;

    // The lease ends without the leader knowing, as after a long pause.
    let mut client = etcd_client::Client::connect([etcd.url()], None).await?;
    client.lease_revoke(stale.lease()).await?;
    let mut current = leads(&mut second).await?;
    assert!(current.term() > stale.term());
    current.put("/test/plan", "of the second").await?;
    assert!(matches!(stale.put("/test/plan", "too late").await, Err(Error::Lost)));
    let plan = client.get("/test/plan", None).await?;
    assert_eq!(plan.kvs()[0].value(), b"of the second");

    // The stale one hears of it by its lease, too.
    let mut renewed = stale.renewed();
    timeout(PATIENCE, renewed.wait_for(Option::is_none)).await??;
    let term = current.term();
    drop(current);
    assert!(leads(&mut first).await?.term() > term);
    Ok(())
}

#[tokio::test]
async fn an_etcd_that_is_gone_ends_the_term() -> anyhow::Result<()> {
    let mut etcd = Etcd::start().await?;
    let mut candidate = candidate(&etcd, "127.0.0.1:1").await?;
    let mut renewed = leads(&mut candidate).await.map(|leadership| (leadership.renewed(), leadership))?;
    etcd.kill();
    timeout(PATIENCE, renewed.0.wait_for(Option::is_none)).await??;
    Ok(())
}
