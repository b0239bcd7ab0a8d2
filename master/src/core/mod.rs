//! The decisions of the master, without I/O or clock.

pub mod placement;
