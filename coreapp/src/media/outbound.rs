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
    use super::*;

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
