//! Generated input: seeds with bytes changed, cut, doubled and mixed. The same for the same seed.

/// Makes input.
#[derive(Clone, Copy, Debug)]
pub struct Mutation(u64);

/// Longest input made.
const LONGEST: usize = 8192;

impl Mutation {
    /// A row of inputs; different seeds, different rows.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        // Xorshift: fast, and random enough for this.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }

    /// An input made from these.
    pub fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds.get(self.below(seeds.len())).cloned().unwrap_or_default();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len() + 1);
            match self.below(6) {
                0 => data.truncate(at),
                1 if at < data.len() => data[at] ^= 1 << self.below(8),
                2 => data.insert(at, self.below(256) as u8),
                3 if at < data.len() => drop(data.remove(at)),
                4 => data.extend_from_within(at..),
                _ => {
                    let other = seeds.get(self.below(seeds.len())).cloned().unwrap_or_default();
                    let from = self.below(other.len() + 1);
                    data.truncate(at);
                    data.extend_from_slice(&other[from..]);
                }
            }
            data.truncate(LONGEST);
        }
        data
    }
}
