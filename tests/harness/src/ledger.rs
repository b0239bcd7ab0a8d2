//! What was sent against what phones and the receiver of callbacks saw.
//!
//! The caller writes down every try, in order: its text, which must be unique for the recipient, and the id
//! if the server answered with one. A try whose answer was lost may have been accepted or not; everything
//! else is certain: an accepted message is on its phone once and in order (**I3**, **I4**, **I5**), and each
//! of its statuses reached the receiver, first attempts in order (**I6**).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use crate::{client::Inbox, sink::Arrival};

/// One POST of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Try {
    text: String,
    id: Option<String>,
}

/// Everything that was sent, by recipient, in order.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tries: BTreeMap<String, Vec<Try>>,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The id was returned, but the message is not on the phone.
    Lost {
        /// The phone.
        recipient: String,
        /// The message.
        id: String,
    },
    /// The phone shows a message that was not sent to it, or with another id than was returned.
    Stranger {
        /// The phone.
        recipient: String,
        /// The message.
        id: String,
        /// Its text.
        text: String,
    },
    /// The phone shows a message twice.
    Twice {
        /// The phone.
        recipient: String,
        /// The message.
        id: String,
    },
    /// The phone shows a message after one that was sent later.
    Inverted {
        /// The phone.
        recipient: String,
        /// The message that is late.
        id: String,
        /// The later one that overtook it.
        after: String,
    },
    /// No phone was looked at for a recipient.
    NoInbox {
        /// The phone.
        recipient: String,
    },
    /// A status never reached the receiver.
    NoCallback {
        /// The message.
        id: String,
        /// The status.
        status: String,
    },
    /// The first attempt of a callback came after that of one which must follow it.
    CallbackInverted {
        /// The lane.
        contact: String,
        /// What is late.
        late: String,
        /// What came before it.
        after: String,
    },
    /// A callback was tried although the one before it in its lane had not succeeded.
    LaneNotHeld {
        /// The lane.
        contact: String,
        /// Position of the failed attempt.
        failed: usize,
        /// Position of the next attempt in the lane.
        next: usize,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { recipient, id } => write!(f, "{recipient}: {id} was accepted and is not on the phone (I3)"),
            Self::Stranger { recipient, id, text } => write!(f, "{recipient}: {id} ({text:?}) was not sent so (I3)"),
            Self::Twice { recipient, id } => write!(f, "{recipient}: {id} is on the phone twice (I4)"),
            Self::Inverted { recipient, id, after } => write!(f, "{recipient}: {id} arrived after {after}, sent later (I5)"),
            Self::NoInbox { recipient } => write!(f, "{recipient}: the phone was not looked at"),
            Self::NoCallback { id, status } => write!(f, "`{status}` of {id} never reached the receiver (I6)"),
            Self::CallbackInverted { contact, late, after } => write!(f, "{contact}: {late} first tried after {after} (I6)"),
            Self::LaneNotHeld { contact, failed, next } => {
                write!(f, "{contact}: callback #{next} was tried although #{failed} had failed (I6)")
            }
        }
    }
}

impl Difference {
    /// What sort of difference it is, to count them.
    fn kind(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Stranger { .. } => "strange",
            Self::Twice { .. } => "twice",
            Self::Inverted { .. } => "inverted",
            Self::NoInbox { .. } => "no inbox",
            Self::NoCallback { .. } => "no callback",
            Self::CallbackInverted { .. } => "callback inverted",
            Self::LaneNotHeld { .. } => "lane not held",
        }
    }
}

