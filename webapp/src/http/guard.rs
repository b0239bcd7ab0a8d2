//! The socket as hyper sees it: guarded in time, and with hyper's own answers put into the
//! On-Premises envelope.
//!
//! * A head must be complete in time, from its first byte; the first head from the accept.
//! * A connection may idle so long between two requests; a write may stall so long.
//! * hyper answers what it cannot parse with an empty 400, 414 or 431 and closes. Such a head is
//!   always the last thing it writes, ends the buffer, and has no `x-request-id`, which every
//!   answer of ours has. It is replaced by one with a body.
//! * A head that says in two ways where its body ends is noted ([`Head`]); the request is refused.
//! * At the end the rest of the client's input is read and dropped for a bounded time, so that the
//!   client finds the answer and not a reset.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::head::Head;

/// How long and how much of the client's input is dropped at the end.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 8 << 20);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) write: Duration,
}

/// Whole answers for what never becomes a request.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    /// Instead of hyper's 400, 414 and 431.
    pub(crate) bad_request: Bytes,
    /// When there are too many connections.
    pub(crate) too_many: Bytes,
    /// Body of the refusal of a request that says in two ways where its body ends.
    pub(crate) ambiguous: Bytes,
}

impl Overload {
    /// The refusal of such a request. What follows it is not read.
    pub(crate) fn refuse_ambiguous(&self) -> Response {
        let mut response = Response::new(Body::from(self.ambiguous.clone()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// Shared between a connection's service and its socket.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    serving: AtomicBool,
    requests: AtomicU64,
    /// The head of the next request says in two ways where its body ends.
    ambiguous: AtomicBool,
}

impl Progress {
    /// A request begins; it ends when the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Serving {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.serving.store(true, Ordering::Relaxed);
        Serving { is_ambiguous: self.ambiguous.swap(false, Ordering::Relaxed), progress: self.clone() }
    }
}

/// A request in service.
pub(crate) struct Serving {
    progress: Arc<Progress>,
    is_ambiguous: bool,
}

impl Serving {
    /// Whether its head says in two ways where its body ends.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.is_ambiguous
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.progress.serving.store(false, Ordering::Relaxed);
    }
}

/// A guarded socket.
pub(crate) struct Guarded<T> {
    inner: T,
    limits: Limits,
    answers: Overload,
    progress: Arc<Progress>,
    shutdown: CancellationToken,
    /// Requests begun when `waiting_since` was set.
    seen_requests: u64,
    waiting_since: Instant,
    head_began: Option<Instant>,
    head: Head,
    write_stalled: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// What remains to be written instead of hyper's own answer.
    replacement: Bytes,
    linger: Option<Linger>,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<T> Guarded<T> {
    pub(crate) fn new(inner: T, limits: Limits, answers: Overload, progress: Arc<Progress>, shutdown: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            inner,
            limits,
            answers,
            progress,
            shutdown,
            seen_requests: 0,
            waiting_since: now,
            head_began: None,
            head: Head::default(),
            write_stalled: None,
            timer: Box::pin(tokio::time::sleep_until(now + limits.head)),
            replacement: Bytes::new(),
            linger: None,
        }
    }

    /// When the client has kept us waiting for too long; `None` while it is our turn.
    fn read_deadline(&self) -> Option<Instant> {
        if self.progress.serving.load(Ordering::Relaxed) {
            // Reading a body has a limit of its own.
            return None;
        }
        Some(match self.head_began {
            Some(began) => began + self.limits.head,
            None if self.seen_requests == 0 => self.waiting_since + self.limits.head,
            None => self.waiting_since + self.limits.idle,
        })
    }

    fn note_requests(&mut self) {
        let requests = self.progress.requests.load(Ordering::Relaxed);
        if requests != self.seen_requests || self.progress.serving.load(Ordering::Relaxed) {
            self.seen_requests = requests;
            self.waiting_since = Instant::now();
            self.head_began = None;
            self.head = Head::default();
        }
    }

