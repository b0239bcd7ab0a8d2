//! A small volume for a test, that can be filled.
//!
//! [`run`] gives the calling thread, and every thread and process that is started from it, mounts of their own, and
//! puts a file system of a few MiB at a directory. It ends with the last of them, so nothing is ever left behind.

use std::{future::Future, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};

/// Runs a test with a volume of this many MiB at `directory`, which is made if absent. Where the kernel does not
/// permit one, says so on standard error and runs nothing.
#[allow(clippy::print_stderr, reason = "a test that was skipped must say so")]
pub fn run<F: Future<Output = anyhow::Result<()>>>(directory: &Path, mib: u32, test: impl FnOnce() -> F) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    if let Err(reason) = mount(directory, mib) {
        eprintln!("skipped, no volume of its own for this test: {reason:#}");
        return Ok(());
    }
    // Its threads are started from this one, so they see the same mounts.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(test())
}

fn mount(directory: &Path, mib: u32) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("mounts of its own are not permitted (CAP_SYS_ADMIN)")?;
    // Else the volume would be seen outside.
    mounted(Command::new("mount").args(["--make-rprivate", "/"]))?;
    mounted(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(directory))
}

fn mounted(command: &mut Command) -> anyhow::Result<()> {
    let done = command.output().context("`mount` cannot be started")?;
    ensure!(done.status.success(), "mount: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}
