//! Takes what is secret out of texts that leave the machine (**I10**). Pure. Servers mask their secrets themselves;
//! this comes after them, and looks at logs, which may quote what others sent. In doubt something is masked.

use std::sync::LazyLock;

use estafet_model::settings::secret::MASK;
use regex::{Captures, Regex};
use serde_json::Value;
use url::Url;

/// Words in the names of members and settings that are secret.
const WORDS: [&str; 11] = [
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "api_key",
    "apikey",
    "private_key",
    "credential",
    "headers",
    "access_key",
];
/// Secrets shorter than this are not looked for by their text: they would be found in ordinary words.
const SHORTEST: usize = 6;

/// What to look for in texts; the first group stays.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        r"(?s)()-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
        // Logins in addresses; a password may have any character but a space here.
        r#"([a-z][a-z0-9+.-]*://)[^\s"'<>]*@"#,
        r#"(https?://[^\s"'<>?]+\?)[^\s"'<>]+"#,
        r"(?i)(\b(?:bearer|basic|apikey)\s+)[a-z0-9._~+/=-]{6,}",
        r"()\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
        r"()\bwhsec_[A-Za-z0-9+/=]+",
        r#"(?i)(authorization\\?["']?\s*[=:]\s*)[^\r\n"']+"#,
        // In a string of JSON, in one within a string, or without quotation marks.
        r#"(?i)((?:password|passwd|secret|token|authorization|api_?key|private_?key|access_?key|credential)\w*\\?["']?\s*[=:]\s*)(?:"(?:[^"\\]|\\.)*"|\\"(?:[^"\\]|\\[^"])*\\"|[^\s,;&}]+)"#,
    ]
    .map(|pattern| Regex::new(pattern).expect("a test compiles it"))
    .into()
});

/// Whether something of this name is secret.
pub(crate) fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    (name == "pin" || WORDS.iter().any(|word| name.contains(word))) && !name.ends_with("_lifetime") && !name.ends_with("_file")
}

/// The value of an option that is secret: of an address with one login the place, nothing else.
pub(crate) fn secret_option(value: &str) -> String {
    match value.split_once("://") {
        None => MASK.to_owned(),
        Some((scheme, rest)) => match rest.split_once('@') {
            // A password may have any character. Only where nothing else can be meant the place is certain.
            Some((_, place)) if !place.contains(['@', '?']) => format!("{scheme}://{MASK}@{place}"),
            _ => format!("{scheme}://{MASK}"),
        },
    }
}

/// The value of an option that is not secret, but may be an address with a login.
pub(crate) fn option(value: &str) -> String {
    if value.contains("://") { address(value) } else { value.to_owned() }
}

/// An address without what may be secret in it: login, path, parameters.
fn address(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "file" => text.to_owned(),
        Ok(url) if url.has_host() => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            let is_more = url.path().len() > 1 || url.query().is_some();
            let more = if is_more { "/..." } else { "" };
            format!("{}://{}{port}{more}", url.scheme(), url.host_str().unwrap_or_default())
        }
        _ => MASK.to_owned(),
    }
}

/// What is taken out: what looks secret, and what is known to be.
#[derive(Debug, Default)]
pub(crate) struct Redaction {
    known: Vec<String>,
}

impl Redaction {
    /// These are secret wherever they stand.
    pub(crate) fn knowing(secrets: impl IntoIterator<Item = String>) -> Self {
        Self { known: secrets.into_iter().filter(|secret| secret.len() >= SHORTEST).collect() }
    }

    /// An answer or a file: JSON by its members, anything else by its text.
    pub(crate) fn document(&self, text: &str) -> String {
        match serde_json::from_str::<Value>(text) {
            Ok(mut value @ (Value::Object(_) | Value::Array(_))) => {
                self.value(&mut value, false);
                format!("{value:#}\n")
            }
            _ => self.text(text),
        }
    }

