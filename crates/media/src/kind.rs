//! The kinds of media messages, and what each takes (spec/media.md §3). 1 MB is 1024 * 1024 bytes.

use std::fmt;

use crate::mime;

const MB: u64 = 1024 * 1024;

/// What a file is sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A picture.
    Image,
    /// Sound.
    Audio,
    /// A recording made while speaking; of phones only.
    Voice,
    /// A film.
    Video,
    /// Any file.
    Document,
    /// A picture without a frame.
    Sticker,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Image, Self::Audio, Self::Voice, Self::Video, Self::Document, Self::Sticker];

    /// The word of the API for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Voice => "voice",
            Self::Video => "video",
            Self::Document => "document",
            Self::Sticker => "sticker",
        }
    }

    /// The kind a word names.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Most bytes of a file that is sent as this.
    pub const fn max_bytes(self) -> u64 {
        match self {
            Self::Image => 5 * MB,
            Self::Audio | Self::Voice | Self::Video => 16 * MB,
            Self::Document => 100 * MB,
            Self::Sticker => 100 * 1024,
        }
    }

    /// Whether a file of this MIME type may be sent as this.
    pub fn takes(self, mime_type: &str) -> bool {
        let essence = mime::essence(mime_type);
        match self {
            Self::Image => ["image/jpeg", "image/png"].contains(&essence.as_str()),
            Self::Audio => match essence.as_str() {
                "audio/ogg" => mime::is_opus(mime_type),
                essence => ["audio/aac", "audio/mp4", "audio/mpeg", "audio/amr"].contains(&essence),
            },
            Self::Voice => essence == "audio/ogg" && mime::is_opus(mime_type),
            Self::Video => ["video/mp4", "video/3gpp"].contains(&essence.as_str()),
            Self::Document => true,
            Self::Sticker => essence == "image/webp",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_takes_the_types_of_the_table_and_no_others() {
        for (kind, takes, refuses) in [
            (Kind::Image, &["image/jpeg", "IMAGE/PNG"][..], &["image/webp", "image/gif", "application/pdf"][..]),
            (
                Kind::Audio,
                &["audio/aac", "audio/mp4", "audio/mpeg", "audio/amr", "audio/ogg; codecs=opus"],
                &["audio/ogg", "audio/wav"],
            ),
            (Kind::Voice, &["audio/ogg; codecs=\"opus\""], &["audio/aac", "audio/ogg"]),
            (Kind::Video, &["video/mp4", "video/3gpp"], &["video/webm", "image/jpeg"]),
            (Kind::Document, &["application/pdf", "text/plain; charset=utf-8", "image/gif"], &[]),
            (Kind::Sticker, &["image/webp"], &["image/png"]),
        ] {
            takes.iter().for_each(|mime| assert!(kind.takes(mime), "{kind} {mime}"));
            refuses.iter().for_each(|mime| assert!(!kind.takes(mime), "{kind} {mime}"));
            assert_eq!(Kind::from_word(kind.as_str()), Some(kind));
        }
    }
}
