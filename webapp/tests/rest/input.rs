use std::time::Duration;

use estafet_webapp::{Config, Deps, Limits};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::world::{PHONE, Webapp, World, check, registered};

const PATIENCE: Duration = Duration::from_secs(20);

/// Writes `input` and reads until the server closes.
async fn raw(webapp: &Webapp, input: &[u8]) -> String {
    let stream = TcpStream::connect(webapp.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let write = async {
        // The server may close before it has read everything.
        let _ = writing.write_all(input).await;
        writing
    };
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut text));
    let (_writing, read) = tokio::join!(write, read);
    read.expect("the server closes the connection").expect("no reset");
    String::from_utf8(text).unwrap()
}

fn body_of(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"))
}

#[tokio::test]
async fn bad_bodies_get_an_envelope_and_never_a_5xx() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let padded = |length: usize| {
        let frame = r#"{"to":"bogus","text":{"body":"x"},"x":""}"#;
        format!(r#"{{"to":"bogus","text":{{"body":"x"}},"x":"{}"}}"#, "a".repeat(length - frame.len())).into_bytes()
    };
    let mib = 1 << 20;
    let table: Vec<(&str, Vec<u8>, (u16, u64))> = vec![
        ("garbage", b"\x00\xff\xfe garbage".to_vec(), (400, 1008)),
        ("truncated", br#"{"to":"16315551234","type":"text","text":{"body":"x"}"#.to_vec(), (400, 1008)),
        ("empty", Vec::new(), (400, 1008)),
        ("a list", b"[]".to_vec(), (400, 1008)),
        ("a byte order mark within", "{\u{feff}}".into(), (400, 1008)),
        ("trailing bytes", br#"{"to":"1"} x"#.to_vec(), (400, 1008)),
        ("a lone surrogate", br#"{"to":"\ud800"}"#.to_vec(), (400, 1008)),
        ("overlong UTF-8", b"{\"to\":\"\xc0\xaf\"}".to_vec(), (400, 1008)),
        ("deep", "{\"a\":".repeat(100_000).into_bytes(), (400, 1008)),
        ("a long number", format!("{{\"to\":{}}}", "9".repeat(500_000)).into_bytes(), (400, 1008)),
        ("exactly 1 MiB", padded(mib), (400, 1009)),
        ("1 MiB and a byte", padded(mib + 1), (413, 1009)),
        ("an unknown member with NUL", br#"{"to":"1\u0000"}"#.to_vec(), (400, 1009)),
    ];
    for path in ["/v1/messages", "/v1/contacts", "/v1/users"] {
        for (name, body, refusal) in &table {
            let request = webapp.client.post(webapp.url(path)).bearer_auth(&token).body(body.clone());
            let got = check(request.send().await.unwrap()).await;
            if path == "/v1/messages" || got.status == 413 {
                assert_eq!(got.refusal(), *refusal, "{path} {name}: {}", got.body);
            }
            assert!((400..500).contains(&got.status), "{path} {name}: {}", got.body);
        }
    }
    assert!(core.requests().is_empty());
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_cut() {
    let (_world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let chunks = futures::stream::iter((0..200).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 8192])));
    let request = webapp.client.post(webapp.url("/v1/messages")).bearer_auth(&token).body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(check(request.send().await.unwrap()).await.refusal(), (413, 1009));
}

#[tokio::test]
async fn wrong_types_of_content_name_the_header() {
    let (_world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    for value in ["text/plain", "multipart/form-data; boundary=x"] {
        let request = webapp.client.post(webapp.url("/v1/messages")).bearer_auth(&token).header("content-type", value).body("{}");
        let got = check(request.send().await.unwrap()).await;
        assert_eq!(got.refusal(), (400, 1025), "{value}");
        assert!(got.body["errors"][0]["details"].as_str().unwrap().contains("Content-Type"));
    }
}

/// S13: what a body would grow to is never found out.
#[tokio::test]
async fn compressed_bodies_are_refused_wherever_one_is_taken() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".as_slice();
    for (method, path, kind) in [
        (Method::POST, "/v1/messages", "application/json"),
        (Method::PATCH, "/v1/settings/application", "application/json"),
        (Method::PUT, "/v1/certificates/webhooks/ca", "text/plain"),
        (Method::POST, "/v1/media", "image/jpeg"),
    ] {
        let request = webapp.client.request(method, webapp.url(path)).bearer_auth(&token);
        let request = request.header("content-type", kind).header("content-encoding", "gzip").body(bomb);
        let got = check(request.send().await.unwrap()).await;
        assert_eq!(got.refusal(), (415, 1025), "{path}");
        assert_eq!(got.headers["accept-encoding"], "identity");
        assert!(got.body["errors"][0]["details"].as_str().unwrap().contains("Content-Encoding"));
    }
    assert!(core.requests().is_empty());
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_envelope() {
    let (_world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    for path in ["/v1/nothing/here", "/v1", "/v1/groups", "/v2/messages", "/v1/users/a/b", "/v1//messages"] {
        let got = webapp.get(path, &token).await;
        assert_eq!(
            (got.refusal(), got.body["errors"][0]["details"].as_str()),
            ((404, 1014), Some("endpoint not found")),
            "{path}"
        );
    }
    for (method, path) in [
        (Method::GET, "/v1/contacts"),
        (Method::GET, "/v1/users"),
        (Method::DELETE, "/v1/messages"),
        (Method::GET, "/v1/users/login/"),
        (Method::OPTIONS, "/v1/health"),
        (Method::TRACE, "/v1/health"),
    ] {
        assert_eq!(
            webapp.call(method.clone(), path, &format!("Bearer {token}"), None).await.refusal(),
            (405, 1014),
            "{method} {path}"
        );
    }
    let root = webapp.client.get(webapp.url("/")).send().await.unwrap();
    assert_eq!((root.status().as_u16(), root.text().await.unwrap()), (200, "{}".to_owned()));
}

#[tokio::test]
async fn request_ids_are_echoed_when_sane_and_made_otherwise() {
    let (_world, _core, webapp) = World::ready().await;
    let echoed = async |id: &str| {
        let response = webapp.client.get(webapp.url("/v1/health")).header("x-request-id", id).send().await.unwrap();
        check(response).await.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(echoed("order-4711").await, "order-4711");
    let long = "x".repeat(129);
    for odd in ["", "two words", &long] {
        assert_eq!(echoed(odd).await.len(), 36, "{odd:.20}");
    }
}

#[tokio::test]
async fn what_hyper_refuses_has_the_envelope_too() {
    let (_world, _core, webapp) = World::ready().await;
    let huge = format!("GET /v1/health HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", "a".repeat(1 << 20));
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    for input in [
        huge.into_bytes(),
        format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes(),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(100_000)).into_bytes(),
        b"nonsense\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n".to_vec(),
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello".to_vec(),
        b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: a\0b\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nhost: x\r\nx: ".to_vec(), vec![b'a'; 9 << 20]].concat(),
    ] {
        let answer = raw(&webapp, &input).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:.200}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1);
        let body = body_of(&answer);
        assert_eq!((&body["errors"][0]["code"], &body["meta"]["api_status"]), (&json!(1025), &json!("stable")));
    }
}

#[tokio::test]
async fn a_request_with_two_ends_is_refused_and_what_hides_in_its_body_is_not_served() {
    let (_world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let message = format!(r#"{{"to":"{PHONE}","text":{{"body":"smuggled"}}}}"#);
    let hidden = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{message}",
        message.len()
    );
    let chunked = "transfer-encoding: chunked\r\n";
    for (first, second) in [("content-length: 5\r\n", chunked), (chunked, "Content-Length: 5\r\n")] {
        for before in ["", "\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let head = format!("POST /v1/contacts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n{first}{second}\r\n");
            let answer = raw(&webapp, format!("{before}{head}0\r\n\r\n{hidden}").as_bytes()).await;
            assert!(answer.contains("HTTP/1.1 400 ") && !answer.contains("HTTP/1.1 201 "), "{before}{first}{second}: {answer}");
            assert!(answer.to_lowercase().contains("connection: close\r\n"), "{answer}");
        }
    }
    assert_eq!(core.requests().len(), 0);
    let fine =
        format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\n{chunked}\r\n");
    let body = format!("{:x}\r\n{message}\r\n0\r\n\r\n", message.len());
    assert!(raw(&webapp, format!("{fine}{body}").as_bytes()).await.starts_with("HTTP/1.1 201 "));
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let (_world, _core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let length = 6 << 20;
    let head =
        format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n");
    let answer = raw(&webapp, &[head.into_bytes(), vec![b'x'; length]].concat()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:.200}");
    assert_eq!(body_of(&answer)["errors"][0]["code"], 1009);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_world, _core, webapp) = World::ready().await;
    let one = "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(&webapp, format!("{one}GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await;
    let statuses: Vec<&str> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "401", "404"]);
    let broken = raw(&webapp, format!("{one}nonsense\r\n\r\n").as_bytes()).await;
    let statuses: Vec<&str> = broken.match_indices("HTTP/1.1 ").map(|(at, _)| &broken[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "401", "400"]);
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let limits = Limits { head_timeout_ms: 50, idle_timeout_ms: 50, ..Limits::default() };
    let (_world, _core, webapp) = World::ready_with(Config { limits, ..registered() }).await;
    assert_eq!(raw(&webapp, b"").await, "", "no first byte");
    assert_eq!(raw(&webapp, b"GET / HT").await, "", "half a head");
    let idle = raw(&webapp, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200 "), "answered, then closed when idle");
    let half = raw(&webapp, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / H").await;
    assert!(half.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let limits = Limits { body_timeout_ms: 50, ..Limits::default() };
    let (_world, _core, webapp) = World::ready_with(Config { limits, ..registered() }).await;
    let token = webapp.admin().await;
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    for rest in ["transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", "content-length: 100\r\n\r\n{"] {
        let answer = raw(&webapp, format!("{head}{rest}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(body_of(&answer)["errors"][0]["code"], 1025);
    }
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let (_world, _core, webapp) = World::ready_with(Config { limits, ..registered() }).await;
    let mut first = TcpStream::connect(webapp.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 12];
    first.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"HTTP/1.1 200");
    let answer = raw(&webapp, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert_eq!(body_of(&answer)["errors"][0]["code"], 1016);
}

#[tokio::test]
async fn extra_routes_are_served_to_loopback_peers_and_a_panic_is_a_500() {
    let world = World::new().await;
    let extra = axum::Router::new()
        .route("/sandbox/hello", axum::routing::get(async || "hello"))
        .route("/sandbox/panic", axum::routing::get(async || -> String { panic!("on purpose") }));
    let webapp = world.webapp_with(registered(), Deps { extra: Some(extra), ..world.deps() }).await;
    let hello = webapp.client.get(webapp.url("/sandbox/hello")).send().await.unwrap();
    assert_eq!((hello.status().as_u16(), hello.text().await.unwrap()), (200, "hello".to_owned()));
    let panicked = check(webapp.client.get(webapp.url("/sandbox/panic")).send().await.unwrap()).await;
    assert_eq!(panicked.refusal(), (500, 1000));
    assert_eq!(check(webapp.client.get(webapp.url("/sandbox/nothing")).send().await.unwrap()).await.status, 404);
}

#[tokio::test]
async fn extra_routes_are_refused_to_others() {
    use tower::Service as _;
    let world = World::new().await;
    let extra = axum::Router::new().route("/sandbox/hello", axum::routing::get(async || "hello"));
    let mut router = estafet_webapp::app(registered(), Deps { extra: Some(extra), ..world.deps() }).await.unwrap();
    let request = axum::http::Request::get("/sandbox/hello").body(axum::body::Body::empty()).unwrap();
    assert_eq!(router.call(request).await.unwrap().status().as_u16(), 403, "a peer without an address is not local");
}

#[tokio::test]
async fn shutdown_lets_running_requests_finish() {
    let (world, core, webapp) = World::ready().await;
    let token = webapp.admin().await;
    let tasks = world.tasks.clone();
    core.answers(|_| super::core::done());
    webapp.send(&token, "x").await.is(201);
    assert!(tasks.stop(PATIENCE).await, "every task ends");
    assert!(TcpStream::connect(webapp.address).await.is_err(), "the port is closed");
}
