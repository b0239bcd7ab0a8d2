//! Files with certificates and keys, read and checked into what rustls works with.
//!
//! A set is taken only if it would work: the key belongs to the certificate, and the certificate is valid now,
//! from the configured authority, and names an [`Identity`]. Errors name the file at fault and never its content.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use estafet_runtime::Clock;
use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};

use crate::identity::{Identity, Invalid};

/// A moment after which no certificate is valid: the end of the year 9999.
const FAR: Duration = Duration::from_secs(253_402_300_799);

/// Where the certificates of a role are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificates of the authorities that peers may be from.
    pub ca: PathBuf,
    /// The process's own certificate, and intermediates behind it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Key, certificate and authority do not go together, or the certificate has expired.
    #[error("the certificate {} cannot be used: {source}", path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Cause.
        source: rustls::Error,
    },
    /// The certificate has no role.
    #[error("the certificate {} is for no role: {source}", path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// Cause.
        source: Invalid,
    },
    /// The certificate is for somebody else.
    #[error("the certificate {} is for {found}, not for {wanted}", path.display())]
    SomebodyElse {
        /// The certificate.
        path: PathBuf,
        /// What it is for.
        found: Identity,
        /// What it should be for.
        wanted: String,
    },
}

/// What a role listens and dials with.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) identity: Identity,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    /// End of the certificate, seconds since 1970.
    pub(crate) ends: u64,
}

/// rustls asks our clock for the time.
#[derive(Debug)]
pub(crate) struct WallTime(pub(crate) Clock);

impl WallTime {
    fn now(&self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(self.0.now_ms()).unwrap_or(0)))
    }
}

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.now())
    }
}

impl Material {
    /// Builds it from the contents of the files, in the order certificate authority, certificate, key.
    pub(crate) fn build(files: &Files, contents: &[Vec<u8>], clock: &Clock) -> Result<Self, Error> {
        let [ca, cert, key] = contents else { unreachable!("three files are read") };
        let unusable = |source| Error::Unusable { path: files.cert.clone(), source };
        let chain = certificates(&files.cert, cert)?;
        let key = private_key(&files.key, key)?;
        let roots = Arc::new(roots(&files.ca, ca)?);
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|cause| unusable(rustls::Error::General(cause.to_string())))?;
        let time = Arc::new(WallTime(clock.clone()));
        // What peers would say about it, said here.
        verifier.verify_client_cert(&chain[0], &chain[1..], time.now()).map_err(unusable)?;
        let identity = identity(&chain[0]).map_err(|source| Error::Identity { path: files.cert.clone(), source })?;
        let ends = end(&*verifier, &chain);
        let server = server(provider.clone(), time.clone(), verifier, &chain, &key).map_err(unusable)?;
        let client = client(provider, time, roots, chain, key).map_err(unusable)?;
        Ok(Self { identity, server: Arc::new(server), client: Arc::new(client), ends })
    }
}

fn server(
    provider: Arc<CryptoProvider>,
    time: Arc<WallTime>,
    verifier: Arc<dyn ClientCertVerifier>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every connection shows its certificate; connections are few and long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    provider: Arc<CryptoProvider>,
    time: Arc<WallTime>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// When the first certificate of a valid chain ends, in seconds since 1970: asked far in the future, the
/// verifier names the moment.
fn end(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> u64 {
    match verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::since_unix_epoch(FAR)) {
        Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => not_after.as_secs(),
        _ => FAR.as_secs(),
    }
}

/// Whom a certificate is for.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Result<Identity, Invalid> {
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| Invalid::Missing)?;
    Identity::among(certificate.valid_uri_names())
}

pub(crate) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| Error::Pem { path: path.to_owned(), what: "certificate" })
}

pub(crate) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| Error::Pem { path: path.to_owned(), what: "private key" })
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|_| Error::Pem { path: path.to_owned(), what: "usable certificate" })?;
    }
    Ok(roots)
}
