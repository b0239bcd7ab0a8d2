//! Encryption of files on their way, in a stream (ChaCha20-Poly1305 over pieces of 64 KiB).
//!
//! Every file has a random key of its own, which travels in the end-to-end encrypted message; the network sees
//! ciphertext only. A nonce is the position of the piece and whether it is the last one, so pieces cannot be
//! reordered, doubled or left out, and a file that was cut short does not open. Pure: bytes in, bytes out.

use std::fmt;

use bytes::{Bytes, BytesMut};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    digest,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Plain bytes of a piece.
const PIECE: usize = 64 * 1024;
/// Authentication tag of a piece.
const TAG: usize = 16;

/// Bytes that encryption adds to a file.
pub const fn sealed_size(plain: u64) -> u64 {
    let pieces = if plain == 0 { 1 } else { plain.div_ceil(PIECE as u64) };
    plain + pieces * TAG as u64
}

/// A file that was altered, cut short, or encrypted with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file does not decrypt")]
pub struct Damaged;

/// The key of one file; wiped when dropped, never shown.
#[derive(Clone)]
pub struct FileKey(Zeroizing<[u8; 32]>);

impl FileKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// The key in hexadecimal, for the message.
    pub fn to_text(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The key of a message.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*self.0).expect("the key has the length of the algorithm"))
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey(..)")
    }
}

/// How a message names a file that was left with the network. The members are those of the media object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// MIME type.
    pub mime_type: String,
    /// Hash of the plain bytes, hexadecimal.
    pub sha256: String,
    /// Plain bytes.
    pub file_size: u64,
    /// Handle of the ciphertext at the network.
    pub blob: String,
    /// Key, hexadecimal.
    pub key: String,
}

/// What the plain bytes were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// How many.
    pub size: u64,
    /// Their hash, hexadecimal.
    pub sha256: String,
}

struct Seen {
    size: u64,
    hash: digest::Context,
}

impl Seen {
    fn new() -> Self {
        Self { size: 0, hash: digest::Context::new(&digest::SHA256) }
    }

    fn add(&mut self, plain: &[u8]) {
        self.size += plain.len() as u64;
        self.hash.update(plain);
    }

    fn plain(self) -> Plain {
        let sha256 = self.hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Plain { size: self.size, sha256 }
    }
}

