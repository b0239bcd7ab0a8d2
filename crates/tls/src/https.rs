//! The certificate of the API: shown to clients, who show none.

use std::{path::Path, sync::Arc};

use estafet_runtime::{Clock, Tasks};
use rustls::{ServerConfig, crypto::ring};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    Error,
    material::{WallTime, certificates, private_key},
    reload::Reloading,
};

/// Turns accepted connections into encrypted ones (TLS 1.2 and 1.3); cheap to clone.
#[derive(Clone)]
pub struct Https {
    config: Arc<Reloading<ServerConfig>>,
}

impl Https {
    /// Reads a certificate, with intermediates behind it, and its key.
    pub fn load(cert: &Path, key: &Path, clock: Clock) -> Result<Self, Error> {
        let (cert, key) = (cert.to_owned(), key.to_owned());
        let config = Reloading::load("https", vec![cert.clone(), key.clone()], move |contents| {
            let [chain, private] = contents else { unreachable!("two files are read") };
            let (chain, private) = (certificates(&cert, chain)?, private_key(&key, private)?);
            let unusable = |source| Error::Unusable { path: cert.clone(), source };
            let time = Arc::new(WallTime(clock.clone()));
            let mut config = ServerConfig::builder_with_details(Arc::new(ring::default_provider()), time)
                .with_safe_default_protocol_versions()
                .map_err(unusable)?
                .with_no_client_auth()
                .with_single_cert(chain, private)
                .map_err(unusable)?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(config)
        })?;
        Ok(Self { config: Arc::new(config) })
    }

    /// Takes changed files from now on.
    pub fn follow(&self, tasks: &Tasks) {
        self.config.clone().follow(tasks, |_| {});
    }

    /// Looks for changed files now; says whether they were taken. [`Https::follow`] does it by itself.
    pub fn reload(&self) -> bool {
        matches!(self.config.look(), crate::reload::Look::Taken)
    }

    /// The handshake with a client. The caller sets the deadline.
    pub async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config.current()).accept(stream).await
    }
}
