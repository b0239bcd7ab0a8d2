//! Rows about files. On the reading connections: a slow commit must not hold up an upload.

use async_trait::async_trait;
use estafet_model::WaId;
use uuid::Uuid;

use super::{PostgresStore, connections::Step};
use crate::{
    Result,
    decode::{self, Media, storable},
    media::{MediaRow, MediaStore, ProviderRow},
};

fn key(id: Uuid) -> String {
    id.hyphenated().to_string()
}

#[async_trait]
impl MediaStore for PostgresStore {
    async fn put_media(&self, number: WaId, media: &MediaRow) -> Result<()> {
        let step = Step::new(
            "INSERT INTO media (number, id, mime_type, sha256, size, created_at, used_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (number, id) DO NOTHING",
        );
        let step = step
            .bind(number.as_i64())
            .bind(key(media.id))
            .bind(storable(&media.mime_type))
            .bind(media.sha256.to_vec())
            .bind(media.size as i64)
            .bind(media.created_at_ms)
            .bind(media.used_at_ms);
        self.reader.query(step).await.map(drop)
    }

    async fn media(&self, number: WaId, id: Uuid) -> Result<Option<MediaRow>> {
        let step = Step::new("SELECT mime_type, sha256, size, created_at, used_at FROM media WHERE number = $1 AND id = $2");
        let rows = self.reader.query(step.bind(number.as_i64()).bind(key(id))).await?;
        let decoded = rows.first().and_then(|row| {
            decode::media(Media {
                id,
                mime_type: row.get(0),
                sha256: row.get(1),
                size: row.get(2),
                created_at_ms: row.get(3),
                used_at_ms: row.get(4),
            })
        });
        Ok(decoded)
    }

    async fn use_media(&self, number: WaId, id: Uuid, at_ms: i64) -> Result<()> {
        let step = Step::new("UPDATE media SET used_at = $3 WHERE number = $1 AND id = $2 AND used_at < $3");
        self.reader.query(step.bind(number.as_i64()).bind(key(id)).bind(at_ms)).await.map(drop)
    }

    async fn delete_media(&self, number: WaId, id: Uuid) -> Result<bool> {
        let step = Step::new("DELETE FROM media WHERE number = $1 AND id = $2 RETURNING 1");
        Ok(!self.reader.query(step.bind(number.as_i64()).bind(key(id))).await?.is_empty())
    }

    async fn delete_unused_media(&self, number: WaId, before_ms: i64, limit: u32) -> Result<Vec<Uuid>> {
        let step = Step::new(
            "DELETE FROM media WHERE number = $1 AND used_at < $2 AND id IN
             (SELECT id FROM media WHERE number = $1 AND used_at < $2 ORDER BY used_at LIMIT $3) RETURNING id",
        );
        let rows = self.reader.query(step.bind(number.as_i64()).bind(before_ms).bind(i64::from(limit))).await?;
        Ok(rows.iter().filter_map(|row| Uuid::try_parse(row.get(0)).ok()).collect())
    }

    async fn media_usage(&self, number: WaId) -> Result<(u64, u64)> {
        let step = Step::new("SELECT COUNT(*), COALESCE(SUM(size), 0)::int8 FROM media WHERE number = $1");
        let rows = self.reader.query(step.bind(number.as_i64())).await?;
        Ok(rows.first().map_or((0, 0), |row| (row.get::<_, i64>(0).unsigned_abs(), row.get::<_, i64>(1).unsigned_abs())))
    }

    async fn media_providers(&self, number: WaId) -> Result<Vec<ProviderRow>> {
        let step = Step::new("SELECT name, body FROM media_provider WHERE number = $1 ORDER BY name COLLATE \"C\"");
        let rows = self.reader.query(step.bind(number.as_i64())).await?;
        Ok(rows.iter().map(|row| ProviderRow { name: row.get(0), body: row.get(1) }).collect())
    }

    async fn put_media_provider(&self, number: WaId, provider: &ProviderRow) -> Result<()> {
        let step = Step::new(
            "INSERT INTO media_provider (number, name, body) VALUES ($1, $2, $3)
             ON CONFLICT (number, name) DO UPDATE SET body = excluded.body",
        );
        let step = step.bind(number.as_i64()).bind(storable(&provider.name)).bind(storable(&provider.body));
        self.reader.query(step).await.map(drop)
    }

    async fn delete_media_provider(&self, number: WaId, name: &str) -> Result<bool> {
        let step = Step::new("DELETE FROM media_provider WHERE number = $1 AND name = $2 RETURNING 1");
        Ok(!self.reader.query(step.bind(number.as_i64()).bind(storable(name))).await?.is_empty())
    }
}
