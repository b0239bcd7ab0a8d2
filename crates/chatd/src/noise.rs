//! Static keys and the Noise handshake (`Noise_XX_25519_AESGCM_SHA256`).
//!
//! Both sides prove a static key. The client may pin the server's: it then refuses another one before
//! it shows its own. Handshake messages carry no payload and a two-byte length; whatever is wrong with
//! them ends the connection with an error, within [`HANDSHAKE_LIMIT`]. After it, see [`crate::frames`].

use std::{fmt, sync::Arc, time::Duration};

use snow::{Builder, HandshakeState, params::NoiseParams};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use zeroize::Zeroizing;

use crate::frames::{Reader, Writer};

const PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";

/// Bound to the keys, so that another protocol over the same pattern cannot be confused with this one.
const PROLOGUE: &[u8] = b"estafet.chat.v1";

/// Longest time a handshake may take.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// Longest handshake message (the second: two keys and two tags) with room to spare.
const MAX_HANDSHAKE_MESSAGE: usize = 256;

/// Why a transport ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] std::io::Error),
    /// The other side did not finish the handshake in time.
    #[error("handshake timed out")]
    TimedOut,
    /// A handshake message is not what it must be.
    #[error("handshake failed")]
    Handshake,
    /// The server proved another key than the pinned one.
    #[error("the server's key is not the expected one")]
    WrongServerKey,
    /// A message does not decrypt: damaged, replayed, reordered or forged.
    #[error("message does not decrypt")]
    Damaged,
    /// A frame is larger than the limit.
    #[error("frame of {0} bytes is too large")]
    Oversize(u64),
    /// Decrypted bytes are not a frame.
    #[error("malformed frame")]
    Malformed,
    /// The connection ended within a message.
    #[error("connection ended within a message")]
    Truncated,
    /// Every nonce was used; the connection must be made anew.
    #[error("nonces are used up")]
    Exhausted,
}

/// A static key (private half), 32 bytes; never shown, wiped when dropped.
#[derive(Clone)]
pub struct StaticKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey(..)")
    }
}

impl StaticKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(*vodozemac::Curve25519SecretKey::new().to_bytes()))
    }

    /// Takes the stored bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes to store. Secret: encrypt them at rest.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.0.clone()
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        let secret = vodozemac::Curve25519SecretKey::from_slice(&self.0);
        vodozemac::Curve25519PublicKey::from(&secret).to_bytes()
    }
}

/// An established transport: its two directions, and who the other side is.
#[derive(Debug)]
pub struct Transport<S> {
    /// Frames of the other side.
    pub reader: Reader<ReadHalf<S>>,
    /// Frames to the other side.
    pub writer: Writer<WriteHalf<S>>,
    /// Static public key the other side proved.
    pub remote_key: [u8; 32],
}

/// Handshakes as the client; `pinned` is the key the server must prove.
pub async fn connect<S>(stream: S, key: &StaticKey, pinned: Option<[u8; 32]>) -> Result<Transport<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let mut stream = stream;
        let mut state = builder(key)?.build_initiator().map_err(|_| Error::Handshake)?;
        send(&mut stream, &mut state).await?;
        receive(&mut stream, &mut state).await?;
        if pinned.is_some_and(|pinned| state.get_remote_static() != Some(&pinned)) {
            return Err(Error::WrongServerKey);
        }
        send(&mut stream, &mut state).await?;
        finish(stream, state)
    };
    tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await.map_err(|_| Error::TimedOut)?
}

/// Handshakes as the server.
pub async fn accept<S>(stream: S, key: &StaticKey) -> Result<Transport<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let mut stream = stream;
        let mut state = builder(key)?.build_responder().map_err(|_| Error::Handshake)?;
        receive(&mut stream, &mut state).await?;
        send(&mut stream, &mut state).await?;
        receive(&mut stream, &mut state).await?;
        finish(stream, state)
    };
    tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await.map_err(|_| Error::TimedOut)?
}

fn builder(key: &StaticKey) -> Result<Builder<'_>, Error> {
    let params: NoiseParams = PATTERN.parse().expect("the pattern is one snow knows");
    let builder = Builder::new(params).local_private_key(&*key.0).map_err(|_| Error::Handshake)?;
    builder.prologue(PROLOGUE).map_err(|_| Error::Handshake)
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, state: &mut HandshakeState) -> Result<(), Error> {
    let mut message = [0; MAX_HANDSHAKE_MESSAGE];
    let length = state.write_message(&[], &mut message[2..]).map_err(|_| Error::Handshake)?;
    message[..2].copy_from_slice(&(length as u16).to_be_bytes());
    stream.write_all(&message[..2 + length]).await?;
    Ok(stream.flush().await?)
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, state: &mut HandshakeState) -> Result<(), Error> {
    let length = usize::from(stream.read_u16().await?);
    let mut message = [0; MAX_HANDSHAKE_MESSAGE];
    let message = message.get_mut(..length).ok_or(Error::Handshake)?;
    stream.read_exact(message).await?;
    let payload = state.read_message(message, &mut [0; MAX_HANDSHAKE_MESSAGE]).map_err(|_| Error::Handshake)?;
    if payload == 0 { Ok(()) } else { Err(Error::Handshake) }
}

fn finish<S: AsyncRead + AsyncWrite>(stream: S, state: HandshakeState) -> Result<Transport<S>, Error> {
    let remote_key = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(Error::Handshake)?;
    let cipher = Arc::new(state.into_stateless_transport_mode().map_err(|_| Error::Handshake)?);
    let (read, write) = tokio::io::split(stream);
    Ok(Transport { reader: Reader::new(read, cipher.clone()), writer: Writer::new(write, cipher), remote_key })
}
