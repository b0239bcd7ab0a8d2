//! The open chat network.

pub mod e2e;
pub mod noise;
