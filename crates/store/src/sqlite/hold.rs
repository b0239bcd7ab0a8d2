//! One process for each database file: an exclusive lock on `<file>.lock`, whose content names the
//! holder. The system drops the lock when the process ends, however it ends.
//!
//! Within the process, each number is held once and all of them share the one lock.

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use estafet_model::WaId;

use crate::{Error, Hold, Holder, Result};

/// What this store holds.
#[derive(Debug, Default)]
pub(super) struct Registry(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    numbers: HashMap<WaId, Holder>,
    /// Locked while `numbers` is not empty; `None` for a database in memory.
    file: Option<File>,
}

struct Guard {
    registry: Arc<Mutex<Held>>,
    number: WaId,
}

impl Registry {
    pub(super) fn take(&self, path: Option<PathBuf>, number: WaId, holder: &Holder) -> Result<Box<dyn Hold>> {
        let mut held = locked(&self.0);
        if let Some(other) = held.numbers.get(&number) {
            return Err(Error::Held { what: format!("number {number}"), holder: Some(Box::new(other.clone())) });
        }
        if let (true, Some(path)) = (held.file.is_none(), path) {
            held.file = Some(lock(path, holder)?);
        }
        held.numbers.insert(number, holder.clone());
        Ok(Box::new(Guard { registry: Arc::clone(&self.0), number }))
    }
}

impl Hold for Guard {
    fn is_held(&self) -> bool {
        true
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut held = locked(&self.registry);
        held.numbers.remove(&self.number);
        if held.numbers.is_empty() {
            held.file = None;
        }
    }
}

fn locked(registry: &Mutex<Held>) -> MutexGuard<'_, Held> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock(path: PathBuf, holder: &Holder) -> Result<File> {
    let what = path.display().to_string();
    let failed = |cause: std::io::Error| Error::Failed(format!("{what}: {cause}"));
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::Held { what, holder: named_in(&mut file) }),
        Err(TryLockError::Error(cause)) => return Err(failed(cause)),
    }
    let content = serde_json::to_vec(holder).map_err(|cause| Error::Failed(cause.to_string()))?;
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&content)).map_err(failed)?;
    Ok(file)
}

/// The holder writes its name after it locked, so for a moment there may be none.
fn named_in(file: &mut File) -> Option<Box<Holder>> {
    let mut content = String::new();
    file.read_to_string(&mut content).ok()?;
    serde_json::from_str(&content).ok()
}
