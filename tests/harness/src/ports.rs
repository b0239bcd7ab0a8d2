//! Ports for children that must be known before they listen, or kept through a restart.
//!
//! They lie below the range from which outgoing connections take theirs: while a child is down, nobody's
//! connection can sit on its port. Whoever gets one may still be too late when another process looks at the
//! same time; callers try again with another.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::bail;

/// Lowest port that is given out, and how many there are. Linux begins its ephemeral range at 32768.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of loopback that was free a moment ago; two calls of a process return different ones for long.
pub fn free_port() -> anyhow::Result<u16> {
    // Processes that run side by side begin at different places.
    let offset = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let port = FIRST + (offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {FIRST} on")
}

/// The same as an address of loopback.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}
