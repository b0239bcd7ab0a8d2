//! Which URLs callbacks may be sent to (spec/settings.md, `webhooks.url`; S16, S34), and what is a web address at all.

use url::{Host, Url};

/// Longest URL, in bytes.
pub const MAX_LENGTH: usize = 2048;

/// Checks a callback URL; the error says what is wrong without repeating the URL.
///
/// `https` only; with `allow_loopback_http` also `http` to this host. No credentials, fragment,
/// port 0 or control characters.
pub fn check(text: &str, allow_loopback_http: bool) -> Result<(), &'static str> {
    if text.len() > MAX_LENGTH {
        return Err("must not be longer than 2048 characters");
    }
    // The URL parser would drop tabs and line ends silently.
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("must not contain spaces or control characters");
    }
    let url = Url::parse(text).map_err(|_| "must be an absolute URL")?;
    let Some(host) = url.host() else { return Err("must name a host") };
    match url.scheme() {
        "https" => {}
        "http" if allow_loopback_http && is_loopback(&host) => {}
        "http" if allow_loopback_http => return Err("must be https (http is allowed to loopback hosts only)"),
        _ => return Err("must be https"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain credentials");
    }
    if url.fragment().is_some() {
        return Err("must not contain a fragment");
    }
    if url.port() == Some(0) {
        return Err("must not name port 0");
    }
    Ok(())
}

/// Whether a text is an `http` or `https` address with a host, without characters that need escaping.
pub fn is_web_address(text: &str) -> bool {
    let is_plain = !text.contains(|character: char| character.is_whitespace() || character.is_control());
    let has_web_scheme = |address: &Url| matches!(address.scheme(), "http" | "https") && address.has_host();
    is_plain && Url::parse(text).is_ok_and(|address| has_web_scheme(&address))
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_passes_and_http_to_loopback_where_allowed() {
        for (url, strict, sandbox) in [
            ("https://hooks.example.net/wa", true, true),
            ("https://10.0.0.7:8443/wa?x=1", true, true),
            ("http://127.0.0.1:8080/", false, true),
            ("http://127.8.9.1/", false, true),
            ("http://[::1]:8080/", false, true),
            ("http://localhost:8080/hook", false, true),
            ("http://hooks.example.org/", false, false),
            ("http://localhost.example.org/", false, false),
            ("http://127.0.0.1@example.org/", false, false),
            ("ftp://example.org/", false, false),
            ("file:///etc/passwd", false, false),
            ("gopher://127.0.0.1/", false, false),
            ("https://", false, false),
            ("/relative", false, false),
            ("nonsense", false, false),
        ] {
            assert_eq!((check(url, false).is_ok(), check(url, true).is_ok()), (strict, sandbox), "{url}");
        }
    }

    #[test]
    fn odd_parts_are_refused() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_LENGTH));
        for url in [
            "https://user:pass@example.org/",
            "https://user@example.org/",
            "https://example.org/#top",
            "https://example.org:0/",
            "https://example.org/\r\nX-Evil: 1",
            "https://example.org/\0",
            "https://exa\tmple.org/",
            &long,
        ] {
            assert!(check(url, true).is_err(), "{url}");
        }
    }
}
