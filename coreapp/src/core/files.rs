//! Which messages wait for their files. A message that names files goes once they are at the network; the ones
//! behind it in its slot wait with it (**I5**), other slots do not.

use std::collections::HashMap;

use bytes::Bytes;
use estafet_media::reference;
use estafet_model::{Seq, Slot};
use estafet_store::MessageRow;

/// A message whose files are dealt with: its new body, or why it fails, as the title of the error.
pub type Prepared = Result<Bytes, String>;

#[derive(Debug)]
enum State {
    Waiting,
    Ready(Prepared),
}

/// The messages of one shard that have files. At most one of a slot waits; as many as are in flight are ready.
#[derive(Debug, Default)]
pub struct Files {
    open: HashMap<(Slot, Seq), State>,
    wanted: Vec<MessageRow>,
}

impl Files {
    /// Whether a message may go now. If its files must be dealt with first, [`Self::take_wanted`] gives it once.
    pub fn may_go(&mut self, message: &MessageRow) -> bool {
        let at = (message.slot, message.seq);
        match self.open.get(&at) {
            Some(state) => matches!(state, State::Ready(_)),
            None if reference::find(&message.body).is_empty() => true,
            None => {
                self.open.insert(at, State::Waiting);
                self.wanted.push(message.clone());
                false
            }
        }
    }

    /// The messages whose files are to be dealt with now.
    pub fn take_wanted(&mut self) -> Vec<MessageRow> {
        std::mem::take(&mut self.wanted)
    }

    /// The files of a message are dealt with.
    pub fn prepared(&mut self, at: (Slot, Seq), prepared: Prepared) {
        self.open.insert(at, State::Ready(prepared));
    }

    /// The body to send; `None` if the message fails.
    pub fn body(&self, message: &MessageRow) -> Option<Bytes> {
        match self.open.get(&(message.slot, message.seq)) {
            Some(State::Ready(Ok(body))) => Some(body.clone()),
            Some(State::Ready(Err(_))) => None,
            Some(State::Waiting) | None => Some(message.body.clone()),
        }
    }

    /// Why a message failed.
    pub fn failure(&self, at: (Slot, Seq)) -> Option<&str> {
        match self.open.get(&at) {
            Some(State::Ready(Err(title))) => Some(title),
            _ => None,
        }
    }

    /// A message is settled.
    pub fn forget(&mut self, at: (Slot, Seq)) {
        self.open.remove(&at);
    }
}

#[cfg(test)]
mod tests {
    use estafet_model::{IdKey, WaId};

    use super::*;

    fn message(seq: i64, body: &'static str) -> MessageRow {
        MessageRow {
            slot: Slot::new(1).unwrap(),
            seq: Seq::new(seq),
            id_key: IdKey([0; 9]),
            recipient: WaId::from_u64(15_550_001_001).unwrap(),
            accepted_at_ms: 0,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_message_with_a_file_goes_when_the_file_is_dealt_with() {
        let mut files = Files::default();
        assert!(files.may_go(&message(1, r#"{"type":"text","text":{"body":"image"}}"#)));
        let image = message(2, r#"{"type":"image","image":{"id":"7"}}"#);
        assert!(!files.may_go(&image) && !files.may_go(&image));
        assert_eq!(files.take_wanted().len(), 1);
        assert!(files.take_wanted().is_empty(), "once");
        let at = (image.slot, image.seq);
        files.prepared(at, Ok(Bytes::from_static(b"new")));
        assert!(files.may_go(&image));
        assert_eq!((files.body(&image).unwrap().as_ref(), files.failure(at)), (&b"new"[..], None));
        files.prepared(at, Err("404".to_owned()));
        assert_eq!((files.may_go(&image), files.body(&image), files.failure(at)), (true, None, Some("404")));
        files.forget(at);
        assert!(!files.may_go(&image), "sent again later, it is dealt with again");
    }
}
