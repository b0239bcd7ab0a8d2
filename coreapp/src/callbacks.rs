//! Posts callbacks. Which, to whom, when and how many at a time is decided in [`crate::core::outlets`]; here is
//! only HTTP: success is 200, redirects are not followed, the answer's body is not read beyond a cap.

use std::{collections::HashMap, sync::Arc, time::Duration};

use estafet_media::guard;
use estafet_model::{
    EndpointId, WaId,
    settings::{Settings, WebhookSettings, endpoint::Endpoint, secret::Secret},
};
use estafet_runtime::Clock;
use estafet_store::EventRef;
use futures::{StreamExt as _, stream::FuturesUnordered};
use reqwest::{
    Certificate, Client, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::Instant,
};
use url::Url;

use crate::{
    Config,
    core::lanes::Post,
    media::{self, Courier},
    settings::Versioned,
    signing::Signer,
    stats::AppStats,
};

/// What became of a post.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The event.
    pub event: EventRef,
    /// Whether the receiver took it.
    pub result: Result<(), Failure>,
}

/// Why the receiver did not take a callback.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Another status than 200.
    #[error("answered {0}")]
    Status(u16),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// The file it tells of is not there yet.
    #[error("the file is not fetched yet: {0}")]
    NoFile(String),
    /// No URL is configured.
    #[error("the receiver has no URL")]
    NotConfigured,
}

/// Posts callbacks of one shard.
#[derive(Clone, Debug)]
pub struct Poster {
    number: WaId,
    clock: Clock,
    timeout: Duration,
    accept_2xx: bool,
    clients: Clients,
    courier: Courier,
    stats: Arc<AppStats>,
}

/// The HTTP clients of a node, by whom they trust and where they go. To make one, every
/// certificate of the system is read, which takes tens of milliseconds: the shards of a node share them, and they are made
/// beside the runtime.
#[derive(Clone, Debug, Default)]
pub struct Clients(Arc<Mutex<HashMap<Reach, Client>>>);

/// Whom a client trusts, and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reach {
    /// Certificates trusted beside the system's.
    ca: Option<String>,
    /// Public addresses only.
    public_only: bool,
}

impl Reach {
    fn of(settings: &WebhookSettings, endpoint: EndpointId) -> Self {
        let own = settings.endpoint(endpoint).and_then(|other| other.ca.as_ref());
        Self { ca: own.or(settings.ca.as_ref()).cloned(), public_only: settings.deny_private }
    }
}

/// Clients kept at most; those that are in use live on with their shards.
const CLIENTS: usize = 64;

impl Clients {
    /// Makes what the receivers of these settings need and is not there yet.
    pub(crate) async fn ready(&self, settings: &WebhookSettings) {
        for endpoint in settings.all_receivers() {
            // Who needs it tells why there is none.
            let _ = self.reaching(&Reach::of(settings, endpoint)).await;
        }
    }

