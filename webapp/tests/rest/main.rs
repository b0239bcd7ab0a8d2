//! The webapp on a real socket, with a SQLite store and coreapps played by the tests.
#![allow(missing_docs, unreachable_pub)]

mod contacts;
mod core;
mod https;
mod identity;
mod input;
mod keys;
mod login;
mod messages;
mod numbers;
mod openapi;
mod requirements;
mod routing;
mod settings;
mod stats;
mod templates;
mod users;
mod world;
