//! One fetch: resolve, check, connect, follow redirects, stream with caps.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::{
    Client, StatusCode,
    dns::{Addrs, Name, Resolving},
    header,
    redirect::Policy as Redirects,
};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::address::{NOT_PUBLIC, Policy, is_allowed, problem};
use crate::ByteStream;

/// Redirects that are followed.
pub const MAX_REDIRECTS: usize = 5;

/// Finds the addresses of a name.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// All of them.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// Asks the system.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Caps of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes.
    pub bytes: u64,
    /// Longest time for everything, redirects and body included.
    pub time: Duration,
}

/// What a provider of media wants to see. Goes to the origin of the first URL only.
#[derive(Clone)]
pub enum Authorization {
    /// User name and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization(..)")
    }
}

/// Why a link was not fetched. The text is shown to the business.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It leads where nothing is fetched from.
    #[error("{0}")]
    Refused(&'static str),
    /// Another status than 200.
    #[error("{0}")]
    Status(String),
    /// More bytes than allowed.
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    /// Not in time.
    #[error("the file did not arrive in time")]
    TimedOut,
    /// More redirects than are followed.
    #[error("too many redirects")]
    TooManyRedirects,
    /// No connection, or it broke off.
    #[error("{0}")]
    Connection(String),
}

impl Error {
    /// Whether the same link may work a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

/// A file behind a link.
pub struct Fetched {
    /// `Content-Type` of the answer.
    pub mime_type: Option<String>,
    /// Path of the URL it came from in the end.
    pub path: String,
    /// Its bytes; an error of kind [`io::ErrorKind::FileTooLarge`] or [`io::ErrorKind::TimedOut`] says which cap was met.
    pub stream: ByteStream,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("mime_type", &self.mime_type).field("path", &self.path).finish_non_exhaustive()
    }
}

/// The resolver of the HTTP client: it gives nothing that was not checked.
struct Checked {
    resolver: Arc<dyn Resolve>,
    policy: Policy,
}

#[derive(Debug, thiserror::Error)]
#[error("{NOT_PUBLIC}")]
struct NotPublic;

impl reqwest::dns::Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, policy) = (self.resolver.clone(), self.policy);
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            if addresses.is_empty() || !addresses.iter().all(|address| is_allowed(*address, policy)) {
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// A resolver for HTTP clients that gives an address only if all of the name's may be connected to.
pub fn checked_names(resolver: Arc<dyn Resolve>, policy: Policy) -> Arc<impl reqwest::dns::Resolve> {
    Arc::new(Checked { resolver, policy })
}

/// Fetches links. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: Client,
    policy: Policy,
}

impl Fetcher {
    /// A fetcher that trusts `resolver` to name addresses, and none of them without a look.
    pub fn new(resolver: Arc<dyn Resolve>, policy: Policy) -> Result<Self, Error> {
        let client = Client::builder()
            .dns_resolver(checked_names(resolver, policy))
            .redirect(Redirects::none())
            .no_proxy()
            .referer(false)
            .user_agent(concat!("estafet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            // A connection outlives the check of its address by a moment only.
            .pool_idle_timeout(Duration::from_secs(10))
            .build();
        Ok(Self { client: client.map_err(|error| connection(&error))?, policy })
    }

    /// Fetches a link.
    pub async fn fetch(&self, link: &str, authorization: Option<&Authorization>, limits: Limits) -> Result<Fetched, Error> {
        let deadline = Instant::now() + limits.time;
        let first = Url::parse(link).map_err(|_| Error::Refused("it is not a URL"))?;
        let origin = first.origin();
        let mut url = first;
        for _ in 0..=MAX_REDIRECTS {
            if let Some(problem) = problem(&url, self.policy) {
                return Err(Error::Refused(problem));
            }
            let mut request = self.client.get(url.clone());
            request = match authorization.filter(|_| url.origin() == origin) {
                Some(Authorization::Basic(user, password)) => request.basic_auth(user, Some(password)),
                Some(Authorization::Bearer(token)) => request.bearer_auth(token),
                None => request,
            };
            let answer =
                timeout_at(deadline, request.send()).await.map_err(|_| Error::TimedOut)?.map_err(|error| connection(&error))?;
            match answer.status() {
                StatusCode::OK => return body(answer, deadline, limits.bytes),
                status if status.is_redirection() => {
                    let to = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                    let to = to.ok_or_else(|| Error::Status(describe(status)))?;
                    url = url.join(to).map_err(|_| Error::Refused("it redirects to what is not a URL"))?;
                }
                status => return Err(Error::Status(describe(status))),
            }
        }
        Err(Error::TooManyRedirects)
    }
}

fn describe(status: StatusCode) -> String {
    format!("{} ({})", status.as_u16(), status.canonical_reason().unwrap_or("unknown"))
}

fn body(answer: reqwest::Response, deadline: Instant, most: u64) -> Result<Fetched, Error> {
    if answer.content_length().is_some_and(|length| length > most) {
        return Err(Error::TooLarge(most));
    }
    let mime_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let path = answer.url().path().to_owned();
    let stream = answer.bytes_stream().map_err(|error| io::Error::other(connection(&error)));
    let capped = futures::stream::unfold((stream.boxed(), 0_u64), move |(mut stream, size)| async move {
        let piece = match timeout_at(deadline, stream.next()).await {
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
            Ok(None) => return None,
            Ok(Some(Ok(piece))) if size + piece.len() as u64 > most => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
            Ok(Some(piece)) => piece,
        };
        let size = size + piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Some((piece, (stream, size)))
    });
    // Whoever looks at the beginning may come to the end, and ask again.
    Ok(Fetched { mime_type, path, stream: capped.fuse().boxed() })
}

/// The innermost cause, without the URL, which may hold a secret in its query.
fn connection(error: &reqwest::Error) -> Error {
    if error.is_timeout() {
        return Error::TimedOut;
    }
    let mut cause: &dyn std::error::Error = error;
    loop {
        if cause.is::<NotPublic>() {
            return Error::Refused(NOT_PUBLIC);
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return Error::Connection(cause.to_string()),
        }
    }
}
