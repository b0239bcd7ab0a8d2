//! Failed logins, counted in windows of a minute for each (user, address) and each address (S7).
//!
//! A user is never locked out as a whole: the right password still works from another address.
//! A try counts when it begins and is taken back when it succeeds, so a burst of parallel guesses
//! gets no more tries than a slow one. Bounded: with no room left, the oldest window goes.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);
/// Windows kept; about a megabyte.
const CAPACITY: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    /// User names are hashed, an attacker chooses them.
    User(IpAddr, u64),
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    failures: u32,
}

/// Counts failed logins.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_user: u32,
    per_address: u32,
    windows: HashMap<Key, Window>,
}

impl Throttle {
    pub(crate) fn new(per_user: u32, per_address: u32) -> Self {
        Self { per_user, per_address, windows: HashMap::new() }
    }

    /// Lets a try begin, or says after how long the next one may.
    pub(crate) fn begin(&mut self, user: u64, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.make_room(now);
        let keys = [(Key::User(address, user), self.per_user), (Key::Address(address), self.per_address)];
        for (key, limit) in &keys {
            if let Some(window) = self.current(key, now)
                && window.failures >= *limit
            {
                return Err((window.began + WINDOW).saturating_duration_since(now));
            }
        }
        for (key, _) in keys {
            let failures = self.current(&key, now).map_or(0, |window| window.failures);
            let window = self.windows.entry(key).or_insert(Window { began: now, failures });
            if failures == 0 {
                window.began = now;
            }
            window.failures = failures + 1;
        }
        Ok(())
    }

    /// Takes a try back that succeeded.
    pub(crate) fn forgive(&mut self, user: u64, address: IpAddr) {
        for key in [Key::User(address, user), Key::Address(address)] {
            if let Some(window) = self.windows.get_mut(&key) {
                window.failures = window.failures.saturating_sub(1);
            }
        }
    }

    fn current(&self, key: &Key, now: Instant) -> Option<Window> {
        self.windows.get(key).copied().filter(|window| now < window.began + WINDOW)
    }

    fn make_room(&mut self, now: Instant) {
        if self.windows.len() + 2 <= CAPACITY {
            return;
        }
        self.windows.retain(|_, window| now < window.began + WINDOW && window.failures > 0);
        while self.windows.len() + 2 > CAPACITY {
            let Some(oldest) = self.windows.iter().min_by_key(|(_, window)| window.began).map(|(key, _)| key.clone()) else {
                return;
            };
            self.windows.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_eleventh_failure_waits_but_not_from_elsewhere_nor_after_the_window() {
        let mut throttle = Throttle::new(10, 30);
        let now = Instant::now();
        for _ in 0..10 {
            throttle.begin(1, HERE, now).unwrap();
        }
        let wait = throttle.begin(1, HERE, now + Duration::from_secs(20)).unwrap_err();
        assert_eq!(wait, Duration::from_secs(40));
        assert!(throttle.begin(1, THERE, now).is_ok());
        assert!(throttle.begin(2, HERE, now).is_ok());
        assert!(throttle.begin(1, HERE, now + WINDOW).is_ok());
    }

    #[test]
    fn an_address_that_sprays_over_users_is_stopped_at_thirty() {
        let mut throttle = Throttle::new(10, 30);
        let now = Instant::now();
        for user in 0..30 {
            throttle.begin(user, HERE, now).unwrap();
        }
        assert!(throttle.begin(99, HERE, now).is_err());
    }

    #[test]
    fn successes_do_not_count() {
        let mut throttle = Throttle::new(10, 30);
        let now = Instant::now();
        for _ in 0..1000 {
            throttle.begin(1, HERE, now).unwrap();
            throttle.forgive(1, HERE);
        }
    }

    #[test]
    fn memory_stays_bounded() {
        let mut throttle = Throttle::new(10, u32::MAX);
        let now = Instant::now();
        for user in 0..CAPACITY as u64 + 50 {
            throttle.begin(user, HERE, now).unwrap();
        }
        assert!(throttle.windows.len() <= CAPACITY);
    }
}
