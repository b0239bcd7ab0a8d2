//! What callers and phones do, typed: the `/v1` API and the sandbox's control interface under `/sandbox/`.
//!
//! An [`Api`] is one account on one server. Methods named after an action expect it to succeed and fail with
//! the whole answer otherwise; [`Api::call`] returns any [`Answer`] for tests of refusals.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as it came.
    pub bytes: bytes::Bytes,
    /// The same as text; what is no text is replaced.
    pub text: String,
    /// Body as JSON; null if it is none.
    pub body: Value,
}

impl Answer {
    /// The code of the first error.
    pub fn error_code(&self) -> Option<u64> {
        self.body.pointer("/errors/0/code")?.as_u64()
    }

    /// A text of the body.
    pub fn text_at(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer)?.as_str()
    }

    fn expect(self, status: StatusCode) -> anyhow::Result<Self> {
        ensure!(self.status == status.as_u16(), "expected {status}, got {}: {}", self.status, self.text);
        Ok(self)
    }
}

/// A message on a phone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Message {
    /// Counts from 1 on each phone.
    #[serde(alias = "order")]
    pub n: u64,
    /// Message id.
    pub id: String,
    /// The business that sent it.
    pub from: String,
    /// Milliseconds since 1970.
    pub received_at: i64,
    /// What the phone decrypted.
    pub content: Value,
}

impl Message {
    /// The text of a text message; empty for others.
    pub fn text(&self) -> &str {
        self.content.pointer("/text/body").and_then(Value::as_str).unwrap_or_default()
    }
}

/// What a phone shows.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Inbox {
    /// Number of the phone.
    #[serde(alias = "number")]
    pub phone: String,
    /// Messages, in the order they arrived.
    pub messages: Vec<Message>,
    /// Deliveries of messages it had already; always 0 (**I4**).
    pub duplicates: u64,
}

/// A caller of the API.
#[derive(Clone, Debug)]
pub struct Api {
    base_url: String,
    http: reqwest::Client,
    authorization: Option<String>,
    /// The business number, where a server has several.
    number: Option<String>,
}

impl Api {
    /// A caller without an account.
    pub fn anonymous(base_url: &str) -> anyhow::Result<Self> {
        estafet_runtime::install_crypto();
        Self::with(base_url, reqwest::Client::builder())
    }

    /// The same at a server that has a certificate of these authorities (PEM) or of one that the system trusts.
    pub fn trusting(base_url: &str, authorities: &[u8]) -> anyhow::Result<Self> {
        estafet_runtime::install_crypto();
        let authorities = reqwest::Certificate::from_pem_bundle(authorities)?;
        ensure!(!authorities.is_empty(), "no certificate in PEM");
        Self::with(base_url, reqwest::Client::builder().tls_certs_merge(authorities))
    }

    fn with(base_url: &str, http: reqwest::ClientBuilder) -> anyhow::Result<Self> {
        // A time-out longer than any the server has: a request that hangs is an error, not a hung test.
        let http = http.timeout(Duration::from_secs(30)).no_proxy().build()?;
        Ok(Self { base_url: base_url.trim_end_matches('/').to_owned(), http, authorization: None, number: None })
    }

    /// The same caller with this `Authorization` header.
    #[must_use]
    pub fn with_authorization(&self, value: impl Into<String>) -> Self {
        Self { authorization: Some(value.into()), ..self.clone() }
    }

    /// The same caller at this business number of a server that has several.
    #[must_use]
    pub fn for_number(&self, number: &str) -> Self {
        Self { number: Some(number.to_owned()), ..self.clone() }
    }

