//! What holds when processes die and databases fail (reliability: R3-R6, R14, F14, F16, F47), against real
//! processes and real databases.

mod attached;
mod database;
mod drill;
mod failover;
mod kill;
