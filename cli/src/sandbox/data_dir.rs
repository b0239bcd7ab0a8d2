//! The data directory: one process at a time, and the second is told who has it.

use std::{
    fs::{self, File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use estafet_store::Holder;

/// A directory this process holds until it ends, however it ends.
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
    /// Removes a temporary directory at exit.
    _temporary: Option<tempfile::TempDir>,
}

impl DataDir {
    /// Takes `path` (or a fresh temporary directory). If another process holds it, that process is told
    /// of the attempt and the error says who it is.
    pub(crate) async fn open(path: Option<&Path>, holder: &Holder) -> anyhow::Result<Self> {
        let temporary = match path {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("estafet-").tempdir().context("temporary directory")?),
        };
        let path = path.or(temporary.as_ref().map(tempfile::TempDir::path)).expect("one of the two is there").to_owned();
        fs::create_dir_all(&path).with_context(|| format!("--data-dir {}", path.display()))?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("sandbox.lock"))
            .with_context(|| format!("--data-dir {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return refuse(&path, &mut lock).await,
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("--data-dir {}", path.display())),
        }
        let mut dir = Self { path, lock, _temporary: temporary };
        dir.announce(holder)?;
        Ok(dir)
    }

    /// Writes who holds the directory, for the next one who wants it.
    pub(crate) fn announce(&mut self, holder: &Holder) -> anyhow::Result<()> {
        self.lock.set_len(0)?;
        self.lock.rewind()?;
        self.lock.write_all(&serde_json::to_vec(holder)?)?;
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

async fn refuse(path: &Path, lock: &mut File) -> anyhow::Result<DataDir> {
    let mut text = String::new();
    // The holder may be writing this very moment; then it stays unnamed.
    let _ = lock.read_to_string(&mut text);
    match serde_json::from_str::<Holder>(&text) {
        Ok(holder) => {
            super::control::report_conflict(&holder).await;
            let at = holder.base_url.as_deref().map(|url| format!(", answering at {url}")).unwrap_or_default();
            bail!("data directory {} is held by {holder}{at}", path.display())
        }
        Err(_) => bail!("data directory {} is held by another process", path.display()),
    }
}
