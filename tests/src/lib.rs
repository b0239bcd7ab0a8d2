//! Shared words of the tests.
