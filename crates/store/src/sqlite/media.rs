//! Rows about files.

use async_trait::async_trait;
use estafet_model::WaId;
use uuid::Uuid;

use super::{SqliteStore, error};
use crate::{
    Result,
    decode::{self, Media, storable},
    media::{MediaRow, MediaStore, ProviderRow},
};

fn key(id: Uuid) -> String {
    id.hyphenated().to_string()
}

#[async_trait]
impl MediaStore for SqliteStore {
    async fn put_media(&self, number: WaId, media: &MediaRow) -> Result<()> {
        let sql =
            "INSERT INTO media (number, id, mime_type, sha256, size, created_at, used_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (number, id) DO NOTHING";
        let query = sqlx::query(sql)
            .bind(number.as_i64())
            .bind(key(media.id))
            .bind(storable(&media.mime_type).into_owned())
            .bind(media.sha256.to_vec())
            .bind(media.size as i64)
            .bind(media.created_at_ms)
            .bind(media.used_at_ms);
        query.execute(&self.writer).await.map(drop).map_err(error)
    }

    async fn media(&self, number: WaId, id: Uuid) -> Result<Option<MediaRow>> {
        let sql = "SELECT mime_type, sha256, size, created_at, used_at FROM media WHERE number = ?1 AND id = ?2";
        let row: Option<(String, Vec<u8>, i64, i64, i64)> =
            sqlx::query_as(sql).bind(number.as_i64()).bind(key(id)).fetch_optional(&self.reader).await.map_err(error)?;
        Ok(row.and_then(|(mime_type, sha256, size, created_at_ms, used_at_ms)| {
            decode::media(Media { id, mime_type, sha256: &sha256, size, created_at_ms, used_at_ms })
        }))
    }

    async fn use_media(&self, number: WaId, id: Uuid, at_ms: i64) -> Result<()> {
        let sql = "UPDATE media SET used_at = ?3 WHERE number = ?1 AND id = ?2 AND used_at < ?3";
        let query = sqlx::query(sql).bind(number.as_i64()).bind(key(id)).bind(at_ms);
        query.execute(&self.writer).await.map(drop).map_err(error)
    }

    async fn delete_media(&self, number: WaId, id: Uuid) -> Result<bool> {
        let query = sqlx::query("DELETE FROM media WHERE number = ?1 AND id = ?2").bind(number.as_i64()).bind(key(id));
        Ok(query.execute(&self.writer).await.map_err(error)?.rows_affected() > 0)
    }

    async fn delete_unused_media(&self, number: WaId, before_ms: i64, limit: u32) -> Result<Vec<Uuid>> {
        let sql = "DELETE FROM media WHERE number = ?1 AND id IN
             (SELECT id FROM media WHERE number = ?1 AND used_at < ?2 ORDER BY used_at LIMIT ?3) RETURNING id";
        let query = sqlx::query_scalar(sql).bind(number.as_i64()).bind(before_ms).bind(limit);
        let ids: Vec<String> = query.fetch_all(&self.writer).await.map_err(error)?;
        Ok(ids.iter().filter_map(|id| Uuid::try_parse(id).ok()).collect())
    }

    async fn media_usage(&self, number: WaId) -> Result<(u64, u64)> {
        let sql = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM media WHERE number = ?1";
        let (count, bytes): (i64, i64) =
            sqlx::query_as(sql).bind(number.as_i64()).fetch_one(&self.reader).await.map_err(error)?;
        Ok((count.unsigned_abs(), bytes.unsigned_abs()))
    }

    async fn media_providers(&self, number: WaId) -> Result<Vec<ProviderRow>> {
        let query = sqlx::query_as("SELECT name, body FROM media_provider WHERE number = ?1 ORDER BY name").bind(number.as_i64());
        let rows: Vec<(String, String)> = query.fetch_all(&self.reader).await.map_err(error)?;
        Ok(rows.into_iter().map(|(name, body)| ProviderRow { name, body }).collect())
    }

    async fn put_media_provider(&self, number: WaId, provider: &ProviderRow) -> Result<()> {
        let sql = "INSERT INTO media_provider (number, name, body) VALUES (?1, ?2, ?3)
             ON CONFLICT (number, name) DO UPDATE SET body = excluded.body";
        let query = sqlx::query(sql)
            .bind(number.as_i64())
            .bind(storable(&provider.name).into_owned())
            .bind(storable(&provider.body).into_owned());
        query.execute(&self.writer).await.map(drop).map_err(error)
    }

    async fn delete_media_provider(&self, number: WaId, name: &str) -> Result<bool> {
        let query = sqlx::query("DELETE FROM media_provider WHERE number = ?1 AND name = ?2");
        let query = query.bind(number.as_i64()).bind(storable(name).into_owned());
        Ok(query.execute(&self.writer).await.map_err(error)?.rows_affected() > 0)
    }
}
