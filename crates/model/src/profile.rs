//! What a business says of itself (spec/settings.md §3 and §4): a change names some members, the others stay as they
//! are; members that were never set are left out, whatever the others are. The [`about`] line is a resource of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{ApiError, settings::webhook_url::is_web_address};

/// Longest text of a member, in characters.
const TEXT_LIMIT: usize = 256;
/// Longest address of electronic mail.
const EMAIL_LIMIT: usize = 128;
/// Most websites.
const WEBSITES: usize = 2;
/// Longest line about a business, in characters.
const ABOUT_LIMIT: usize = 139;

/// The labels of the original, and the codes of the Cloud API for them; either may be written.
const VERTICALS: [(&str, &str); 17] = [
    ("Automotive", "AUTO"),
    ("Beauty, Spa and Salon", "BEAUTY"),
    ("Clothing and Apparel", "APPAREL"),
    ("Education", "EDU"),
    ("Entertainment", "ENTERTAIN"),
    ("Event Planning and Service", "EVENT_PLAN"),
    ("Finance and Banking", "FINANCE"),
    ("Food and Grocery", "GROCERY"),
    ("Public Service", "GOVT"),
    ("Hotel and Lodging", "HOTEL"),
    ("Medical and Health", "HEALTH"),
    ("Non-profit", "NONPROFIT"),
    ("Professional Services", "PROF_SERVICES"),
    ("Shopping and Retail", "RETAIL"),
    ("Travel and Transportation", "TRAVEL"),
    ("Restaurant", "RESTAURANT"),
    ("Other", "OTHER"),
];

/// What a business says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its address of electronic mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Its line of business: a label of the original.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vertical: Option<String>,
    /// Its websites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websites: Option<Vec<String>>,
}

impl Profile {
    /// Nothing was ever set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The profile after a change; members that the profile does not have are ignored.
    pub fn changed(&self, change: &Map<String, Value>) -> Result<Self, ApiError> {
        let mut next = self.clone();
        for (name, value) in change.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "address" => next.address = Some(text(name, value, TEXT_LIMIT)?),
                "description" => next.description = Some(text(name, value, TEXT_LIMIT)?),
                "email" => next.email = Some(email(text(name, value, EMAIL_LIMIT)?)?),
                "vertical" => next.vertical = vertical(&text(name, value, TEXT_LIMIT)?, self.vertical.as_deref())?,
                "websites" => next.websites = Some(websites(value)?),
                _ => {}
            }
        }
        Ok(next)
    }
}

/// Reads a change of the line about a business.
pub fn about(change: &Map<String, Value>) -> Result<String, ApiError> {
    let line = text("text", change.get("text").ok_or_else(|| ApiError::missing("text"))?, ABOUT_LIMIT)?;
    if line.is_empty() { Err(ApiError::invalid("text", "must not be empty")) } else { Ok(line) }
}

fn text(name: &str, value: &Value, most: usize) -> Result<String, ApiError> {
    let text = value.as_str().ok_or_else(|| ApiError::invalid(name, "must be a string"))?;
    if text.contains('\0') {
        return Err(ApiError::invalid(name, "must not contain NUL"));
    }
    if text.chars().count() > most {
        return Err(ApiError::invalid(name, format_args!("must not be longer than {most} characters")));
    }
    Ok(text.to_owned())
}

/// An address that a letter could be sent to; an empty one is none.
fn email(email: String) -> Result<String, ApiError> {
    let is_address = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.') && !domain.contains('@')
    });
    let is_plain = !email.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_taken = email.is_empty() || (is_address && is_plain);
    if is_taken { Ok(email) } else { Err(ApiError::invalid("email", "must be an email address")) }
}

/// A label, from any spelling of it or of its code. It cannot be emptied once it is set.
fn vertical(said: &str, before: Option<&str>) -> Result<Option<String>, ApiError> {
    if said.is_empty() {
        return match before {
            None => Ok(None),
            Some(_) => Err(ApiError::invalid("vertical", "cannot be emptied")),
        };
    }
    let named = VERTICALS.iter().find(|(label, code)| said.eq_ignore_ascii_case(label) || said.eq_ignore_ascii_case(code));
    let (label, _) = named.ok_or_else(|| ApiError::invalid("vertical", "is not one of the labels"))?;
    Ok(Some((*label).to_owned()))
}

