//! What the tests stand on: a store, a clock, a map, played coreapps, webapps, and a client that
//! checks the envelope of every answer.

use std::{collections::HashMap, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use estafet_media::Blobs;
use estafet_model::{Owner, Shard, ShardCount, ShardMap, WaId};
use estafet_proto::v1::{GatewayStatus, NumberState};
use estafet_runtime::{Clock, Tasks};
use estafet_store::SharedStore;
use estafet_webapp::{Config, Connect, Deps};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tonic::transport::{Channel, Endpoint};

use super::core::Core;

pub const NUMBER: u64 = 15_550_000_001;
pub const START_MS: i64 = 1_800_000_000_000;
pub const ADMIN_PASSWORD: &str = "Adm1n!pass";
pub const USER_PASSWORD: &str = "Ag3nt!pass";
pub const PHONE: &str = "16315551234";

/// Longest wait for anything that should happen soon.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub store: SharedStore,
    pub blobs: Blobs,
    pub clock: Clock,
    pub map: watch::Sender<ShardMap>,
    pub tasks: Tasks,
    addresses: Arc<Addresses>,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct Addresses(std::sync::Mutex<HashMap<String, String>>);

impl Connect for Addresses {
    fn channel(&self, address: &str) -> Channel {
        let url = self.0.lock().unwrap().get(address).cloned();
        // A node nobody has started: connections to it are refused.
        Endpoint::from_shared(url.unwrap_or_else(|| "http://127.0.0.1:1".to_owned())).unwrap().connect_lazy()
    }
}

pub fn number() -> WaId {
    WaId::from_u64(NUMBER).unwrap()
}

pub fn connected(shard: u32, shard_count: u32) -> Vec<NumberState> {
    vec![NumberState {
        number: NUMBER,
        gateway_status: GatewayStatus::Connected.into(),
        shard,
        shard_count,
        ..NumberState::default()
    }]
}

pub fn registered() -> Config {
    Config {
        number: Some(number()),
        registered: true,
        initial_admin_password: Some(ADMIN_PASSWORD.to_owned()),
        api_key: Some("key-0123456789".to_owned()),
        allow_loopback_http: true,
        ..Config::default()
    }
}

impl World {
    pub async fn new() -> Self {
        estafet_runtime::install_crypto();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("webapp.db");
        let store = estafet_store::open(&format!("sqlite:{}", path.display()), "webapp").await.unwrap();
        store.migrate().await.unwrap();
        let blobs = Blobs::directory(&directory.path().join("media")).unwrap();
        Self {
            store,
            blobs,
            clock: Clock::manual(START_MS),
            map: watch::channel(ShardMap::default()).0,
            tasks: Tasks::new(),
            addresses: Arc::default(),
            _directory: directory,
        }
    }

    /// A world with one coreapp that owns everything, and a webapp.
    pub async fn ready() -> (Self, Core, Webapp) {
        Self::ready_with(registered()).await
    }

    pub async fn ready_with(config: Config) -> (Self, Core, Webapp) {
        let world = Self::new().await;
        let core = world.core("core-0").await;
        world.own("core-0", 0, 1);
        let webapp = world.webapp(config).await;
        (world, core, webapp)
    }

    pub async fn core(&self, name: &str) -> Core {
        self.core_with(name, 1000).await
    }

    pub async fn core_with(&self, name: &str, credits: u32) -> Core {
        let core = Core::start(&self.tasks, credits, connected(0, 1)).await;
        self.addresses.0.lock().unwrap().insert(name.to_owned(), core.url());
        core
    }

    /// Gives a shard to a node, under an epoch above every one before.
    pub fn own(&self, address: &str, shard: u32, count: u32) {
        let count = ShardCount::new(count).unwrap();
        let shard = Shard::new(shard, count).unwrap();
        self.map.send_modify(|map| {
            let epoch = map.iter().map(|(_, owner)| owner.epoch).max().unwrap_or_default().next();
            map.insert(number(), Owner { address: address.to_owned(), shard, count, epoch });
        });
    }

    pub fn deps(&self) -> Deps {
        Deps {
            store: self.store.clone(),
            blobs: self.blobs.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            map: self.map.subscribe(),
            connect: self.addresses.clone(),
            extra: None,
            templates: None,
        }
    }

    pub async fn webapp(&self, config: Config) -> Webapp {
        self.webapp_with(config, self.deps()).await
    }

    pub async fn webapp_with(&self, config: Config, deps: Deps) -> Webapp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        estafet_webapp::start(listener, config, deps).await.unwrap();
        Webapp { address, client: reqwest::Client::builder().no_proxy().build().unwrap() }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

#[derive(Clone)]
pub struct Webapp {
    pub address: SocketAddr,
    pub client: reqwest::Client,
}

#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Got {
    pub fn code(&self) -> u64 {
        self.body["errors"][0]["code"].as_u64().unwrap_or(0)
    }

    pub fn refusal(&self) -> (u16, u64) {
        (self.status, self.code())
    }

    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }
}

