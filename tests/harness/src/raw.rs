//! Bytes on a socket: requests that no HTTP library would make, and what comes back.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Most bytes read of an answer.
const LONGEST_ANSWER: u64 = 1024 * 1024;

/// What came back.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// Everything until the server closed the connection.
    pub bytes: Vec<u8>,
}

impl RawAnswer {
    /// The status of the first answer; `None` if the server closed without one.
    pub fn status(&self) -> Option<u16> {
        let text = std::str::from_utf8(self.bytes.get(..12)?).ok()?;
        text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "))?.parse().ok()
    }

    /// What follows the headers of the first answer.
    pub fn body(&self) -> &[u8] {
        let end = self.bytes.windows(4).position(|window| window == b"\r\n\r\n");
        end.map_or(&[], |end| &self.bytes[end + 4..])
    }
}

/// Sends `bytes`, says that nothing follows, and reads until the server closes. The server may close
/// before it has read everything: then the answer is what came until there.
pub async fn exchange(address: SocketAddr, bytes: &[u8], deadline: Duration) -> anyhow::Result<RawAnswer> {
    timeout(deadline, exchange_unbounded(address, bytes)).await.context("the server neither answered nor closed")?
}

async fn exchange_unbounded(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<RawAnswer> {
    let mut stream = TcpStream::connect(address).await?;
    let (reader, mut writer) = stream.split();
    let write = async {
        // A server that has refused already resets the connection; its answer still counts.
        if writer.write_all(bytes).await.is_ok() {
            let _ = writer.shutdown().await;
        }
    };
    let read = async {
        let mut answer = Vec::new();
        // A reset after the answer ends it like a close.
        let _ = reader.take(LONGEST_ANSWER).read_to_end(&mut answer).await;
        answer
    };
    let ((), bytes) = tokio::join!(write, read);
    Ok(RawAnswer { bytes })
}

/// A request by hand: the request line, then headers, then the body with its length.
pub fn request(line: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{line}\r\nHost: localhost\r\nConnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_read_to_its_end() {
        let sink = crate::Sink::start().await.unwrap();
        let answer = exchange(sink.address(), &request("POST /callbacks HTTP/1.1", &[], b"{}"), crate::PATIENCE).await.unwrap();
        assert_eq!(answer.status(), Some(200));
        let answer = exchange(sink.address(), b"nonsense\r\n\r\n", crate::PATIENCE).await.unwrap();
        assert_eq!(answer.status(), Some(400));
    }
}