    /// Ready when `deadline` has passed; else the task is woken then. The timer is moved rarely:
    /// a later deadline is only looked at when the old one fires.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<io::Error> {
        let Some(deadline) = deadline else { return Poll::Pending };
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.note_requests();
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            if buf.filled().len() > before && !this.progress.serving.load(Ordering::Relaxed) {
                this.head_began.get_or_insert_with(Instant::now);
                this.head.feed(&buf.filled()[before..]);
                if this.head.is_ambiguous() {
                    this.progress.ambiguous.store(true, Ordering::Relaxed);
                }
            }
            return Poll::Ready(result);
        }
        let deadline = this.read_deadline();
        this.poll_deadline(cx, deadline).map(Err)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_replacement(cx))?;
        let ours = match own_answer_of_hyper(buf) {
            Some(0) => {
                // Taken whole now; hyper flushes after its last write, and that writes the replacement.
                this.replacement = this.answers.bad_request.clone();
                return Poll::Ready(Ok(buf.len()));
            }
            Some(at) => &buf[..at],
            None => buf,
        };
        this.poll_guarded_write(cx, ours)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replacement(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.linger = Some(Linger { until: Box::pin(tokio::time::sleep(LINGER.0)), left: LINGER.1 });
        }
        if this.shutdown.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        this.poll_linger(cx).map(Ok)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Guarded<T> {
    fn poll_guarded_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.inner).poll_write(cx, buf) {
            self.write_stalled = None;
            return Poll::Ready(written);
        }
        let since = *self.write_stalled.get_or_insert_with(Instant::now);
        let deadline = since + self.limits.write;
        self.poll_deadline(cx, Some(deadline)).map(Err)
    }

    /// Writes what stands for hyper's own answer.
    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.replacement.is_empty() {
            let rest = self.replacement.clone();
            let written = ready!(self.poll_guarded_write(cx, &rest))?;
            self.replacement.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(linger) = &mut self.linger else { return Poll::Ready(()) };
        let mut scratch = [0; 8192];
        while linger.left > 0 && linger.until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => linger.left = linger.left.saturating_sub(buf.filled().len()),
                // The end, or an error: either way nothing is left unread.
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

/// Where in `buf` an answer begins that hyper made by itself.
fn own_answer_of_hyper(buf: &[u8]) -> Option<usize> {
    // Answers of ours end with a JSON body, so the hot path stops here.
    if !buf.ends_with(b"\r\n\r\n") {
        return None;
    }
    let at = find_last(buf, b"HTTP/1.1 ")?;
    let head = &buf[at..];
    let refused = [&b"400 "[..], b"414 ", b"431 "].iter().any(|status| head[9..].starts_with(status));
    let lower = head.to_ascii_lowercase();
    let empty = find_last(&lower, b"content-length: 0\r\n").is_some();
    (refused && empty && find_last(&lower, b"x-request-id:").is_none()).then_some(at)
}

fn find_last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn guarded<T>(inner: T) -> Guarded<T> {
        let second = Duration::from_secs(1);
        let answers = Overload { bad_request: Bytes::from_static(b"REPLACED"), too_many: Bytes::new(), ambiguous: Bytes::new() };
        let limits = Limits { head: second, idle: second, write: second };
        Guarded::new(inner, limits, answers, Arc::default(), CancellationToken::new())
    }

    #[tokio::test]
    async fn an_own_answer_of_hyper_is_replaced_once_however_slowly_it_is_read() {
        let (client, server) = tokio::io::duplex(3);
        let mut server = guarded(server);
        let write = async move {
            server.write_all(b"{}HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            server.flush().await.unwrap();
        };
        let read = async move {
            let (mut client, mut text) = (client, Vec::new());
            client.read_to_end(&mut text).await.unwrap();
            text
        };
        assert_eq!(tokio::join!(write, read).1, b"{}REPLACED");
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_is_never_read_is_given_up() {
        let (_client, server) = tokio::io::duplex(3);
        let mut server = guarded(server);
        let error = server.write_all(b"more than fits").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn only_empty_refusals_of_hyper_are_recognised() {
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(own_answer_of_hyper(own.as_bytes()), Some(0));
        assert_eq!(own_answer_of_hyper(format!("{{}}{own}").as_bytes()), Some(2));
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nx-request-id: 7\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello",
            "",
        ] {
            assert_eq!(own_answer_of_hyper(other.as_bytes()), None, "{other}");
        }
    }
}
