//! What an operator does with certificates: `estafet certs` makes them, `estafet status` shows them.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context as _, ensure};
use estafet_harness::{Cluster, client::until, environment::estafet_binary};

fn estafet(arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(estafet_binary()?).args(arguments).output()?)
}

/// Makes certificates; the files it names.
fn certs(directory: &Path, cluster: &str, holders: &[&str]) -> anyhow::Result<Vec<String>> {
    let directory = directory.to_str().context("a plain path")?;
    let made = estafet(&[&["certs", "--dir", directory, "--cluster", cluster], holders].concat())?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?.lines().map(str::to_owned).collect())
}

/// Asks for the status with a certificate made by [`certs`].
fn status(masters: &str, authority: &Path, cert: &str) -> anyhow::Result<Output> {
    let (ca, key) = (authority.join("ca.pem"), cert.replace(".pem", "-key.pem"));
    let ca = ca.to_str().context("a plain path")?;
    estafet(&["status", "--json", "--masters", masters, "--tls-ca", ca, "--tls-cert", cert, "--tls-key", &key])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_the_cluster_sees_its_status_and_nobody_else_does() -> anyhow::Result<()> {
    let cluster = Cluster::options().sizes(1, 1, 1).phones(1).encrypted().start().await?;
    until("every shard has an owner", async || cluster.is_owned().await).await?;
    let masters = cluster.master_addresses().join(",");
    // The authority of the cluster is there already, and stays.
    let ours = cluster.directory().join("certificates");
    let authority = std::fs::read(ours.join("ca.pem"))?;
    let operator = certs(&ours, "test", &["operator/me", "webapp/me"])?;
    ensure!(std::fs::read(ours.join("ca.pem"))? == authority, "the authority was replaced");
    let seen = status(&masters, &ours, &operator[0])?;
    ensure!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let seen: serde_json::Value = serde_json::from_slice(&seen.stdout)?;
    ensure!(seen["nodes"][0]["node"] == "coreapp-0", "{seen}");

    let elsewhere = tempfile::tempdir()?;
    let stranger = certs(elsewhere.path(), "test", &["operator/me"])?;
    ensure!(certs(&ours, "other", &["operator/other"]).is_err(), "the authority of one cluster was used for another");
    for (authority, cert, why) in
        [(ours.as_path(), &operator[1], "it is a webapp's"), (elsewhere.path(), &stranger[0], "it is another authority's")]
    {
        ensure!(!status(&masters, authority, cert)?.status.success(), "a certificate was good although {why}");
    }
    ensure!(!estafet(&["status", "--masters", &masters])?.status.success(), "somebody without a certificate was answered");
    Ok(())
}

#[test]
fn certificates_are_made_for_known_roles_only_and_renewed_in_place() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let files = certs(directory.path(), "live", &["coreapp/coreapp-0"])?;
    let path = directory.path().join("coreapp-coreapp-0.pem");
    ensure!(files == [path.display().to_string()], "{files:?}");
    let (first, authority) = (std::fs::read(&path)?, std::fs::read(directory.path().join("ca.pem"))?);
    certs(directory.path(), "live", &["coreapp/coreapp-0"])?;
    ensure!(std::fs::read(&path)? != first, "the certificate was not renewed");
    ensure!(std::fs::read(directory.path().join("ca.pem"))? == authority, "the authority was replaced");
    for wrong in ["janitor/me", "coreapp", "coreapp/", "coreapp/a b"] {
        ensure!(certs(directory.path(), "live", &[wrong]).is_err(), "{wrong}");
    }
    Ok(())
}
