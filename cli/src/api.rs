//! The API of a server and the control interface of a sandbox, as commands see them.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Client, Method, header::AUTHORIZATION};
use serde_json::Value;

/// How long a file may take.
const TRANSFER: Duration = Duration::from_secs(600);

/// A sandbox that answers at a base URL.
pub(crate) struct Api {
    client: Client,
    base: String,
    authorization: Option<String>,
}

impl Api {
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), authorization: None })
    }

    /// Logs in; later calls are those of the account.
    pub(crate) async fn log_in(&mut self, user: &str, password: &str) -> anyhow::Result<()> {
        self.authorization = Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        let answer = self.call(Method::POST, "/v1/users/login", None).await.context("login")?;
        let token = answer.pointer("/users/0/token").and_then(Value::as_str).context("login gave no token")?;
        self.authorization = Some(format!("Bearer {token}"));
        Ok(())
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Status and text of an answer, whatever it says.
    pub(crate) async fn look(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let response = self.request(Method::GET, path).send().await;
        let response = response.with_context(|| format!("no server answers at {}", self.base))?;
        Ok((response.status().as_u16(), response.text().await.context("the answer broke off")?))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        }
    }

    /// Calls the sandbox; anything but success becomes an error that says what the sandbox said.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.answer(request).await
    }

    /// Sends a file.
    pub(crate) async fn upload(&self, path: &str, content_type: &str, file: &Path) -> anyhow::Result<Value> {
        let content = tokio::fs::File::open(file).await.with_context(|| file.display().to_string())?;
        let request = self.client.post(format!("{}{path}", self.base)).header("Content-Type", content_type).body(content);
        self.answer(request.timeout(TRANSFER)).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.send().await.with_context(|| format!("no server answers at {} (see --url)", self.base))?;
        let status = response.status();
        let text = response.text().await.context("the sandbox's answer broke off")?;
        let answer = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
        if !status.is_success() {
            let reason = reason(&answer).map_or_else(|| answer.to_string(), str::to_owned);
            bail!("{reason} ({status})");
        }
        Ok(answer)
    }
}

/// What an answer says is wrong: in the words of the control interface, or of the API.
fn reason(answer: &Value) -> Option<&str> {
    let of_api = || answer.pointer("/errors/0/details").or_else(|| answer.pointer("/errors/0/title"));
    answer.get("error").or_else(of_api)?.as_str()
}
