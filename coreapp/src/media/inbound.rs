//! Files of messages that users wrote. The callback is stored with what names the file at the network; before it
//! is posted the file is fetched, verified and stored, and the callback gets its id.
//!
//! The id follows from the message, so that a callback that is posted again after a crash has the same bytes. A
//! file that is not wanted (`media.auto_download`) or cannot be had is told without an id.

use std::{io, time::Duration};

use bytes::Bytes;
use estafet_media::Kind;
use estafet_model::{Code, WaId, settings::Settings};
use estafet_store::MediaRow;
use estafet_upstream::{
    BlobError,
    attachment::{Attachment, FileKey},
};
use ring::digest;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Courier, opened};

/// Kind of the events whose callback waits for a file.
pub(crate) const KIND: &str = "inbound_media";
/// After this a file that cannot be had is given up.
const DEADLINE: Duration = Duration::from_secs(600);
/// Longest time one try may take.
const TRY: Duration = Duration::from_secs(120);

/// Why a file was not fetched.
enum Failure {
    /// For good.
    Final(&'static str),
    /// For now.
    Passing(String),
}

impl Courier {
    /// The callback as it is posted; an error says why it is not ready yet.
    pub(crate) async fn complete(&self, number: WaId, callback: &Bytes, settings: &Settings) -> Result<Bytes, String> {
        let Ok(mut body) = serde_json::from_slice::<Value>(callback) else { return Ok(callback.clone()) };
        let Some(message) = body.pointer_mut("/messages/0").and_then(Value::as_object_mut) else { return Ok(callback.clone()) };
        let Some((kind, attachment)) = file_of(message) else { return Ok(callback.clone()) };
        let wanted = settings.media.auto_download.iter().any(|word| word == kind.as_str());
        let outcome = if wanted { self.fetch_in_time(number, message, kind, &attachment).await? } else { None };
        let error = match outcome {
            Some(Ok(id)) => {
                settle(message, kind, Some(id));
                None
            }
            Some(Err(problem)) => Some(problem),
            None => None,
        };
        if !matches!(outcome, Some(Ok(_))) {
            settle(message, kind, None);
        }
        if let Some(problem) = error {
            let code = Code::MediaDownloadError;
            message.insert("errors".to_owned(), json!([{ "code": code.number(), "title": code.title(), "details": problem }]));
        }
        Ok(body.to_string().into())
    }

    async fn fetch_in_time(
        &self,
        number: WaId,
        message: &Map<String, Value>,
        kind: Kind,
        attachment: &Attachment,
    ) -> Result<Option<Result<Uuid, &'static str>>, String> {
        let message_id = message.get("id").and_then(Value::as_str).unwrap_or_default();
        let sent_at_s: i64 = message.get("timestamp").and_then(|at| at.as_str()?.parse().ok()).unwrap_or_default();
        let id = id_of(number, message_id);
        let fetched = tokio::time::timeout(TRY, self.fetch(number, id, kind, attachment)).await;
        match fetched.unwrap_or_else(|_| Err(Failure::Passing("it takes too long".to_owned()))) {
            Ok(()) => Ok(Some(Ok(id))),
            Err(Failure::Final(problem)) => Ok(Some(Err(problem))),
            Err(Failure::Passing(problem)) => {
                let age_ms = self.0.clock.now_ms() - sent_at_s * 1000;
                if age_ms > DEADLINE.as_millis() as i64 {
                    tracing::error!(%number, problem, "a received file was given up");
                    return Ok(Some(Err("The file could not be fetched in time")));
                }
                Err(problem)
            }
        }
    }

