//! Makes a certificate authority and certificates of roles: for local clusters, small ones, and tests.
//!
//! An authority is a file `ca.pem` and its key `ca-key.pem` in a directory; it is made when it is not there and
//! used when it is. A certificate is `ROLE-NODE.pem` with `ROLE-NODE-key.pem`. Keys are readable by their owner only.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use estafet_runtime::Clock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::{
    Files,
    identity::{Identity, Invalid},
    material::{self, Material},
};

/// Slack before the moment of making, for clocks that differ.
const BEFORE: Duration = Duration::from_secs(3600);
/// Life of an authority.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A certificate cannot be made like this.
    #[error("certificate for {of}")]
    Make {
        /// Whose.
        of: String,
        /// Cause.
        source: rcgen::Error,
    },
    /// The certificate that was made does not work.
    #[error("certificate for {of}; was the authority made for another cluster?")]
    Refused {
        /// Whose.
        of: String,
        /// Cause.
        source: Box<material::Error>,
    },
    /// The name of the cluster cannot be used.
    #[error("cluster {name}: {source}")]
    Cluster {
        /// The name.
        name: String,
        /// Cause.
        source: Invalid,
    },
}

/// A certificate authority in a directory.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of `cluster` in `directory`, made at `now_ms` when there is none. The same directory must
    /// always be opened with the same cluster.
    pub fn open(directory: &Path, cluster: &str, now_ms: i64) -> Result<Self, Error> {
        Identity::new(cluster, crate::Role::Operator, "ca")
            .map_err(|source| Error::Cluster { name: cluster.to_owned(), source })?;
        let name = format!("Estafet CA {cluster}");
        let make = |source| Error::Make { of: name.clone(), source };
        fs::create_dir_all(directory).map_err(|source| Error::File { path: directory.to_owned(), source })?;
        let (certificate, key_file) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name.clone());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = match fs::read_to_string(&key_file) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(make)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(make)?;
                last(&mut params, now_ms, AUTHORITY_LIFE);
                let made = params.self_signed(&key).map_err(make)?;
                write(&key_file, &key.serialize_pem(), 0o600)?;
                write(&certificate, &made.pem(), 0o644)?;
                key
            }
            Err(source) => return Err(Error::File { path: key_file, source }),
        };
        Ok(Self { directory: directory.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// The file with the authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Makes a certificate of a role for these hosts, which are names (also `*.name`) or addresses.
    pub fn issue(&self, identity: &Identity, hosts: &[String], now_ms: i64, life: Duration) -> Result<Files, Error> {
        let file = format!("{}-{}", identity.role(), identity.node());
        let files = self.make(&file, Some(identity), hosts, now_ms, life)?;
        // The key of an authority may be here with another authority's certificate.
        let refused = |cause| Error::Refused { of: file.clone(), source: Box::new(cause) };
        let contents = [&files.ca, &files.cert, &files.key]
            .map(|path| fs::read(path).map_err(|source| Error::File { path: path.clone(), source }));
        let contents = contents.into_iter().collect::<Result<Vec<_>, _>>()?;
        Material::build(&files, &contents, &Clock::manual(now_ms)).map_err(refused)?;
        Ok(files)
    }

    /// Makes a certificate without a role, for a database, etcd or the API: `FILE.pem` and `FILE-key.pem`.
    pub fn issue_for_hosts(&self, file: &str, hosts: &[String], now_ms: i64, life: Duration) -> Result<Files, Error> {
        self.make(file, None, hosts, now_ms, life)
    }

    fn make(
        &self,
        file: &str,
        identity: Option<&Identity>,
        hosts: &[String],
        now_ms: i64,
        life: Duration,
    ) -> Result<Files, Error> {
        let make = |source| Error::Make { of: file.to_owned(), source };
        let mut params = CertificateParams::new(hosts).map_err(make)?;
        if let Some(identity) = identity {
            params.subject_alt_names.push(SanType::URI(identity.to_string().try_into().map_err(make)?));
        }
        // Short on purpose: common names end at 64 bytes; names of hosts are alternative names.
        let common_name: String = file.chars().take(64).collect();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        last(&mut params, now_ms, life);
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        let files = Files {
            ca: self.certificate(),
            cert: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}-key.pem")),
        };
        write(&files.key, &key.serialize_pem(), 0o600)?;
        write(&files.cert, &certificate.pem(), 0o644)?;
        Ok(files)
    }
}

fn last(params: &mut CertificateParams, now_ms: i64, life: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
    params.not_before = epoch + now.saturating_sub(BEFORE);
    params.not_after = epoch + now + life;
}

/// Writes a file as a whole: beside it, then over it.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let written = || {
        // Left over from a crash; `mode` counts for new files only.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| Error::File { path: path.to_owned(), source })
}
