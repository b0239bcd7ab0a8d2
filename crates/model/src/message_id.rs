//! Message ids in the layout of the original (spec/messages.md §1): base64url of a direction
//! byte, `0x11`, the other party's phone as packed BCD, `0x02`, and variable bytes.
//!
//! The id carries the recipient, so replies and mark-as-read route without a look-up. Our
//! variable bytes begin with the time, and the unique index is on them, so inserts stay local.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::WaId;

/// Whether the business sent the message or received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the business to a user.
    Outgoing,
    /// From a user to the business.
    Incoming,
}

/// Longest variable part seen in published ids.
const MAX_VARIABLE: usize = 16;

/// The nine variable bytes of an outgoing id: 42 bits of milliseconds since 2020, 16 bits of the
/// generator's tag, 14 bits of a counter. Unique in a cluster because tags are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdKey(pub [u8; IdKey::LEN]);

impl IdKey {
    /// Bytes of a key.
    pub const LEN: usize = 9;

    /// Reads the bytes of the wire or the database.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The wall clock of the generator when it made the key, in milliseconds since 1970.
    pub fn made_at_ms(&self) -> i64 {
        let mut word = [0u8; 8];
        word[2..].copy_from_slice(&self.0[..6]);
        (u64::from_be_bytes(word) >> 6) as i64 + EPOCH_2020_MS
    }
}

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A message id.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    direction: Direction,
    phone: WaId,
    variable: [u8; MAX_VARIABLE],
    variable_len: u8,
}

/// The text is not an id in our layout; it may still be a foreign, opaque one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id")]
pub struct Unknown;

impl MessageId {
    /// The id of a message to `recipient`.
    pub fn outgoing(recipient: WaId, key: IdKey) -> Self {
        Self::with(Direction::Outgoing, recipient, &key.0)
    }

    /// The id of a message from `sender`, made from ten random bytes.
    pub fn incoming(sender: WaId, random: [u8; 10]) -> Self {
        Self::with(Direction::Incoming, sender, &random)
    }

    fn with(direction: Direction, phone: WaId, bytes: &[u8]) -> Self {
        let mut variable = [0; MAX_VARIABLE];
        variable[..bytes.len()].copy_from_slice(bytes);
        Self { direction, phone, variable, variable_len: bytes.len() as u8 }
    }

    /// Who sent it.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The other party: recipient of an outgoing message, sender of an incoming one.
    pub fn phone(&self) -> WaId {
        self.phone
    }

    /// The key of the unique index, for outgoing ids of ours.
    pub fn key(&self) -> Option<IdKey> {
        (self.direction == Direction::Outgoing).then(|| IdKey::from_slice(self.variable_bytes())).flatten()
    }

    fn variable_bytes(&self) -> &[u8] {
        &self.variable[..usize::from(self.variable_len)]
    }

