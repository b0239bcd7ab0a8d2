//! What a person sees on a simulated phone: which pictures stand together as an album, and what the app of a cautious
//! person holds back from a business that it does not know. Pure.
//!
//! 1. An album is at least four pictures in a row in a chat, none with a caption, all of one day, with no divider
//!    between read and unread messages and no message of the person in between (FAQ of the original, R136, R138).
//! 2. Pictures that come while the chat is open stand alone until the next visit (R137).
//! 3. A phone knows a business that its person has written to, or that has sent a template before or with the message.
//!    From others a cautious one fetches no files, and their links cannot be clicked (R109, R111-R113).

use std::collections::HashMap;

use estafet_model::WaId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::phones::{Inbox, Received, Sent};

/// Pictures that are an album.
const ALBUM: usize = 4;
/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// How a person looks at a phone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct View {
    /// Whether the app holds back files and links of businesses that the phone does not know.
    pub cautious: bool,
    /// Since when the chats are open, milliseconds since 1970; without it this is a new visit.
    pub open_since: Option<i64>,
    /// The first message, counted from 1, that was unread at the beginning of the visit: a divider is above it.
    pub unread_from: Option<u64>,
}

impl View {
    /// Whether what the phone has sent matters for what is seen.
    pub(crate) fn needs_sent(&self, inbox: &Inbox) -> bool {
        self.cautious || inbox.messages.iter().filter(|message| is_plain_picture(&message.content)).count() >= ALBUM
    }

    /// Adds to the messages what the person sees beside them.
    pub(crate) fn apply(&self, inbox: &mut Inbox, sent: &[Sent]) {
        for (index, album) in self.albums(&inbox.messages, sent) {
            inbox.messages[index].album = Some(album);
        }
        if self.cautious {
            let mut knows: Vec<WaId> = Vec::new();
            for message in &mut inbox.messages {
                let is_known =
                    |business: WaId| sent.iter().any(|written| written.to == business && written.sent_at <= message.received_at);
                if !knows.contains(&message.from) && (message.content["type"] == "template" || is_known(message.from)) {
                    knows.push(message.from);
                }
                message.trusted = Some(knows.contains(&message.from));
                mark_link(message);
            }
        }
    }

    /// The pictures in albums: their places, and the number of the first one of theirs.
    fn albums(&self, messages: &[Received], sent: &[Sent]) -> Vec<(usize, u64)> {
        let mut albums = Vec::new();
        let mut runs: HashMap<WaId, Vec<usize>> = HashMap::new();
        for (index, message) in messages.iter().enumerate() {
            let run = runs.entry(message.from).or_default();
            let goes_on = run.last().is_some_and(|last| self.goes_on(&messages[*last], message, sent));
            if !goes_on {
                close(std::mem::take(run), messages, &mut albums);
            }
            if is_plain_picture(&message.content) && self.open_since.is_none_or(|since| message.received_at < since) {
                run.push(index);
            } else {
                close(std::mem::take(run), messages, &mut albums);
            }
        }
        runs.into_values().for_each(|run| close(run, messages, &mut albums));
        albums
    }

    /// Whether nothing is shown between a picture and the next message of the chat.
    fn goes_on(&self, last: &Received, next: &Received, sent: &[Sent]) -> bool {
        let is_between =
            |written: &Sent| written.to == next.from && (last.received_at..next.received_at).contains(&written.sent_at);
        let same_day = last.received_at.div_euclid(DAY_MS) == next.received_at.div_euclid(DAY_MS);
        same_day && self.unread_from != Some(next.order) && !sent.iter().any(is_between)
    }
}

/// Keeps a run that is long enough.
fn close(run: Vec<usize>, messages: &[Received], albums: &mut Vec<(usize, u64)>) {
    if run.len() >= ALBUM {
        let first = messages[run[0]].order;
        albums.extend(run.into_iter().map(|index| (index, first)));
    }
}

fn is_plain_picture(content: &Value) -> bool {
    content["type"] == "image" && content.pointer("/image/caption").is_none_or(|caption| caption == "")
}

