//! The flags and variables by which a command is told its certificates, the same for every role and for operators.

use std::path::PathBuf;

use estafet_runtime::{Clock, Tasks};

use crate::{Error, Files, Role, Transport};

/// Certificates between the roles (docs/tls.md). Without them connections are plain text: for loopback.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Certificates of the authorities that other roles are from (PEM).
    #[arg(long, env = "ESTAFET_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// Certificate of this process, intermediates behind it (PEM); read again when it changes.
    #[arg(long, env = "ESTAFET_TLS_CERT", value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "ESTAFET_TLS_KEY", value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    pub tls_key: Option<PathBuf>,
}

impl Flags {
    /// What a process of this role (and node, when given) listens and dials with: plain text unless all three are given.
    /// `tasks` read the files again.
    pub fn transport(&self, role: Role, node: Option<&str>, tasks: &Tasks) -> Result<Transport, Error> {
        let (Some(ca), Some(cert), Some(key)) = (&self.tls_ca, &self.tls_cert, &self.tls_key) else {
            return Ok(Transport::plain());
        };
        let files = Files { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
        let transport = Transport::load(files, role, node, Clock::system())?;
        transport.follow(tasks);
        Ok(transport)
    }
}
