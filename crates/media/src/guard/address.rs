//! Which addresses and URLs may be fetched from. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// What is allowed beyond public addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Addresses of private networks (`--media-allow-private-links`). Link-local ones, where clouds answer with
    /// credentials, stay refused.
    pub allow_private: bool,
    /// This machine (the sandbox).
    pub allow_loopback: bool,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

const PRIVATE_V4: [Ipv4Net; 4] = [v4(10, 0, 0, 0, 8), v4(172, 16, 0, 0, 12), v4(192, 168, 0, 0, 16), v4(100, 64, 0, 0, 10)];
/// Never public, and never allowed: this network, link-local, protocol assignments, documentation, benchmarks,
/// 6to4 relays, multicast, reserved.
const NEVER_V4: [Ipv4Net; 10] = [
    v4(0, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];
const PRIVATE_V6: Ipv6Net = v6(0xfc00, 0, 0, 7);
/// The address at which clouds answer with credentials lies in the private range.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// What is not a plain public address: everything outside 2000::/3, and within it Teredo and its neighbours,
/// documentation, 6to4.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);
const NEVER_V6: [Ipv6Net; 4] = [v6(0x2001, 0, 0, 23), v6(0x2001, 0xdb8, 0, 32), v6(0x2002, 0, 0, 16), v6(0x3fff, 0, 0, 20)];

/// Whether a connection may be made to this address.
pub fn is_allowed(address: IpAddr, policy: Policy) -> bool {
    match address {
        IpAddr::V4(address) => is_allowed_v4(address, policy),
        // An IPv4 address in IPv6 clothes is judged by what it is.
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_allowed_v4(address, policy),
            None => is_allowed_v6(address, policy),
        },
    }
}

fn is_allowed_v4(address: Ipv4Addr, policy: Policy) -> bool {
    if address.is_loopback() {
        policy.allow_loopback
    } else if PRIVATE_V4.iter().any(|net| net.contains(&address)) {
        policy.allow_private
    } else {
        !NEVER_V4.iter().any(|net| net.contains(&address))
    }
}

fn is_allowed_v6(address: Ipv6Addr, policy: Policy) -> bool {
    if address.is_loopback() {
        policy.allow_loopback
    } else if PRIVATE_V6.contains(&address) {
        policy.allow_private && address != METADATA_V6
    } else {
        GLOBAL_V6.contains(&address) && !NEVER_V6.iter().any(|net| net.contains(&address))
    }
}

/// Why a URL is not fetched, whatever its name resolves to.
pub(super) fn problem(url: &Url, policy: Policy) -> Option<&'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Some("only http and https are fetched");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("credentials are not for URLs");
    }
    match url.port_or_known_default() {
        // Below 1024 live services that are not for the web.
        Some(80 | 443 | 1024..) => {}
        _ => return Some("the port is not one of the web"),
    }
    match url.host() {
        None | Some(Host::Domain("")) => Some("there is no host"),
        Some(_) => (!is_allowed_host(url, policy)).then_some(NOT_PUBLIC),
    }
}

/// Whether a connection may be made to the host of a URL, as far as the URL tells: names are judged when they are
/// resolved, by [`super::checked_names`].
pub fn is_allowed_host(url: &Url, policy: Policy) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => is_allowed(IpAddr::V4(address), policy),
        Some(Host::Ipv6(address)) => is_allowed(IpAddr::V6(address), policy),
        Some(Host::Domain(_)) => true,
        None => false,
    }
}

/// Said of addresses; which one it was is nobody's business.
pub(super) const NOT_PUBLIC: &str = "the address is not public";

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: Policy = Policy { allow_private: false, allow_loopback: false };

    fn refused(url: &str, policy: Policy) -> bool {
        Url::parse(url).map_or(true, |url| problem(&url, policy).is_some())
    }

    #[test]
    fn s31_no_spelling_of_a_private_address_is_fetched() {
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0",
            "017700000001",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[fd00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "[64:ff9b::7f00:1]",
            "[64:ff9b::808:808]",
            "[2002:7f00:1::]",
            "[2001::1]",
            "[2001:db8::1]",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "[ff02::1]",
            "[100::1]",
            "①②⑦.0.0.1",
        ] {
            assert!(refused(&format!("http://{host}/a.jpg"), PUBLIC), "{host}");
        }
        for host in ["93.184.216.34", "172.32.0.1", "100.128.0.1", "[2606:4700::1111]", "example.org", "[::ffff:93.184.216.34]"] {
            assert!(!refused(&format!("https://{host}/a.jpg"), PUBLIC), "{host}");
        }
    }

    #[test]
    fn s34_other_schemes_credentials_and_ports_are_refused() {
        for url in [
            "file:///etc/passwd",
            "gopher://example.org/",
            "ftp://example.org/a",
            "http://user@example.org/",
            "http://u:p@example.org/",
            "http://example.org:0/",
            "http://example.org:22/",
            "https://example.org:25/",
            "http://",
            "data:text/plain,x",
        ] {
            assert!(refused(url, PUBLIC), "{url}");
        }
        for url in ["http://example.org:8080/a", "https://example.org:443/a#fragment", "http://example.org/a?b=c"] {
            assert!(!refused(url, PUBLIC), "{url}");
        }
    }

    #[test]
    fn what_is_allowed_beyond_is_exactly_what_was_asked_for() {
        let private = Policy { allow_private: true, ..PUBLIC };
        let loopback = Policy { allow_loopback: true, ..PUBLIC };
        for (host, by_private, by_loopback) in [
            ("10.0.0.1", true, false),
            ("[fd12::1]", true, false),
            ("[::ffff:192.168.0.1]", true, false),
            ("127.0.0.1", false, true),
            ("[::1]", false, true),
            ("169.254.169.254", false, false),
            ("[fd00:ec2::254]", false, false),
            ("[fe80::1]", false, false),
            ("0.0.0.0", false, false),
        ] {
            let url = format!("http://{host}/");
            assert_eq!((!refused(&url, private), !refused(&url, loopback)), (by_private, by_loopback), "{host}");
        }
    }
}