/// Says of a text with a link whether it can be clicked.
fn mark_link(message: &mut Received) {
    let has_link = |body: &Value| body.as_str().is_some_and(|body| body.contains("http://") || body.contains("https://"));
    if message.content.pointer("/text/body").is_some_and(has_link) {
        message.content["text"]["clickable"] = json!(message.trusted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSINESS: u64 = 15_550_000_001;
    /// In the middle of a day.
    const NOON_MS: i64 = 20_000 * DAY_MS + DAY_MS / 2;

    fn number(number: u64) -> WaId {
        WaId::from_u64(number).unwrap()
    }

    fn picture() -> Value {
        json!({ "type": "image", "image": {} })
    }

    /// Messages a second apart.
    fn inbox(contents: impl IntoIterator<Item = Value>) -> Inbox {
        let message = |(order, content): (u64, Value)| Received {
            id: order.to_string(),
            from: number(BUSINESS),
            received_at: NOON_MS + 1000 * order as i64,
            order,
            content,
            album: None,
            trusted: None,
        };
        Inbox { number: number(15_550_001_001), duplicates: 0, messages: (1..).zip(contents).map(message).collect() }
    }

    fn written(at_ms: i64) -> Sent {
        let content = json!({ "type": "text", "text": { "body": "hi" } });
        Sent { id: "s".to_owned(), to: number(BUSINESS), sent_at: at_ms, read_by_business: false, content }
    }

    fn albums(view: &View, mut inbox: Inbox, sent: &[Sent]) -> Vec<Option<u64>> {
        view.apply(&mut inbox, sent);
        inbox.messages.into_iter().map(|message| message.album).collect()
    }

    fn pictures(count: usize) -> Inbox {
        inbox(std::iter::repeat_with(picture).take(count))
    }

    #[test]
    fn r136_four_pictures_in_a_row_are_an_album() {
        let plain = View::default();
        assert_eq!(albums(&plain, pictures(3), &[]), [None; 3]);
        assert_eq!(albums(&plain, pictures(5), &[]), [Some(1); 5]);
        let text = json!({ "type": "text", "text": { "body": "x" } });
        let with_text = |at: usize| {
            let mut contents = vec![picture(); 8];
            contents.insert(at, text.clone());
            albums(&plain, inbox(contents), &[])
        };
        let (first, second) = ([Some(1); 4], [Some(6); 4]);
        assert_eq!(with_text(4), [&first[..], &[None], &second[..]].concat());
        assert_eq!(with_text(2), [&[None; 3][..], &[Some(4); 6]].concat());
        // Other businesses are in chats of their own.
        let mut two_chats = pictures(8);
        two_chats.messages.iter_mut().step_by(2).for_each(|message| message.from = number(BUSINESS + 1));
        let expected: Vec<_> = (0..8).map(|n| Some(1 + n % 2)).collect();
        assert_eq!(albums(&plain, two_chats, &[]), expected);
    }

    #[test]
    fn r137_pictures_that_come_while_the_chat_is_open_stand_alone_until_the_next_visit() {
        let open = |since| View { open_since: Some(since), ..View::default() };
        assert_eq!(albums(&open(NOON_MS), pictures(4), &[]), [None; 4]);
        let opened_after_four = albums(&open(NOON_MS + 4_500), pictures(6), &[]);
        assert_eq!(opened_after_four, [&[Some(1); 4][..], &[None; 2]].concat());
        assert_eq!(albums(&View::default(), pictures(6), &[]), [Some(1); 6], "the next visit");
    }

    #[test]
    fn r138_captions_the_divider_another_day_and_an_answer_prevent_an_album() {
        let plain = View::default();
        let mut captioned = pictures(4);
        captioned.messages[2].content["image"]["caption"] = json!("look");
        assert_eq!(albums(&plain, captioned, &[]), [None; 4]);
        let divided = View { unread_from: Some(3), ..View::default() };
        assert_eq!(albums(&divided, pictures(5), &[]), [None; 5]);
        assert_eq!(albums(&divided, pictures(6), &[]), [&[None; 2][..], &[Some(3); 4]].concat());
        let mut next_day = pictures(4);
        next_day.messages[3].received_at += DAY_MS;
        assert_eq!(albums(&plain, next_day, &[]), [None; 4]);
        assert_eq!(albums(&plain, pictures(4), &[written(NOON_MS + 2_500)]), [None; 4]);
    }

    #[test]
    fn r109_r112_a_cautious_phone_trusts_whom_it_has_written_to_or_who_sent_a_template() {
        let link = || json!({ "type": "text", "text": { "body": "see https://example.org/" } });
        let template = json!({ "type": "template" });
        let trusted = |view: &View, contents: Vec<Value>, sent: &[Sent]| {
            let mut inbox = inbox(contents);
            view.apply(&mut inbox, sent);
            let clickable = |message: &Received| message.content.pointer("/text/clickable").and_then(Value::as_bool);
            inbox.messages.iter().map(|message| (message.trusted, clickable(message))).collect::<Vec<_>>()
        };
        let cautious = View { cautious: true, ..View::default() };
        let (no, yes) = (Some(false), Some(true));
        assert_eq!(trusted(&cautious, vec![picture(), link()], &[]), [(no, None), (no, no)]);
        let after = trusted(&cautious, vec![link(), template, picture(), link()], &[]);
        assert_eq!(after, [(no, no), (yes, None), (yes, None), (yes, yes)]);
        let answered = trusted(&cautious, vec![link(), link()], &[written(NOON_MS + 1_500)]);
        assert_eq!(answered, [(no, no), (yes, yes)]);
        assert_eq!(trusted(&View::default(), vec![link()], &[]), [(None, None)]);
    }
}
