//! What phones do with files: fetch, decrypt and verify those of messages, and leave their own with the network.

use std::{io, num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use lru::LruCache;
use serde_json::{Map, Value, json};
use tokio::{io::AsyncReadExt as _, sync::Mutex};

use crate::{
    attachment::{Attachment, Damaged, FileKey, Opener, Plain, Sealer},
    blobs::{Blobs, PIECE},
};

/// Files whose verdict is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Whether a file was had and is whole, or what is wrong with it.
type Verdict = Result<(), &'static str>;

/// The files of the phones. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    blobs: Blobs,
    verdicts: Arc<Mutex<LruCache<(String, String), Verdict>>>,
}

impl Files {
    pub(crate) fn new(blobs: Blobs) -> Self {
        Self { blobs, verdicts: Arc::new(Mutex::new(LruCache::new(REMEMBERED))) }
    }

    /// Encrypts a file and leaves it with the network.
    pub(crate) async fn leave<E>(
        &self,
        mime_type: String,
        mut plain: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> io::Result<Attachment>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let key = FileKey::generate();
        let (mut sealer, mut blob) = (Sealer::new(&key), self.blobs.create().await?);
        while let Some(piece) = plain.next().await {
            blob.write(&sealer.push(&piece.map_err(io::Error::other)?)).await?;
        }
        let (rest, Plain { size, sha256 }) = sealer.finish();
        blob.write(&rest).await?;
        Ok(Attachment { mime_type, sha256, file_size: size, blob: blob.finish().await?, key: key.to_text() })
    }

    /// The plain bytes of a file; `None` if the network has it no more.
    pub(crate) async fn open(&self, attachment: &Attachment) -> io::Result<Option<BoxStream<'static, io::Result<Bytes>>>> {
        let Some(key) = FileKey::from_text(&attachment.key) else { return Ok(None) };
        let Some(mut file) = self.blobs.read(&attachment.blob).await? else { return Ok(None) };
        let (sha256, size) = (attachment.sha256.clone(), attachment.file_size);
        let stream = async_stream(move |give| async move {
            let (mut opener, mut buffer) = (Opener::new(&key), vec![0; PIECE]);
            loop {
                let count = file.read(&mut buffer).await?;
                if count == 0 {
                    break;
                }
                give.send(opener.push(&buffer[..count]).map_err(damaged)?).await;
            }
            let (rest, plain) = opener.finish().map_err(damaged)?;
            if (plain.sha256, plain.size) != (sha256, size) {
                return Err(damaged(Damaged));
            }
            give.send(rest).await;
            Ok(())
        });
        Ok(Some(stream))
    }

    /// Shows files as a person would see them: what they are and whether they came whole, without their keys.
    pub(crate) async fn show(&self, content: &mut Value) {
        for media in attachments(content) {
            let Some(attachment) = read(media) else { continue };
            let verdict = self.verify(&attachment).await;
            ["blob", "key"].iter().for_each(|name| drop(media.remove(*name)));
            media.insert("downloaded".to_owned(), json!(verdict.is_ok()));
            if let Err(problem) = verdict {
                media.insert("problem".to_owned(), json!(problem));
            }
        }
    }

    async fn verify(&self, attachment: &Attachment) -> Verdict {
        let name = (attachment.blob.clone(), attachment.sha256.clone());
        if let Some(verdict) = self.verdicts.lock().await.get(&name) {
            return *verdict;
        }
        let verdict = match self.open(attachment).await {
            Ok(Some(stream)) => {
                let is_whole = stream.all(|piece| std::future::ready(piece.is_ok())).await;
                if is_whole { Ok(()) } else { Err("the file is damaged") }
            }
            Err(_) => Err("the file is damaged"),
            Ok(None) => Err("the network does not have the file"),
        };
        self.verdicts.lock().await.put(name, verdict);
        verdict
    }
}

fn damaged(damaged: Damaged) -> io::Error {
    io::Error::other(damaged)
}

/// Shows files that the phone does not fetch: what they are, without their keys.
pub(crate) fn hold_back(content: &mut Value) {
    for media in attachments(content) {
        ["blob", "key"].iter().for_each(|name| drop(media.remove(*name)));
        media.insert("downloaded".to_owned(), json!(false));
        media.insert("problem".to_owned(), json!("held back: the phone does not know the sender"));
    }
}

/// The first file of a message.
pub(crate) fn first(content: &mut Value) -> Option<Attachment> {
    attachments(content).into_iter().find_map(|media| read(media))
}

fn read(media: &Map<String, Value>) -> Option<Attachment> {
    serde_json::from_value(Value::Object(media.clone())).ok()
}

/// The objects that name files, wherever they are.
fn attachments(value: &mut Value) -> Vec<&mut Map<String, Value>> {
    match value {
        Value::Object(members) => {
            if members.contains_key("blob") && members.contains_key("key") {
                return vec![members];
            }
            members.values_mut().flat_map(attachments).collect()
        }
        Value::Array(items) => items.iter_mut().flat_map(attachments).collect(),
        _ => Vec::new(),
    }
}

/// Hands pieces to a stream, one at a time.
struct Give(tokio::sync::mpsc::Sender<io::Result<Bytes>>);

impl Give {
    async fn send(&self, piece: Bytes) {
        if !piece.is_empty() {
            // Whoever does not listen any more does not want the rest.
            let _ = self.0.send(Ok(piece)).await;
        }
    }
}

/// A stream of what a future gives while it is polled.
fn async_stream<F>(work: impl FnOnce(Give) -> F) -> BoxStream<'static, io::Result<Bytes>>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let end = futures::stream::once(work(Give(sender))).filter_map(|result| std::future::ready(result.err().map(Err)));
    let pieces = futures::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    futures::stream::select(pieces, end).boxed()
}
