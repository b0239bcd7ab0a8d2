//! The object store: a local directory, or a bucket of any server that speaks S3.
//!
//! A file is written in parts as it arrives: at most one part is in memory. It gets its name when it is whole
//! and synced (a directory) or completed (a bucket); a process that dies before that leaves nothing that can be
//! read. Names are `NUMBER/ID`, one plain file each.

use std::{
    io::{ErrorKind, SeekFrom},
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use bytes::{Bytes, BytesMut};
use estafet_model::WaId;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt as _, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path, prefix::PrefixStore,
};
use ring::digest;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use crate::ByteStream;

/// Bytes of a part of a file in a directory.
const FILE_PART: usize = 512 * 1024;
/// Bytes of a part in a bucket: all but the last must have at least these.
const BUCKET_PART: usize = 5 * 1024 * 1024;
/// Bytes read from a file at once.
const READ: usize = 256 * 1024;

/// How a bucket is reached. What is not given is taken from the usual `AWS_*` variables.
#[derive(Clone, Default)]
pub struct BucketSettings {
    /// URL of the server; without it Amazon's.
    pub endpoint: Option<String>,
    /// Region; many servers take any.
    pub region: Option<String>,
    /// Access key.
    pub access_key_id: Option<String>,
    /// Secret of the access key.
    pub secret_access_key: Option<String>,
}

impl std::fmt::Debug for BucketSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketSettings").field("endpoint", &self.endpoint).field("region", &self.region).finish_non_exhaustive()
    }
}

/// Why a store cannot be used; says which setting is at fault.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither a directory nor a bucket.
    #[error("{0}: must be file:///DIRECTORY or s3://BUCKET/PREFIX")]
    Location(String),
    /// The directory cannot be made or written.
    #[error("{location}: the directory cannot be used: {source}")]
    Directory {
        /// The setting.
        location: String,
        /// Why.
        source: object_store::Error,
    },
    /// The bucket's settings do not fit together.
    #[error("{location}: the bucket cannot be used (endpoint, region, keys): {source}")]
    Bucket {
        /// The setting.
        location: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("object store: {0}")]
    Store(#[from] object_store::Error),
    /// A local file failed.
    #[error("file: {0}")]
    File(#[from] std::io::Error),
}

/// A store of files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    part: usize,
    /// Where the files are, if this is a directory.
    directory: Option<PathBuf>,
}

impl Blobs {
    /// Opens `file:///DIRECTORY` (made if absent) or `s3://BUCKET/PREFIX`.
    pub fn open(location: &str, bucket: &BucketSettings) -> Result<Self, OpenError> {
        if let Some(directory) = location.strip_prefix("file://").filter(|path| path.starts_with('/')) {
            return Self::directory(FilePath::new(directory));
        }
        let wrong = || OpenError::Location(location.to_owned());
        let (name, prefix) = match location.strip_prefix("s3://").ok_or_else(wrong)? {
            rest if rest.starts_with('/') || rest.is_empty() => return Err(wrong()),
            rest => rest.split_once('/').unwrap_or((rest, "")),
        };
        let failed = |source| OpenError::Bucket { location: location.to_owned(), source };
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(name);
        if let Some(endpoint) = &bucket.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(region) = &bucket.region {
            builder = builder.with_region(region);
        }
        if let Some(key) = &bucket.access_key_id {
            builder = builder.with_access_key_id(key);
        }
        if let Some(secret) = &bucket.secret_access_key {
            builder = builder.with_secret_access_key(secret);
        }
        let store = PrefixStore::new(builder.build().map_err(failed)?, prefix);
        Ok(Self { store: Arc::new(store), part: BUCKET_PART, directory: None })
    }