/// Fails with the differences counted by kind, and the first of them, one a line.
pub fn assert_none(differences: &[Difference]) {
    const SHOWN: usize = 30;
    let lines: Vec<String> = differences.iter().take(SHOWN).map(ToString::to_string).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for difference in differences {
        *kinds.entry(difference.kind()).or_default() += 1;
    }
    assert!(differences.is_empty(), "{} differences {kinds:?}:\n{}", differences.len(), lines.join("\n"));
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes down a message whose id was returned.
    pub fn accepted(&mut self, recipient: &str, text: &str, id: &str) {
        self.write(recipient, text, Some(id));
    }

    /// Writes down a message whose answer was lost: it may have been accepted or not.
    pub fn unanswered(&mut self, recipient: &str, text: &str) {
        self.write(recipient, text, None);
    }

    fn write(&mut self, recipient: &str, text: &str, id: Option<&str>) {
        let entry = Try { text: text.to_owned(), id: id.map(str::to_owned) };
        self.tries.entry(recipient.to_owned()).or_default().push(entry);
    }

    /// Adds what another caller wrote down; recipients must differ.
    pub fn merge(&mut self, other: Self) {
        for (recipient, tries) in other.tries {
            self.tries.entry(recipient).or_default().extend(tries);
        }
    }

    /// Everybody that was written to.
    pub fn recipients(&self) -> impl Iterator<Item = &str> {
        self.tries.keys().map(String::as_str)
    }

    /// All returned ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.tries.values().flatten().filter_map(|entry| entry.id.as_deref())
    }

    /// Compares with what the phones show.
    pub fn compare_phones(&self, inboxes: &[Inbox]) -> Vec<Difference> {
        let by_phone: HashMap<&str, &Inbox> = inboxes.iter().map(|inbox| (inbox.phone.as_str(), inbox)).collect();
        let mut differences = Vec::new();
        for (recipient, tries) in &self.tries {
            match by_phone.get(recipient.as_str()) {
                Some(inbox) => compare_inbox(recipient, tries, inbox, &mut differences),
                None => differences.push(Difference::NoInbox { recipient: recipient.clone() }),
            }
        }
        differences
    }

    /// Compares with what reached the receiver: each of `statuses` of each accepted message, at least once;
    /// first attempts in the order of sending for each status, and in the order of `statuses` for each message.
    pub fn compare_callbacks(&self, arrivals: &[Arrival], statuses: &[&str]) -> Vec<Difference> {
        self.compare_reports(arrivals.iter().flat_map(|arrival| arrival.statuses().map(|status| (arrival.n, status))), statuses)
    }

    /// The same for a receiver that keeps less: the position of each callback with an `(id, status)` it reported.
    pub fn compare_reports<'a>(
        &self,
        reports: impl IntoIterator<Item = (usize, (&'a str, &'a str))>,
        statuses: &[&str],
    ) -> Vec<Difference> {
        let mut first: HashMap<(&str, &str), usize> = HashMap::new();
        for (n, reported) in reports {
            first.entry(reported).or_insert(n);
        }
        let mut differences = Vec::new();
        for (recipient, tries) in &self.tries {
            let ids: Vec<&str> = tries.iter().filter_map(|entry| entry.id.as_deref()).collect();
            for id in &ids {
                let wanted = statuses.iter().map(|status| (*id, *status));
                compare_order(recipient, wanted, &first, &mut differences, Absent::Counts);
            }
            for status in statuses {
                let wanted = ids.iter().map(|id| (*id, *status));
                compare_order(recipient, wanted, &first, &mut differences, Absent::CountedElsewhere);
            }
        }
        differences
    }
}

