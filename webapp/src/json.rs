//! JSON as it came, without copying: strings are borrowed from the body where they can be.
//!
//! Requests are read into this first and checked by hand, so that every refusal can name the
//! member at fault. Depth stops at 128 (serde_json), duplicate members: the last one counts.

use std::{borrow::Cow, collections::HashSet, fmt};

use estafet_model::{ApiError, Code};
use serde::{
    Serialize, Serializer,
    de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::Number;

/// A value.
#[derive(Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// The members of an object, in the order they came.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

/// Reads a body that must be an object; anything else is 1008, as the original did.
pub(crate) fn parse_object(body: &[u8]) -> Result<Object<'_>, ApiError> {
    match parse(body)? {
        Json::Object(object) => Ok(object),
        _ => Err(ApiError::new(Code::ParameterMissing, "The request body must be a JSON object")),
    }
}

/// Reads a body of any JSON.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let body = without_wrapping(body);
    serde_json::from_slice(body).map_err(|error| unparseable(body, &error))
}

/// A body without a byte-order mark and the white space around it, also that of Unicode, as pasting leaves them.
fn without_wrapping(body: &[u8]) -> &[u8] {
    match std::str::from_utf8(body) {
        Ok(text) => text.trim_start_matches('\u{feff}').trim().as_bytes(),
        Err(_) => body,
    }
}

/// The refusal of a body that is not JSON. The message of serde_json holds positions, never content; a character that
/// people do not see is named.
fn unparseable(body: &[u8], error: &serde_json::Error) -> ApiError {
    let unseen = offending(body, error).filter(|character| character.is_control() || !character.is_ascii());
    let named = unseen.map(|character| format!(" ({} is there)", name(character))).unwrap_or_default();
    ApiError::new(Code::ParameterMissing, format!("The request body is not valid JSON: {error}{named}"))
}

/// The character at which the parser stopped. Lines count from 1 and end with a line feed; columns are bytes, from 1.
fn offending(body: &[u8], error: &serde_json::Error) -> Option<char> {
    let line_at = match error.line() {
        0 => return None,
        1 => 0,
        line => body.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(line - 2)?.0 + 1,
    };
    // A line feed inside of a string has ended its line already: the parser is at column 0 of the next.
    let at = (line_at + error.column()).checked_sub(1)?;
    let text = std::str::from_utf8(body).ok()?;
    text.get(text.floor_char_boundary(at)..)?.chars().next()
}

/// What a character is called: its number, and a name for those that get into texts by accident.
fn name(character: char) -> String {
    let known = match character {
        '\t' => " tab",
        '\n' => " line feed",
        '\r' => " carriage return",
        '\u{a0}' => " no-break space",
        '\u{200b}' => " zero width space",
        '\u{feff}' => " byte-order mark",
        '\u{201c}' | '\u{201d}' => " typographic quotation mark",
        _ => "",
    };
    format!("U+{:04X}{known}", u32::from(character))
}

impl<'a> Object<'a> {
    /// A member; `null` counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| **value != Json::Null)
    }

    /// All members, as they came.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// The names of all members.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_ref())
    }

    /// A text member; `path` is how the refusal calls it.
    pub(crate) fn text(&self, name: &str, path: &str) -> Result<Option<&str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) if text.contains('\0') => Err(ApiError::invalid(path, "must not contain NUL")),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::invalid(path, "must be a string")),
        }
    }

    /// A text member that must be there.
    pub(crate) fn required_text(&self, name: &str, path: &str) -> Result<&str, ApiError> {
        self.text(name, path)?.ok_or_else(|| ApiError::missing(path))
    }

    /// A boolean member.
    pub(crate) fn bool(&self, name: &str, path: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(ApiError::invalid(path, "must be true or false")),
        }
    }

    /// An object member.
    pub(crate) fn object(&self, name: &str, path: &str) -> Result<Option<&Object<'a>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Object(object)) => Ok(Some(object)),
            Some(_) => Err(ApiError::invalid(path, "must be an object")),
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

