//! Files of messages that are sent: read from the store or fetched from a link, encrypted, left with the network.
//!
//! The message then names the copy at the network and its key instead of the id or the link. What fails for now
//! (database, store, network) is tried again for as long as the shard lives; what fails for good fails the message.

use std::{io, time::Duration};

use bytes::Bytes;
use estafet_media::{
    ByteStream, Kind, Reference, content,
    guard::{self, Authorization, Limits},
    mime, reference,
};
use estafet_model::WaId;
use estafet_upstream::{
    BlobError,
    attachment::{Attachment, FileKey},
};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use uuid::Uuid;

use super::{Courier, patience, sealed};
use crate::core::files::Prepared;

/// Longest time a link may take (spec/media.md §4).
const LINK_TIME: Duration = Duration::from_secs(30);
/// How often a link whose server does not answer is tried.
const LINK_TRIES: u32 = 3;

/// Why a file cannot be sent.
enum Failure {
    /// For good; said to the business.
    Final(String),
    /// For now; said to the operator.
    Passing(String),
}

impl Courier {
    /// Leaves the files of a message with the network.
    pub(crate) async fn prepare(&self, number: WaId, body: Bytes) -> Prepared {
        let mut copies = Vec::new();
        for reference in reference::find(&body) {
            let mut waits = patience();
            let copy = loop {
                match self.copy(number, &reference).await {
                    Ok(copy) => break copy,
                    Err(Failure::Final(title)) => return Err(title),
                    Err(Failure::Passing(problem)) => {
                        tracing::warn!(%number, problem, "a file could not be sent, trying again");
                        tokio::time::sleep(waits.next_delay()).await;
                    }
                }
            };
            copies.push((reference, copy));
        }
        Ok(reference::replace(&body, |place, media| {
            let found =
                copies.iter().find(|(known, _)| (known.kind, &known.id, &known.link) == (place.kind, &place.id, &place.link));
            let Some((_, copy)) = found else { return };
            ["id", "link", "provider"].iter().for_each(|name| drop(media.remove(*name)));
            if let Ok(Value::Object(members)) = serde_json::to_value(copy) {
                media.extend(members);
            }
        })
        .into())
    }

    async fn copy(&self, number: WaId, reference: &Reference) -> Result<Attachment, Failure> {
        let _place = self.0.places.acquire().await.map_err(|error| Failure::Passing(error.to_string()))?;
        match (&reference.id, &reference.link) {
            (Some(id), _) => self.copy_stored(number, id).await,
            (None, Some(link)) => self.copy_linked(number, reference, link).await,
            (None, None) => Err(Failure::Final("The message names no file".to_owned())),
        }
    }

    async fn copy_stored(&self, number: WaId, id: &str) -> Result<Attachment, Failure> {
        let gone = || Failure::Final("The file of the message was deleted".to_owned());
        let id = Uuid::try_parse(id).map_err(|_| gone())?;
        if let Some(copy) = self.known_copy(number, id) {
            return Ok(copy);
        }
        let passing = |error: &dyn std::error::Error| Failure::Passing(error.to_string());
        let row = self.0.store.media(number, id).await.map_err(|error| passing(&error))?.ok_or_else(gone)?;
        let stream = self.0.blobs.read(number, id, 0..row.size).await.map_err(|error| passing(&error))?.ok_or_else(gone)?;
        let copy = self.leave(row.mime_type, stream).await.map_err(|error| passing(&error))?;
        self.remember(number, id, &copy);
        Ok(copy)
    }

