//! Epochs and what is numbered by them (reliability.md §6.1).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The fencing number of a (number, shard). Lives in the message database, only grows, and is
/// checked in the transaction of every write and by the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(u32);

impl Epoch {
    /// An epoch as stored.
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The value.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a row in its slot. The upper half is the epoch of the owner that wrote it, so a
/// new owner numbers on without reading what its predecessor used, and numbers never go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(i64);

impl Seq {
    /// Before every row.
    pub const ZERO: Self = Self(0);

    /// A sequence number as stored.
    pub const fn new(value: i64) -> Self {
        Self(value)
    }

    /// Before every row of this epoch, and after all of earlier ones.
    pub const fn before(epoch: Epoch) -> Self {
        Self((epoch.0 as i64) << 32)
    }

    /// The value.
    pub const fn get(self) -> i64 {
        self.0
    }
}

/// Hands out the sequence numbers of one ownership.
#[derive(Debug)]
pub struct SeqAllocator {
    next: i64,
    end: i64,
}

impl SeqAllocator {
    /// Numbers rows written under `epoch`.
    pub fn new(epoch: Epoch) -> Self {
        let first = Seq::before(epoch).get();
        Self { next: first + 1, end: first + (1 << 32) }
    }

    /// The next number; `None` after 2^32 rows, when the owner must claim a new epoch.
    pub fn allocate(&mut self) -> Option<Seq> {
        (self.next < self.end).then(|| {
            self.next += 1;
            Seq(self.next - 1)
        })
    }
}

/// Random id of one start of one process; tells two holders of the same epoch apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl BootId {
    /// Reads the 16 bytes of the wire.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads the hexadecimal digits that it is shown as.
    pub fn from_hex(text: &str) -> Option<Self> {
        let pairs = text.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
        Self::from_slice(&bytes?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_read_as_it_is_shown() {
        let boot = BootId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 200, 201, 202, 254, 255]);
        assert_eq!(BootId::from_hex(&boot.to_string()), Some(boot));
        for wrong in ["", "00", &"0g".repeat(16), &"00".repeat(17), &"é".repeat(16)] {
            assert_eq!(BootId::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_later_epoch_numbers_above_everything_before() {
        let mut old = SeqAllocator::new(Epoch::new(3));
        let mut new = SeqAllocator::new(Epoch::new(4));
        let last_possible = Seq::new((4 << 32) - 1);
        assert!(old.allocate().unwrap() < new.allocate().unwrap());
        assert!(last_possible < new.allocate().unwrap());
        assert!(last_possible < Seq::before(Epoch::new(4)) && Seq::before(Epoch::new(4)) < Seq::new((4 << 32) + 1));
    }
}
