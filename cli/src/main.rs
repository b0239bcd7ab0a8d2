//! The estafet binary.
fn main() {}
