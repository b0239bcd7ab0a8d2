//! Looks at the head of a request before hyper does, for what hyper hides: a request with both `Content-Length` and
//! `Transfer-Encoding`. hyper goes by the latter, forgets the former and closes; but a proxy before us may have gone by the
//! former, and what it took for a body would be our next request. Such a request is refused (RFC 9112 §6.1).
//!
//! Heads come in pieces of any size, so a line is collected, as much of it as a name takes. A head that came together
//! with the request before it is not seen here; for that one the close must do.

/// Bytes of a line that are kept: more than the longer name has.
const KEPT: usize = 32;

/// What was seen of one head.
#[derive(Debug, Default)]
pub(super) struct Head {
    line: Vec<u8>,
    has_begun: bool,
    is_over: bool,
    has_length: bool,
    has_coding: bool,
}

impl Head {
    /// Looks at the next bytes, up to the end of the head.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !self.is_over && !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            self.line.extend(part.iter().take(KEPT.saturating_sub(self.line.len())));
            bytes = rest;
            if end.is_some() {
                self.end_of_line();
            }
        }
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        // Empty lines before a head are skipped.
        let is_empty = line.trim_ascii().is_empty();
        self.is_over = self.has_begun && is_empty;
        self.has_begun |= !is_empty;
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii();
        self.has_length |= name.eq_ignore_ascii_case(b"content-length");
        self.has_coding |= name.eq_ignore_ascii_case(b"transfer-encoding");
    }

    /// Whether it says in two ways where the body ends.
    pub(super) fn is_ambiguous(&self) -> bool {
        self.has_length && self.has_coding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ambiguous(text: &str, piece: usize) -> bool {
        let mut head = Head::default();
        text.as_bytes().chunks(piece).for_each(|bytes| head.feed(bytes));
        head.is_ambiguous()
    }

    #[test]
    fn both_ways_in_one_head_are_seen_in_any_order_and_in_pieces_of_any_size() {
        for (text, expected) in [
            ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nhost: x\r\nCONTENT-LENGTH:5\r\n\r\n", true),
            ("\r\n\r\nPOST / HTTP/1.1\r\ncontent-length:5\r\ntransfer-encoding:chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\ncontent-length:5\ntransfer-encoding:chunked\n\n", true),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\ncontent-length: 5\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nx: content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", false),
            ("POST /?content-length:5 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", false),
        ] {
            for piece in [1, 2, 7, 4096] {
                assert_eq!(is_ambiguous(text, piece), expected, "{text} in pieces of {piece}");
            }
        }
    }
}
