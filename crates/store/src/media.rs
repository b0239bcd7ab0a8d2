//! Rows about files, and the providers of linked ones. The bytes are in an object store; a file exists once
//! its row does, and is gone once its row is.

use async_trait::async_trait;
use estafet_model::WaId;
use uuid::Uuid;

use crate::Result;

/// A file of a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRow {
    /// Its id.
    pub id: Uuid,
    /// MIME type, as the sender gave it.
    pub mime_type: String,
    /// Hash of the plain bytes.
    pub sha256: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// When it was stored, milliseconds since 1970.
    pub created_at_ms: i64,
    /// When it was last stored or sent, milliseconds since 1970.
    pub used_at_ms: i64,
}

/// Whose credentials links may need.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderRow {
    /// Its name.
    pub name: String,
    /// What the API was given, as JSON; holds secrets.
    pub body: String,
}

impl std::fmt::Debug for ProviderRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderRow").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the database knows of files.
#[async_trait]
pub trait MediaStore: Send + Sync + 'static {
    /// Adds a file; one that is there already stays as it is.
    async fn put_media(&self, number: WaId, media: &MediaRow) -> Result<()>;

    /// A file.
    async fn media(&self, number: WaId, id: Uuid) -> Result<Option<MediaRow>>;

    /// Notes that a file was used. The time only moves up.
    async fn use_media(&self, number: WaId, id: Uuid, at_ms: i64) -> Result<()>;

    /// Removes a file; `false` if there is none.
    async fn delete_media(&self, number: WaId, id: Uuid) -> Result<bool>;

    /// Removes files not used since `before_ms`, the longest unused first, at most `limit`; their ids.
    async fn delete_unused_media(&self, number: WaId, before_ms: i64, limit: u32) -> Result<Vec<Uuid>>;

    /// How many files there are, and their bytes.
    async fn media_usage(&self, number: WaId) -> Result<(u64, u64)>;

    /// All providers, by name.
    async fn media_providers(&self, number: WaId) -> Result<Vec<ProviderRow>>;

    /// Adds or replaces a provider.
    async fn put_media_provider(&self, number: WaId, provider: &ProviderRow) -> Result<()>;

    /// Removes a provider; `false` if there is none.
    async fn delete_media_provider(&self, number: WaId, name: &str) -> Result<bool>;
}
