//! A receiver of callbacks on a real socket: scripted answers, and a record of everything that arrived.
//!
//! Each POST is recorded in the order of arrival, together with the answer it was given. Waiting for
//! callbacks is by notification. [`Sink::close`] makes the receiver unreachable, [`Sink::open`] brings
//! it back on the same port.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header::LOCATION},
    response::{IntoResponse as _, Response},
    serve::Listener,
};
use estafet_runtime::Tasks;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
    server::TlsStream,
};

/// The path callbacks are sent to; other paths are recorded too.
pub const PATH: &str = "/callbacks";

/// One POST that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Position, from 0.
    pub n: usize,
    /// When it was complete.
    pub at: Instant,
    /// Path it was sent to.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as it came.
    pub body: Bytes,
    /// Body as JSON; null if it is none.
    pub event: Value,
    /// The user it is about; none for errors of the number.
    pub contact: Option<String>,
    /// The answer it was given.
    pub status: u16,
}

impl Arrival {
    /// `(id, status)` of each status in it.
    pub fn statuses(&self) -> impl Iterator<Item = (&str, &str)> {
        let statuses = self.event["statuses"].as_array();
        statuses.into_iter().flatten().filter_map(|status| Some((status["id"].as_str()?, status["status"].as_str()?)))
    }

    /// Ids of the incoming messages in it.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.event["messages"].as_array().into_iter().flatten().filter_map(|message| message["id"].as_str())
    }

    /// Whether it reports `status` of message `id`.
    pub fn reports(&self, id: &str, status: &str) -> bool {
        self.statuses().any(|reported| reported == (id, status))
    }
}

/// How one callback is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// At once, with this status.
    Status(u16),
    /// With this status, when the gate is opened.
    After(Gate, u16),
    /// With a redirect to this path of the sink.
    Redirect(&'static str),
}

/// Holds answers back until it is opened.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn passed(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

#[derive(Debug)]
struct Record {
    arrivals: Vec<Arrival>,
    /// Answers by contact; `None` is for any contact.
    scripts: Vec<(Option<String>, VecDeque<Reply>)>,
    /// The status where no script says otherwise.
    otherwise: u16,
}

#[derive(Debug)]
struct Shared {
    record: Mutex<Record>,
    count: watch::Sender<usize>,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        // Only a panicking predicate of a test poisons it, and leaves it whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, path: &str, headers: HeaderMap, body: Bytes) -> Reply {
        let event: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let contact = contact_of(&event);
        let mut record = self.record();
        let scripted = record
            .scripts
            .iter_mut()
            .filter(|(of, _)| of.is_none() || *of == contact)
            .find_map(|(_, replies)| replies.pop_front());
        let reply = scripted.unwrap_or(Reply::Status(record.otherwise));
        let status = match &reply {
            Reply::Status(status) | Reply::After(_, status) => *status,
            Reply::Redirect(_) => StatusCode::FOUND.as_u16(),
        };
        let (n, at, path) = (record.arrivals.len(), Instant::now(), path.to_owned());
        record.arrivals.push(Arrival { n, at, path, headers, body, event, contact, status });
        drop(record);
        self.count.send_modify(|count| *count += 1);
        reply
    }
}

/// A running receiver.
#[derive(Debug)]
pub struct Sink {
    shared: Arc<Shared>,
    scheme: &'static str,
    address: SocketAddr,
    serving: Option<Tasks>,
}

impl Sink {
    /// Starts one on a free port of loopback that answers 200.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut sink = Self::recording(listener.local_addr()?);
        sink.serve(listener);
        Ok(sink)
    }

    /// Starts one that speaks TLS, with a certificate chain and its key, both PEM.
    pub async fn start_tls(chain: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        estafet_runtime::install_crypto();
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?;
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
        let listener = TlsListener { tcp: TcpListener::bind(("127.0.0.1", 0)).await?, tls: TlsAcceptor::from(Arc::new(config)) };
        let mut sink = Self { scheme: "https", ..Self::recording(listener.tcp.local_addr()?) };
        sink.serve(listener);
        Ok(sink)
    }

    fn recording(address: SocketAddr) -> Self {
        let record = Record { arrivals: Vec::new(), scripts: Vec::new(), otherwise: StatusCode::OK.as_u16() };
        let shared = Arc::new(Shared { record: Mutex::new(record), count: watch::Sender::new(0) });
        Self { shared, scheme: "http", address, serving: None }
    }

    fn serve(&mut self, listener: impl Listener<Addr = SocketAddr>) {
        let tasks = Tasks::new();
        let shutdown = tasks.shutdown().clone();
        let router = Router::new().fallback(receive).with_state(self.shared.clone());
        tasks.spawn("sink", async move {
            // Errors of single connections are handled inside; serving itself does not fail.
            let _ = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        });
        self.serving = Some(tasks);
    }

    /// Where callbacks are to be sent.
    pub fn url(&self) -> String {
        format!("{}://{}{PATH}", self.scheme, self.address)
    }

    /// Its socket.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Becomes unreachable: the port refuses connections.
    pub async fn close(&mut self) -> anyhow::Result<()> {
        let tasks = self.serving.take().context("the sink is closed already")?;
        if tasks.stop(crate::PATIENCE).await { Ok(()) } else { Err(anyhow!("the sink still answers; is a gate closed?")) }
    }

    /// Becomes reachable again on the same port.
    pub async fn open(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener);
        Ok(())
    }

    /// Answers the next callbacks, whoever they are about, with these.
    pub fn reply_next(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.record().scripts.push((None, replies.into_iter().collect()));
    }

    /// Answers the next callbacks about `contact` with these.
    pub fn reply_next_about(&self, contact: &str, replies: impl IntoIterator<Item = Reply>) {
        self.shared.record().scripts.push((Some(contact.to_owned()), replies.into_iter().collect()));
    }

    /// Answers with this status where no script says otherwise.
    pub fn reply_otherwise(&self, status: u16) {
        self.shared.record().otherwise = status;
    }

    /// Everything that arrived until now.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.record().arrivals.clone()
    }

    /// Waits until what arrived satisfies `enough`; then returns it. At the deadline: an error that shows it.
    pub async fn wait_for(&self, deadline: Duration, mut enough: impl FnMut(&[Arrival]) -> bool) -> anyhow::Result<Vec<Arrival>> {
        self.wait_until(deadline, |arrivals| enough(arrivals).then(|| arrivals.to_vec())).await
    }

    /// Waits until `find` finds something in what arrived.
    async fn wait_until<T>(&self, deadline: Duration, mut find: impl FnMut(&[Arrival]) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + deadline;
        let mut count = self.shared.count.subscribe();
        loop {
            count.borrow_and_update();
            if let Some(found) = find(&self.shared.record().arrivals) {
                return Ok(found);
            }
            match timeout_at(deadline, count.changed()).await {
                Ok(changed) => changed.context("the sink is gone")?,
                Err(_) => return Err(anyhow!("waited in vain; {}", summary(&self.arrivals()))),
            }
        }
    }

    /// Waits for the callback that reports `status` of message `id`.
    pub async fn wait_for_status(&self, id: &str, status: &str) -> anyhow::Result<Arrival> {
        self.wait_for_one(|arrival| arrival.reports(id, status)).await.with_context(|| format!("no `{status}` of {id}"))
    }

    /// Waits for the callback that brings incoming message `id`.
    pub async fn wait_for_message(&self, id: &str) -> anyhow::Result<Arrival> {
        self.wait_for_one(|arrival| arrival.messages().any(|brought| brought == id))
            .await
            .with_context(|| format!("no message {id}"))
    }

    /// Waits for the first callback that `fits`.
    pub async fn wait_for_one(&self, fits: impl Fn(&Arrival) -> bool) -> anyhow::Result<Arrival> {
        self.wait_until(crate::PATIENCE, |arrivals| arrivals.iter().find(|arrival| fits(arrival)).cloned()).await
    }
}

