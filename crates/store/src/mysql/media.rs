//! Rows about files. On the reading sessions: a slow commit must not hold up an upload.

use async_trait::async_trait;
use estafet_model::WaId;
use uuid::Uuid;

use super::{MySqlStore, read::text};
use crate::{
    Result,
    decode::{self, Media, storable},
    media::{MediaRow, MediaStore, ProviderRow},
};

fn key(id: Uuid) -> Vec<u8> {
    id.hyphenated().to_string().into_bytes()
}

#[async_trait]
impl MediaStore for MySqlStore {
    async fn put_media(&self, number: WaId, media: &MediaRow) -> Result<()> {
        let sql = "INSERT INTO media (number, id, mime_type, sha256, size, created_at, used_at) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON DUPLICATE KEY UPDATE id = media.id";
        let query = sqlx::query(sql)
            .bind(number.as_i64())
            .bind(key(media.id))
            .bind(storable(&media.mime_type).into_owned())
            .bind(media.sha256.to_vec())
            .bind(media.size as i64)
            .bind(media.created_at_ms)
            .bind(media.used_at_ms);
        self.reader.run(query).await.map(drop)
    }

    async fn media(&self, number: WaId, id: Uuid) -> Result<Option<MediaRow>> {
        let sql = "SELECT mime_type, sha256, size, created_at, used_at FROM media WHERE number = ? AND id = ?";
        let rows: Vec<(String, Vec<u8>, i64, i64, i64)> =
            self.reader.rows(sqlx::query_as(sql).bind(number.as_i64()).bind(key(id))).await?;
        Ok(rows.into_iter().next().and_then(|(mime_type, sha256, size, created_at_ms, used_at_ms)| {
            decode::media(Media { id, mime_type, sha256: &sha256, size, created_at_ms, used_at_ms })
        }))
    }

    async fn use_media(&self, number: WaId, id: Uuid, at_ms: i64) -> Result<()> {
        let sql = "UPDATE media SET used_at = GREATEST(used_at, ?) WHERE number = ? AND id = ?";
        self.reader.run(sqlx::query(sql).bind(at_ms).bind(number.as_i64()).bind(key(id))).await.map(drop)
    }

    async fn delete_media(&self, number: WaId, id: Uuid) -> Result<bool> {
        let query = sqlx::query("DELETE FROM media WHERE number = ? AND id = ?").bind(number.as_i64()).bind(key(id));
        Ok(self.reader.run(query).await?.rows_affected() > 0)
    }

    async fn delete_unused_media(&self, number: WaId, before_ms: i64, limit: u32) -> Result<Vec<Uuid>> {
        let sql = "SELECT id FROM media WHERE number = ? AND used_at < ? ORDER BY used_at LIMIT ?";
        let found: Vec<(Vec<u8>,)> =
            self.reader.rows(sqlx::query_as(sql).bind(number.as_i64()).bind(before_ms).bind(limit)).await?;
        let mut deleted = Vec::new();
        // There is no RETURNING on MySQL; each row is looked at again, for it may have been used meanwhile.
        for id in found.into_iter().filter_map(|(id,)| Uuid::try_parse(&text(id)).ok()) {
            let delete = sqlx::query("DELETE FROM media WHERE number = ? AND id = ? AND used_at < ?");
            let delete = delete.bind(number.as_i64()).bind(key(id)).bind(before_ms);
            if self.reader.run(delete).await?.rows_affected() > 0 {
                deleted.push(id);
            }
        }
        Ok(deleted)
    }

    async fn media_usage(&self, number: WaId) -> Result<(u64, u64)> {
        let sql = "SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS SIGNED) FROM media WHERE number = ?";
        let rows: Vec<(i64, i64)> = self.reader.rows(sqlx::query_as(sql).bind(number.as_i64())).await?;
        Ok(rows.first().map_or((0, 0), |(count, bytes)| (count.unsigned_abs(), bytes.unsigned_abs())))
    }

    async fn media_providers(&self, number: WaId) -> Result<Vec<ProviderRow>> {
        let query = sqlx::query_as("SELECT name, body FROM media_provider WHERE number = ? ORDER BY name").bind(number.as_i64());
        let rows: Vec<(Vec<u8>, String)> = self.reader.rows(query).await?;
        Ok(rows.into_iter().map(|(name, body)| ProviderRow { name: text(name), body }).collect())
    }

    async fn put_media_provider(&self, number: WaId, provider: &ProviderRow) -> Result<()> {
        let sql = "INSERT INTO media_provider (number, name, body) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE body = VALUES(body)";
        let name = storable(&provider.name).into_owned().into_bytes();
        let query = sqlx::query(sql).bind(number.as_i64()).bind(name).bind(storable(&provider.body).into_owned());
        self.reader.run(query).await.map(drop)
    }

    async fn delete_media_provider(&self, number: WaId, name: &str) -> Result<bool> {
        let query = sqlx::query("DELETE FROM media_provider WHERE number = ? AND name = ?");
        let query = query.bind(number.as_i64()).bind(storable(name).into_owned().into_bytes());
        Ok(self.reader.run(query).await?.rows_affected() > 0)
    }
}
