//! The network between processes: what is under way, for how long, and what is lost.
//!
//! Streams keep their order, hold back what cannot get through, and lose what is on its way when they break; a cut is
//! noticed by the keep-alive of each end. Calls (database, etcd, receiver) may be lost, late, or answered though the
//! asker has given up.

use std::collections::VecDeque;

use rand::RngExt as _;

use crate::{
    messages::Body,
    world::{MS, Place, SECOND, Time, Timer, What, World},
};

/// A connection between two starts of two processes.
pub(crate) struct Stream {
    pub(crate) ends: [(Place, u32); 2],
    last: [Time; 2],
    stalled: VecDeque<(usize, Body)>,
    watched: bool,
}

impl World {
    pub(crate) fn is_blocked(&self, from: Place, to: Place) -> bool {
        self.blocked.contains(&(from, to))
    }

    pub(crate) fn delay(&mut self, from: Place, to: Place) -> Time {
        let slow = self.weather.slow == Some((from, to)) || self.weather.slow == Some((to, from));
        match self.chance.random_range(0..1000) {
            0..3 => self.between(20 * MS, 400 * MS),
            _ if slow => self.between(100 * MS, 300 * MS),
            _ => self.between(MS / 5, 2 * MS),
        }
    }

    /// Tries to connect; a [`What::Dialled`] with this tag says what came of it.
    pub(crate) fn dial(&mut self, from: Place, to: Place, tag: u64) {
        let (delay, back) = (self.delay(from, to), self.delay(to, from));
        let life = self.life(from);
        let dialled = |stream, refused| What::Dialled { to, tag, stream, refused };
        if self.is_blocked(from, to) || self.is_blocked(to, from) {
            return self.at(self.now + 500 * MS, from, life, dialled(None, false));
        }
        if !self.processes[&to].up {
            return self.at(self.now + delay + back, from, life, dialled(None, true));
        }
        let stream = self.fresh();
        let ends = [(from, life), (to, self.life(to))];
        self.streams
            .insert(stream, Stream { ends, last: [self.now + delay + back; 2], stalled: VecDeque::new(), watched: false });
        self.at(self.now + delay, to, ends[1].1, What::Accepted { from, stream });
        self.at(self.now + delay + back, from, life, dialled(Some(stream), false));
    }

    pub(crate) fn is_open(&self, stream: u64) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Sends over a stream; over a broken one nothing arrives.
    pub(crate) fn send(&mut self, from: Place, stream: u64, body: Body) {
        let Some(open) = self.streams.get(&stream) else { return };
        let side = usize::from(open.ends[1].0 == from);
        let to = open.ends[1 - side].0;
        if self.is_blocked(from, to) || self.streams.get(&stream).is_some_and(|open| !open.stalled.is_empty()) {
            let Some(open) = self.streams.get_mut(&stream) else { return };
            open.stalled.push_back((side, body));
            return self.watch_stalled(stream);
        }
        let delay = self.delay(from, to);
        self.carry(stream, side, delay, body);
    }

    fn carry(&mut self, stream: u64, side: usize, delay: Time, body: Body) {
        // Full reports and orders that may be repeated: a proxy or a second connection may do this to them.
        let unordered = matches!(body, Body::Report(_) | Body::Order { .. } | Body::Map(_)) && self.weather.unruly;
        let (drop, double) = (unordered && self.odds(2), unordered && self.odds(2));
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let mut at = self.now + delay;
        if !unordered {
            at = at.max(open.last[side] + 1);
            open.last[side] = at;
        }
        let (to, life) = open.ends[1 - side];
        if double {
            self.at(at + delay, to, life, What::Arrived { stream, body: body.clone() });
        }
        if !drop {
            self.at(at, to, life, What::Arrived { stream, body });
        }
    }

    fn watch_stalled(&mut self, stream: u64) {
        let Some(open) = self.streams.get_mut(&stream).filter(|open| !open.watched) else { return };
        open.watched = true;
        for (place, life) in open.ends {
            self.at(self.now + SECOND, place, life, What::KeepAlive { stream });
        }
    }

    pub(crate) fn keep_alive(&mut self, stream: u64) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        if open.stalled.is_empty() {
            open.watched = false;
        } else {
            self.hang_up(stream);
        }
    }

    /// Ends a stream; both ends that can be reached hear of it, and what is on its way is lost.
    pub(crate) fn hang_up(&mut self, stream: u64) {
        let Some(gone) = self.streams.remove(&stream) else { return };
        for (side, (place, life)) in gone.ends.into_iter().enumerate() {
            let other = gone.ends[1 - side].0;
            // An end that cannot be told has a keep-alive of its own.
            let delay = if self.is_blocked(other, place) { 300 * MS } else { self.delay(other, place) };
            self.at(self.now + delay, place, life, What::Broke { stream });
        }
    }

    /// What the streams between two places held back goes on its way.
    pub(crate) fn flush_stalled(&mut self) {
        let stalled: Vec<u64> = self.streams.iter().filter(|(_, open)| !open.stalled.is_empty()).map(|(id, _)| *id).collect();
        for stream in stalled {
            let Some(open) = self.streams.get_mut(&stream) else { continue };
            let ends = [open.ends[0].0, open.ends[1].0];
            for (side, body) in std::mem::take(&mut open.stalled) {
                if self.is_blocked(ends[side], ends[1 - side]) {
                    if let Some(open) = self.streams.get_mut(&stream) {
                        open.stalled.push_back((side, body));
                    }
                } else {
                    let delay = self.delay(ends[side], ends[1 - side]);
                    self.carry(stream, side, delay, body);
                }
            }
        }
    }

    /// Streams that cross a cut are looked after, whether or not anybody sends.
    pub(crate) fn watch_cut(&mut self) {
        let cut: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, open)| {
                let [one, other] = open.ends.map(|(place, _)| place);
                self.blocked.contains(&(one, other)) || self.blocked.contains(&(other, one))
            })
            .map(|(id, _)| *id)
            .collect();
        for stream in cut {
            self.send(self.streams[&stream].ends[0].0, stream, Body::Ping);
            if let Some(open) = self.streams.get(&stream) {
                self.send(open.ends[1].0, stream, Body::Ping);
            }
        }
    }

    /// Streams between two places break.
    pub(crate) fn cut_streams(&mut self, one: Place, other: Place) {
        let between = |open: &Stream| {
            let places = open.ends.map(|(place, _)| place);
            places == [one, other] || places == [other, one]
        };
        let cut: Vec<u64> = self.streams.iter().filter(|(_, open)| between(open)).map(|(id, _)| *id).collect();
        cut.into_iter().for_each(|stream| self.hang_up(stream));
    }

    /// Asks a service; an [`What::Answered`] may come, and [`Timer::Late`] comes for sure.
    pub(crate) fn call(&mut self, from: Place, to: Place, call: u64, patience: Time, body: Body) {
        self.wake(from, patience, Timer::Late(call));
        if !self.is_blocked(from, to) && self.processes[&to].up {
            let delay = self.delay(from, to);
            let (asker, life) = ((from, self.life(from)), self.life(to));
            self.at(self.now + delay, to, life, What::Called { from: asker, call, body });
        }
    }

    /// Answers a call, unless the answer is lost.
    pub(crate) fn answer(&mut self, from: Place, asker: (Place, u32), call: u64, body: Body) {
        let lost = from == Place::Database && self.weather.loses_answers && self.odds(50);
        if !lost && !self.is_blocked(from, asker.0) {
            let delay = self.delay(from, asker.0);
            self.at(self.now + delay, asker.0, asker.1, What::Answered { call, body });
        }
    }
}
