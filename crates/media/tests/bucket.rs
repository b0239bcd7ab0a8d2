//! Files in a bucket.

use anyhow::Context as _;
use bytes::Bytes;
use estafet_harness::bucket::{KEY, Moto, REGION, SECRET};
use estafet_media::{Blobs, BucketSettings};
use estafet_model::WaId;
use futures::TryStreamExt as _;
use uuid::Uuid;

fn settings(moto: &Moto) -> BucketSettings {
    BucketSettings {
        endpoint: Some(moto.url().to_owned()),
        region: Some(REGION.to_owned()),
        access_key_id: Some(KEY.to_owned()),
        secret_access_key: Some(SECRET.to_owned()),
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
    let blobs = Blobs::open("s3://media/some/prefix", &settings(&moto))?;
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
    let listed = blobs.files(number).await?;
    assert_eq!(listed.iter().map(|file| (file.id, file.size)).collect::<Vec<_>>(), [(id, written.size)]);

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
    let blobs = Blobs::open("s3://nowhere", &settings(&moto))?;
    let error = blobs.probe().await.err().context("written to a bucket that is not there")?;
    assert!(error.to_string().contains("NoSuchBucket"), "{error}");
    Ok(())
}
