//! MIME types as headers write them: `type/subtype; parameter=value`. Pure.

/// Longest type that is taken.
const LONGEST: usize = 255;

/// The type without parameters, in lower case.
pub fn essence(mime_type: &str) -> String {
    mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A type in the form it is stored in: trimmed, or `None` if it is none.
pub fn parse(text: &str) -> Option<String> {
    let text = text.trim();
    let is_token =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte));
    let (kind, subtype) = essence(text).split_once('/').map(|(kind, subtype)| (kind.to_owned(), subtype.to_owned()))?;
    // What is kept is given back in headers.
    let is_printable = text.len() <= LONGEST && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    (is_token(&kind) && is_token(&subtype) && is_printable).then(|| text.to_owned())
}

/// Whether the parameter `codecs` is `opus`.
pub fn is_opus(mime_type: &str) -> bool {
    mime_type.split(';').skip(1).any(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else { return false };
        name.trim().eq_ignore_ascii_case("codecs") && value.trim().trim_matches('"').eq_ignore_ascii_case("opus")
    })
}

/// The type that goes with the extension of a file name.
pub fn of_extension(path: &str) -> Option<&'static str> {
    let (_, extension) = path.rsplit('/').next()?.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "aac" => "audio/aac",
        "m4a" => "audio/mp4",
        "mp3" => "audio/mpeg",
        "amr" => "audio/amr",
        "ogg" | "opus" | "oga" => "audio/ogg; codecs=opus",
        "mp4" => "video/mp4",
        "3gp" => "video/3gpp",
        "pdf" => "application/pdf",
        "txt" => "text/plain",
        "doc" => "application/msword",
        "xls" => "application/vnd.ms-excel",
        "ppt" => "application/vnd.ms-powerpoint",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "zip" => "application/zip",
        "csv" => "text/csv",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_that_can_stand_in_a_header_are_taken() {
        for text in ["image/jpeg", " audio/ogg; codecs=opus ", "application/vnd.ms-excel", "text/plain;charset=utf-8"] {
            assert_eq!(parse(text).as_deref(), Some(text.trim()));
        }
        for text in ["", "image", "image/", "/jpeg", "im age/jpeg", "image/jpeg\r\nX: y", "text/plain; n=é", "a/b/c"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse(&format!("a/{}", "b".repeat(300))), None);
    }

    #[test]
    fn the_codec_counts_whatever_its_spelling() {
        for text in ["audio/ogg; codecs=opus", "audio/ogg;CODECS=\"Opus\"", "audio/ogg; a=b; codecs = opus"] {
            assert!(is_opus(text), "{text}");
        }
        for text in ["audio/ogg", "audio/ogg; codecs=vorbis", "audio/opus", "codecs=opus"] {
            assert!(!is_opus(text), "{text}");
        }
    }

    #[test]
    fn extensions_name_types() {
        assert_eq!(of_extension("/a/b.JPG"), Some("image/jpeg"));
        assert_eq!(of_extension("/a.jpg/b"), None);
        assert_eq!(of_extension(".unknown"), None);
    }
}
