//! Child processes that are ready when they say so and end with their owner.
//!
//! A child is killed and waited for when its [`Process`] is dropped, also while a test panics, so its
//! directory can be removed after it. Readiness is a line of its output; the rest of the output goes to a
//! log file whose end is part of every error.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use nix::{sys::signal::Signal, unistd::Pid};
use tokio::sync::oneshot;

/// Where a child says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announces {
    /// On its standard output; standard error is the log.
    OnStdout,
    /// On its standard error, which is also the log.
    OnStderr,
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Option<Child>,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `command` and returns when a line of its output makes `ready` answer, with that answer.
    /// The log is appended to, so the log of a restarted child holds all its lives.
    pub async fn start<T, F>(
        name: &str,
        mut command: Command,
        log: &Path,
        announces: Announces,
        ready: F,
        deadline: Duration,
    ) -> anyhow::Result<(Self, T)>
    where
        T: Send + 'static,
        F: FnMut(&str) -> Option<T> + Send + 'static,
    {
        let file =
            File::options().create(true).append(true).open(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null());
        match announces {
            Announces::OnStdout => command.stdout(Stdio::piped()).stderr(file.try_clone()?),
            Announces::OnStderr => command.stdout(file.try_clone()?).stderr(Stdio::piped()),
        };
        let mut child = command.spawn().with_context(|| format!("cannot start {name}: {:?}", command.get_program()))?;
        let output: Box<dyn std::io::Read + Send> = match announces {
            Announces::OnStdout => Box::new(child.stdout.take().expect("stdout was piped above")),
            Announces::OnStderr => Box::new(child.stderr.take().expect("stderr was piped above")),
        };
        let (announce, announced) = oneshot::channel();
        std::thread::Builder::new().name(format!("{name} output")).spawn(move || follow(output, file, ready, announce))?;
        let pid = child.id();
        let mut process = Self { name: name.to_owned(), child: Some(child), pid, log: log.to_owned() };
        match tokio::time::timeout(deadline, announced).await {
            Ok(Ok(answer)) => Ok((process, answer)),
            Ok(Err(_)) => {
                let status = process.reap().map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
                Err(process.explain(&format!("ended before it was ready ({status})")))
            }
            Err(_) => Err(process.explain(&format!("was not ready after {deadline:?}"))),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if self.child.is_none() {
            bail!("{} has ended", self.name);
        }
        nix::sys::signal::kill(Pid::from_raw(self.pid.cast_signed()), signal).with_context(|| format!("signal to {}", self.name))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails only for a child that has ended, which is what is wanted.
            let _ = child.kill();
        }
        self.reap();
    }

    /// Waits until it ends by itself; kills it at the deadline and fails.
    pub async fn wait(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let mut child = self.child.take().ok_or_else(|| anyhow!("{} has ended", self.name))?;
        let mut waiting = tokio::task::spawn_blocking(move || child.wait());
        match tokio::time::timeout(deadline, &mut waiting).await {
            Ok(joined) => Ok(joined.context("waiting for a child panicked")??),
            Err(_) => {
                // The waiting thread reaps it.
                let _ = nix::sys::signal::kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
                let _ = waiting.await;
                Err(self.explain(&format!("did not end within {deadline:?}")))
            }
        }
    }

    /// Waits, on this thread, until a child that was told to end has ended.
    pub(crate) fn wait_here(&mut self) {
        self.reap();
    }

    fn reap(&mut self) -> Option<ExitStatus> {
        self.child.take().and_then(|mut child| child.wait().ok())
    }

    fn explain(&self, what: &str) -> anyhow::Error {
        anyhow!("{} {what}\n--- end of {} ---\n{}", self.name, self.log.display(), end_of(&self.log))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Copies the output until it ends, so that the child never blocks on a full pipe.
fn follow<T>(
    output: Box<dyn std::io::Read + Send>,
    mut log: File,
    mut ready: impl FnMut(&str) -> Option<T>,
    announce: oneshot::Sender<T>,
) {
    let mut announce = Some(announce);
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        // A log that cannot be written must not stop the reading.
        let _ = writeln!(log, "{line}");
        if announce.is_some()
            && let Some(answer) = ready(&line)
            && let Some(announce) = announce.take()
        {
            // Nobody listens any more after the deadline.
            let _ = announce.send(answer);
        }
    }
}

/// The last lines of a log.
pub fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[tokio::test]
    async fn a_child_that_ends_early_is_an_error_that_shows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let command = shell("echo no room >&2; exit 3");
        let started =
            Process::start("child", command, &dir.path().join("log"), Announces::OnStdout, |_| Some(()), crate::PATIENCE).await;
        let error = started.unwrap_err().to_string();
        assert!(error.contains("no room") && error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let command = shell("echo ready; exec cat /dev/zero >/dev/null");
        let ready = |line: &str| (line == "ready").then_some(());
        let (process, ()) =
            Process::start("child", command, &dir.path().join("log"), Announces::OnStdout, ready, crate::PATIENCE).await.unwrap();
        let pid = Pid::from_raw(process.pid().cast_signed());
        drop(process);
        assert_eq!(nix::sys::signal::kill(pid, None), Err(nix::errno::Errno::ESRCH));
    }
}
