//! Fetches links without being led to places that are not public (S31-S34, S38).
//!
//! A check and a later connection could see two different addresses (DNS rebinding). So names are resolved
//! once, by a [`Resolve`] whose every answer is checked, and the connection is made to exactly those addresses.
//! One private address among public ones refuses the name. Redirects are followed here, at most
//! [`MAX_REDIRECTS`], each checked like the first address; credentials never go to another origin. No proxies,
//! no decompression, a cap of bytes and of time.

mod address;
mod fetch;

pub use address::{Policy, is_allowed, is_allowed_host};
pub use fetch::{Authorization, Error, Fetched, Fetcher, Limits, MAX_REDIRECTS, Resolve, SystemResolver, checked_names};
