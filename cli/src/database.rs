//! Opens the message database: where this fails, the process ends with the words of the original and the cause.

use anyhow::Context as _;
use estafet_store::SharedStore;

/// What the original said when its database could not be used, whatever the cause.
const UNUSABLE: &str = "Unable to initialize config store (--database-url)";

/// Opens the database as `application` and brings its schema up to date.
pub(crate) async fn open(url: &str, application: &str) -> anyhow::Result<SharedStore> {
    let store = estafet_store::open(url, application).await.context(UNUSABLE)?;
    store.migrate().await.context("the message database could not be brought up to date").context(UNUSABLE)?;
    Ok(store)
}
