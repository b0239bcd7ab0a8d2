//! The API over https: nothing in plain text, and certificates that change while it serves.

use std::time::Duration;

use estafet_runtime::Clock;
use estafet_tls::{Files, Https, issue::Authority};
use reqwest::{Certificate, Client};
use tokio::net::TcpListener;

use super::world::{World, registered};

fn issue(directory: &std::path::Path) -> Files {
    let now = Clock::system().now_ms();
    let authority = Authority::open(directory, "test", now).unwrap();
    authority.issue_for_hosts("api", &["127.0.0.1".to_owned()], now, Duration::from_secs(3600)).unwrap()
}

fn trusting(files: &Files) -> Client {
    let authority = Certificate::from_pem(&std::fs::read(&files.ca).unwrap()).unwrap();
    Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap()
}

#[tokio::test]
async fn the_api_is_served_over_tls_only_and_a_new_certificate_without_a_restart() {
    estafet_runtime::install_crypto();
    let world = World::new().await;
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (files, new) = (issue(directory.path()), issue(other.path()));
    let https = Https::load(&files.cert, &files.key, Clock::system()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    estafet_webapp::start_with(listener, Some(https.clone()), registered(), world.deps()).await.unwrap();
    let get = async |client: &Client, scheme: &str| {
        let answer = client.get(format!("{scheme}://{address}/v1/settings/application")).send().await?;
        Ok::<_, reqwest::Error>(answer.status().as_u16())
    };
    let client = trusting(&files);
    assert_eq!(get(&client, "https").await.unwrap(), 401);
    assert!(get(&client, "http").await.is_err(), "nothing in plain text");
    assert!(get(&trusting(&new), "https").await.is_err(), "not the certificate of another authority");
    std::fs::copy(&new.cert, &files.cert).unwrap();
    assert!(!https.reload(), "certificate without its key");
    std::fs::copy(&new.key, &files.key).unwrap();
    assert!(https.reload());
    assert_eq!(get(&trusting(&new), "https").await.unwrap(), 401);
    assert_eq!(get(&client, "https").await.unwrap(), 401, "an open connection goes on");
    assert!(get(&trusting(&files), "https").await.is_err());
}