    async fn copy_linked(&self, number: WaId, reference: &Reference, link: &str) -> Result<Attachment, Failure> {
        let authorization = self.authorization(number, reference).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_link(reference.kind, link, authorization.as_ref()).await {
                Err(Link::Failed(error)) if error.is_passing() && tries < LINK_TRIES => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(Link::Failed(error)) => {
                    self.count_link("failed");
                    return Err(Failure::Final(format!("Request for url {link} failed with error: {error}")));
                }
                Err(Link::Network(failure)) => return Err(failure),
                Ok(copy) => {
                    self.count_link("fetched");
                    return Ok(copy);
                }
            }
        }
    }

    async fn authorization(&self, number: WaId, reference: &Reference) -> Result<Option<Authorization>, Failure> {
        let Some(name) = &reference.provider else { return Ok(None) };
        let providers = self.0.store.media_providers(number).await.map_err(|error| Failure::Passing(error.to_string()))?;
        let gone = || Failure::Final(format!("The media provider {name} was deleted"));
        let row = providers.into_iter().find(|provider| provider.name == *name).ok_or_else(gone)?;
        let config: Value = serde_json::from_str(&row.body).unwrap_or_default();
        let text = |pointer| config.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let basic = || Some(Authorization::Basic(text("/config/basic/username")?, text("/config/basic/password")?));
        Ok(text("/config/bearer").map(Authorization::Bearer).or_else(basic))
    }

    async fn try_link(&self, kind: Kind, link: &str, authorization: Option<&Authorization>) -> Result<Attachment, Link> {
        let limits = Limits { bytes: kind.max_bytes(), time: LINK_TIME };
        let mut fetched = self.0.fetcher.fetch(link, authorization, limits).await?;
        let (head, rest) = beginning(&mut fetched.stream).await.map_err(|error| Link::read(&error, limits))?;
        let mime_type = type_of(fetched.mime_type.as_deref(), &fetched.path, &head);
        if !kind.takes(&mime_type) {
            return Err(guard::Error::Refused("the file is of a type that is not supported").into());
        }
        if !content::fits(&mime_type, &head) || (kind == Kind::Sticker && content::sticker_problem(&head).is_some()) {
            return Err(guard::Error::Refused("the file is not what its type says").into());
        }
        let stream = futures::stream::iter(rest.into_iter().map(Ok)).chain(fetched.stream).boxed();
        self.leave(mime_type, stream).await.map_err(|error| match error {
            BlobError::Source(error) => Link::read(&error, limits),
            other => Link::Network(Failure::Passing(other.to_string())),
        })
    }

    /// Encrypts a file with a key of its own and leaves it with the network.
    async fn leave(&self, mime_type: String, plain: ByteStream) -> Result<Attachment, BlobError> {
        let key = FileKey::generate();
        let (stream, mut seen) = sealed(plain, &key);
        let blob = self.0.upstream.put_blob(stream).await?;
        let not_whole = || BlobError::Unreachable("the network took a file that was not whole".to_owned());
        let plain = seen.recv().await.ok_or_else(not_whole)?;
        Ok(Attachment { mime_type, sha256: plain.sha256, file_size: plain.size, blob, key: key.to_text() })
    }
}

/// Why a link was not sent on.
enum Link {
    /// The link's fault.
    Failed(guard::Error),
    /// Ours, or the network's.
    Network(Failure),
}

impl From<guard::Error> for Link {
    fn from(error: guard::Error) -> Self {
        Self::Failed(error)
    }
}

impl Link {
    fn read(error: &io::Error, limits: Limits) -> Self {
        Self::Failed(match error.kind() {
            io::ErrorKind::FileTooLarge => guard::Error::TooLarge(limits.bytes),
            io::ErrorKind::TimedOut => guard::Error::TimedOut,
            _ => guard::Error::Connection(error.to_string()),
        })
    }
}

/// Enough of the beginning to see what a file is, and the pieces it came in.
async fn beginning(stream: &mut ByteStream) -> io::Result<(Vec<u8>, Vec<Bytes>)> {
    let (mut head, mut pieces) = (Vec::new(), Vec::new());
    while head.len() < content::HEAD {
        let Some(piece) = stream.try_next().await? else { break };
        head.extend_from_slice(&piece[..piece.len().min(content::HEAD)]);
        pieces.push(piece);
    }
    Ok((head, pieces))
}

