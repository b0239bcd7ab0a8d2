//! Frames over Noise: what follows the handshake.
//!
//! The wire is a row of Noise messages, each behind a two-byte length. Their plaintexts, put together,
//! are a byte stream of protobuf frames, each behind a varint length; so a large frame spans several
//! messages and many small ones share one. The nonce is the message's position: anything lost, doubled,
//! reordered or altered does not decrypt and ends the connection.
//!
//! Both halves keep their progress in themselves, so every method may be cancelled in a `select!`.

use std::{fmt, sync::Arc};

use bytes::{Buf as _, BufMut as _, BytesMut};
use prost::Message;
use snow::StatelessTransportState;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

pub use crate::noise::Error;

/// Largest frame.
pub const MAX_FRAME: usize = 1 << 20;

/// Authentication tag of a Noise message.
const TAG: usize = 16;

/// Most plaintext a Noise message takes.
const MAX_PLAINTEXT: usize = 65_535 - TAG;

/// How much is read from the socket at once.
const READ_CHUNK: usize = 64 * 1024;

/// Receives frames.
pub struct Reader<R> {
    io: R,
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
    wire: BytesMut,
    plain: BytesMut,
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(io: R, cipher: Arc<StatelessTransportState>) -> Self {
        Self { io, cipher, nonce: 0, wire: BytesMut::new(), plain: BytesMut::new() }
    }

    /// The next frame; `None` when the other side has closed the connection.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            self.wire.reserve(READ_CHUNK);
            if self.io.read_buf(&mut self.wire).await? == 0 {
                return if self.wire.is_empty() && self.plain.is_empty() { Ok(None) } else { Err(Error::Truncated) };
            }
        }
    }

    /// A frame that has already arrived, if there is one.
    pub fn buffered<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        loop {
            if let Some(frame) = self.parse()? {
                return Ok(Some(frame));
            }
            if !self.decrypt()? {
                return Ok(None);
            }
        }
    }

    fn parse<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        take_frame(&mut self.plain)
    }

    /// Decrypts the next Noise message; false if it is not complete yet.
    fn decrypt(&mut self) -> Result<bool, Error> {
        let Some((prefix, rest)) = self.wire.split_first_chunk::<2>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        let Some(message) = rest.get(..length) else { return Ok(false) };
        let room = length.checked_sub(TAG).ok_or(Error::Damaged)?;
        let at = self.plain.len();
        self.plain.put_bytes(0, room);
        let nonce = next_nonce(&mut self.nonce)?;
        self.cipher.read_message(nonce, message, &mut self.plain[at..]).map_err(|_| Error::Damaged)?;
        self.wire.advance(2 + length);
        Ok(true)
    }
}

/// Takes the first frame from plain bytes; `None` if it is not complete.
pub fn take_frame<M: Message + Default>(plain: &mut BytesMut) -> Result<Option<M>, Error> {
    let Some((header, length)) = frame_length(plain)? else { return Ok(None) };
    if plain.len() - header < length {
        plain.reserve(length);
        return Ok(None);
    }
    plain.advance(header);
    M::decode(plain.split_to(length).freeze()).map(Some).map_err(|_| Error::Malformed)
}

/// Reads the varint before a frame: (its own length, the frame's), or `None` if it is not complete.
fn frame_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Error> {
    let mut length = 0u64;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return if length <= MAX_FRAME as u64 { Ok(Some((at + 1, length as usize))) } else { Err(Error::Oversize(length)) };
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Error::Oversize(u64::MAX)) }
}

/// Sends frames.
pub struct Writer<W> {
    io: W,
    cipher: Arc<StatelessTransportState>,
    nonce: u64,
    plain: BytesMut,
    wire: BytesMut,
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(crate) fn new(io: W, cipher: Arc<StatelessTransportState>) -> Self {
        Self { io, cipher, nonce: 0, plain: BytesMut::new(), wire: BytesMut::new() }
    }

    /// Takes a frame to be sent by the next [`Writer::flush`], together with the others that wait.
    pub fn feed<M: Message>(&mut self, frame: &M) -> Result<(), Error> {
        let length = frame.encoded_len();
        if length > MAX_FRAME {
            return Err(Error::Oversize(length as u64));
        }
        self.plain.reserve(length + 4);
        frame.encode_length_delimited(&mut self.plain).map_err(|_| Error::Malformed)
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.plain.len() + self.wire.len()
    }