fn websites(value: &Value) -> Result<Vec<String>, ApiError> {
    let list = value.as_array().ok_or_else(|| ApiError::invalid("websites", "must be an array"))?;
    if list.len() > WEBSITES {
        return Err(ApiError::invalid("websites", format_args!("must not have more than {WEBSITES} elements")));
    }
    let website = |(index, value): (usize, &Value)| {
        let name = format!("websites[{index}]");
        let website = text(&name, value, TEXT_LIMIT)?;
        // Parsers of addresses take `https:host` as well.
        if website.contains("://") && is_web_address(&website) {
            Ok(website)
        } else {
            Err(ApiError::invalid(&name, "must begin with http:// or https:// and name a host"))
        }
    };
    list.iter().enumerate().map(website).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(profile: &Profile, change: Value) -> Result<Profile, ApiError> {
        profile.changed(change.as_object().unwrap())
    }

    fn shown(profile: &Profile) -> Value {
        serde_json::to_value(profile).unwrap()
    }

    #[test]
    fn r194_members_that_are_set_are_shown_and_the_others_left_out() {
        let empty = Profile::default();
        assert_eq!(shown(&empty), json!({}));
        let partial = changed(&empty, json!({ "address": "Jl. Contoh 1, Jakarta", "stranger": 1, "email": null })).unwrap();
        assert_eq!(shown(&partial), json!({ "address": "Jl. Contoh 1, Jakarta" }));
        let more = json!({ "description": "Toko bunga", "email": "halo@example.net", "vertical": "retail",
            "websites": ["https://example.net", "http://example.org/a"] });
        let whole = changed(&partial, more).unwrap();
        assert_eq!(
            shown(&whole),
            json!({ "address": "Jl. Contoh 1, Jakarta", "description": "Toko bunga", "email": "halo@example.net",
                "vertical": "Shopping and Retail", "websites": ["https://example.net", "http://example.org/a"] })
        );
        assert_eq!(serde_json::from_value::<Profile>(shown(&whole)).unwrap(), whole);
    }

    #[test]
    fn members_have_limits() {
        let empty = Profile::default();
        for (change, member) in [
            (json!({ "address": "a".repeat(257) }), "address"),
            (json!({ "description": 5 }), "description"),
            (json!({ "email": "a".repeat(129) }), "email"),
            (json!({ "email": "nobody" }), "email"),
            (json!({ "email": "a@b@example.org" }), "email"),
            (json!({ "email": "a b@example.org" }), "email"),
            (json!({ "vertical": "Telepathy" }), "vertical"),
            (json!({ "websites": "https://example.org" }), "websites"),
            (json!({ "websites": ["https://a", "https://b", "https://c"] }), "websites"),
            (json!({ "websites": ["ftp://example.org"] }), "websites[0]"),
            (json!({ "websites": ["https://example.org", "https://"] }), "websites[1]"),
            (json!({ "websites": ["https:example.org"] }), "websites[0]"),
            (json!({ "websites": [5] }), "websites[0]"),
            (json!({ "address": "a\u{0}b" }), "address"),
        ] {
            let refusal = changed(&empty, change.clone()).unwrap_err();
            assert!(refusal.details.contains(&format!("'{member}'")), "{change}: {refusal}");
        }
        assert_eq!(changed(&empty, json!({ "vertical": "" })).unwrap(), empty);
        let set = changed(&empty, json!({ "vertical": "Other" })).unwrap();
        assert!(changed(&set, json!({ "vertical": "" })).is_err(), "cannot be emptied once it is set");
        assert_eq!(changed(&set, json!({ "vertical": "edu" })).unwrap().vertical.unwrap(), "Education");
        assert_eq!(
            changed(&set, json!({ "vertical": "beauty, spa and salon" })).unwrap().vertical.unwrap(),
            "Beauty, Spa and Salon"
        );
    }

    #[test]
    fn the_line_about_a_business_has_1_to_139_characters() {
        let read = |change: Value| about(change.as_object().unwrap());
        assert_eq!(read(json!({ "text": "é".repeat(139) })).unwrap().chars().count(), 139);
        for (change, code) in [(json!({}), 1008), (json!({ "text": "" }), 1009), (json!({ "text": "é".repeat(140) }), 1009)] {
            assert_eq!(read(change).unwrap_err().code.number(), code);
        }
        assert!(read(json!({ "text": 5 })).is_err());
    }
}