fn compare_inbox(recipient: &str, tries: &[Try], inbox: &Inbox, differences: &mut Vec<Difference>) {
    let place: HashMap<&str, usize> = tries.iter().enumerate().map(|(place, entry)| (entry.text.as_str(), place)).collect();
    let mut seen = HashSet::new();
    let mut furthest: Option<(usize, &str)> = None;
    for message in &inbox.messages {
        let (id, recipient) = (message.id.clone(), recipient.to_owned());
        let known = place.get(message.text()).copied().filter(|place| tries[*place].id.as_ref().is_none_or(|sent| *sent == id));
        let Some(place) = known else {
            differences.push(Difference::Stranger { recipient, id, text: message.text().to_owned() });
            continue;
        };
        if !seen.insert(place) {
            differences.push(Difference::Twice { recipient, id });
            continue;
        }
        match furthest {
            Some((far, after)) if far > place => {
                differences.push(Difference::Inverted { recipient, id, after: after.to_owned() })
            }
            _ => furthest = Some((place, &message.id)),
        }
    }
    for (place, entry) in tries.iter().enumerate() {
        if let Some(id) = entry.id.as_ref().filter(|_| !seen.contains(&place)) {
            differences.push(Difference::Lost { recipient: recipient.to_owned(), id: id.clone() });
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Counts,
    CountedElsewhere,
}

fn compare_order<'a>(
    contact: &str,
    wanted: impl Iterator<Item = (&'a str, &'a str)>,
    first: &HashMap<(&str, &str), usize>,
    differences: &mut Vec<Difference>,
    absent: Absent,
) {
    let name = |(id, status): (&str, &str)| format!("`{status}` of {id}");
    let mut before: Option<(usize, (&str, &str))> = None;
    for callback in wanted {
        let Some(place) = first.get(&callback).copied() else {
            if absent == Absent::Counts {
                differences.push(Difference::NoCallback { id: callback.0.to_owned(), status: callback.1.to_owned() });
            }
            continue;
        };
        if let Some((_, earlier)) = before.filter(|(earlier, _)| *earlier > place) {
            let (late, after) = (name(earlier), name(callback));
            differences.push(Difference::CallbackInverted { contact: contact.to_owned(), late, after });
        }
        before = Some((place, callback));
    }
}

/// Where a lane went on although its last attempt had failed. Holds only within one life of the server:
/// a restart may repeat callbacks that had succeeded.
pub fn lanes_not_held(arrivals: &[Arrival]) -> Vec<Difference> {
    let mut last: HashMap<&str, &Arrival> = HashMap::new();
    let mut differences = Vec::new();
    for arrival in arrivals {
        let Some(contact) = arrival.contact.as_deref() else { continue };
        let previous = last.insert(contact, arrival);
        if let Some(failed) = previous.filter(|previous| previous.status != 200 && previous.body != arrival.body) {
            differences.push(Difference::LaneNotHeld { contact: contact.to_owned(), failed: failed.n, next: arrival.n });
        }
    }
    differences
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::client::Message;

    fn inbox(phone: &str, messages: &[(&str, &str)]) -> Inbox {
        let content = |text: &str| json!({ "type": "text", "text": { "body": text } });
        let message = |(n, (id, text)): (usize, &(&str, &str))| Message {
            n: n as u64 + 1,
            id: (*id).to_owned(),
            from: "15550000001".to_owned(),
            received_at: 0,
            content: content(text),
        };
        Inbox { phone: phone.to_owned(), messages: messages.iter().enumerate().map(message).collect(), duplicates: 0 }
    }

    fn arrivals(callbacks: &[(&str, &str, u16)]) -> Vec<Arrival> {
        let arrival = |(n, (id, status, answer)): (usize, &(&str, &str, u16))| {
            let event = json!({ "statuses": [{ "id": id, "status": status, "recipient_id": "1" }] });
            Arrival {
                n,
                at: Instant::now(),
                path: crate::sink::PATH.to_owned(),
                headers: Default::default(),
                body: event.to_string().into(),
                event,
                contact: Some("1".to_owned()),
                status: *answer,
            }
        };
        callbacks.iter().enumerate().map(arrival).collect()
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::new();
        ledger.accepted("1", "one", "a");
        ledger.unanswered("1", "two");
        ledger.accepted("1", "three", "c");
        ledger
    }

    #[test]
    fn an_unanswered_try_may_be_on_the_phone_or_not() {
        assert_eq!(ledger().compare_phones(&[inbox("1", &[("a", "one"), ("c", "three")])]), []);
        assert_eq!(ledger().compare_phones(&[inbox("1", &[("a", "one"), ("b", "two"), ("c", "three")])]), []);
    }

    #[test]
    fn lost_doubled_inverted_and_strange_messages_are_found() {
        let found = ledger().compare_phones(&[inbox("1", &[("c", "three"), ("b", "two"), ("b", "two"), ("x", "one")])]);
        let (recipient, id) = ("1".to_owned(), "b".to_owned());
        assert_eq!(
            found,
            [
                Difference::Inverted { recipient: recipient.clone(), id: id.clone(), after: "c".to_owned() },
                Difference::Twice { recipient: recipient.clone(), id },
                Difference::Stranger { recipient: recipient.clone(), id: "x".to_owned(), text: "one".to_owned() },
                Difference::Lost { recipient, id: "a".to_owned() },
            ]
        );
        assert_eq!(ledger().compare_phones(&[]).len(), 1);
    }

    #[test]
    fn repeated_callbacks_are_fine_and_missing_or_early_ones_are_found() {
        let statuses = ["delivered", "read"];
        let fine = arrivals(&[
            ("a", "delivered", 500),
            ("a", "delivered", 200),
            ("a", "read", 200),
            ("c", "delivered", 200),
            ("a", "read", 200),
            ("c", "read", 200),
        ]);
        assert_eq!(ledger().compare_callbacks(&fine, &statuses), []);
        assert_eq!(lanes_not_held(&fine), []);
        let wrong = arrivals(&[("c", "delivered", 500), ("a", "delivered", 200), ("a", "read", 200)]);
        assert_eq!(
            ledger().compare_callbacks(&wrong, &statuses),
            [
                Difference::NoCallback { id: "c".to_owned(), status: "read".to_owned() },
                Difference::CallbackInverted {
                    contact: "1".to_owned(),
                    late: "`delivered` of a".to_owned(),
                    after: "`delivered` of c".to_owned()
                },
            ]
        );
        assert_eq!(lanes_not_held(&wrong), [Difference::LaneNotHeld { contact: "1".to_owned(), failed: 0, next: 1 }]);
    }
}
