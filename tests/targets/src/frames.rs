//! Frames: of the network behind its encryption, and of the requests between webapp and coreapp.

use std::fmt::Debug;

use bytes::BytesMut;
use estafet_chatd::frames::take_frame;
use estafet_coreapp::request;
use estafet_model::Slot;
use estafet_proto::{chat, v1};
use prost::Message;

/// Most frames looked at.
const MOST: usize = 64;

/// A row of frames is read as the same frames however it arrives, and a frame that was read can be written and read.
pub fn chatd(data: &[u8]) {
    rows::<chat::ClientFrame>(data);
    rows::<chat::ServerFrame>(data);
}

fn rows<M: Message + Default + PartialEq + Debug>(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let (frames, parted) = (Row::<M>::of(&[data]), Row::of(&[first, second]));
    assert!(frames == parted, "read differently in two parts: {frames:?}, {parted:?}");
    for frame in frames.read {
        let mut written = BytesMut::from(&frame.encode_length_delimited_to_vec()[..]);
        let read: Option<M> = take_frame(&mut written).expect("what was read can be written");
        assert!(read == Some(frame) && written.is_empty(), "not what was written");
    }
}

/// What a connection reads.
#[derive(Debug, PartialEq)]
struct Row<M> {
    read: Vec<M>,
    /// The connection ended with an error.
    is_broken: bool,
}

impl<M: Message + Default> Row<M> {
    /// Bytes arrive in these parts.
    fn of(parts: &[&[u8]]) -> Self {
        let (mut row, mut waiting) = (Self { read: Vec::new(), is_broken: false }, BytesMut::new());
        for part in parts {
            waiting.extend_from_slice(part);
            while !row.is_broken && row.read.len() < MOST {
                let before = waiting.len();
                match take_frame(&mut waiting) {
                    Ok(Some(frame)) => row.read.push(frame),
                    Ok(None) => break,
                    Err(_) => row.is_broken = true,
                }
                assert!(row.is_broken || waiting.len() < before, "a frame of no bytes would never end");
            }
        }
        row
    }
}

/// A request of a webapp is for a slot, and a message for the slot of its recipient; or it is refused with words.
pub fn data(data: &[u8]) {
    let Ok(frame) = v1::RequestFrame::decode(data) else { return };
    for wire in frame.requests {
        let (number, recipient) = match &wire.action {
            Some(v1::request::Action::Submit(submit)) => (wire.number, Some(submit.recipient)),
            _ => (wire.number, None),
        };
        match request::parse(wire) {
            Ok((parsed, slot, action)) => {
                assert_eq!(parsed.as_u64(), number);
                if let request::Action::Submit { recipient: parsed, .. } = action {
                    assert_eq!((Some(parsed.as_u64()), Slot::of(parsed)), (recipient, slot));
                }
            }
            Err(error) => assert!(!error.details.is_empty(), "{error}"),
        }
    }
}
