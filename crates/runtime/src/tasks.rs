//! Named tasks and their orderly end: cancel, then wait until the last one left.
//!
//! A panic in a task is not survived half-alive (F19): it is logged and the whole process is asked
//! to shut down; the rest of the cluster takes over.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks that end together.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` as a task. If it panics, the group is shut down.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let inner = tokio::spawn(self.tracker.track_future(future));
        tokio::spawn(async move {
            if let Err(error) = inner.await
                && error.is_panic()
            {
                tracing::error!(task = name, "task panicked, shutting down");
                shutdown.cancel();
            }
        })
    }

    /// The signal that ends the group's tasks.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Asks the tasks to end and waits for them, at most `deadline`; says whether all did.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

/// Resolves at SIGTERM or SIGINT.
pub async fn termination() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
