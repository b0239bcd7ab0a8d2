//! What a file is, going by its first bytes. Pure; input is from outside.
//!
//! A file must begin like one of the type it is said to be, as far as the type is one that is shown or
//! played. Documents may be anything. Stickers are measured: 512 x 512, and not animated.

use crate::mime;

/// Bytes from the beginning of a file that [`fits`] and [`guess`] want to see, if there are as many.
pub const HEAD: usize = 4096;

/// Side of a sticker.
const STICKER_SIDE: u32 = 512;

/// Whether a file that begins with `head` can be of this type.
pub fn fits(mime_type: &str, head: &[u8]) -> bool {
    let is_mp4 =
        || head.get(4..8).is_some_and(|word| [b"ftyp", b"moov", b"mdat", b"free", b"wide"].iter().any(|known| word == *known));
    match mime::essence(mime_type).as_str() {
        "image/jpeg" => head.starts_with(&[0xff, 0xd8, 0xff]),
        "image/png" => head.starts_with(b"\x89PNG\r\n\x1a\n"),
        "image/webp" => head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP"),
        "audio/mp4" | "video/mp4" | "video/3gpp" => is_mp4(),
        "audio/aac" => is_adts(head) || head.starts_with(b"ADIF") || head.starts_with(b"ID3") || is_mp4(),
        "audio/mpeg" => {
            head.starts_with(b"ID3") || matches!(head, [0xff, second, ..] if second & 0xe0 == 0xe0 && second & 0x06 != 0)
        }
        "audio/amr" => head.starts_with(b"#!AMR"),
        "audio/ogg" => head.starts_with(b"OggS") && head.windows(8).any(|window| window == b"OpusHead"),
        _ => true,
    }
}

fn is_adts(head: &[u8]) -> bool {
    matches!(head, [0xff, second, ..] if second & 0xf6 == 0xf0)
}

/// The type a file seems to have.
pub fn guess(head: &[u8]) -> Option<&'static str> {
    if fits("audio/ogg", head) {
        return Some("audio/ogg; codecs=opus");
    }
    let guess = match infer::get(head)?.mime_type() {
        "audio/m4a" | "audio/x-m4a" => "audio/mp4",
        "video/quicktime" if fits("video/mp4", head) => "video/mp4",
        mime_type => mime_type,
    };
    // Fewer bytes are enough for a guess than for the type.
    fits(guess, head).then_some(guess)
}

/// Why a WebP file cannot be a sticker; `None` if it can.
pub fn sticker_problem(head: &[u8]) -> Option<&'static str> {
    let Some((size, is_animated)) = webp(head) else { return Some("is not a WebP image") };
    if is_animated {
        Some("is animated")
    } else if size != (STICKER_SIDE, STICKER_SIDE) {
        Some("is not 512 x 512 pixels")
    } else {
        None
    }
}

/// Size, and whether it is animated (container specification of WebP, §2.5 to §2.7).
fn webp(head: &[u8]) -> Option<((u32, u32), bool)> {
    if !fits("image/webp", head) {
        return None;
    }
    let data = head.get(20..)?;
    let little = |at: usize, count: usize| {
        let bytes = data.get(at..at + count)?;
        Some(bytes.iter().rev().fold(0, |value, byte| (value << 8) | u32::from(*byte)))
    };
    match head.get(12..16)? {
        b"VP8X" => Some(((little(4, 3)? + 1, little(7, 3)? + 1), data.first()? & 0x02 != 0)),
        b"VP8L" if data.first() == Some(&0x2f) => {
            let bits = little(1, 4)?;
            Some((((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1), false))
        }
        b"VP8 " if data.get(3..6) == Some(&[0x9d, 0x01, 0x2a]) => Some(((little(6, 2)? & 0x3fff, little(8, 2)? & 0x3fff), false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lossless(width: u32, height: u32) -> Vec<u8> {
        let bits = (width - 1) | (height - 1) << 14;
        [&b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f"[..], &bits.to_le_bytes(), &[0; 8]].concat()
    }

    #[test]
    fn a_file_must_begin_like_one_of_its_type() {
        let ogg = |codec: &str| [&b"OggS\0\x02"[..], &[0; 22], codec.as_bytes()].concat();
        for (mime_type, head) in [
            ("image/jpeg", b"\xff\xd8\xff\xe0".to_vec()),
            ("image/png", b"\x89PNG\r\n\x1a\n".to_vec()),
            ("image/webp", lossless(1, 1)),
            ("video/mp4", b"\0\0\0\x18ftypisom".to_vec()),
            ("audio/mp4", b"\0\0\0\x18ftypM4A ".to_vec()),
            ("audio/mpeg", b"ID3\x04".to_vec()),
            ("audio/mpeg", b"\xff\xfb\x90".to_vec()),
            ("audio/aac", b"\xff\xf1\x50".to_vec()),
            ("audio/amr", b"#!AMR\n".to_vec()),
            ("audio/ogg; codecs=opus", ogg("OpusHead")),
        ] {
            assert!(fits(mime_type, &head), "{mime_type}");
            for wrong in [&b""[..], b"<html>", b"MZ"] {
                assert!(!fits(mime_type, wrong), "{mime_type} {wrong:?}");
            }
        }
        assert!(!fits("audio/ogg; codecs=opus", &ogg("\x01vorbis")));
        assert!(fits("application/pdf", b"anything") && fits("text/plain", b""));
    }

    #[test]
    fn types_are_guessed_from_content() {
        assert_eq!(guess(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(guess(b"%PDF-1.4"), Some("application/pdf"));
        assert_eq!(guess(b"hello"), None);
        assert_eq!(guess(b"\x89PNG"), None, "what is guessed is one of its type");
    }

    #[test]
    fn stickers_are_512_pixels_wide_and_high_and_stand_still() {
        assert_eq!(sticker_problem(&lossless(512, 512)), None);
        assert_eq!(sticker_problem(&lossless(512, 511)), Some("is not 512 x 512 pixels"));
        let extended = |flags: u8| [&b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0"[..], &[flags, 0, 0, 0, 0xff, 1, 0, 0xff, 1, 0]].concat();
        assert_eq!(sticker_problem(&extended(0x10)), None);
        assert_eq!(sticker_problem(&extended(0x12)), Some("is animated"));
        for broken in [&b""[..], b"RIFF", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0", b"\xff\xd8\xff"] {
            assert_eq!(sticker_problem(broken), Some("is not a WebP image"));
        }
    }
}
