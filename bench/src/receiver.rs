//! The receiver of callbacks in a bench: counts statuses by message with as little work as possible.
//!
//! It scans the body instead of parsing it: it shares the machine with what is measured.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use estafet_runtime::Tasks;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};

/// All three statuses.
const COMPLETE: u8 = 0b111;

/// What is known of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    statuses: u8,
    completed_at: Option<Instant>,
}

/// What arrived so far.
#[derive(Debug, Default)]
struct State {
    seen: HashMap<Box<str>, Seen>,
    posts: u64,
    repeated: u64,
    failed: u64,
}

/// What arrived, in the end.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// When the third status of each message arrived.
    pub(crate) completed: HashMap<Box<str>, Instant>,
    pub(crate) posts: u64,
    pub(crate) repeated: u64,
    pub(crate) failed: u64,
}

/// What receives the bodies of callbacks and answers them.
pub(crate) trait Take: Send + Sync + 'static {
    /// Takes one; the status to answer.
    fn take(&self, body: &[u8]) -> StatusCode;
}

/// The statuses of messages.
#[derive(Debug)]
pub(crate) struct Statuses {
    state: Mutex<State>,
    completed: watch::Sender<usize>,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { state: Mutex::default(), completed: watch::Sender::new(0) }
    }
}

impl Statuses {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, body: &[u8]) {
        let mut completed = 0;
        let mut state = self.state();
        state.posts += 1;
        for (id, status) in statuses(body) {
            let bit = match status {
                "sent" => 0b001,
                "delivered" => 0b010,
                "read" => 0b100,
                _ => {
                    state.failed += 1;
                    continue;
                }
            };
            let seen = match state.seen.get_mut(id) {
                Some(seen) => seen,
                None => state.seen.entry(id.into()).or_default(),
            };
            if seen.statuses & bit != 0 {
                state.repeated += 1;
                continue;
            }
            seen.statuses |= bit;
            if seen.statuses == COMPLETE {
                seen.completed_at = Some(Instant::now());
                completed += 1;
            }
        }
        drop(state);
        if completed > 0 {
            self.completed.send_modify(|count| *count += completed);
        }
    }
}

impl Take for Statuses {
    fn take(&self, body: &[u8]) -> StatusCode {
        self.count(body);
        StatusCode::OK
    }
}

/// A running receiver.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    shared: Arc<T>,
    address: SocketAddr,
    tasks: Tasks,
}

impl<T: Take> Receiver<T> {
    pub(crate) async fn start(taker: T) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(taker);
        let tasks = Tasks::new();
        tasks.spawn("bench receiver", accept(listener, shared.clone(), tasks.clone()));
        Ok(Self { shared, address, tasks })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/callbacks", self.address)
    }

    /// What takes the callbacks.
    pub(crate) fn taker(&self) -> Arc<T> {
        self.shared.clone()
    }
}

impl Receiver<Statuses> {
    /// Messages of which all statuses arrived.
    pub(crate) fn completed(&self) -> usize {
        *self.shared.completed.borrow()
    }

    /// Waits until `count` messages are complete; says whether they were before the deadline.
    pub(crate) async fn wait_for(&self, count: usize, deadline: Duration) -> bool {
        let mut completed = self.shared.completed.subscribe();
        let waiting = completed.wait_for(|completed| *completed >= count);
        tokio::time::timeout(deadline, waiting).await.is_ok_and(|ended| ended.is_ok())
    }

    /// What arrived.
    pub(crate) fn received(&self) -> Received {
        let state = self.shared.state();
        let completed = state.seen.iter().filter_map(|(id, seen)| Some((id.clone(), seen.completed_at?))).collect();
        Received { completed, posts: state.posts, repeated: state.repeated, failed: state.failed }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<impl Take>, tasks: Tasks) {
    let shutdown = tasks.shutdown().clone();
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The peer went away before it was accepted.
                Err(_) => continue,
            },
        };
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        tasks.spawn("bench receiver connection", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = serve(stream, shared) => {}
            }
        });
    }
}

async fn serve(stream: TcpStream, shared: Arc<impl Take>) {
    // Only delays small answers if it fails.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            let mut answer = Response::new(Empty::<Bytes>::new());
            if let Ok(body) = request.into_body().collect().await {
                *answer.status_mut() = shared.take(&body.to_bytes());
            }
            Ok::<_, Infallible>(answer)
        }
    });
    // A connection that breaks is the sender's to repeat.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// `(id, status)` of each status in a callback, whatever the order of members.
fn statuses(body: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let list = text.find("\"statuses\"").map_or("", |at| &text[at..]);
    // Each entry has exactly one recipient; other objects in it have none.
    let count = list.matches("\"recipient_id\"").count();
    let ids = values(list, "\"id\":\"").filter(|id| id.starts_with("gB"));
    ids.zip(values(list, "\"status\":\"")).take(count)
}

fn values<'a>(text: &'a str, member: &'static str) -> impl Iterator<Item = &'a str> {
    text.match_indices(member).filter_map(move |(at, _)| {
        let value = &text[at + member.len()..];
        Some(&value[..value.find('"')?])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_found_whatever_else_is_in_the_callback() {
        let body = br#"{"statuses":[{"conversation":{"id":"ebe5","origin":{"type":"service"}},"id":"gBEGa","recipient_id":"1","status":"sent"},
            {"id":"gBGGb","recipient_id":"2","status":"read","timestamp":"1"}]}"#;
        assert_eq!(statuses(body).collect::<Vec<_>>(), [("gBEGa", "sent"), ("gBGGb", "read")]);
        assert_eq!(statuses(br#"{"messages":[{"id":"gBEGa"}]}"#).count(), 0);
        assert_eq!(statuses(b"\xff").count(), 0);
    }

    #[test]
    fn a_message_is_complete_with_its_third_status_and_repeats_are_counted() {
        let shared = Statuses::default();
        for status in ["sent", "delivered", "delivered", "read"] {
            let body = format!(r#"{{"statuses":[{{"id":"gBEGa","recipient_id":"1","status":"{status}"}}]}}"#);
            shared.take(body.as_bytes());
        }
        let state = shared.state();
        assert_eq!((*shared.completed.borrow(), state.repeated, state.posts), (1, 1, 4));
    }
}