    /// Where the server answers.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The socket the server listens on.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        let (_, address) = self.base_url.split_once("://").context("no scheme in the base URL")?;
        address.parse().with_context(|| format!("not a socket address: {address}"))
    }

    /// The token of its account.
    pub fn token(&self) -> Option<&str> {
        self.authorization.as_deref()?.strip_prefix("Bearer ")
    }

    /// Any request of the API.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
        self.request(method, path, body).await
    }

    /// Any request with a body of any kind.
    pub async fn request(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> anyhow::Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base_url));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        if let Some(number) = &self.number {
            request = request.header("X-Estafet-Number", number);
        }
        if let Some((content_type, bytes)) = body {
            request = request.header("Content-Type", content_type).body(bytes);
        }
        finish(request).await
    }

    /// A request with a body of no type.
    pub async fn request_untyped(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        let request = self.http.request(method, format!("{}{path}", self.base_url)).body(body);
        finish(request.header("Authorization", self.authorization.as_deref().unwrap_or_default())).await
    }

    /// A part of what is at a path.
    pub async fn get_range(&self, path: &str, range: &str) -> anyhow::Result<Answer> {
        let request = self.http.get(format!("{}{path}", self.base_url)).header("Range", range);
        finish(request.header("Authorization", self.authorization.as_deref().unwrap_or_default())).await
    }

    /// Reads what is at a path to its end and forgets it; how many bytes there were.
    pub async fn drain(&self, path: &str) -> anyhow::Result<u64> {
        let request = self.http.get(format!("{}{path}", self.base_url)).timeout(crate::PATIENCE * 10);
        let authorization = self.authorization.as_deref().unwrap_or_default();
        let mut response = request.header("Authorization", authorization).send().await?.error_for_status()?;
        let mut size = 0;
        while let Some(piece) = response.chunk().await? {
            size += piece.len() as u64;
        }
        Ok(size)
    }

    /// An upload whose body comes in pieces, whatever its outcome.
    pub fn begin_upload(
        &self,
        content_type: &str,
        body: reqwest::Body,
    ) -> impl Future<Output = anyhow::Result<Answer>> + Send + 'static {
        let request = self.http.post(format!("{}/v1/media", self.base_url)).header("Content-Type", content_type).body(body);
        let request = request.timeout(crate::PATIENCE * 10);
        finish(request.header("Authorization", self.authorization.as_deref().unwrap_or_default()))
    }

    /// Uploads a file and returns its id.
    pub async fn upload(&self, content_type: &str, content: Vec<u8>) -> anyhow::Result<String> {
        let answer = self.request(Method::POST, "/v1/media", Some((content_type, content))).await?.expect(StatusCode::OK)?;
        let id = answer.text_at("/media/0/id").with_context(|| format!("no id in {}", answer.text))?;
        Ok(id.to_owned())
    }

    /// A login, whatever its outcome.
    pub async fn try_login(&self, user: &str, password: &str, new_password: Option<&str>) -> anyhow::Result<Answer> {
        let body = new_password.map(|password| json!({ "new_password": password }));
        self.with_authorization(basic(user, password)).call(Method::POST, "/v1/users/login", body.as_ref()).await
    }

    /// Logs in and returns the account.
    pub async fn login(&self, user: &str, password: &str) -> anyhow::Result<Self> {
        let answer = self.try_login(user, password, None).await?.expect(StatusCode::OK)?;
        let token = answer.text_at("/users/0/token").with_context(|| format!("no token in {}", answer.text))?;
        Ok(self.with_authorization(format!("Bearer {token}")))
    }

    /// Creates a user and logs it in.
    pub async fn create_user(&self, user: &str, password: &str) -> anyhow::Result<Self> {
        let body = json!({ "username": user, "password": password });
        self.call(Method::POST, "/v1/users", Some(&body)).await?.expect(StatusCode::CREATED)?;
        self.login(user, password).await
    }

    /// Sends any message and returns its id.
    pub async fn send(&self, message: &Value) -> anyhow::Result<String> {
        let answer = self.call(Method::POST, "/v1/messages", Some(message)).await?.expect(StatusCode::CREATED)?;
        let id = answer.text_at("/messages/0/id").with_context(|| format!("no id in {}", answer.text))?;
        Ok(id.to_owned())
    }

    /// Sends any message under a key, whatever the outcome.
    pub async fn send_with_key(&self, key: &str, message: &Value) -> anyhow::Result<Answer> {
        let request = self.http.post(format!("{}/v1/messages", self.base_url)).header("Idempotency-Key", key);
        let request = request.header("Authorization", self.authorization.as_deref().unwrap_or_default());
        let request = self.number.iter().fold(request, |request, number| request.header("X-Estafet-Number", number));
        finish(request.header("Content-Type", "application/json").body(message.to_string())).await
    }

    /// Sends a text and returns its id.
    pub async fn send_text(&self, to: &str, text: &str) -> anyhow::Result<String> {
        self.send(&text_message(to, text)).await
    }

    /// Checks contacts, waiting for the look-up.
    pub async fn contacts(&self, numbers: &[&str]) -> anyhow::Result<Value> {
        let body = json!({ "blocking": "wait", "contacts": numbers });
        let answer = self.call(Method::POST, "/v1/contacts", Some(&body)).await?.expect(StatusCode::OK)?;
        Ok(answer.body["contacts"].clone())
    }

    /// Marks an incoming message as read.
    pub async fn mark_read(&self, id: &str) -> anyhow::Result<()> {
        let body = json!({ "status": "read" });
        self.call(Method::PUT, &format!("/v1/messages/{id}"), Some(&body)).await?.expect(StatusCode::OK).map(drop)
    }

    /// Changes application settings.
    pub async fn patch_settings(&self, settings: &Value) -> anyhow::Result<()> {
        self.call(Method::PATCH, "/v1/settings/application", Some(settings)).await?.expect(StatusCode::OK).map(drop)
    }

    /// The application settings.
    pub async fn settings(&self) -> anyhow::Result<Value> {
        let answer = self.call(Method::GET, "/v1/settings/application", None).await?.expect(StatusCode::OK)?;
        Ok(answer.body["settings"]["application"].clone())
    }

    /// The metrics of the process, in the Prometheus text format.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.call(Method::GET, "/metrics", None).await?.expect(StatusCode::OK)?.text)
    }

    /// Adds templates to a sandbox: a list as in a file, or one.
    pub async fn add_templates(&self, templates: &Value) -> anyhow::Result<()> {
        self.call(Method::POST, "/sandbox/templates", Some(templates)).await?.expect(StatusCode::CREATED).map(drop)
    }

    // -- phones of the sandbox --

    /// Puts a phone on the network.
    pub async fn add_phone(&self, number: &str, name: &str) -> anyhow::Result<()> {
        let body = json!({ "number": number, "name": name });
        let answer = self.call(Method::POST, "/sandbox/phones", Some(&body)).await?;
        ensure!((200..300).contains(&answer.status), "phone {number} not added: {} {}", answer.status, answer.text);
        Ok(())
    }

    /// What a phone shows.
    pub async fn inbox(&self, phone: &str) -> anyhow::Result<Inbox> {
        let answer = self.call(Method::GET, &format!("/sandbox/phones/{phone}/inbox"), None).await?.expect(StatusCode::OK)?;
        Ok(serde_json::from_value(answer.body)?)
    }

    /// Switches a phone: `deliver`, `read`, `ignore`, `offline` or `block`.
    pub async fn set_phone(&self, phone: &str, mode: &str) -> anyhow::Result<()> {
        let body = json!({ "mode": mode });
        let answer = self.call(Method::PUT, &format!("/sandbox/phones/{phone}/mode"), Some(&body)).await?;
        ensure!((200..300).contains(&answer.status), "phone {phone} not set: {} {}", answer.status, answer.text);
        Ok(())
    }

    /// Gives a phone new keys.
    pub async fn phone_gets_new_identity(&self, phone: &str) -> anyhow::Result<()> {
        self.call(Method::POST, &format!("/sandbox/phones/{phone}/identity"), None).await?.expect(StatusCode::OK).map(drop)
    }

    /// Moves the user of a phone to another number, whatever the outcome.
    pub async fn phone_changes_number(&self, phone: &str, to: &str) -> anyhow::Result<Answer> {
        self.call(Method::PUT, &format!("/sandbox/phones/{phone}/number"), Some(&json!({ "number": to }))).await
    }

    /// What is known of a user's identity, or that nothing is.
    pub async fn identity(&self, user: &str) -> anyhow::Result<Answer> {
        self.call(Method::GET, &format!("/v1/contacts/{user}/identity"), None).await
    }

    /// Accepts a user's identity, whatever the outcome.
    pub async fn acknowledge_identity(&self, user: &str, hash: &str) -> anyhow::Result<Answer> {
        self.call(Method::PUT, &format!("/v1/contacts/{user}/identity"), Some(&json!({ "hash": hash }))).await
    }

    /// Makes a phone write to the business; returns the id of its message.
    pub async fn phone_sends(&self, phone: &str, content: &Value) -> anyhow::Result<String> {
        let answer = self.call(Method::POST, &format!("/sandbox/phones/{phone}/messages"), Some(content)).await?;
        ensure!((200..300).contains(&answer.status), "phone {phone} cannot write: {} {}", answer.status, answer.text);
        let id = answer.text_at("/id").with_context(|| format!("no id in {}", answer.text))?;
        Ok(id.to_owned())
    }

    /// Ids of the messages of a phone that the business has marked as read.
    pub async fn read_marks(&self, phone: &str) -> anyhow::Result<Vec<String>> {
        let answer = self.call(Method::GET, &format!("/sandbox/phones/{phone}/sent"), None).await?.expect(StatusCode::OK)?;
        let sent = answer.body.as_array().with_context(|| format!("no messages in {}", answer.text))?;
        let is_read = |message: &&Value| message["read_by_business"] == true;
        let id = |message: &Value| message["id"].as_str().map(str::to_owned).context("a message without an id");
        sent.iter().filter(is_read).map(id).collect()
    }

    /// Makes a phone write a text to the business; returns the id of its message.
    pub async fn phone_sends_text(&self, phone: &str, text: &str) -> anyhow::Result<String> {
        self.phone_sends(phone, &json!({ "type": "text", "text": { "body": text } })).await
    }
}

async fn finish(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let answer = request.send().await?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = answer.bytes().await?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Answer { status, headers, bytes, text, body })
}

/// The header of a login.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The body of a text message.
pub fn text_message(to: &str, text: &str) -> Value {
    json!({ "to": to, "type": "text", "text": { "body": text } })
}

/// Asks again and again until the answer is yes, for states that nothing announces. At the deadline: an error.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let asking = async {
        while !holds().await? {
            pace.tick().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(crate::PATIENCE, asking).await.with_context(|| format!("waited in vain until {what}"))?
}
