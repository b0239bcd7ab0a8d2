//! Input that no client should send: always an answer that says so, never a crash (**I11**).

use estafet_harness::{PATIENCE, Sandbox, raw};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{KERRY, World};

#[tokio::test]
async fn bad_messages_are_refused_with_the_documented_status_and_code() -> anyhow::Result<()> {
    let world = World::start().await?;
    let text = |body: Value| json!({ "to": KERRY, "type": "text", "text": { "body": body } });
    let table = [
        ("empty", json!({}), 400, 1008),
        ("no recipient", json!({ "type": "text", "text": { "body": "x" } }), 400, 1008),
        ("recipient is a number", json!({ "to": 16_315_551_234u64, "text": { "body": "x" } }), 400, 1009),
        ("recipient is empty", json!({ "to": "", "text": { "body": "x" } }), 400, 1009),
        ("recipient is too long", json!({ "to": "1".repeat(10_000), "text": { "body": "x" } }), 400, 1009),
        ("recipient is not digits", json!({ "to": "١٦٣١٥٥٥١٢٣٤", "text": { "body": "x" } }), 400, 1009),
        ("recipient is the business", json!({ "to": "15550000001", "text": { "body": "x" } }), 400, 1021),
        ("group", json!({ "to": KERRY, "recipient_type": "group", "text": { "body": "x" } }), 400, 1002),
        ("unknown type", json!({ "to": KERRY, "type": "telepathy" }), 400, 1009),
        ("type is a number", json!({ "to": KERRY, "type": 1 }), 400, 1009),
        ("voice", json!({ "to": KERRY, "type": "voice", "voice": { "id": "x" } }), 400, 1009),
        ("no text", json!({ "to": KERRY, "type": "text" }), 400, 1008),
        ("text is a string", json!({ "to": KERRY, "type": "text", "text": "x" }), 400, 1009),
        ("no body", json!({ "to": KERRY, "type": "text", "text": {} }), 400, 1008),
        ("empty body", text(json!("")), 400, 1008),
        ("body is a number", text(json!(1)), 400, 1009),
        ("body holds NUL", text(json!("nul \u{0} inside")), 400, 1009),
        ("body is an object", text(json!({})), 400, 1009),
        ("body is one too long", text(json!("a".repeat(4097))), 400, 1001),
        ("body is one astral character too long", text(json!("👍".repeat(4097))), 400, 1001),
    ];
    for (what, message, status, code) in table {
        let answer = world.admin.call(Method::POST, "/v1/messages", Some(&message)).await?;
        assert_eq!((answer.status, answer.error_code()), (status, Some(code)), "{what}: {}", answer.text);
        assert!(answer.body["messages"].is_null(), "{what}: {}", answer.text);
    }
    let id = world.admin.send_text(KERRY, "still alive").await?;
    world.sink.wait_for_status(&id, "read").await?;
    assert_eq!(world.admin.inbox(KERRY).await?.messages.len(), 1);
    Ok(())
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused_as_a_missing_parameter() -> anyhow::Result<()> {
    let world = World::start().await?;
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"{\"to\":\"16315551234\",\"text\":{\"body\":\"x\"}",
        b"{\"to\":\"16315551234\",\"text\":{\"body\":\"\xff\xfe\"}}",
        b"{\"to\":\"16315551234\",\"text\":{\"body\":\"\\ud800\"}}",
        b"{\"to\":\"16315551234\",\"text\":{\"body\":\"a\"}} trailing",
        b"to=16315551234&body=x",
        b"\0\0\0\0",
        b"{\"to\":\"16315551234\",\"text\":{\"body\":\"raw \n newline\"}}",
    ];
    for body in bodies {
        let answer = world.admin.request(Method::POST, "/v1/messages", Some(("application/json", body.to_vec()))).await?;
        assert_eq!(
            (answer.status, answer.error_code()),
            (400, Some(1008)),
            "{:?}: {}",
            String::from_utf8_lossy(body),
            answer.text
        );
    }
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"to\":\"{KERRY}\",\"x\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
        let answer = world.admin.request(Method::POST, "/v1/messages", Some(("application/json", deep.into_bytes()))).await?;
        assert!((400..500).contains(&answer.status), "nesting: {} {}", answer.status, answer.text);
    }
    world.admin.send_text(KERRY, "still alive").await?;
    Ok(())
}

#[tokio::test]
async fn malformed_http_is_answered_or_closed_and_the_server_goes_on() -> anyhow::Result<()> {
    let sandbox = Sandbox::start().await?;
    let admin = sandbox.login().await?;
    let address = admin.address()?;
    let long = "a".repeat(200_000);
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("not HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec()),
        ("no version", b"GET /v1/health\r\n\r\n".to_vec()),
        ("a bad version", b"GET /v1/health HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
        ("a header without a colon", b"GET /v1/health HTTP/1.1\r\nHost x\r\n\r\n".to_vec()),
        ("NUL in a header", b"GET /v1/health HTTP/1.1\r\nHost: x\0y\r\n\r\n".to_vec()),
        ("a long path", format!("GET /{long} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()),
        ("a long header", format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\nConnection: close\r\n\r\n").into_bytes()),
        ("two lengths", b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec()),
        ("a negative length", b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec()),
        ("a short body", b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab".to_vec()),
        ("a bad chunk", b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        ("a path that climbs", raw::request("GET /v1/../../etc/passwd HTTP/1.1", &[], b"")),
        ("a path with NUL", raw::request("GET /v1/health%00 HTTP/1.1", &[], b"")),
        ("a token that is not text", raw::request("GET /v1/health HTTP/1.1", &[("Authorization", "Bearer \u{fffd}")], b"")),
        (
            "credentials that are not base64",
            raw::request("POST /v1/users/login HTTP/1.1", &[("Authorization", "Basic %%%")], b""),
        ),
    ];
    for (what, bytes) in bodies {
        let answer = raw::exchange(address, &bytes, PATIENCE).await?;
        let refused = answer.status().is_none_or(|status| (400..500).contains(&status));
        assert!(refused, "{what}: {}", String::from_utf8_lossy(&answer.bytes));
        let body = String::from_utf8_lossy(answer.body());
        assert!(!body.contains("panic") && !body.contains("src/"), "{what}: {body}");
    }
    admin.settings().await?;
    Ok(())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_without_being_read() -> anyhow::Result<()> {
    let sandbox = Sandbox::start().await?;
    let admin = sandbox.login().await?;
    let authorization = format!("Bearer {}", admin.token().expect("logged in"));
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let body = vec![b'a'; 32 * 1024 * 1024];
    let answer = raw::exchange(admin.address()?, &raw::request("POST /v1/messages HTTP/1.1", &headers, &body), PATIENCE).await?;
    assert!(answer.status().is_none_or(|status| matches!(status, 400 | 413)), "{:?}", answer.status());
    admin.settings().await?;
    Ok(())
}
