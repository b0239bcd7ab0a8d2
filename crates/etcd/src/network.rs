//! How etcd and other processes are reached: real sockets here, those of a simulation elsewhere.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::{io::AsyncRead, net::TcpStream, time::timeout};

use crate::{Error, Timing};

/// How long connecting and logging in may take: passwords are slow to check on purpose.
const LOGIN: Duration = Duration::from_secs(2);

/// A connection on which one waits for its end.
pub type Connection = Box<dyn AsyncRead + Send + Unpin>;

/// What connections are made with.
#[async_trait]
pub trait Network: Send + Sync {
    /// A new client of etcd, logged in.
    async fn client(&self) -> Result<Client, Error>;

    /// A connection to another process, `host:port`.
    async fn dial(&self, address: &str) -> io::Result<Connection>;
}

/// How etcd is told who asks. Files are read for every new client.
#[derive(Clone, Default)]
pub struct Access {
    /// Certificates of the authorities that members with `https://` addresses are from (PEM).
    pub ca: Option<PathBuf>,
    /// Certificate shown to them, and its key (PEM).
    pub cert: Option<(PathBuf, PathBuf)>,
    /// User and password, when etcd has authentication on.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for Access {
    /// Leaves the password out (I10).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| name);
        f.debug_struct("Access").field("ca", &self.ca).field("cert", &self.cert).field("user", &user).finish()
    }
}

impl Access {
    /// What every client asks for: signs of life, and that a member without a leader refuses instead of keeping calls
    /// waiting and watches silent, for it would answer questions for a sign of life all the while.
    pub fn demands() -> ConnectOptions {
        let Timing { deadline, renew, .. } = Timing::default();
        ConnectOptions::new().with_connect_timeout(deadline).with_keep_alive(renew, renew).with_require_leader(true)
    }

    /// A token that ended is renewed by the client, and the call repeated.
    async fn options(&self) -> Result<ConnectOptions, Error> {
        let mut options = Self::demands().with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(ca) = &self.ca {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(pem(ca).await?));
            if let Some((cert, key)) = &self.cert {
                tls = tls.identity(Identity::from_pem(pem(cert).await?, pem(key).await?));
            }
            options = options.with_tls(tls);
        }
        Ok(options)
    }
}

async fn pem(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// The members of an etcd, over TCP.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// Who asks.
    pub access: Access,
}

#[async_trait]
impl Network for Members {
    async fn client(&self) -> Result<Client, Error> {
        let connecting = Client::connect(&self.endpoints, Some(self.access.options().await?));
        let connected = timeout(LOGIN, connecting).await.map_err(|_| Error::Late("connect"))?;
        connected.map_err(|source| Error::Etcd { what: "connect", source: Box::new(source) })
    }

    async fn dial(&self, address: &str) -> io::Result<Connection> {
        Ok(Box::new(TcpStream::connect(address).await?))
    }
}
