//! What holds when processes die (reliability: R3-R6, F14, F16), against real processes and real databases.

mod kill;
mod load;