impl Webapp {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a request with the given `Authorization`, and checks what every answer must have.
    pub async fn call(&self, method: Method, path: &str, authorization: &str, body: Option<Value>) -> Got {
        let mut request = self.client.request(method, self.url(path)).header("authorization", authorization);
        if let Some(body) = body {
            request = request.json(&body);
        }
        check(request.send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Got {
        self.call(Method::POST, path, &format!("Bearer {token}"), Some(body)).await
    }

    pub async fn put(&self, path: &str, token: &str, body: Value) -> Got {
        self.call(Method::PUT, path, &format!("Bearer {token}"), Some(body)).await
    }

    pub async fn patch(&self, path: &str, token: &str, body: Value) -> Got {
        self.call(Method::PATCH, path, &format!("Bearer {token}"), Some(body)).await
    }

    pub async fn get(&self, path: &str, token: &str) -> Got {
        self.call(Method::GET, path, &format!("Bearer {token}"), None).await
    }

    pub async fn delete(&self, path: &str, token: &str) -> Got {
        self.call(Method::DELETE, path, &format!("Bearer {token}"), None).await
    }

    pub async fn login(&self, user: &str, password: &str, body: Option<Value>) -> Got {
        use base64::Engine as _;
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        self.call(Method::POST, "/v1/users/login", &format!("Basic {credentials}"), body).await
    }

    pub async fn token(&self, user: &str, password: &str) -> String {
        let got = self.login(user, password, None).await.is(200);
        got.body["users"][0]["token"].as_str().unwrap().to_owned()
    }

    pub async fn admin(&self) -> String {
        self.token("admin", ADMIN_PASSWORD).await
    }

    /// Creates a user and logs in as that.
    pub async fn user(&self, admin: &str, name: &str) -> String {
        self.post("/v1/users", admin, json!({"username": name, "password": USER_PASSWORD})).await.is(201);
        self.token(name, USER_PASSWORD).await
    }

    pub async fn send(&self, token: &str, body: &str) -> Got {
        self.post("/v1/messages", token, json!({"to": PHONE, "text": {"body": body}})).await
    }
}

/// Reads an answer and checks what every one must have.
pub async fn check(response: reqwest::Response) -> Got {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    if headers["content-type"] != "application/json" {
        return Got { status, headers, body: Value::String(text) };
    }
    let body: Value = serde_json::from_str(&text).unwrap();
    assert!(headers.contains_key("x-request-id"), "{body}");
    assert_eq!((&body["meta"]["version"], &body["meta"]["api_status"]), (&json!("v2.57.1"), &json!("stable")));
    assert_eq!(body.get("errors").is_some(), status >= 400, "{status} {body}");
    if status == 503 || status == 429 {
        assert!(headers.contains_key("retry-after"), "{body}");
    }
    if status == 401 {
        assert_eq!(headers["www-authenticate"], "Bearer");
    }
    Got { status, headers, body }
}

/// Repeats `probe` until it says yes; fails after a long time.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !probe().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
