//! A bucket on a server that speaks S3: moto, which `make setup` puts below the target directory.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use estafet_media::{Blobs, BucketSettings};
use estafet_model::WaId;
use futures::TryStreamExt as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use uuid::Uuid;

/// A running server; it ends when it is dropped.
struct Moto {
    _process: Child,
    url: String,
}

impl Moto {
    async fn start() -> anyhow::Result<Self> {
        let test = std::env::current_exe()?;
        // target/<profile>/deps/<test>
        let target = test.ancestors().nth(3).context("the test has no target directory")?;
        let server = target.join("tools/moto/bin/moto_server");
        ensure!(server.is_file(), "{} is missing: run `make setup`", server.display());
        let mut command = Command::new(server);
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("no stderr")?).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((_, url)) = line.split_once("Running on ") {
                let url = url.trim().to_owned();
                estafet_runtime::Tasks::new().spawn("log", async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { _process: process, url });
            }
        }
        anyhow::bail!("moto ended")
    }

    async fn bucket(&self, name: &str) -> anyhow::Result<()> {
        let made = reqwest::Client::builder().no_proxy().build()?.put(format!("{}/{name}", self.url)).send().await?;
        ensure!(made.status().is_success(), "no bucket: {}", made.status());
        Ok(())
    }

    fn settings(&self) -> BucketSettings {
        BucketSettings {
            endpoint: Some(self.url.clone()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some("key".to_owned()),
            secret_access_key: Some("secret".to_owned()),
        }
    }
}

async fn read(blobs: &Blobs, number: WaId, id: Uuid, range: std::ops::Range<u64>) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(stream) = blobs.read(number, id, range).await? else { return Ok(None) };
    let collect = stream.try_fold(Vec::new(), async |mut all, piece| {
        all.extend_from_slice(&piece);
        Ok(all)
    });
    Ok(Some(collect.await?))
}

#[tokio::test]
async fn a_bucket_keeps_files_like_a_directory() -> anyhow::Result<()> {
    estafet_runtime::install_crypto();
    let moto = Moto::start().await?;
    moto.bucket("media").await?;
    let blobs = Blobs::open("s3://media/some/prefix", &moto.settings())?;
    blobs.probe().await?;
    let (number, id): (WaId, _) = ("15550000001".parse()?, Uuid::new_v4());
    assert_eq!(read(&blobs, number, id, 0..1).await?, None);

    // Three parts of a bucket.
    let data: Vec<u8> = (0..(20 << 20) + 17_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = blobs.create(number, id).await?;
    for piece in data.chunks(300_001) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    assert_eq!(read(&blobs, number, id, 0..1).await?, None, "not yet whole");
    let written = writer.finish().await?;
    assert_eq!(written.size, data.len() as u64);
    assert_eq!(written.sha256, ring::digest::digest(&ring::digest::SHA256, &data).as_ref());
    assert!(read(&blobs, number, id, 0..written.size).await?.as_deref() == Some(&data[..]));
    assert!(read(&blobs, number, id, 5..600_000).await?.as_deref() == Some(&data[5..600_000]));
    assert_eq!(blobs.list(number).await?.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);

    let mut given_up = blobs.create(number, Uuid::new_v4()).await?;
    given_up.write(Bytes::from(vec![1; 9 << 20])).await?;
    given_up.abort().await?;
    assert_eq!(blobs.list(number).await?.len(), 1);

    blobs.delete(number, id).await?;
    blobs.delete(number, id).await?;
    assert_eq!(read(&blobs, number, id, 0..1).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_found_at_start() -> anyhow::Result<()> {
    estafet_runtime::install_crypto();
    let moto = Moto::start().await?;
    let blobs = Blobs::open("s3://nowhere", &moto.settings())?;
    let error = blobs.probe().await.err().context("written to a bucket that is not there")?;
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    Ok(())
}