    /// Opens a directory, made if absent.
    pub fn directory(directory: &FilePath) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory { location: format!("file://{}", directory.display()), source };
        let generic =
            |error: std::io::Error| failed(object_store::Error::Generic { store: "directory", source: Box::new(error) });
        std::fs::create_dir_all(directory).map_err(generic)?;
        let store = LocalFileSystem::new_with_prefix(directory).map_err(failed)?.with_fsync(true);
        Ok(Self { store: Arc::new(store), part: FILE_PART, directory: Some(directory.to_owned()) })
    }

    /// Writes and removes a file, so that a store that cannot be written is found at start.
    pub async fn probe(&self) -> Result<(), Error> {
        let path = Path::from(format!("probe-{}", Uuid::new_v4()));
        self.store.put(&path, Bytes::from_static(b"estafet").into()).await?;
        Ok(self.store.delete(&path).await?)
    }

    /// Begins a file.
    pub async fn create(&self, number: WaId, id: Uuid) -> Result<Writer, Error> {
        let upload = self.store.put_multipart(&path(number, id)).await?;
        Ok(Writer {
            upload,
            part: self.part,
            waiting: Vec::new(),
            waiting_bytes: 0,
            size: 0,
            hash: digest::Context::new(&digest::SHA256),
        })
    }

    /// The bytes of a file within `range`, which must be within the file; `None` if there is none.
    pub async fn read(&self, number: WaId, id: Uuid, range: Range<u64>) -> Result<Option<ByteStream>, Error> {
        if range.is_empty() {
            let head = self.store.head(&path(number, id)).await;
            return found(head).map(|meta| meta.map(|_| futures::stream::empty().boxed()));
        }
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let Some(result) = found(self.store.get_opts(&path(number, id), options).await)? else { return Ok(None) };
        let range = result.range.clone();
        match result.payload {
            // The crate reads files in pieces of 8 KiB, each a task of its own.
            GetResultPayload::File(file, _) => {
                let mut file = tokio::fs::File::from_std(file);
                file.seek(SeekFrom::Start(range.start)).await?;
                Ok(Some(ReaderStream::with_capacity(file.take(range.end - range.start), READ).boxed()))
            }
            GetResultPayload::Stream(stream) => Ok(Some(stream.map_err(std::io::Error::other).boxed())),
        }
    }

    /// Removes a file; one that is not there is removed already.
    pub async fn delete(&self, number: WaId, id: Uuid) -> Result<(), Error> {
        found(self.store.delete(&path(number, id)).await).map(drop)
    }

    /// The files of a number: id, and when it was written, milliseconds since 1970.
    pub async fn list(&self, number: WaId) -> Result<Vec<(Uuid, i64)>, Error> {
        Ok(self.files(number).await?.into_iter().map(|file| (file.id, file.written_at_ms)).collect())
    }

    /// The files of a number, in the order of their ids.
    pub async fn files(&self, number: WaId) -> Result<Vec<StoredFile>, Error> {
        let prefix = Path::from(number.to_string());
        let mut listed = self.store.list(Some(&prefix));
        let mut files = Vec::new();
        while let Some(meta) = listed.try_next().await? {
            let id = meta.location.filename().and_then(|name| Uuid::try_parse(name).ok());
            let (size, written_at_ms) = (meta.size, meta.last_modified.timestamp_millis());
            files.extend(id.map(|id| StoredFile { id, size, written_at_ms }));
        }
        files.sort_unstable_by_key(|file| file.id);
        Ok(files)
    }

    /// Removes what processes that were killed left of the files of a number, written before this time
    /// (milliseconds since 1970); how many. A bucket does it by a lifecycle rule of its own.
    pub async fn remove_left(&self, number: WaId, before_ms: i64) -> Result<u64, Error> {
        let Some(directory) = &self.directory else { return Ok(0) };
        let mut entries = match tokio::fs::read_dir(directory.join(number.to_string())).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut count = 0;
        while let Some(entry) = entries.next_entry().await? {
            if !entry.file_name().to_str().is_some_and(is_unfinished) {
                continue;
            }
            // Somebody else may be faster, or finish the file.
            let Ok(written) = entry.metadata().await.and_then(|meta| meta.modified()) else { continue };
            let written_ms = written.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
            if i128::try_from(written_ms).is_ok_and(|written_ms| written_ms < i128::from(before_ms)) {
                match tokio::fs::remove_file(entry.path()).await {
                    Ok(()) => count += 1,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(count)
    }
}

/// Whether this is the name of a file in the making: `ID#N`.
fn is_unfinished(name: &str) -> bool {
    name.split_once('#')
        .is_some_and(|(id, n)| Uuid::try_parse(id).is_ok() && !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A file in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// Its id.
    pub id: Uuid,
    /// Bytes.
    pub size: u64,
    /// When it was written, milliseconds since 1970.
    pub written_at_ms: i64,
}

fn path(number: WaId, id: Uuid) -> Path {
    Path::from_iter([number.to_string(), id.hyphenated().to_string()])
}

fn found<T>(result: Result<T, object_store::Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A file in the making. It appears with [`Writer::finish`]; until then nobody sees it.
pub struct Writer {
    upload: Box<dyn MultipartUpload>,
    part: usize,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    size: u64,
    hash: digest::Context,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Hash of them.
    pub sha256: [u8; 32],
}

impl Writer {
    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        while self.waiting_bytes + bytes.len() >= self.part {
            let rest = bytes.split_off(self.part - self.waiting_bytes);
            self.hold(std::mem::replace(&mut bytes, rest));
            self.put().await?;
        }
        self.hold(bytes);
        Ok(())
    }

    fn hold(&mut self, bytes: Bytes) {
        // A piece may keep the buffer it was cut from alive: small ones are copied.
        let bytes = if bytes.len() < READ { BytesMut::from(&bytes[..]).freeze() } else { bytes };
        if !bytes.is_empty() {
            self.waiting_bytes += bytes.len();
            self.waiting.push(bytes);
        }
    }

    async fn put(&mut self) -> Result<(), Error> {
        self.waiting_bytes = 0;
        let part = std::mem::take(&mut self.waiting);
        Ok(self.upload.put_part(part.into_iter().collect()).await?)
    }

    /// Makes the file durable and gives it its name.
    pub async fn finish(mut self) -> Result<Written, Error> {
        if self.waiting_bytes > 0 || self.size == 0 {
            self.put().await?;
        }
        self.upload.complete().await?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.finish().as_ref());
        Ok(Written { size: self.size, sha256 })
    }

    /// Gives the file up; what was written of it is removed.
    pub async fn abort(mut self) -> Result<(), Error> {
        Ok(self.upload.abort().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number() -> WaId {
        "15550000001".parse().unwrap()
    }

    fn blobs() -> (Blobs, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (Blobs::directory(directory.path()).unwrap(), directory)
    }

    async fn content(blobs: &Blobs, id: Uuid, range: Range<u64>) -> Option<Vec<u8>> {
        let stream = blobs.read(number(), id, range).await.unwrap()?;
        Some(
            stream
                .try_fold(Vec::new(), async |mut all, piece| {
                    all.extend_from_slice(&piece);
                    Ok(all)
                })
                .await
                .unwrap(),
        )
    }

    #[tokio::test]
    async fn a_file_comes_back_as_it_was_written_whole_and_in_part() {
        let (blobs, directory) = blobs();
        blobs.probe().await.unwrap();
        let id = Uuid::new_v4();
        let data: Vec<u8> = (0..3 * FILE_PART + 17).map(|n| (n % 251) as u8).collect();
        let mut writer = blobs.create(number(), id).await.unwrap();
        for piece in data.chunks(100_001) {
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(content(&blobs, id, 0..10).await, None, "not yet whole");
        let written = writer.finish().await.unwrap();
        assert_eq!(written.size, data.len() as u64);
        assert_eq!(written.sha256, digest::digest(&digest::SHA256, &data).as_ref());
        assert_eq!(content(&blobs, id, 0..written.size).await.unwrap(), data);
        assert_eq!(content(&blobs, id, 5..600_000).await.unwrap(), data[5..600_000]);
        assert!(directory.path().join("15550000001").join(id.to_string()).is_file(), "one plain file");
        assert_eq!(blobs.list(number()).await.unwrap().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
        blobs.delete(number(), id).await.unwrap();
        blobs.delete(number(), id).await.unwrap();
        assert_eq!(content(&blobs, id, 0..10).await, None);
    }

    #[tokio::test]
    async fn a_file_that_was_given_up_or_forgotten_is_not_there() {
        let (blobs, _directory) = blobs();
        for abort in [true, false] {
            let id = Uuid::new_v4();
            let mut writer = blobs.create(number(), id).await.unwrap();
            writer.write(Bytes::from(vec![1; 2 * FILE_PART])).await.unwrap();
            if abort {
                writer.abort().await.unwrap()
            } else {
                drop(writer)
            }
            assert_eq!(content(&blobs, id, 0..1).await, None);
        }
        assert!(blobs.list(number()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed_when_it_is_old_and_nothing_else_is() {
        let (blobs, directory) = blobs();
        assert_eq!(blobs.remove_left(number(), i64::MAX).await.unwrap(), 0, "no directory yet");
        let (whole, begun) = (Uuid::new_v4(), Uuid::new_v4());
        blobs.create(number(), whole).await.unwrap().finish().await.unwrap();
        let mut killed = blobs.create(number(), begun).await.unwrap();
        killed.write(Bytes::from(vec![1; 2 * FILE_PART])).await.unwrap();
        let within = directory.path().join("15550000001");
        std::fs::write(within.join("notes#1"), "by hand").unwrap();
        let names = || {
            let entries = std::fs::read_dir(&within).unwrap();
            let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        };
        let before = names();
        assert!(before.iter().any(|name| name.starts_with(&format!("{begun}#"))), "{before:?}");
        assert_eq!(blobs.remove_left(number(), 1000).await.unwrap(), 0, "younger");
        assert_eq!(names(), before);
        assert_eq!(blobs.remove_left(number(), i64::MAX).await.unwrap(), 1);
        let mut expected = vec![whole.to_string(), "notes#1".to_owned()];
        expected.sort_unstable();
        assert_eq!(names(), expected);
    }

    #[tokio::test]
    async fn an_empty_file_is_a_file() {
        let (blobs, _directory) = blobs();
        let id = Uuid::new_v4();
        assert_eq!(blobs.create(number(), id).await.unwrap().finish().await.unwrap().size, 0);
        assert_eq!(content(&blobs, id, 0..0).await.unwrap(), b"");
    }

    #[test]
    fn a_location_at_fault_is_named() {
        for location in ["", "/tmp/x", "file://relative", "s3://", "s3:///x", "ftp://x/y"] {
            let error = Blobs::open(location, &BucketSettings::default()).unwrap_err();
            assert!(error.to_string().starts_with(location), "{error}");
        }
        assert!(Blobs::open("file:///proc/nowhere", &BucketSettings::default()).is_err());
    }
}