/// Accepts TLS connections; those that fail the handshake are dropped.
struct TlsListener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.tcp).await;
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn receive(State(shared): State<Arc<Shared>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match shared.arrive(uri.path(), headers, body) {
        Reply::Status(code) => status(code).into_response(),
        Reply::After(gate, code) => {
            gate.passed().await;
            status(code).into_response()
        }
        Reply::Redirect(path) => (StatusCode::FOUND, [(LOCATION, path)]).into_response(),
    }
}

fn contact_of(event: &Value) -> Option<String> {
    let at = |pointer| event.pointer(pointer).and_then(Value::as_str);
    at("/statuses/0/recipient_id").or_else(|| at("/messages/0/from")).or_else(|| at("/contacts/0/wa_id")).map(str::to_owned)
}

/// What arrived, shortened, for an error.
fn summary(arrivals: &[Arrival]) -> String {
    const SHOWN: usize = 20;
    let mut text = format!("{} callbacks arrived", arrivals.len());
    for arrival in &arrivals[arrivals.len().saturating_sub(SHOWN)..] {
        let body = String::from_utf8_lossy(&arrival.body);
        let body: String = body.chars().take(300).collect();
        text.push_str(&format!("\n  #{} answered {}: {body}", arrival.n, arrival.status));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::client::Api;

    async fn post(sink: &Sink, event: &Value) -> u16 {
        let api = Api::anonymous(&format!("http://{}", sink.address())).unwrap();
        api.call(Method::POST, PATH, Some(event)).await.unwrap().status
    }

    fn inbound(from: &str, id: &str) -> Value {
        json!({ "messages": [{ "from": from, "id": id }] })
    }

    #[tokio::test]
    async fn scripts_answer_by_contact_and_everything_is_recorded() {
        let sink = Sink::start().await.unwrap();
        sink.reply_next_about("1", [Reply::Status(500)]);
        assert_eq!(post(&sink, &inbound("2", "b")).await, 200);
        assert_eq!(post(&sink, &inbound("1", "a")).await, 500);
        assert_eq!(post(&sink, &inbound("1", "a")).await, 200);
        let arrival = sink.wait_for_message("a").await.unwrap();
        assert_eq!((arrival.n, arrival.status, arrival.contact.as_deref()), (1, 500, Some("1")));
        assert_eq!(sink.arrivals().len(), 3);
    }

    #[tokio::test]
    async fn a_gate_holds_an_answer_until_it_is_opened() {
        let sink = Sink::start().await.unwrap();
        let gate = Gate::new();
        sink.reply_next([Reply::After(gate.clone(), 201)]);
        let event = inbound("1", "a");
        let (status, ()) = tokio::join!(post(&sink, &event), async {
            sink.wait_for_message("a").await.unwrap();
            gate.open();
        });
        assert_eq!(status, 201);
    }

    #[tokio::test]
    async fn a_closed_sink_refuses_and_comes_back_on_its_port() {
        let mut sink = Sink::start().await.unwrap();
        sink.close().await.unwrap();
        let api = Api::anonymous(&format!("http://{}", sink.address())).unwrap();
        assert!(api.call(Method::POST, PATH, Some(&inbound("1", "a"))).await.is_err());
        sink.open().await.unwrap();
        assert_eq!(post(&sink, &inbound("1", "a")).await, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_shows_what_arrived() {
        let sink = Sink::start().await.unwrap();
        let error = sink.wait_for(Duration::from_secs(1), |_| false).await.unwrap_err().to_string();
        assert!(error.contains("0 callbacks arrived"), "{error}");
    }
}
