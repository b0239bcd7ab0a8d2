//! The chatd network: dials 5222 with fallback to 443, handshakes, logs in, keeps the link alive.
