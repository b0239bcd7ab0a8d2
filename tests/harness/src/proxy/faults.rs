//! What a proxy does to the bytes it carries, as data, and when a byte is due (pure).
//!
//! Time and chance are arguments, so that a seed replays the same faults for the same bytes.

use std::{num::NonZeroU64, time::Duration};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

/// What happens to new and live connections. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// New connections.
    pub connects: Connects,
    /// From who dialled to who was dialled.
    pub to_server: Flow,
    /// And back.
    pub to_client: Flow,
}

/// What happens to new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connects {
    /// They are made.
    #[default]
    Made,
    /// The dial gets no answer at all, as from a host that is gone.
    Unanswered,
    /// The dial is refused, as by a host whose process is gone.
    Refused,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order (FIN).
    Close,
    /// As by a crash (RST).
    Reset,
}

/// What happens to the bytes of one direction of every connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Each byte arrives so much later.
    pub latency: Duration,
    /// And up to so much more; order is kept, as TCP does.
    pub jitter: Duration,
    /// Nothing is forwarded. What was sent meanwhile arrives when this ends, as after a partition.
    pub stopped: bool,
    /// Most that passes.
    pub bytes_per_second: Option<NonZeroU64>,
    /// One bit of about every so many bytes is flipped.
    pub flip_one_in: Option<NonZeroU64>,
    /// The connection ends after so many bytes, counted from when this was set or the connection was made.
    pub end_after: Option<(u64, End)>,
}

impl Faults {
    /// The same in both directions.
    pub fn both(flow: Flow) -> Self {
        Self { connects: Connects::Made, to_server: flow, to_client: flow }
    }

    /// Live connections forward nothing; new ones are accepted and forward nothing either.
    pub fn black_hole() -> Self {
        Self::both(Flow { stopped: true, ..Flow::default() })
    }

    /// Live connections forward nothing, and dials get no answer: what a partition looks like.
    pub fn partition() -> Self {
        Self { connects: Connects::Unanswered, ..Self::black_hole() }
    }

    /// Bytes arrive later, both ways.
    pub fn delay(latency: Duration, jitter: Duration) -> Self {
        Self::both(Flow { latency, jitter, ..Flow::default() })
    }

    /// Bits are flipped, both ways, in about one of so many bytes.
    pub fn flips(one_in: NonZeroU64) -> Self {
        Self::both(Flow { flip_one_in: Some(one_in), ..Flow::default() })
    }
}

/// The state of one direction of one connection.
#[derive(Debug)]
pub(super) struct Damage {
    random: StdRng,
    /// When the chunk before is due: later ones are never earlier.
    last_due: Option<Instant>,
    /// Bytes until the next flip, and the rate it was drawn for.
    next_flip: Option<(NonZeroU64, u64)>,
    /// The rule for the end, and what counted for it.
    ending: Option<((u64, End), u64)>,
    /// Bits flipped.
    pub(super) flipped: u64,
}

