//! What a drill decides, without sockets, clocks or processes: how long accepting paused ([`gap`]), and whether the
//! drill held what is promised ([`verdict`]).

pub mod gap;
pub mod verdict;
