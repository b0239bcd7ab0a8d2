//! Files of messages: what they may be, where they are kept, and how links are fetched.
//!
//! [`Blobs`] is the object store (a directory or a bucket): written in a stream, under a temporary name until
//! whole and synced. Rows about files are the message database's, so a blob without a row does not exist for
//! anybody. [`Kind`] and [`mime`] say what may be sent as what (spec/media.md §3, pure). [`guard`] fetches
//! links from public addresses only (S31-S34, S38). Nothing here knows messages or HTTP servers.

pub mod blobs;
pub mod content;
pub mod guard;
pub mod kind;
pub mod mime;
pub mod reference;

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use blobs::{Blobs, BucketSettings, StoredFile};
pub use kind::Kind;
pub use reference::Reference;

/// The bytes of a file, in order.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;