/// The type of a linked file: what the server says, unless that says nothing; then the name, then the content.
fn type_of(header: Option<&str>, path: &str, head: &[u8]) -> String {
    const NOTHING: [&str; 3] = ["application/octet-stream", "binary/octet-stream", "application/unknown"];
    let told = header.and_then(mime::parse).filter(|told| !NOTHING.contains(&mime::essence(told).as_str()));
    let told = told.map(|told| match content::guess(head) {
        // Servers know no codecs.
        Some(guess) if mime::essence(&told) == "audio/ogg" && mime::is_opus(guess) => guess.to_owned(),
        _ => told,
    });
    told.or_else(|| mime::of_extension(path).map(str::to_owned))
        .or_else(|| content::guess(head).map(str::to_owned))
        .unwrap_or_else(|| "application/octet-stream".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use async_trait::async_trait;
    use estafet_media::{Blobs, guard::Policy};
    use estafet_runtime::Clock;
    use estafet_store::{MediaRow, MediaStore as _, Store as _};
    use estafet_upstream::{BlobStream, ConnectError, Link as Connection, Login, Upstream};
    use serde_json::json;

    use super::*;

    /// A network that counts the files it is left.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[async_trait]
    impl Upstream for Counting {
        async fn connect(&self, _: Login) -> Result<Connection, ConnectError> {
            Err(ConnectError::Unreachable("this network takes files only".to_owned()))
        }

        async fn put_blob(&self, content: BlobStream) -> Result<String, BlobError> {
            content.try_for_each(|_| std::future::ready(Ok(()))).await.map_err(BlobError::Source)?;
            Ok(format!("copy {}", self.0.fetch_add(1, Ordering::Relaxed) + 1))
        }

        async fn get_blob(&self, _: &str) -> Result<BlobStream, BlobError> {
            Err(BlobError::Missing)
        }
    }

    #[tokio::test]
    async fn r132_a_file_that_is_sent_again_after_its_copy_expired_is_left_with_the_network_anew() {
        const DAY_MS: i64 = 24 * 3600 * 1000;
        const START_MS: i64 = 1_800_000_000_000;
        estafet_runtime::install_crypto();
        let (directory, number): (_, WaId) = (tempfile::tempdir().unwrap(), "15550000001".parse().unwrap());
        let store = Arc::new(estafet_store::SqliteStore::memory().await.unwrap());
        store.migrate().await.unwrap();
        let blobs = Blobs::directory(&directory.path().join("media")).unwrap();
        let (upstream, clock) = (Arc::new(Counting::default()), Clock::manual(START_MS));
        let courier = Courier::new(store.clone(), blobs.clone(), upstream.clone(), clock.clone(), Policy::default()).unwrap();
        let id = Uuid::new_v4();
        let mut writer = blobs.create(number, id).await.unwrap();
        writer.write(Bytes::from_static(b"%PDF-1.7")).await.unwrap();
        let written = writer.finish().await.unwrap();
        let (mime_type, used) = ("application/pdf".to_owned(), START_MS);
        let row = MediaRow { id, mime_type, sha256: written.sha256, size: written.size, created_at_ms: used, used_at_ms: used };
        store.put_media(number, &row).await.unwrap();
        let body: Bytes = json!({ "type": "document", "document": { "id": id.to_string() } }).to_string().into();
        let mut keys = Vec::new();
        for (day, copy) in [(0, "copy 1"), (0, "copy 1"), (20, "copy 2")] {
            clock.set(START_MS + day * DAY_MS);
            let prepared = courier.prepare(number, body.clone()).await.unwrap();
            let message: Value = serde_json::from_slice(&prepared).unwrap();
            assert_eq!(message["document"]["blob"], copy, "on day {day}");
            keys.push(message["document"]["key"].clone());
        }
        assert!(keys[0] == keys[1] && keys[1] != keys[2], "a copy has a key of its own");
    }

    #[test]
    fn the_type_of_a_link_is_told_by_the_server_the_name_or_the_content() {
        const JPEG: &[u8] = b"\xff\xd8\xff\xe0";
        for (header, path, head, expected) in [
            (Some("image/png"), "/a.jpg", JPEG, "image/png"),
            (Some("application/octet-stream"), "/a.jpg", b"".as_slice(), "image/jpeg"),
            (None, "/a", JPEG, "image/jpeg"),
            (Some("nonsense"), "/a", JPEG, "image/jpeg"),
            (None, "/a", b"", "application/octet-stream"),
            (Some("audio/ogg"), "/a", b"OggS\0\x02OpusHead", "audio/ogg; codecs=opus"),
            (Some("audio/ogg"), "/a", b"OggS\0\x02", "audio/ogg"),
        ] {
            assert_eq!(type_of(header, path, head), expected, "{header:?} {path}");
        }
    }
}
