//! Phone numbers as people write them, and URLs of callbacks.

use estafet_model::{Slot, WaId, settings::webhook_url};
use url::{Host, Url};

/// What is a number is one in every notation, and its own normal form.
pub fn phone(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(number) = WaId::from_input(text) else { return };
    let digits = number.to_string();
    assert!((7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0'));
    let (country, rest) = digits.split_at(2);
    for written in [digits.clone(), format!("+{digits}"), format!(" +{country} ({rest}) "), format!("{country}-{rest}.")] {
        assert_eq!(WaId::from_input(&written), Ok(number), "{written}");
    }
    assert_eq!(digits.parse(), Ok(number));
    assert_eq!(WaId::from_u64(number.as_u64()), Ok(number));
    assert_eq!(Slot::of(number), Slot::of(number));
}

/// A URL that may be called has a host, a scheme that is allowed, and nothing that must not be told to a receiver.
pub fn webhook_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (strict, relaxed) = (webhook_url::check(text, false), webhook_url::check(text, true));
    assert!(strict.is_err() || relaxed.is_ok(), "what is allowed stays allowed: {text}");
    if relaxed.is_err() {
        return;
    }
    let url = Url::parse(text).expect("what may be called is a URL");
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none() && url.port() != Some(0), "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    let is_loopback = match url.host().expect("it has a host") {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    match strict {
        Ok(()) => assert_eq!(url.scheme(), "https", "{text}"),
        Err(_) => assert!(url.scheme() == "http" && is_loopback, "{text}"),
    }
}