    fn value(&self, value: &mut Value, is_secret: bool) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    self.value(value, is_secret || names_a_secret(name));
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value, is_secret)),
            Value::String(text) if is_secret => *text = MASK.to_owned(),
            // What was masked before stays as it is: it says more.
            Value::String(text) if text.contains(MASK) && !text.contains(char::is_whitespace) => {}
            Value::String(text) if Url::parse(text).is_ok_and(|url| url.has_host()) => *text = address(text),
            Value::String(text) => *text = self.text(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A text without what looks secret in it.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            text = text.replace(secret, MASK);
        }
        for pattern in PATTERNS.iter() {
            text = pattern.replace_all(&text, |found: &Captures<'_>| format!("{}{MASK}", &found[1])).into_owned();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_looks_secret_in_a_log_is_masked() {
        let redaction = Redaction::knowing(["c4nary-known".to_owned(), "ab".to_owned()]);
        for line in [
            "authorization: Bearer c4nary.c4nary",
            "Authorization: Basic YWRtaW46c4nary==",
            "sent Apikey c4nary-0001 to health",
            "cannot reach postgres://me:c4nary@db.example.net/x",
            "cannot reach postgres://me:c4n@ry/c4nary@db.example.net/x",
            "posting to https://hooks.example.net/a?token=c4nary&x=c4nary now",
            r#"{"level":"INFO","password":"c4nary with \t spaces","n":1}"#,
            r#"{"password":"a \" c4nary"}"#,
            r#"body="{\"password\":\"c4nary\"}""#,
            "admin_password=c4nary,",
            "app_secret: c4nary",
            "token eyJhbGciOiJIUzI1NiJ9.c4nary.c4nary",
            "signed with whsec_c4naryc4nary",
            "it was c4nary-known all the time",
            "-----BEGIN PRIVATE KEY-----\nc4nary\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nc4nary, cut off",
        ] {
            let masked = redaction.text(line);
            assert!(!masked.contains("c4nary") && masked.contains(MASK), "{line} became {masked}");
        }
        for line in [
            "2026-11-23T21:00:00Z  INFO estafet_coreapp: shard started shard=3 epoch=7 ab",
            "posting to https://hooks.example.net:8443/a failed: refused",
            "estafet_requests_total{path=\"/v1/users/login\"} 5",
        ] {
            assert_eq!(redaction.text(line), line);
        }
    }

    #[test]
    fn members_of_json_are_masked_by_their_names_and_addresses_keep_their_place() {
        let document = json!({
            "webhooks": { "url": "https://hooks.example.net:8443/c4nary?c4nary", "app_secret": "c4nary",
                "endpoints": [{ "name": "crm", "headers": { "X-Shop": "c4nary" } }] },
            "config": { "bearer": "c4nary-known", "basic": { "username": "shop", "password": "c4nary" } },
            "pin": "c4nary", "database_url": "postgres://********@db.example.net/x",
            "tokens": { "value": ["c4nary"] }, "heartbeat_interval": 5, "token_lifetime": "604800",
        });
        let shown = Redaction::knowing(["c4nary-known".to_owned()]).document(&document.to_string());
        assert!(!shown.contains("c4nary"), "{shown}");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["webhooks"]["url"], "https://hooks.example.net:8443/...");
        assert_eq!(shown["database_url"], "postgres://********@db.example.net/x");
        assert_eq!((&shown["heartbeat_interval"], &shown["token_lifetime"]), (&json!(5), &json!("604800")));
        assert_eq!(shown["config"]["basic"]["username"], "shop");
    }

    #[test]
    fn of_a_secret_address_only_a_certain_place_is_shown() {
        for (value, shown) in [
            ("postgres://me:c4nary@db:5432/x", "postgres://********@db:5432/x"),
            ("postgres://me:c4n@ry/c4nary@db/x", "postgres://********"),
            ("mysql://me@db/x?password=c4nary", "mysql://********"),
            ("sqlite:/tmp/x", MASK),
            ("c4nary", MASK),
        ] {
            assert_eq!(secret_option(value), shown);
        }
        assert_eq!(option("https://me:c4nary@etcd:2379"), "https://etcd:2379");
        assert_eq!(
            (option("s3://bucket/prefix").as_str(), option("file:///srv/media").as_str()),
            ("s3://bucket/...", "file:///srv/media")
        );
        assert_eq!(option("10.0.0.1:6260"), "10.0.0.1:6260");
    }
}