    /// Sends everything that waits.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while self.waiting() > 0 {
            self.encrypt()?;
            while !self.wire.is_empty() {
                if self.io.write_buf(&mut self.wire).await? == 0 {
                    return Err(Error::Io(std::io::ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(self.io.flush().await?)
    }

    /// Ends the connection in order.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.flush().await?;
        Ok(self.io.shutdown().await?)
    }

    fn encrypt(&mut self) -> Result<(), Error> {
        while !self.plain.is_empty() {
            let part = self.plain.split_to(self.plain.len().min(MAX_PLAINTEXT));
            self.wire.put_u16((part.len() + TAG) as u16);
            let at = self.wire.len();
            self.wire.put_bytes(0, part.len() + TAG);
            let nonce = next_nonce(&mut self.nonce)?;
            self.cipher.write_message(nonce, &part, &mut self.wire[at..]).map_err(|_| Error::Exhausted)?;
        }
        Ok(())
    }
}

/// The last nonce is reserved by the Noise specification.
fn next_nonce(nonce: &mut u64) -> Result<u64, Error> {
    if *nonce == u64::MAX {
        return Err(Error::Exhausted);
    }
    *nonce += 1;
    Ok(*nonce - 1)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex};

    use super::*;
    use crate::noise::{self, StaticKey};

    type Pair = (noise::Transport<DuplexStream>, noise::Transport<DuplexStream>);

    async fn pair(buffer: usize) -> Pair {
        let (client, server) = duplex(buffer);
        let (client_key, server_key) = (StaticKey::generate(), StaticKey::generate());
        let (client, server) =
            tokio::join!(noise::connect(client, &client_key, Some(server_key.public())), noise::accept(server, &server_key));
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!((client.remote_key, server.remote_key), (server_key.public(), client_key.public()));
        (client, server)
    }

    /// Encrypts a frame of `client` to wire bytes without sending it.
    fn sealed(writer: &mut Writer<WriteHalf<DuplexStream>>, frame: &Bytes) -> Vec<u8> {
        writer.feed(frame).unwrap();
        writer.encrypt().unwrap();
        writer.wire.split().to_vec()
    }

    async fn read(reader: &mut Reader<ReadHalf<DuplexStream>>, wire: &[u8]) -> Result<Bytes, Error> {
        reader.wire.extend_from_slice(wire);
        reader.buffered().map(|frame| frame.unwrap_or_default())
    }

    #[tokio::test]
    async fn frames_of_any_size_arrive_in_order_over_a_narrow_pipe() {
        let (mut client, mut server) = pair(700).await;
        let sizes = [0, 1, 100, 65_519, 65_520, 200_000, MAX_FRAME - 5, 3];
        let send = async {
            for size in sizes {
                client.writer.feed(&Bytes::from(vec![7; size])).unwrap();
            }
            client.writer.close().await.unwrap();
        };
        let receive = async {
            for size in sizes {
                assert_eq!(server.reader.next::<Bytes>().await.unwrap().unwrap().len(), size);
            }
            assert!(server.reader.next::<Bytes>().await.unwrap().is_none());
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn altered_replayed_and_reordered_messages_end_the_connection() {
        let frame = Bytes::from_static(b"frame");
        for bit in 0..8 {
            let (mut client, mut server) = pair(4096).await;
            let mut wire = sealed(&mut client.writer, &frame);
            let at = 2 + bit * 2;
            wire[at] ^= 1 << bit;
            assert!(matches!(read(&mut server.reader, &wire).await, Err(Error::Damaged)));
        }
        let (mut client, mut server) = pair(4096).await;
        let first = sealed(&mut client.writer, &frame);
        let second = sealed(&mut client.writer, &frame);
        assert_eq!(read(&mut server.reader, &first).await.unwrap(), frame);
        assert!(matches!(read(&mut server.reader, &first).await, Err(Error::Damaged)), "replay");
        let (_, mut other) = pair(4096).await;
        assert!(matches!(read(&mut other.reader, &second).await, Err(Error::Damaged)), "another session");
        let (mut client, mut server) = pair(4096).await;
        let (_first, second) = (sealed(&mut client.writer, &frame), sealed(&mut client.writer, &frame));
        assert!(matches!(read(&mut server.reader, &second).await, Err(Error::Damaged)), "reordered");
    }

    #[tokio::test]
    async fn short_cut_and_oversized_input_is_refused() {
        let (_, mut server) = pair(4096).await;
        assert!(matches!(read(&mut server.reader, &[0, 3, 1, 2, 3]).await, Err(Error::Damaged)));

        let (mut client, mut server) = pair(4096).await;
        client.writer.plain.extend_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
        client.writer.flush().await.unwrap();
        assert!(matches!(server.reader.next::<Bytes>().await, Err(Error::Oversize(_))));
        assert!(matches!(client.writer.feed(&Bytes::from(vec![0; MAX_FRAME + 1])), Err(Error::Oversize(_))));

        let (mut client, mut server) = pair(4096).await;
        client.writer.plain.extend_from_slice(&[3, 0xff, 0xff, 0xff]);
        client.writer.flush().await.unwrap();
        assert!(matches!(server.reader.next::<Bytes>().await, Err(Error::Malformed)));

        let (mut client, mut server) = pair(4096).await;
        let wire = sealed(&mut client.writer, &Bytes::from_static(b"cut"));
        client.writer.wire.extend_from_slice(&wire[..wire.len() - 1]);
        client.writer.close().await.unwrap();
        assert!(matches!(server.reader.next::<Bytes>().await, Err(Error::Truncated)));
    }

    #[tokio::test]
    async fn the_last_nonce_is_never_used() {
        let (mut client, _server) = pair(4096).await;
        client.writer.nonce = u64::MAX - 1;
        client.writer.feed(&Bytes::from_static(b"last")).unwrap();
        client.writer.encrypt().unwrap();
        client.writer.feed(&Bytes::from_static(b"one more")).unwrap();
        assert!(matches!(client.writer.encrypt(), Err(Error::Exhausted)));
    }

    #[tokio::test]
    async fn a_server_with_another_key_is_refused() {
        let (client, server) = duplex(4096);
        let key = StaticKey::generate();
        let accept = async move { noise::accept(server, &StaticKey::generate()).await };
        let (client, server) = tokio::join!(noise::connect(client, &key, Some([7; 32])), accept);
        assert!(matches!(client, Err(Error::WrongServerKey)));
        assert!(server.is_err(), "the client never showed its key");
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_end_in_time_and_garbage_ends_them() {
        let key = StaticKey::generate();
        let (_silent, server) = duplex(4096);
        assert!(matches!(noise::accept(server, &key).await, Err(Error::TimedOut)));
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 600], &[0, 0], &[0, 32, 1, 2], &[0; 34]] {
            let (mut client, server) = duplex(4096);
            client.write_all(garbage).await.unwrap();
            client.shutdown().await.unwrap();
            assert!(noise::accept(server, &key).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_replayed_handshake_is_refused() {
        let (server_key, client_key) = (StaticKey::generate(), StaticKey::generate());
        // Records what a client sends, then sends the same to a second handshake.
        let (client, mut middle) = duplex(4096);
        let (mut onward, server) = duplex(4096);
        let relay = async {
            let (mut first, mut answer, mut last) = ([0; 34], [0; 98], [0; 66]);
            middle.read_exact(&mut first).await.unwrap();
            onward.write_all(&first).await.unwrap();
            onward.read_exact(&mut answer).await.unwrap();
            middle.write_all(&answer).await.unwrap();
            middle.read_exact(&mut last).await.unwrap();
            onward.write_all(&last).await.unwrap();
            [&first[..], &last[..]].concat()
        };
        let (client, server, recorded) =
            tokio::join!(noise::connect(client, &client_key, None), noise::accept(server, &server_key), relay);
        assert!(client.is_ok() && server.is_ok());
        let (mut replay, server) = duplex(4096);
        replay.write_all(&recorded).await.unwrap();
        assert!(matches!(noise::accept(server, &server_key).await, Err(Error::Handshake)));
    }
}
