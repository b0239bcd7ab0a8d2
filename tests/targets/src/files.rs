//! What uploads say they are, and how they begin.

use estafet_media::{Kind, content, mime};

/// The first line is a type, the rest the beginning of a file: a type is its own normal form and can be a header;
/// what is recognised is what it is recognised as; a sticker is a picture of the one kind.
pub fn media(data: &[u8]) {
    let (line, head) = super::line_and_rest(data);
    if let Ok(line) = std::str::from_utf8(line)
        && let Some(kind) = mime::parse(line)
    {
        assert_eq!(mime::parse(&kind).as_ref(), Some(&kind));
        assert!(kind.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{kind:?} is no header");
        let essence = mime::essence(&kind);
        assert_eq!(mime::essence(&essence), essence);
        assert!(essence.split_once('/').is_some_and(|(kind, subtype)| !kind.is_empty() && !subtype.is_empty()), "{kind}");
        content::fits(&kind, head);
        for word in ["image", "audio", "video", "document", "sticker", "voice"] {
            let file = Kind::from_word(word).expect("these are kinds");
            assert_eq!(file.takes(&kind), file.takes(kind.trim()), "{kind}");
        }
    }
    if let Some(kind) = content::guess(head) {
        assert_eq!(mime::parse(kind).as_deref(), Some(kind));
        assert!(content::fits(kind, head), "{kind}");
    }
    if content::sticker_problem(head).is_none() {
        assert!(content::fits("image/webp", head));
    }
}