    async fn reaching(&self, reach: &Reach) -> Result<Client, NoClient> {
        // Whoever finds that one is being made waits for it.
        let mut known = self.0.lock().await;
        if let Some(client) = known.get(reach) {
            return Ok(client.clone());
        }
        if known.len() >= CLIENTS {
            known.clear();
        }
        let wanted = reach.clone();
        let made = tokio::task::spawn_blocking(move || client(&wanted)).await??;
        known.insert(reach.clone(), made.clone());
        Ok(made)
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
enum NoClient {
    #[error(transparent)]
    Refused(#[from] reqwest::Error),
    /// The process ends.
    #[error("it was not made: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// Where and how callbacks of one receiver go: made once for each change of the settings.
#[derive(Clone)]
struct Target {
    /// `None`: no certificates can be trusted, so no connection is made.
    client: Option<Client>,
    url: Option<Url>,
    reach: Reach,
    headers: HeaderMap,
    signer: Signer,
    timeout: Duration,
    accept_2xx: bool,
}

/// Targets by receiver.
type Targets = HashMap<EndpointId, Target>;

impl Target {
    /// The targets of these settings. The connections of those before are kept unless other certificates count.
    async fn all(poster: &Poster, settings: &WebhookSettings, mut before: Targets) -> Targets {
        let mut targets = Targets::new();
        for endpoint in settings.all_receivers() {
            targets.insert(endpoint, Self::new(poster, settings, endpoint, before.remove(&endpoint)).await);
        }
        targets
    }

    async fn new(poster: &Poster, settings: &WebhookSettings, endpoint: EndpointId, before: Option<Self>) -> Self {
        let (other, reach) = (settings.endpoint(endpoint), Reach::of(settings, endpoint));
        let client = match before {
            Some(before) if before.reach == reach && before.client.is_some() => before.client,
            _ => poster
                .clients
                .reaching(&reach)
                .await
                .inspect_err(|error| tracing::error!(%error, "callbacks wait: their client could not be made"))
                .ok(),
        };
        let url = other.map_or(settings.url.as_ref(), |other| Some(&other.url));
        let (app, standard) = match other {
            Some(other) => (&other.app_secret, &other.signing_secret),
            None => (&settings.app_secret, &settings.signing_secret),
        };
        let timeout = other.and_then(|other| other.timeout_ms).or(settings.timeout_ms);
        Self {
            client,
            // What was stored was checked before; what is no URL all the same is treated as none.
            url: url.and_then(|url| Url::parse(url).ok()),
            reach,
            headers: other.map(headers).unwrap_or_default(),
            signer: Signer::new(poster.number, app.as_ref(), standard.as_ref()),
            timeout: timeout.map_or(poster.timeout, Duration::from_millis),
            accept_2xx: settings.accept_2xx.unwrap_or(poster.accept_2xx),
        }
    }
}

/// The headers that a receiver wants to be shown.
fn headers(endpoint: &Endpoint) -> HeaderMap {
    let header = |(name, value): (&String, &Secret)| {
        let mut value = HeaderValue::from_str(value.expose()).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
    };
    endpoint.headers.iter().filter_map(header).collect()
}

/// Connections to one receiver that a node keeps open without a post.
const IDLE: usize = 256;

/// A client with connections of its own. It checks certificates against those of the system and its own; TLS 1.2
/// is the oldest version it speaks.
fn client(reach: &Reach) -> Result<Client, reqwest::Error> {
    let mut builder = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .user_agent(concat!("estafet/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(IDLE)
        .tcp_nodelay(true)
        .tls_version_min(reqwest::tls::Version::TLS_1_2)
        .connect_timeout(Duration::from_secs(5));
    if reach.public_only {
        builder = builder.dns_resolver(guard::checked_names(Arc::new(guard::SystemResolver), guard::Policy::default()));
    }
    if let Some(ca) = &reach.ca {
        builder = builder.tls_certs_merge(Certificate::from_pem_bundle(ca.as_bytes())?);
    }
    builder.build()
}

impl Poster {
    /// A poster for the callbacks of one shard of `number`, to all its receivers.
    pub(crate) fn new(
        number: WaId,
        config: &Config,
        clock: Clock,
        clients: Clients,
        courier: Courier,
        stats: Arc<AppStats>,
    ) -> Self {
        let timeout = Duration::from_millis(config.callback_timeout_ms);
        Self { number, clock, timeout, accept_2xx: config.accept_2xx, clients, courier, stats }
    }

    /// Posts what arrives, concurrently, until the sender of posts is gone.
    pub async fn run(
        self,
        mut posts: mpsc::Receiver<Post>,
        results: mpsc::Sender<Posted>,
        mut settings: watch::Receiver<Versioned>,
    ) {
        let webhooks = settings.borrow_and_update().settings.webhooks.clone();
        let mut targets = Target::all(&self, &webhooks, Targets::new()).await;
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                post = posts.recv() => {
                    let Some(post) = post else { return };
                    if settings.has_changed().unwrap_or(false) {
                        let webhooks = settings.borrow_and_update().settings.webhooks.clone();
                        targets = Target::all(&self, &webhooks, targets).await;
                    }
                    let target = targets.get(&post.event.endpoint).cloned();
                    open.push(self.post(post, target, settings.borrow().settings.clone()));
                }
                Some(posted) = open.next(), if !open.is_empty() => {
                    if results.send(posted).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// `target` is absent if the receiver was removed since.
    async fn post(&self, mut post: Post, target: Option<Target>, settings: Settings) -> Posted {
        let event = post.event;
        let Some(target) = target else { return Posted { event, result: Err(Failure::NotConfigured) } };
        if post.kind == media::KIND {
            let completed = self.courier.complete(self.number, &post.body, &settings).await;
            self.stats.download(completed.is_ok());
            match completed {
                Ok(body) => post.body = body,
                Err(problem) => return Posted { event, result: Err(Failure::NoFile(problem)) },
            }
        }
        let kind = if post.kind == media::KIND { "inbound_message".to_owned() } else { post.kind.clone() };
        let began = Instant::now();
        let result = self.send(post, target).await;
        self.stats.callback(&kind, &result, began.elapsed());
        Posted { event, result }
    }

    async fn send(&self, post: Post, target: Target) -> Result<(), Failure> {
        let url = target.url.ok_or(Failure::NotConfigured)?;
        if target.reach.public_only && !guard::is_allowed_host(&url, guard::Policy::default()) {
            return Err(Failure::Connection("the address is not public".to_owned()));
        }
        let client = target.client.ok_or_else(|| Failure::Connection("the certificates cannot be used".to_owned()))?;
        let signatures = target.signer.headers(post.event.slot, post.origin, self.clock.now_ms(), &post.body);
        let request = client
            .post(url)
            .timeout(target.timeout)
            .header(header::CONTENT_TYPE, "application/json")
            .headers(target.headers)
            .headers(signatures)
            .body(post.body);
        let response = request.send().await.map_err(|error| failure(&error))?;
        let status = response.status();
        let taken = if target.accept_2xx { status.is_success() } else { status == StatusCode::OK };
        // A short body is read so that the connection can be used again; a long one is cut off.
        if response.content_length().is_some_and(|length| length <= MAX_ANSWER) {
            let _ = response.bytes().await;
        }
        if taken { Ok(()) } else { Err(Failure::Status(status.as_u16())) }
    }
}

/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

fn failure(error: &reqwest::Error) -> Failure {
    if error.is_timeout() { Failure::Timeout } else { Failure::Connection(error.without_url_text()) }
}

/// Error texts without the URL, which may hold a secret in its query.
trait WithoutUrl {
    fn without_url_text(&self) -> String;
}

impl WithoutUrl for reqwest::Error {
    fn without_url_text(&self) -> String {
        let mut cause: &dyn std::error::Error = self;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shards_that_trust_the_same_certificates_share_a_client_and_not_more_are_kept_than_allowed() {
        estafet_runtime::install_crypto();
        let clients = Clients::default();
        for _shard in 0..3 {
            clients.ready(&WebhookSettings::default()).await;
        }
        let kept = async || clients.0.lock().await.len();
        assert_eq!(kept().await, 1);
        let trusting = |ca: &str| Reach { ca: Some(ca.to_owned()), public_only: false };
        let nonsense = trusting("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(clients.reaching(&nonsense).await.is_err());
        assert_eq!(kept().await, 1, "what could not be made is tried again");
        let client = clients.reaching(&Reach::default()).await.unwrap();
        clients.0.lock().await.extend((1..CLIENTS).map(|n| (trusting(&n.to_string()), client.clone())));
        clients.reaching(&Reach { public_only: true, ..Reach::default() }).await.unwrap();
        assert_eq!(kept().await, 1);
    }
}