    fn to_bytes(self) -> Vec<u8> {
        let digits = self.phone.to_string();
        let mut out = Vec::with_capacity(30);
        out.push(if self.direction == Direction::Outgoing { 0x80 } else { 0x00 });
        out.push(0x11);
        let odd = digits.len() % 2 == 1;
        let length = digits.len().div_ceil(2) as u8;
        out.push(length | if odd { 0x80 } else { 0 });
        for pair in digits.as_bytes().chunks(2) {
            let low = pair.get(1).map_or(0xf, |d| d - b'0');
            out.push((pair[0] - b'0') << 4 | low);
        }
        out.push(0x02);
        out.push(self.variable_len);
        out.extend_from_slice(self.variable_bytes());
        out
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [direction, 0x11, length, rest @ ..] = bytes else { return None };
        let direction = match direction {
            0x80 => Direction::Outgoing,
            0x00 => Direction::Incoming,
            _ => return None,
        };
        let odd = length & 0x80 != 0;
        let (bcd, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        let mut digits = String::with_capacity(16);
        for (i, byte) in bcd.iter().enumerate() {
            digits.push(char::from_digit(u32::from(byte >> 4), 10)?);
            match (byte & 0xf, odd && i + 1 == bcd.len()) {
                (0xf, true) => {}
                (_, true) => return None,
                (low, false) => digits.push(char::from_digit(u32::from(low), 10)?),
            }
        }
        let [0x02, length, variable @ ..] = rest else { return None };
        if variable.len() != usize::from(*length) || variable.is_empty() || variable.len() > MAX_VARIABLE {
            return None;
        }
        Some(Self::with(direction, digits.parse().ok()?, variable))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        if text.len() > 64 {
            return Err(Unknown);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Unknown)?;
        Self::from_bytes(&bytes).ok_or(Unknown)
    }
}

/// 2020-01-01T00:00:00Z in milliseconds since 1970.
const EPOCH_2020_MS: i64 = 1_577_836_800_000;
const COUNTER_BITS: u32 = 14;

/// Makes the keys of outgoing ids, in order of time. One generator per webapp start; its tag
/// comes from the database and differs from every tag of the last 65,536 starts.
#[derive(Debug)]
pub struct IdGenerator {
    tag: u16,
    /// Milliseconds since 2020 and counter, as one number that only grows.
    last: u64,
}

impl IdGenerator {
    /// A generator with a tag of its own.
    pub fn new(tag: u16) -> Self {
        Self { tag, last: 0 }
    }

    /// The next key. Time that stands still or goes back costs nothing but accuracy.
    pub fn generate(&mut self, now_ms: i64) -> IdKey {
        let ms = (now_ms - EPOCH_2020_MS).max(0) as u64;
        self.last = (self.last + 1).max(ms << COUNTER_BITS);
        let (ms, counter) = (self.last >> COUNTER_BITS, self.last & ((1 << COUNTER_BITS) - 1));
        let word = (u128::from(ms) << 30) | (u128::from(self.tag) << COUNTER_BITS) | u128::from(counter);
        let mut key = [0; IdKey::LEN];
        key.copy_from_slice(&word.to_be_bytes()[16 - IdKey::LEN..]);
        IdKey(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ids_are_understood() {
        for (id, phone, direction) in [
            ("gBGGFlA5FpafAgkOuJbRq54qwbM", "16503916969", Direction::Outgoing),
            ("ABGGFlA5FpafAgo6tHcNmNjXmuSf", "16503916969", Direction::Incoming),
        ] {
            let parsed: MessageId = id.parse().unwrap();
            assert_eq!((parsed.phone().to_string().as_str(), parsed.direction()), (phone, direction));
            assert_eq!(parsed.to_string(), id);
        }
    }

    #[test]
    fn ids_of_ours_come_back_whole() {
        let mut generator = IdGenerator::new(0xabcd);
        for phone in ["15550001001", "6281234567890", "447700900123", "1234567"] {
            let key = generator.generate(1_800_000_000_123);
            assert_eq!(key.made_at_ms(), 1_800_000_000_123);
            let id = MessageId::outgoing(phone.parse().unwrap(), key);
            let parsed: MessageId = id.to_string().parse().unwrap();
            assert_eq!((parsed, parsed.key()), (id, Some(key)));
            assert!(id.to_string().starts_with("gBE") || id.to_string().starts_with("gBG"), "{id}");
        }
    }

    #[test]
    fn keys_grow_even_when_the_clock_goes_back() {
        let mut generator = IdGenerator::new(7);
        let mut last = generator.generate(1_800_000_000_000);
        for now in [1_800_000_000_000, 1_700_000_000_000, 1_800_000_000_001, 0] {
            for _ in 0..40_000 {
                let key = generator.generate(now);
                assert!(key > last);
                last = key;
            }
        }
    }

    #[test]
    fn foreign_texts_are_not_taken_for_ids() {
        for text in ["", "wamid.HBgL", "gBGG", "a\u{0}b", &"A".repeat(4096), "gBGGFlA5FpafAgkOuJbRq54qwbMM"] {
            assert_eq!(text.parse::<MessageId>(), Err(Unknown), "{text:?}");
        }
    }
}
