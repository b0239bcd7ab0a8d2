//! A template as messages are checked against it. It is made from an [`Entry`] only, so its texts
//! are within their limits and its addresses are well-formed.

use serde::Serialize;

use super::{definition::Entry, language::Language, pattern::Pattern};

/// A template in one language.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(super) language: Language,
    pub(super) status: Status,
    pub(super) header: Option<Header>,
    pub(super) body: Pattern,
    pub(super) footer: Option<String>,
    pub(super) buttons: Vec<Button>,
    /// As it was written.
    pub(super) entry: Entry,
}

impl Template {
    /// As it was written, with its language in the spelling of messages.
    pub(super) fn entry_as_known(&self) -> Entry {
        let mut entry = self.entry.clone();
        entry.language = self.language.to_string();
        entry
    }
}

/// How many parameters the parts of a template take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Parameters {
    pub(super) header: usize,
    pub(super) body: usize,
    /// Buttons that need one.
    pub(super) buttons: usize,
}

/// Whether a template may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Approved,
    /// Not yet, or no longer: to senders as if it were not there.
    NotApproved,
    Rejected,
    Paused,
    Disabled,
}

/// What is above the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Text(Pattern),
    Media(MediaKind),
}

/// Media a header may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaKind {
    Image,
    Video,
    Document,
}

/// A button.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Button {
    pub(super) text: String,
    pub(super) action: Action,
}

/// What a button does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Answers the business.
    QuickReply,
    /// Opens an address; the sender may add its end.
    Url {
        prefix: String,
        has_suffix: bool,
    },
    /// Calls a number.
    Call(String),
    /// Copies a code the sender gives.
    CopyCode,
    Flow,
    Catalog,
    /// Shows chosen products.
    Products,
}

impl Action {
    /// The `sub_type` of requests; `None` for a button that takes nothing.
    pub(super) fn sub_type(&self) -> &'static str {
        match self {
            Self::QuickReply => "quick_reply",
            Self::Url { .. } => "url",
            Self::Call(_) => "phone_number",
            Self::CopyCode => "copy_code",
            Self::Flow => "flow",
            Self::Catalog => "catalog",
            Self::Products => "mpm",
        }
    }
}