    async fn fetch(&self, number: WaId, id: Uuid, kind: Kind, attachment: &Attachment) -> Result<(), Failure> {
        let passing = |error: &dyn std::error::Error| Failure::Passing(error.to_string());
        if self.0.store.media(number, id).await.map_err(|error| passing(&error))?.is_some() {
            return Ok(());
        }
        if attachment.file_size > kind.max_bytes() {
            return Err(Failure::Final("The file is too large"));
        }
        let _place = self.0.places.acquire().await.map_err(|error| passing(&error))?;
        let key = FileKey::from_text(&attachment.key).ok_or(Failure::Final("The file has no key"))?;
        let sealed = self.0.upstream.get_blob(&attachment.blob).await.map_err(|error| match error {
            BlobError::Missing => Failure::Final("The network does not have the file"),
            other => passing(&other),
        })?;
        let mut writer = self.0.blobs.create(number, id).await.map_err(|error| passing(&error))?;
        let copied = opened(sealed, &key, &mut writer, kind.max_bytes()).await;
        let is_genuine = copied.as_ref().is_ok_and(|plain| plain.sha256 == attachment.sha256);
        let failure = match &copied {
            Ok(_) if is_genuine => None,
            Ok(_) => Some(Failure::Final("The file is not what the message says")),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Some(Failure::Final("The file is damaged")),
            Err(error) => Some(passing(error)),
        };
        if let Some(failure) = failure {
            if let Err(error) = writer.abort().await {
                tracing::warn!(%error, "a file that was given up could not be removed");
            }
            return Err(failure);
        }
        let written = writer.finish().await.map_err(|error| passing(&error))?;
        let (now_ms, mime_type) = (self.0.clock.now_ms(), attachment.mime_type.clone());
        let row =
            MediaRow { id, mime_type, sha256: written.sha256, size: written.size, created_at_ms: now_ms, used_at_ms: now_ms };
        self.0.store.put_media(number, &row).await.map_err(|error| passing(&error))
    }
}

/// The file a message names.
fn file_of(message: &Map<String, Value>) -> Option<(Kind, Attachment)> {
    let kind = Kind::from_word(message.get("type")?.as_str()?)?;
    let attachment = serde_json::from_value(message.get(kind.as_str())?.clone()).ok()?;
    Some((kind, attachment))
}

/// Whether a callback waits for a file.
pub(crate) fn waits(content: &[u8]) -> bool {
    let named = serde_json::from_slice::<Value>(content).ok();
    named.is_some_and(|message| message.as_object().is_some_and(|message| file_of(message).is_some()))
}

/// Puts the id in the place of what named the file at the network, or says that there is none.
fn settle(message: &mut Map<String, Value>, kind: Kind, id: Option<Uuid>) {
    let Some(media) = message.get_mut(kind.as_str()).and_then(Value::as_object_mut) else { return };
    ["blob", "key", "file_size"].iter().for_each(|name| drop(media.remove(*name)));
    match id {
        Some(id) => media.insert("id".to_owned(), json!(id)),
        None => media.insert("status".to_owned(), json!("undownloaded")),
    };
    // A document without a caption shows its name (spec/webhooks.md §4).
    if kind == Kind::Document
        && !media.contains_key("caption")
        && let Some(filename) = media.get("filename").cloned()
    {
        media.insert("caption".to_owned(), filename);
    }
}

/// The id of the file of a message: always the same.
fn id_of(number: WaId, message_id: &str) -> Uuid {
    let hash = digest::digest(&digest::SHA256, format!("{number}/{message_id}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str) -> Map<String, Value> {
        let attachment = Attachment {
            mime_type: "image/jpeg".to_owned(),
            sha256: "00".repeat(32),
            file_size: 7,
            blob: "b".to_owned(),
            key: "secret".to_owned(),
        };
        let mut media = serde_json::to_value(attachment).unwrap();
        media["filename"] = json!("a.jpg");
        json!({"type": kind, kind: media}).as_object().unwrap().clone()
    }

    #[test]
    fn a_callback_names_the_file_by_id_and_tells_no_key() {
        let id = id_of("15550000001".parse().unwrap(), "ABGG");
        assert_eq!((id.get_version_num(), id), (4, id_of("15550000001".parse().unwrap(), "ABGG")));
        for (stored, member, value) in [(Some(id), "id", json!(id)), (None, "status", json!("undownloaded"))] {
            let mut message = message("image");
            assert!(waits(&serde_json::to_vec(&message).unwrap()));
            settle(&mut message, Kind::Image, stored);
            let expected = json!({"mime_type": "image/jpeg", "sha256": "00".repeat(32), "filename": "a.jpg", member: value});
            assert_eq!(message["image"], expected);
        }
    }

    #[test]
    fn a_document_without_a_caption_shows_its_name() {
        let mut document = message("document");
        settle(&mut document, Kind::Document, None);
        assert_eq!(document["document"]["caption"], "a.jpg");
    }
}
