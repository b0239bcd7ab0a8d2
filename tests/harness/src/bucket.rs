//! A server that speaks S3, for buckets: moto, which `make test` puts below the target directory.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use estafet_runtime::Tasks;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::environment::tool;

/// What it takes for a key and its secret; any would do.
pub const KEY: &str = "key";
/// See [`KEY`].
pub const SECRET: &str = "secret";
/// Its region.
pub const REGION: &str = "us-east-1";

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct Moto {
    _process: Child,
    url: String,
}

impl Moto {
    /// Starts one on a free port of loopback.
    pub async fn start() -> anyhow::Result<Self> {
        estafet_runtime::install_crypto();
        let mut command = Command::new(tool("moto/bin/moto_server")?);
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("no stderr")?).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((_, url)) = line.split_once("Running on ") {
                let url = url.trim().to_owned();
                Tasks::new().spawn("log", async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { _process: process, url });
            }
        }
        anyhow::bail!("moto ended")
    }

    /// Where it answers.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a bucket.
    pub async fn bucket(&self, name: &str) -> anyhow::Result<()> {
        let made = reqwest::Client::builder().no_proxy().build()?.put(format!("{}/{name}", self.url)).send().await?;
        ensure!(made.status().is_success(), "no bucket: {}", made.status());
        Ok(())
    }
}
