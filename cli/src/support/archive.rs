//! The bundle as a file: a compressed tar archive below one directory, readable by its owner alone. It is written
//! whole under its name or not at all, and never in the place of another file.

use std::{
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use flate2::{Compression, write::GzEncoder};

/// A file of the bundle.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its path below the directory.
    pub(super) name: String,
    /// What is in it.
    pub(super) content: String,
}

/// The archive; `directory` is the one all its files are in.
pub(super) fn packed(directory: &str, entries: &[Entry], made_at_s: u64) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(made_at_s);
        archive.append_data(&mut header, format!("{directory}/{}", entry.name), entry.content.as_bytes())?;
    }
    Ok(archive.into_inner()?.finish()?)
}

/// Writes a file that is not there yet.
pub(super) fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("{} cannot be written", path.display());
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(failed)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half an archive is worse than none; the first error is the one to tell.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(failed)
}

/// A name in the bundle for a file elsewhere; different ones for different places in the list.
pub(super) fn name_of(position: usize, path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    PathBuf::from("logs").join(format!("{position:02}-{plain}")).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_never_written_in_the_place_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar.gz");
        let entry = Entry { name: "a/b.txt".to_owned(), content: "hello".to_owned() };
        let packed = packed("bundle", &[entry], 1_800_000_000).unwrap();
        write(&path, &packed).unwrap();
        assert!(write(&path, b"another").unwrap_err().to_string().contains("bundle.tar.gz"));
        assert_eq!(std::fs::read(&path).unwrap(), packed);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&packed[..]));
        let names: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("bundle/a/b.txt")]);
    }

    #[test]
    fn names_of_logs_stay_in_their_directory() {
        assert_eq!(name_of(0, Path::new("/var/log/core app.log")), "logs/00-core_app.log");
        assert_eq!(name_of(1, Path::new("../..")), "logs/01-");
    }
}
