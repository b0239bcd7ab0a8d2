//! TLS to PostgreSQL, with the modes of libpq.
//!
//! | `sslmode` | encrypted | certificate |
//! |---|---|---|
//! | `disable` | no | |
//! | `prefer` (default, as `allow`) | when the server can | not looked at |
//! | `require` | yes | not looked at; with `sslrootcert` like `verify-ca` |
//! | `verify-ca` | yes | from a known authority |
//! | `verify-full` | yes | and for the host of the URL |
//!
//! Known are the authorities in the file `sslrootcert`, read at the start, or the public ones without it.

use std::{
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use sqlx::postgres::PgSslMode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    config::SslMode,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::TlsConnector;

use crate::{
    Error, Result,
    address::{Address, Invalid},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What the URL asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Security {
    mode: Mode,
    root: Option<PathBuf>,
}

impl Security {
    /// Reads the parameters of the URL.
    pub(super) fn of(address: &Address) -> Result<Self, Invalid> {
        let mut security = Self { mode: Mode::Prefer, root: None };
        for (key, value) in &address.parameters {
            match (key.as_str(), value.as_str()) {
                ("sslmode", "disable") => security.mode = Mode::Disable,
                ("sslmode", "allow" | "prefer") => security.mode = Mode::Prefer,
                ("sslmode", "require") => security.mode = Mode::Require,
                ("sslmode", "verify-ca") => security.mode = Mode::VerifyCa,
                ("sslmode", "verify-full") => security.mode = Mode::VerifyFull,
                ("sslmode", _) => return Err(Invalid::PostgresSslMode),
                ("sslrootcert", path) => security.root = Some(path.into()),
                _ => return Err(Invalid::Parameter("host, port, sslmode and sslrootcert")),
            }
        }
        if security.mode == Mode::Require && security.root.is_some() {
            security.mode = Mode::VerifyCa;
        }
        Ok(security)
    }

    /// For the connections of the pools.
    pub(super) fn ssl_mode(&self) -> SslMode {
        match self.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        }
    }

    /// For the connection of the migrations.
    pub(super) fn for_migrations(&self) -> (PgSslMode, Option<&PathBuf>) {
        let mode = match self.mode {
            Mode::Disable => PgSslMode::Disable,
            Mode::Prefer => PgSslMode::Prefer,
            Mode::Require => PgSslMode::Require,
            Mode::VerifyCa => PgSslMode::VerifyCa,
            Mode::VerifyFull => PgSslMode::VerifyFull,
        };
        (mode, self.root.as_ref())
    }

    /// What opens encrypted connections.
    pub(super) fn connector(&self) -> Result<Connector> {
        let provider = Arc::new(ring::default_provider());
        let roots = match self.mode {
            Mode::VerifyCa | Mode::VerifyFull => {
                Some(WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone()))
            }
            Mode::Disable | Mode::Prefer | Mode::Require => None,
        };
        let authority = roots.map(|builder| builder.build()).transpose().map_err(|cause| Error::Failed(cause.to_string()))?;
        let verifier = Verifier { provider: provider.clone(), authority, checks_name: self.mode == Mode::VerifyFull };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| Error::Failed(cause.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Connector(Arc::new(config)))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let Some(path) = &self.root else {
            return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
        };
        let wrong = |what: String| Error::Setting(format!("sslrootcert {}: {what}", path.display()));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|cause| wrong(cause.to_string()))? {
            let certificate = certificate.map_err(|cause| wrong(cause.to_string()))?;
            roots.add(certificate).map_err(|cause| wrong(cause.to_string()))?;
        }
        if roots.is_empty() { Err(wrong("no certificate".to_owned())) } else { Ok(roots) }
    }
}

/// Looks at as much of the server's certificate as the mode asks for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    authority: Option<Arc<WebPkiServerVerifier>>,
    checks_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: everything else was in order.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Opens encrypted connections.
#[derive(Clone)]
pub(super) struct Connector(Arc<ClientConfig>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        // A socket directory is no name; it is only needed if the server encrypts there, which none does.
        let name = ServerName::try_from(host.to_owned()).ok();
        Ok(Handshake { config: self.0.clone(), name })
    }
}

/// One handshake.
pub(super) struct Handshake {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = self.name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the host is no name or address"))?;
            TlsConnector::from(self.config).connect(name, stream).await.map(|stream| Encrypted(Box::new(stream)))
        })
    }
}

/// An encrypted connection.
pub(super) struct Encrypted<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