impl Damage {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), last_due: None, next_flip: None, ending: None, flipped: 0 }
    }

    /// How much to read at once, so that a narrow direction is not fed in lumps.
    pub(super) fn chunk(flow: &Flow, most: usize) -> usize {
        let tenth = flow.bytes_per_second.map(|rate| usize::try_from(rate.get() / 10).unwrap_or(most));
        tenth.unwrap_or(most).clamp(1, most)
    }

    /// When bytes that arrive now are due.
    pub(super) fn due(&mut self, now: Instant, len: usize, flow: &Flow) -> Instant {
        let jitter = u64::try_from(flow.jitter.as_micros()).unwrap_or(u64::MAX);
        let jitter = if jitter == 0 { 0 } else { self.random.random_range(0..=jitter) };
        let mut due = now + flow.latency + Duration::from_micros(jitter);
        if let Some(last) = self.last_due {
            let width = flow.bytes_per_second.map(|rate| Duration::from_secs_f64(len as f64 / rate.get() as f64));
            due = due.max(last + width.unwrap_or_default());
        }
        self.last_due = Some(due);
        due
    }

    /// Flips what is to be flipped.
    pub(super) fn flip(&mut self, bytes: &mut [u8], flow: &Flow) {
        let Some(one_in) = flow.flip_one_in else {
            self.next_flip = None;
            return;
        };
        let mut at = match self.next_flip {
            Some((rate, left)) if rate == one_in => left,
            _ => self.draw(one_in),
        };
        while let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1 << (self.random.next_u32() % 8);
            self.flipped += 1;
            at += 1 + self.draw(one_in);
        }
        self.next_flip = Some((one_in, at - bytes.len() as u64));
    }

    /// Uniform, with the wanted mean.
    fn draw(&mut self, one_in: NonZeroU64) -> u64 {
        self.random.random_range(0..one_in.get().saturating_mul(2))
    }

    /// How many of `len` bytes may pass before the connection is ended, if it is.
    pub(super) fn ends_within(&mut self, len: usize, flow: &Flow) -> Option<(usize, End)> {
        let rule = flow.end_after?;
        let counted = match self.ending {
            Some((known, counted)) if known == rule => counted,
            _ => 0,
        };
        let left = usize::try_from(rule.0 - counted).unwrap_or(usize::MAX);
        let passes = left.min(len);
        self.ending = Some((rule, counted + passes as u64));
        (passes == left).then_some((passes, rule.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonzero(n: u64) -> NonZeroU64 {
        NonZeroU64::new(n).unwrap()
    }

    #[test]
    fn about_one_of_so_many_bytes_is_flipped_and_a_seed_replays_it() {
        let flow = Flow { flip_one_in: Some(nonzero(100)), ..Flow::default() };
        let flipped = |seed, chunk: usize| {
            let (mut bytes, mut damage) = (vec![0u8; 100_000], Damage::new(seed));
            bytes.chunks_mut(chunk).for_each(|chunk| damage.flip(chunk, &flow));
            let count = bytes.iter().filter(|byte| **byte != 0).count() as u64;
            assert_eq!(count, damage.flipped);
            bytes
        };
        let first = flipped(1, 1000);
        assert!((800..1200).contains(&first.iter().filter(|byte| **byte != 0).count()));
        assert_eq!(first, flipped(1, 7), "however the bytes were cut");
        assert_ne!(first, flipped(2, 1000));
    }

    #[test]
    fn bytes_are_late_by_latency_and_jitter_and_never_overtake() {
        let flow = Flow { latency: Duration::from_millis(50), jitter: Duration::from_millis(20), ..Flow::default() };
        let (mut damage, start) = (Damage::new(3), Instant::now());
        let mut last = start;
        for n in 0..100u64 {
            let now = start + Duration::from_millis(n);
            let due = damage.due(now, 10, &flow);
            assert!(due >= now + flow.latency && due <= now + flow.latency + flow.jitter && due >= last);
            last = due;
        }
    }

    #[test]
    fn a_narrow_direction_takes_its_time_for_every_byte() {
        let flow = Flow { bytes_per_second: Some(nonzero(1000)), ..Flow::default() };
        let (mut damage, start) = (Damage::new(3), Instant::now());
        for _ in 0..=10 {
            damage.due(start, Damage::chunk(&flow, 16_384), &flow);
        }
        assert_eq!(damage.last_due, Some(start + Duration::from_secs(1)));
    }

    #[test]
    fn the_end_is_counted_to_the_byte() {
        let flow = Flow { end_after: Some((10, End::Reset)), ..Flow::default() };
        let mut damage = Damage::new(0);
        assert_eq!(damage.ends_within(9, &flow), None);
        assert_eq!(damage.ends_within(5, &flow), Some((1, End::Reset)));
        assert_eq!(damage.ends_within(5, &Flow::default()), None);
    }
}
