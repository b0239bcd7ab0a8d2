//! Posts callbacks. Which, when and how many at a time is decided in [`crate::core::lanes`]; here is
//! only HTTP: success is 200, redirects are not followed, the answer's body is not read beyond a cap.

use std::time::Duration;

use estafet_store::EventRef;
use futures::{StreamExt as _, stream::FuturesUnordered};
use reqwest::{Client, StatusCode, header, redirect::Policy};
use tokio::sync::{mpsc, watch};

use crate::{Config, core::lanes::Post, settings::Versioned};

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
    /// No URL is configured.
    #[error("webhooks.url is not configured")]
    NotConfigured,
}

/// Why the poster could not be made.
#[derive(Debug, thiserror::Error)]
#[error("callback client: {0}")]
pub struct Error(#[from] reqwest::Error);

/// Posts callbacks of one shard.
#[derive(Clone, Debug)]
pub struct Poster {
    client: Client,
    timeout: Duration,
    accept_2xx: bool,
}

impl Poster {
    /// A poster with a connection pool of its own.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .user_agent(concat!("estafet/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(32)
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .build()?;
        Ok(Self { client, timeout: Duration::from_millis(config.callback_timeout_ms), accept_2xx: config.accept_2xx })
    }

    /// Posts what arrives, concurrently, until the sender of posts is gone.
    pub async fn run(self, mut posts: mpsc::Receiver<Post>, results: mpsc::Sender<Posted>, settings: watch::Receiver<Versioned>) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                post = posts.recv() => {
                    let Some(post) = post else { return };
                    let url = settings.borrow().settings.webhooks.url.clone();
                    open.push(self.post(post, url));
                }
                Some(posted) = open.next(), if !open.is_empty() => {
                    if results.send(posted).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn post(&self, post: Post, url: Option<String>) -> Posted {
        let event = post.event;
        let result = match url {
            Some(url) => self.send(&url, post).await,
            None => Err(Failure::NotConfigured),
        };
        Posted { event, result }
    }

    async fn send(&self, url: &str, post: Post) -> Result<(), Failure> {
        let request =
            self.client.post(url).timeout(self.timeout).header(header::CONTENT_TYPE, "application/json").body(post.body);
        let response = request.send().await.map_err(|error| failure(&error))?;
        let status = response.status();
        let taken = if self.accept_2xx { status.is_success() } else { status == StatusCode::OK };
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
