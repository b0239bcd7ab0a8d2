//! The generator: messages due at fixed times, over keep-alive connections, on one thread.
//!
//! Connections share one line of tickets. A ticket's message is due at `start + n / rate`; a free connection
//! takes the next ticket, waits until it is due and sends it. When all connections are busy tickets are late,
//! and the lateness is part of the latency. Timers have a grain of 1 ms, which is part of it too.

use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::join_all;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

/// How long after the last due time tickets are still sent; later ones count as missed.
const GRACE: Duration = Duration::from_secs(2);
/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest latency the histogram tells apart, microseconds.
const LONGEST_US: u64 = 120_000_000;

/// What is sent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) phones: Vec<String>,
    pub(crate) rate: u32,
    pub(crate) conns: u32,
    pub(crate) body: u32,
    pub(crate) length: Duration,
}

/// An accepted message.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) id: Box<str>,
    /// When it was due.
    pub(crate) due: Instant,
}

/// What happened.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) accepted: Vec<Accepted>,
    /// From due to answered, microseconds.
    pub(crate) latency: Histogram<u64>,
    /// The same of answers other than 201.
    pub(crate) refusals: Histogram<u64>,
    /// Answers other than 201, by status; 0 is a broken connection.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Tickets that were never sent.
    pub(crate) missed: u64,
}

/// A histogram of microseconds with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds are valid")
}

/// Sends it all, on a thread of its own.
pub(crate) async fn generate(plan: Plan) -> anyhow::Result<Outcome> {
    let running = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Generator::new(plan).run())
    });
    running.await.context("the load generator panicked")?
}

struct State {
    next: u64,
    outcome: Outcome,
}

struct Generator {
    plan: Plan,
    tickets: u64,
    start: Instant,
    authorization: HeaderValue,
    host: HeaderValue,
    state: RefCell<State>,
}

impl Generator {
    fn new(plan: Plan) -> Self {
        let start = Instant::now() + Duration::from_millis(50);
        let tickets = u64::from(plan.rate) * plan.length.as_secs();
        let capacity = usize::try_from(tickets).unwrap_or_default();
        let outcome = Outcome {
            started: start,
            ended: start,
            accepted: Vec::with_capacity(capacity),
            latency: histogram(),
            refusals: histogram(),
            refused: BTreeMap::new(),
            missed: 0,
        };
        let header = |text: String| HeaderValue::try_from(text).expect("a token or an address is plain ASCII");
        let (authorization, host) = (header(format!("Bearer {}", plan.token)), header(plan.address.to_string()));
        Self { plan, tickets, start, authorization, host, state: RefCell::new(State { next: 0, outcome }) }
    }

    async fn run(self) -> anyhow::Result<Outcome> {
        let connections = join_all((0..self.plan.conns).map(|_| self.connection())).await;
        let mut outcome = self.state.into_inner().outcome;
        // Tickets nobody could take, because every connection had failed.
        let handled = outcome.accepted.len() as u64 + outcome.refused.values().sum::<u64>() + outcome.missed;
        outcome.missed += self.tickets.saturating_sub(handled);
        outcome.ended = Instant::now();
        if outcome.accepted.is_empty() {
            connections.into_iter().collect::<anyhow::Result<()>>()?;
        }
        Ok(outcome)
    }

