//! Where the binaries are. The one place of the harness that looks at the environment.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// The `estafet` binary: `ESTAFET_BIN` if set, otherwise the one that lies next to the running test in the target directory.
///
/// Cargo does not tell a test of one package where the binary of another is, and does not build it either;
/// `make test` builds it first.
pub fn estafet_binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = named_binary() {
        if !path.is_file() {
            bail!("ESTAFET_BIN names {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let test = std::env::current_exe().context("the running test has no path")?;
    // target/<profile>/deps/<test> for tests, target/<profile>/<bin> for binaries.
    let candidates = test.ancestors().skip(1).take(2).map(|directory| directory.join("estafet"));
    for candidate in candidates {
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("no `estafet` binary beside {}: run `cargo build -p estafet-cli` first, or set ESTAFET_BIN", test.display())
}

/// Something that tests start and `.ci/tools` installs, by its place below `target/tools`.
pub fn tool(place: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("the running test has no path")?;
    // target/<profile>/deps/<test>
    let target = test.ancestors().nth(3).context("the test has no target directory")?;
    let tool = target.join("tools").join(place);
    ensure!(tool.is_file(), "{} is missing: run `.ci/tools`", tool.display());
    Ok(tool)
}

#[allow(clippy::disallowed_methods, reason = "a test has no configuration; this is where it reads its one variable")]
fn named_binary() -> Option<PathBuf> {
    std::env::var("ESTAFET_BIN").ok().filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Whether `path` lies on a file system in memory, where fsync costs nothing.
pub fn is_in_memory(path: &Path) -> bool {
    file_system_of(path).is_some_and(|name| name == "tmpfs" || name == "ramfs")
}

/// The kind of file system `path` lies on.
pub fn file_system_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mut fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((PathBuf::from(words.nth(1)?), words.next()?.to_owned()))
    });
    let mut best: Option<(PathBuf, String)> = None;
    for (mount, kind) in &mut fields {
        let deeper = best.as_ref().is_none_or(|(known, _)| mount.components().count() >= known.components().count());
        if path.starts_with(&mount) && deeper {
            best = Some((mount, kind));
        }
    }
    best.map(|(_, kind)| kind)
}
