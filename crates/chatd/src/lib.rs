//! The open chat network.

pub mod audit;
pub mod e2e;
pub mod frames;
pub mod noise;
pub mod session;
