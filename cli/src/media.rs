//! Where files are kept: the options every process with files has, and `estafet media`, which looks at them.

use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use estafet_media::{Blobs, BucketSettings, StoredFile};
use estafet_model::WaId;
use serde_json::{Value, json};

use crate::{args::Misconfigured, output::line};

/// Options of `estafet media`.
#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    #[command(subcommand)]
    action: FilesAction,
}

/// What to do with files.
#[derive(Debug, Subcommand)]
enum FilesAction {
    /// List the files of a number: id, bytes, when it was written.
    List {
        /// The business number.
        number: WaId,
        #[command(flatten)]
        store: MediaArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Options of the object store.
#[derive(Clone, Debug, Args)]
pub(crate) struct MediaArgs {
    /// Where files are kept: file:///DIRECTORY or s3://BUCKET/PREFIX. Webapps and coreapps of a cluster share one.
    #[arg(long, env = "ESTAFET_MEDIA_STORE", value_name = "URL")]
    pub(crate) media_store: Option<String>,
    /// URL of the server that speaks S3. Without it Amazon's (or AWS_ENDPOINT_URL).
    #[arg(long, env = "ESTAFET_MEDIA_ENDPOINT", value_name = "URL")]
    pub(crate) media_endpoint: Option<String>,
    /// Region of the bucket (or AWS_REGION).
    #[arg(long, env = "ESTAFET_MEDIA_REGION")]
    pub(crate) media_region: Option<String>,
    /// Access key (or AWS_ACCESS_KEY_ID, or the role of the machine).
    #[arg(long, env = "ESTAFET_MEDIA_ACCESS_KEY_ID", hide_env_values = true)]
    pub(crate) media_access_key_id: Option<String>,
    /// Secret of the access key (or AWS_SECRET_ACCESS_KEY).
    #[arg(long, env = "ESTAFET_MEDIA_SECRET_ACCESS_KEY", hide_env_values = true)]
    pub(crate) media_secret_access_key: Option<String>,
}

/// Runs `estafet media`.
pub(crate) async fn run(args: FilesArgs) -> anyhow::Result<()> {
    let FilesAction::List { number, store, json } = args.action;
    let mut files = store.reach(None)?.files(number).await?;
    files.sort_unstable_by_key(|file| (file.written_at_ms, file.id));
    if json {
        return line(&serde_json::to_string_pretty(&files.iter().map(entry).collect::<Vec<_>>())?);
    }
    line(&format!("{:<36} {:>12} WRITTEN", "ID", "BYTES"))?;
    for file in files {
        line(&format!("{:<36} {:>12} {}", file.id, file.size, written(&file)))?;
    }
    Ok(())
}

fn entry(file: &StoredFile) -> Value {
    json!({ "id": file.id.to_string(), "bytes": file.size, "written": written(file) })
}

fn written(file: &StoredFile) -> String {
    let moment = DateTime::from_timestamp_millis(file.written_at_ms).unwrap_or_default();
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl MediaArgs {
    /// Opens the store, or `default`, and proves that it can be written.
    pub(crate) async fn open(&self, default: Option<&Path>) -> anyhow::Result<Blobs> {
        let blobs = self.reach(default)?;
        blobs.probe().await.context("--media-store cannot be written (check its endpoint, region and keys)")?;
        Ok(blobs)
    }

    /// Opens the store, or `default`, whether it answers or not.
    fn reach(&self, default: Option<&Path>) -> anyhow::Result<Blobs> {
        let misconfigured = |problem: String| anyhow::Error::from(Misconfigured(vec![format!("--media-store {problem}")]));
        let bucket = BucketSettings {
            endpoint: self.media_endpoint.clone(),
            region: self.media_region.clone(),
            access_key_id: self.media_access_key_id.clone(),
            secret_access_key: self.media_secret_access_key.clone(),
        };
        let blobs = match (&self.media_store, default) {
            (Some(location), _) => Blobs::open(location, &bucket),
            (None, Some(directory)) => Blobs::directory(directory),
            (None, None) => return Err(misconfigured("must be given: file:///DIRECTORY or s3://BUCKET/PREFIX".to_owned())),
        };
        blobs.map_err(|error| misconfigured(error.to_string()))
    }
}