/// As it came, but of members with the same name only the last one.
impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Bool(value) => serializer.serialize_bool(*value),
            Json::Number(number) => number.serialize(serializer),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(list) => serializer.collect_seq(list),
            Json::Object(object) => object.serialize(serializer),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seen = HashSet::with_capacity(self.0.len());
        let mut members: Vec<_> = self.0.iter().rev().filter(|(name, _)| seen.insert(name.as_ref())).collect();
        members.reverse();
        let mut map = serializer.serialize_map(Some(members.len()))?;
        for (name, value) in members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        // serde_json refuses numbers that are not finite.
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::with_capacity(4);
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(Json::Object(Object(members)))
    }
}

/// A member name, borrowed where it can be (serde's `Cow` always copies).
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Text(text) => Ok(Self(text)),
            _ => Err(serde::de::Error::custom("member names are strings")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_strings_are_borrowed_and_the_last_duplicate_counts() {
        let object = parse_object(br#"{"a":"first","a":"last","n":null,"e":"\u0041"}"#).unwrap();
        assert!(matches!(object.get("a"), Some(Json::Text(Cow::Borrowed("last")))));
        assert_eq!(object.get("n"), None);
        assert_eq!(object.text("e", "e").unwrap(), Some("A"));
    }

    #[test]
    fn what_is_written_again_is_what_came_without_shadowed_members() {
        let text = r#"{"z":[1,-2,0.5,true,null,"\u0041"],"a":{"b":1,"b":{"c":[]}}}"#;
        let written = serde_json::to_string(&parse_object(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(written, r#"{"z":[1,-2,0.5,true,null,"A"],"a":{"b":{"c":[]}}}"#);
    }

    #[test]
    fn whatever_is_no_object_is_a_missing_parameter() {
        let deep = "[".repeat(100_000);
        let digits = format!("{{\"to\":{}}}", "9".repeat(100_000));
        for body in
            ["", "{", "[]", "\"x\"", "5", "null", "{}x", "{}\u{feff}{}", r#"{"a":"\ud800"}"#, "{\"a\":\"\u{1}\"}", &deep, &digits]
        {
            assert_eq!(parse_object(body.as_bytes()).unwrap_err().code, Code::ParameterMissing, "{:.20}", body);
        }
        assert_eq!(parse_object(b"{\"a\":\"\xff\"}").unwrap_err().code, Code::ParameterMissing);
    }

    #[test]
    fn r174_r175_the_place_and_the_unseen_character_are_named() {
        for (body, place, character) in [
            ("{\"a\":\"x\ry\"}", "line 1 column 8", "(U+000D carriage return is there)"),
            ("{\n\"a\":\n \"x\ty\"}", "line 3 column 4", "(U+0009 tab is there)"),
            ("{\"a\":\"x\ny\"}", "line 2 column 0", "(U+000A line feed is there)"),
            ("{\"a\":\u{a0}1}", "line 1 column 6", "(U+00A0 no-break space is there)"),
            ("{\u{201c}a\u{201d}:1}", "line 1 column 2", "(U+201C typographic quotation mark is there)"),
            ("{\"a\":1,\u{feff}\"b\":2}", "line 1 column 8", "(U+FEFF byte-order mark is there)"),
            ("{\"a\":\u{1}}", "line 1 column 6", "(U+0001 is there)"),
        ] {
            let refusal = parse_object(body.as_bytes()).unwrap_err();
            assert_eq!(refusal.code, Code::ParameterMissing);
            assert!(refusal.details.contains(place) && refusal.details.ends_with(character), "{body:?}: {refusal}");
        }
        let seen = parse_object(b"{\"a\" 1}").unwrap_err();
        assert!(seen.details.ends_with("line 1 column 6"), "what can be seen is not named: {seen}");
        for wrapped in ["\u{feff}{}", " \r\n{}\u{a0}\n", "\u{feff}\u{a0}{\"a\":1}\t"] {
            assert!(parse_object(wrapped.as_bytes()).is_ok(), "{wrapped:?}");
        }
    }

    #[test]
    fn refusals_name_the_member() {
        let object = parse_object(br#"{"t":5,"nul":"a\u0000b","b":"true"}"#).unwrap();
        assert_eq!(object.text("t", "text.t").unwrap_err().details, "Parameter 'text.t' must be a string");
        assert_eq!(object.text("nul", "nul").unwrap_err().code, Code::ParameterInvalid);
        assert_eq!(object.bool("b", "b").unwrap_err().code, Code::ParameterInvalid);
        assert_eq!(object.required_text("x", "x").unwrap_err().code, Code::ParameterMissing);
    }
}