    /// One connection, opened again after it broke, until no tickets are left.
    async fn connection(&self) -> anyhow::Result<()> {
        while self.state.borrow().next < self.tickets {
            let stream = TcpStream::connect(self.plan.address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // The connection ends when the sender is dropped; how it ended shows in the answers.
            let _ = tokio::join!(self.send_all(sender), connection);
        }
        Ok(())
    }

    async fn send_all(&self, mut sender: SendRequest<Full<Bytes>>) {
        while let Some((n, due)) = self.take_ticket() {
            if due > Instant::now() {
                sleep_until(due).await;
            } else if due + GRACE < Instant::now() {
                self.state.borrow_mut().outcome.missed += 1;
                continue;
            }
            let phone = u32::try_from(n % self.plan.phones.len() as u64).unwrap_or_default();
            let answer = timeout(ANSWER_WITHIN, self.send(&mut sender, n, phone)).await.ok().flatten();
            let broken = answer.is_none();
            self.record(answer, due);
            if broken {
                return;
            }
        }
    }

    fn take_ticket(&self) -> Option<(u64, Instant)> {
        let mut state = self.state.borrow_mut();
        let n = state.next;
        (n < self.tickets).then(|| {
            state.next += 1;
            let offset = Duration::from_nanos(n * 1_000_000_000 / u64::from(self.plan.rate));
            (n, self.start + offset)
        })
    }

    /// The status and the body of the answer; none if the connection broke.
    async fn send(&self, sender: &mut SendRequest<Full<Bytes>>, n: u64, phone: u32) -> Option<(StatusCode, Bytes)> {
        sender.ready().await.ok()?;
        let request = Request::post("/v1/messages")
            .header(HOST, self.host.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(message(&self.plan.phones[phone as usize], n, self.plan.body)))
            .expect("a constant path and checked headers make a request");
        let answer = sender.send_request(request).await.ok()?;
        let status = answer.status();
        Some((status, answer.into_body().collect().await.ok()?.to_bytes()))
    }

    fn record(&self, answer: Option<(StatusCode, Bytes)>, due: Instant) {
        let outcome = &mut self.state.borrow_mut().outcome;
        let waited = u64::try_from(due.elapsed().as_micros()).unwrap_or(LONGEST_US).max(1);
        let (status, body) = answer.unwrap_or((StatusCode::SWITCHING_PROTOCOLS, Bytes::new()));
        let accepted = (status == StatusCode::CREATED).then(|| message_id(&body)).flatten();
        let Some(id) = accepted else {
            let status = if body.is_empty() && status == StatusCode::SWITCHING_PROTOCOLS { 0 } else { status.as_u16() };
            *outcome.refused.entry(status).or_default() += 1;
            outcome.refusals.saturating_record(waited);
            return;
        };
        outcome.accepted.push(Accepted { id: id.into(), due });
        outcome.latency.saturating_record(waited);
    }
}

/// A text message that is unique by its number.
fn message(phone: &str, n: u64, length: u32) -> Bytes {
    use std::fmt::Write as _;
    let mut json = String::with_capacity(length as usize + 80);
    // Writing to a string does not fail.
    let _ =
        write!(json, "{{\"to\":\"{phone}\",\"type\":\"text\",\"text\":{{\"body\":\"{n:-<width$}\"}}}}", width = length as usize);
    Bytes::from(json)
}

/// The id in the answer to a send; `wa_id` does not begin with a quotation mark before `id`.
fn message_id(body: &[u8]) -> Option<&str> {
    const MEMBER: &str = "\"id\":\"";
    let text = std::str::from_utf8(body).ok()?;
    let value = &text[text.find(MEMBER)? + MEMBER.len()..];
    Some(&value[..value.find('"')?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_with_a_text_of_the_wanted_length() {
        let json: serde_json::Value = serde_json::from_slice(&message("15550001001", 7, 300)).unwrap();
        assert_eq!(json["to"], "15550001001");
        let text = json["text"]["body"].as_str().unwrap();
        assert_eq!((text.len(), &text[..3]), (300, "7--"));
    }

    #[test]
    fn the_id_is_found_behind_the_wa_id() {
        let body = br#"{"contacts":[{"input":"1","wa_id":"1"}],"messages":[{"id":"gBEGx"}],"meta":{}}"#;
        assert_eq!(message_id(body), Some("gBEGx"));
        assert_eq!(message_id(br#"{"errors":[]}"#), None);
    }

    #[tokio::test]
    async fn a_server_that_answers_nothing_useful_is_all_refusals() {
        let receiver = crate::receiver::Receiver::start(crate::receiver::Statuses::default()).await.unwrap();
        let address = receiver.url().trim_start_matches("http://").trim_end_matches("/callbacks").parse().unwrap();
        let plan = Plan {
            address,
            token: "a.b.c".to_owned(),
            phones: vec!["15550001001".to_owned()],
            rate: 50,
            conns: 4,
            body: 30,
            length: Duration::from_secs(1),
        };
        let outcome = generate(plan).await.unwrap();
        assert_eq!((outcome.refused, outcome.missed), (BTreeMap::from([(200, 50)]), 0));
    }
}