fn nonce(position: u64, is_last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[3] = u8::from(is_last);
    bytes[4..].copy_from_slice(&position.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Encrypts a file.
pub struct Sealer {
    cipher: LessSafeKey,
    position: u64,
    waiting: BytesMut,
    seen: Seen,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Begins a file. A key is for one file only.
    pub fn new(key: &FileKey) -> Self {
        Self { cipher: key.cipher(), position: 0, waiting: BytesMut::new(), seen: Seen::new() }
    }

    /// Takes plain bytes; ciphertext, possibly none yet.
    pub fn push(&mut self, plain: &[u8]) -> Bytes {
        self.seen.add(plain);
        self.waiting.extend_from_slice(plain);
        let mut sealed = BytesMut::new();
        // The last piece is not known before the end: one that is full waits for what follows.
        while self.waiting.len() > PIECE {
            let piece = self.waiting.split_to(PIECE);
            self.seal(piece, false, &mut sealed);
        }
        sealed.freeze()
    }

    /// Ends the file: the rest of the ciphertext, and what the plain bytes were.
    pub fn finish(mut self) -> (Bytes, Plain) {
        let mut sealed = BytesMut::new();
        let piece = self.waiting.split();
        self.seal(piece, true, &mut sealed);
        (sealed.freeze(), self.seen.plain())
    }

    fn seal(&mut self, mut piece: BytesMut, is_last: bool, sealed: &mut BytesMut) {
        let nonce = nonce(self.position, is_last);
        let tag =
            self.cipher.seal_in_place_separate_tag(nonce, Aad::empty(), &mut piece).expect("a piece is far below the limit");
        self.position += 1;
        sealed.extend_from_slice(&piece);
        sealed.extend_from_slice(tag.as_ref());
    }
}

/// Decrypts a file.
pub struct Opener {
    cipher: LessSafeKey,
    position: u64,
    waiting: BytesMut,
    seen: Seen,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener(..)")
    }
}

impl Opener {
    /// Begins a file.
    pub fn new(key: &FileKey) -> Self {
        Self { cipher: key.cipher(), position: 0, waiting: BytesMut::new(), seen: Seen::new() }
    }

    /// Takes ciphertext; plain bytes, possibly none yet. They are genuine, but whether they are all is known at the end.
    pub fn push(&mut self, sealed: &[u8]) -> Result<Bytes, Damaged> {
        self.waiting.extend_from_slice(sealed);
        let mut plain = BytesMut::new();
        while self.waiting.len() > PIECE + TAG {
            let piece = self.waiting.split_to(PIECE + TAG);
            self.open(piece, false, &mut plain)?;
        }
        Ok(plain.freeze())
    }

    /// Ends the file: the rest of the plain bytes, and what they were.
    pub fn finish(mut self) -> Result<(Bytes, Plain), Damaged> {
        let mut plain = BytesMut::new();
        let piece = self.waiting.split();
        self.open(piece, true, &mut plain)?;
        Ok((plain.freeze(), self.seen.plain()))
    }

    fn open(&mut self, mut piece: BytesMut, is_last: bool, plain: &mut BytesMut) -> Result<(), Damaged> {
        let nonce = nonce(self.position, is_last);
        let opened = self.cipher.open_in_place(nonce, Aad::empty(), &mut piece).map_err(|_| Damaged)?;
        self.position += 1;
        self.seen.add(opened);
        plain.extend_from_slice(opened);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(key: &FileKey, plain: &[u8]) -> (Vec<u8>, Plain) {
        let mut sealer = Sealer::new(key);
        let mut sealed: Vec<u8> = plain.chunks(10_007).flat_map(|part| sealer.push(part)).collect();
        let (rest, seen) = sealer.finish();
        sealed.extend_from_slice(&rest);
        (sealed, seen)
    }

    fn open(key: &FileKey, sealed: &[u8]) -> Result<(Vec<u8>, Plain), Damaged> {
        let mut opener = Opener::new(key);
        let mut plain = Vec::new();
        for part in sealed.chunks(9_001) {
            plain.extend_from_slice(&opener.push(part)?);
        }
        let (rest, seen) = opener.finish()?;
        plain.extend_from_slice(&rest);
        Ok((plain, seen))
    }

    #[test]
    fn files_of_every_length_come_back_and_have_the_size_that_was_said() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 17] {
            let (key, plain) = (FileKey::generate(), vec![0x5a; length]);
            let (sealed, told) = seal(&key, &plain);
            assert_eq!(sealed.len() as u64, sealed_size(length as u64), "{length}");
            let key = FileKey::from_text(&key.to_text()).unwrap();
            assert_eq!(open(&key, &sealed).unwrap(), (plain, told.clone()));
            assert_eq!(told.size, length as u64);
        }
        let (_, empty) = seal(&FileKey::generate(), b"");
        assert_eq!(empty.sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn what_was_changed_cut_swapped_or_sealed_with_another_key_does_not_open() {
        let key = FileKey::generate();
        let (sealed, _) = seal(&key, &vec![7; 3 * PIECE]);
        let mut flipped = sealed.clone();
        flipped[PIECE] ^= 1;
        let piece = PIECE + TAG;
        let swapped = [&sealed[piece..2 * piece], &sealed[..piece], &sealed[2 * piece..]].concat();
        let doubled = [&sealed[..piece], &sealed].concat();
        for wrong in [flipped, swapped, doubled, sealed[..2 * piece].to_vec(), sealed[..piece + 5].to_vec(), Vec::new()] {
            assert_eq!(open(&key, &wrong).err(), Some(Damaged), "{} bytes", wrong.len());
        }
        assert_eq!(open(&FileKey::generate(), &sealed).err(), Some(Damaged));
        for text in ["", "00", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert!(FileKey::from_text(text).is_none());
        }
    }
}
