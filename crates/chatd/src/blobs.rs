//! Files of others, in a directory: opaque bytes under a random name, kept for 14 days unless configured otherwise.
//!
//! A client leaves or fetches a file over a connection of its own, with frames of at most [`PIECE`] bytes; nothing
//! is held in memory beyond one of them. A file gets its name when it is whole and synced.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use estafet_proto::chat::{self, ClientFrame, ServerFrame, client_frame, server_frame};
use tokio::{
    fs::{self, File},
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use crate::frames::{Error, Reader, Writer};

/// Bytes of a frame with a part of a file.
pub const PIECE: usize = 256 * 1024;
/// Largest file: the largest document, encrypted.
pub const LARGEST: u64 = 101 << 20;
/// Longest silence within a transfer.
const SILENCE: Duration = Duration::from_secs(30);
/// Ending of what is not whole.
const PARTIAL: &str = "part";

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    directory: PathBuf,
}

/// A file in the making; removed again unless it is finished.
pub(crate) struct NewBlob {
    id: String,
    directory: PathBuf,
    file: File,
    size: u64,
    is_whole: bool,
}

impl Blobs {
    /// Opens the directory, made if absent.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// Begins a file.
    pub(crate) async fn create(&self) -> io::Result<NewBlob> {
        let id: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
        let file = File::create_new(self.directory.join(&id).with_extension(PARTIAL)).await?;
        Ok(NewBlob { id, directory: self.directory.clone(), file, size: 0, is_whole: false })
    }

    /// Opens a file; `None` if there is none.
    pub(crate) async fn read(&self, id: &str) -> io::Result<Option<File>> {
        // Ids are ours; anything else leads out of the directory.
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        match File::open(self.directory.join(id)).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what is older than `keep`, whole or not.
    pub(crate) async fn sweep(&self, now_ms: i64, keep: Duration) -> io::Result<()> {
        let mut entries = fs::read_dir(&self.directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let Ok(metadata) = entry.metadata().await else { continue };
            let age = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(keep);
            if i128::from(now_ms) > age.as_millis() as i128 {
                remove(&entry.path());
            }
        }
        Ok(())
    }
}

impl NewBlob {
    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.size > LARGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all(bytes).await
    }

    /// Makes the file durable under its name, which it returns.
    pub(crate) async fn finish(mut self) -> io::Result<String> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let path = self.directory.join(&self.id);
        fs::rename(path.with_extension(PARTIAL), &path).await?;
        self.is_whole = true;
        File::open(&self.directory).await?.sync_all().await?;
        Ok(self.id.clone())
    }
}

impl Drop for NewBlob {
    fn drop(&mut self) {
        if !self.is_whole {
            remove(&self.directory.join(&self.id).with_extension(PARTIAL));
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a file could not be removed");
    }
}

/// Serves a connection that began with a request for a file.
pub(crate) async fn serve<R, W>(
    blobs: &Blobs,
    mut reader: Reader<R>,
    mut writer: Writer<W>,
    first: client_frame::Frame,
) -> Result<(), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut next = Some(first);
    while let Some(frame) = next {
        match frame {
            client_frame::Frame::BlobPut(_) => take(blobs, &mut reader, &mut writer).await?,
            client_frame::Frame::BlobGet(get) => give(blobs, &get.id, &mut writer).await?,
            _ => return Err(Error::Malformed),
        }
        next = receive(&mut reader).await?;
    }
    writer.close().await
}

async fn receive<R: AsyncRead + Unpin>(reader: &mut Reader<R>) -> Result<Option<client_frame::Frame>, Error> {
    let frame = timeout(SILENCE, reader.next::<ClientFrame>()).await.map_err(|_| Error::TimedOut)??;
    Ok(frame.and_then(|frame| frame.frame))
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut Writer<W>, frame: server_frame::Frame) -> Result<(), Error> {
    writer.feed(&ServerFrame { frame: Some(frame) })?;
    timeout(SILENCE, writer.flush()).await.map_err(|_| Error::TimedOut)?
}

async fn take<R, W>(blobs: &Blobs, reader: &mut Reader<R>, writer: &mut Writer<W>) -> Result<(), Error>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut blob = blobs.create().await?;
    loop {
        match receive(reader).await? {
            Some(client_frame::Frame::BlobPart(part)) => {
                blob.write(&part.data).await?;
                if part.is_last {
                    break;
                }
            }
            Some(_) => return Err(Error::Malformed),
            None => return Err(Error::Truncated),
        }
    }
    send(writer, server_frame::Frame::BlobStored(chat::BlobStored { id: blob.finish().await? })).await
}

async fn give<W: AsyncWrite + Unpin>(blobs: &Blobs, id: &str, writer: &mut Writer<W>) -> Result<(), Error> {
    let Some(mut file) = blobs.read(id).await? else {
        return send(writer, server_frame::Frame::BlobMissing(chat::BlobMissing {})).await;
    };
    let mut buffer = vec![0; PIECE];
    loop {
        let count = file.read(&mut buffer).await?;
        let part = chat::BlobPart { data: buffer[..count].to_vec().into(), is_last: count == 0 };
        send(writer, server_frame::Frame::BlobPart(part)).await?;
        if count == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn r131_a_file_is_there_when_it_is_whole_and_for_fourteen_days() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path().join("blobs")).unwrap();
        let mut blob = blobs.create().await.unwrap();
        blob.write(b"sealed").await.unwrap();
        assert!(blobs.read(&blob.id).await.unwrap().is_none());
        let id = blob.finish().await.unwrap();
        let mut content = Vec::new();
        blobs.read(&id).await.unwrap().unwrap().read_to_end(&mut content).await.unwrap();
        assert_eq!(content, b"sealed");
        drop(blobs.create().await.unwrap());
        assert_eq!(std::fs::read_dir(directory.path().join("blobs")).unwrap().count(), 1, "what was given up is gone");
        let now_ms = estafet_runtime::Clock::system().now_ms();
        // R131: a fetch on day 13 works, on day 15 it does not.
        let (keep, day_ms) = (crate::Config::new("").keep_files, 24 * 3600 * 1000);
        blobs.sweep(now_ms + 13 * day_ms, keep).await.unwrap();
        assert!(blobs.read(&id).await.unwrap().is_some());
        blobs.sweep(now_ms + 15 * day_ms, keep).await.unwrap();
        assert!(blobs.read(&id).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_are_no_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("secret"), b"s").unwrap();
        let blobs = Blobs::open(directory.path().join("blobs")).unwrap();
        for id in ["", "../secret", "/etc/passwd", "..", &"../".repeat(11)[..32]] {
            assert!(blobs.read(id).await.unwrap().is_none(), "{id}");
        }
    }
}
