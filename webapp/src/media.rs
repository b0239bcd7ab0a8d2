//! Files of the numbers: taken in a stream, given back in a stream, and looked at before they are sent.
//!
//! The bytes are in the object store before the row is written, and the row is gone before the bytes are: what
//! can be seen is whole. A crash between the two leaves bytes nobody can see; the collector finds them.

use std::{io, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use estafet_media::{Blobs, ByteStream, Kind, Reference, blobs, content, mime};
use estafet_model::{ApiError, Code, WaId};
use estafet_runtime::Clock;
use estafet_store::{MediaRow, SharedStore};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::error::store_failure;

/// Use of a file is noted this often.
const NOTED_AGAIN_MS: i64 = 3600 * 1000;

/// The bytes of a request, piece by piece; `None` at the end.
pub(crate) trait Source: Send {
    /// The next piece, never empty.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, ApiError>> + Send;
}

/// The files of all numbers.
pub(crate) struct Files {
    store: SharedStore,
    blobs: Blobs,
    clock: Clock,
    limit: u64,
    uploads: Arc<Semaphore>,
}

impl Files {
    pub(crate) fn new(store: SharedStore, blobs: Blobs, clock: Clock, limit: u64, uploads: usize) -> Self {
        Self { store, blobs, clock, limit, uploads: Arc::new(Semaphore::new(uploads)) }
    }

    /// The refusal of a file with more bytes than may be uploaded.
    pub(crate) fn too_large(&self) -> ApiError {
        let details = format!("The file is larger than the upload limit of {} bytes", self.limit);
        ApiError::new(Code::ParameterInvalid, details).with_status(413)
    }

    /// Whether a body of this length need not even be begun.
    pub(crate) fn is_too_large(&self, length: u64) -> bool {
        length > self.limit
    }

    /// Takes a file of this type.
    pub(crate) async fn take(
        &self,
        number: WaId,
        content_type: Option<&str>,
        source: &mut impl Source,
    ) -> Result<MediaRow, ApiError> {
        let mime_type = uploadable(content_type)?;
        let _place = self.uploads.try_acquire().map_err(|_| ApiError::new(Code::Overloaded, "Too many uploads at once"))?;
        let head = self.head(source).await?;
        if head.is_empty() {
            return Err(ApiError::new(Code::ParameterMissing, "The request body is empty"));
        }
        if !content::fits(&mime_type, &head) {
            let details = format!("The file is not of the type {mime_type}");
            return Err(ApiError::new(Code::Internal, details).with_status(400));
        }
        let id = Uuid::new_v4();
        let mut writer = self.blobs.create(number, id).await.map_err(|error| unwritable(&error))?;
        let copied = self.copy(head, source, &mut writer).await;
        if let Err(error) = copied {
            if let Err(error) = writer.abort().await {
                tracing::warn!(%error, "an upload that was given up could not be removed");
            }
            return Err(error);
        }
        let written = writer.finish().await.map_err(|error| unwritable(&error))?;
        let now_ms = self.clock.now_ms();
        let row =
            MediaRow { id, mime_type, sha256: written.sha256, size: written.size, created_at_ms: now_ms, used_at_ms: now_ms };
        self.store.put_media(number, &row).await.map_err(|error| store_failure("store a file", &error))?;
        Ok(row)
    }

    /// Enough of the beginning to see what it is.
    async fn head(&self, source: &mut impl Source) -> Result<Bytes, ApiError> {
        let Some(first) = source.next().await? else { return Ok(Bytes::new()) };
        if first.len() >= content::HEAD {
            return Ok(first);
        }
        let mut head = BytesMut::from(first);
        while head.len() < content::HEAD {
            let Some(piece) = source.next().await? else { break };
            head.extend_from_slice(&piece);
        }
        Ok(head.freeze())
    }

    async fn copy(&self, head: Bytes, source: &mut impl Source, writer: &mut blobs::Writer) -> Result<(), ApiError> {
        let mut next = Some(head);
        while let Some(piece) = next {
            if self.is_too_large(writer.size() + piece.len() as u64) {
                return Err(self.too_large());
            }
            writer.write(piece).await.map_err(|error| unwritable(&error))?;
            next = source.next().await?;
        }
        Ok(())
    }

    /// What is known of a file.
    pub(crate) async fn find(&self, number: WaId, id: &str) -> Result<Option<MediaRow>, ApiError> {
        // Nothing else is an id; the store is not even asked.
        let Some(id) = parse_id(id) else { return Ok(None) };
        self.store.media(number, id).await.map_err(|error| store_failure("look for a file", &error))
    }

    /// The bytes of a file; `None` if somebody removed them by hand.
    pub(crate) async fn read(&self, number: WaId, row: &MediaRow, range: Range<u64>) -> Result<Option<ByteStream>, ApiError> {
        self.blobs.read(number, row.id, range).await.map_err(|error| {
            tracing::error!(%error, "a file could not be read");
            ApiError::new(Code::Internal, "The file could not be read")
        })
    }

    /// Removes a file; `false` if there is none.
    pub(crate) async fn remove(&self, number: WaId, id: &str) -> Result<bool, ApiError> {
        let Some(id) = parse_id(id) else { return Ok(false) };
        let removed = self.store.delete_media(number, id).await.map_err(|error| store_failure("remove a file", &error))?;
        if removed && let Err(error) = self.blobs.delete(number, id).await {
            tracing::warn!(%error, "the bytes of a removed file stay behind for the collector");
        }
        Ok(removed)
    }

    /// Refuses a message whose files or providers do not exist or do not fit, and notes that the files are used.
    pub(crate) async fn check(&self, number: WaId, references: &[Reference]) -> Result<(), ApiError> {
        for reference in references {
            if let Some(id) = &reference.id {
                self.check_file(number, reference, id).await?;
            }
            if let Some(name) = reference.provider.as_ref().filter(|_| reference.link.is_some()) {
                let providers = self.store.media_providers(number).await;
                let providers = providers.map_err(|error| store_failure("look for a media provider", &error))?;
                if !providers.iter().any(|provider| provider.name == *name) {
                    let path = format!("{}.provider.name", reference.path);
                    return Err(ApiError::invalid(&path, "is not the name of a media provider"));
                }
            }
        }
        Ok(())
    }

    async fn check_file(&self, number: WaId, reference: &Reference, id: &str) -> Result<(), ApiError> {
        let Some(row) = self.find(number, id).await? else {
            return Err(ApiError::new(Code::ParameterInvalid, "Media id not found"));
        };
        let (kind, path) = (reference.kind, format!("{}.id", reference.path));
        if !kind.takes(&row.mime_type) {
            return Err(ApiError::invalid(
                &path,
                format_args!("is a file of type {}, which is not supported for {kind}", row.mime_type),
            ));
        }
        if row.size > kind.max_bytes() {
            return Err(ApiError::invalid(
                &path,
                format_args!("is a file of {} bytes, {kind} takes {}", row.size, kind.max_bytes()),
            ));
        }
        if kind == Kind::Sticker {
            self.check_sticker(number, &row, &path).await?;
        }
        let now_ms = self.clock.now_ms();
        if now_ms - row.used_at_ms > NOTED_AGAIN_MS {
            self.store.use_media(number, row.id, now_ms).await.map_err(|error| store_failure("note use of a file", &error))?;
        }
        Ok(())
    }

    async fn check_sticker(&self, number: WaId, row: &MediaRow, path: &str) -> Result<(), ApiError> {
        use futures::TryStreamExt as _;
        let end = row.size.min(content::HEAD as u64);
        let Some(stream) = self.read(number, row, 0..end).await? else {
            return Err(ApiError::new(Code::ParameterInvalid, "Media id not found"));
        };
        let collect = stream.try_fold(Vec::new(), |mut head, piece| async move {
            head.extend_from_slice(&piece);
            Ok::<_, io::Error>(head)
        });
        let head = collect.await.map_err(|_| ApiError::new(Code::Internal, "The file could not be read"))?;
        content::sticker_problem(&head).map_or(Ok(()), |problem| Err(ApiError::invalid(path, problem)))
    }
}

/// The type a file may be uploaded with (spec/media.md §1).
fn uploadable(content_type: Option<&str>) -> Result<String, ApiError> {
    let unsupported = |why: &str| ApiError::new(Code::ParameterInvalid, format!("Content-Type: unsupported type: {why}"));
    let content_type = content_type.ok_or_else(|| unsupported("none was given"))?;
    let mime_type = mime::parse(content_type).ok_or_else(|| unsupported("it is not a MIME type"))?;
    if mime::essence(&mime_type) == "audio/ogg" && !mime::is_opus(&mime_type) {
        return Err(unsupported("audio/ogg needs codecs=opus"));
    }
    Ok(mime_type)
}

/// Ids have one spelling: 36 characters in lower case.
fn parse_id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.hyphenated().to_string() == text)
}

/// The original's words when its volume was full or read-only.
fn unwritable(error: &blobs::Error) -> ApiError {
    tracing::error!(%error, "a file could not be written");
    ApiError::new(Code::AccessDenied, "media directory is not writable").with_status(500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ogg_and_what_is_no_type_cannot_be_uploaded() {
        for (content_type, fine) in [
            (Some("image/jpeg"), true),
            (Some("audio/ogg; codecs=opus"), true),
            (Some("application/x-whatever"), true),
            (Some("audio/ogg"), false),
            (Some("audio/ogg; codecs=vorbis"), false),
            (Some("jpeg"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(uploadable(content_type).is_ok(), fine, "{content_type:?}");
        }
    }

    #[test]
    fn only_the_one_spelling_is_an_id() {
        assert!(parse_id("f043afd0-f0ae-4b9c-ab3d-696fb4c8cd68").is_some());
        for text in [
            "F043AFD0-F0AE-4B9C-AB3D-696FB4C8CD68",
            "f043afd0f0ae4b9cab3d696fb4c8cd68",
            "{f043afd0-f0ae-4b9c-ab3d-696fb4c8cd68}",
            "../../etc/passwd",
            "",
        ] {
            assert!(parse_id(text).is_none(), "{text}");
        }
    }
}
