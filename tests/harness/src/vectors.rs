//! Requests, answers and callbacks as data: the format of `tests/vectors/vectors.json`.
//!
//! This module reads the file, fills in `{{names}}` and generators, and compares values with expectations.
//! It sends nothing; which state a vector's `setup` names mean is for the test that runs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::LazyLock,
};

use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::{Captures, Regex};
use serde::Deserialize;
use serde_json::Value;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
pub struct Vectors {
    /// Requests and their answers.
    pub vectors: Vec<RequestVector>,
    /// Triggers and the callbacks they lead to.
    pub callback_vectors: Vec<CallbackVector>,
}

/// A request and its answer.
#[derive(Clone, Debug, Deserialize)]
pub struct RequestVector {
    /// Unique name.
    pub name: String,
    /// States to bring about first.
    #[serde(default)]
    pub setup: Vec<String>,
    /// The request.
    pub request: Request,
    /// The answer.
    pub expect: Expect,
}

/// A request.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path, with `{{names}}`.
    pub path: String,
    /// Headers, with `{{names}}`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// JSON body, with `{{names}}` and generators.
    pub body: Option<Value>,
    /// Body as text, not necessarily JSON.
    pub raw_body: Option<String>,
}

/// What an answer must be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Expect {
    /// The status we answer.
    pub status: u16,
    /// Pointers and what is there.
    pub body_has: BTreeMap<String, Value>,
    /// Pointers where nothing is.
    pub body_lacks: Vec<String>,
    /// No body at all.
    pub body_empty: bool,
    /// Headers and what they hold, names in lower case.
    pub headers_have: BTreeMap<String, Value>,
}

/// A trigger and the callbacks it leads to.
#[derive(Clone, Debug, Deserialize)]
pub struct CallbackVector {
    /// Unique name.
    pub name: String,
    /// States to bring about first.
    #[serde(default)]
    pub setup: Vec<String>,
    /// What happens.
    pub trigger: Value,
    /// What the receiver sees.
    pub expect_callback: ExpectCallback,
}

/// What the receiver of callbacks must see; each part is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExpectCallback {
    /// Pointers into one callback and what is there.
    pub body_has: BTreeMap<String, Value>,
    /// Pointers where nothing is.
    pub body_lacks: Vec<String>,
    /// No callback has all of these.
    pub none_with: BTreeMap<String, Value>,
    /// Time between attempts, milliseconds.
    pub gaps_ms: Vec<u64>,
    /// How much earlier an attempt may come.
    pub tolerance_ms: u64,
    /// All attempts carry the same bytes.
    pub same_body: bool,
    /// Number of attempts.
    pub attempts: Option<usize>,
    /// Whether a redirect was followed.
    pub redirect_followed: Option<bool>,
    /// Texts of incoming messages, attempt by attempt.
    pub order: Vec<String>,
}

/// Reads the file and checks that names are unique.
pub fn load(path: &Path) -> anyhow::Result<Vectors> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let vectors: Vectors = serde_json::from_str(&text).with_context(|| format!("not a vector file: {}", path.display()))?;
    let mut names = BTreeSet::new();
    for name in vectors.names() {
        ensure!(names.insert(name), "two vectors are named {name}");
    }
    Ok(vectors)
}

/// Reads a list of names, one a line; `#` begins a comment.
pub fn load_names(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut set = BTreeSet::new();
    for name in names.filter(|name| !name.is_empty()) {
        ensure!(set.insert(name.to_owned()), "{name} is listed twice");
    }
    Ok(set)
}

impl Vectors {
    /// Names of all vectors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let callbacks = self.callback_vectors.iter().map(|vector| vector.name.as_str());
        self.vectors.iter().map(|vector| vector.name.as_str()).chain(callbacks)
    }
}

/// Values for `{{names}}`.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// No names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a name a value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Fills in `{{names}}` and `{{b64:text}}`, innermost first.
    pub fn fill(&self, text: &str) -> anyhow::Result<String> {
        static INNERMOST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{\{([^{}]*)\}\}").expect("a constant pattern"));
        let mut text = text.to_owned();
        while let Some(found) = INNERMOST.captures(&text) {
            let value = self.value(&found[1])?;
            text = INNERMOST.replace(&text, |_: &Captures<'_>| value.clone()).into_owned();
        }
        Ok(text)
    }

    fn value(&self, name: &str) -> anyhow::Result<String> {
        if let Some(text) = name.strip_prefix("b64:") {
            return Ok(STANDARD.encode(text));
        }
        self.0.get(name).cloned().with_context(|| format!("nothing provides {{{{{name}}}}}"))
    }

    /// The bytes of a raw body: `{{file:name}}`, `{{zeros:count}}`, or text with names filled in.
    pub fn fill_bytes(&self, text: &str) -> anyhow::Result<Vec<u8>> {
        let generator = |kind: &str| text.strip_prefix("{{")?.strip_suffix("}}")?.strip_prefix(kind);
        if let Some(name) = generator("file:") {
            return crate::files::by_name(name).with_context(|| format!("there is no file {name}"));
        }
        match generator("zeros:") {
            Some(count) => Ok(vec![0; count.parse()?]),
            None => Ok(self.fill(text)?.into_bytes()),
        }
    }

    /// Fills in a JSON value, and makes `{"$repeat": [text, n]}` the repeated text.
    pub fn fill_value(&self, value: &Value) -> anyhow::Result<Value> {
        Ok(match value {
            Value::String(text) => Value::String(self.fill(text)?),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.fill_value(item)).collect::<anyhow::Result<_>>()?),
            Value::Object(members) => match members.get("$repeat") {
                Some(repeat) => Value::String(repeated(repeat)?),
                None => {
                    let filled = members.iter().map(|(name, value)| Ok((name.clone(), self.fill_value(value)?)));
                    Value::Object(filled.collect::<anyhow::Result<_>>()?)
                }
            },
            other => other.clone(),
        })
    }
}

fn repeated(repeat: &Value) -> anyhow::Result<String> {
    let (text, times) = (repeat[0].as_str(), repeat[1].as_u64().and_then(|times| usize::try_from(times).ok()));
    let (Some(text), Some(times)) = (text, times) else { bail!("$repeat wants [text, number], not {repeat}") };
    Ok(text.repeat(times))
}

/// Where `body` is not as expected; empty if it is. `now_s` is the wall clock in seconds, for `$about_utc`.
pub fn mismatches(body: &Value, has: &BTreeMap<String, Value>, lacks: &[String], names: &Names, now_s: i64) -> Vec<String> {
    let mut found = Vec::new();
    for (pointer, wanted) in has {
        let wanted = match names.fill_value(wanted) {
            Ok(wanted) => wanted,
            Err(error) => {
                found.push(format!("{pointer}: {error}"));
                continue;
            }
        };
        if let Err(why) = matches(body.pointer(pointer), &wanted, now_s) {
            found.push(format!("{pointer} {why}"));
        }
    }
    for pointer in lacks {
        if let Some(value) = body.pointer(pointer) {
            found.push(format!("{pointer} must be absent, is {value}"));
        }
    }
    found
}

/// Compares one value with a literal or a matcher; the error says how it differs.
pub fn matches(value: Option<&Value>, wanted: &Value, now_s: i64) -> Result<(), String> {
    let matcher = wanted.as_object().filter(|members| members.len() == 1).and_then(|members| members.iter().next());
    if let Some((name, wanted)) = matcher.filter(|(name, _)| name.starts_with('$')) {
        return matches_by(name, value, wanted, now_s);
    }
    match value {
        Some(value) if same(value, wanted) => Ok(()),
        Some(value) => Err(format!("is {value}, not {wanted}")),
        None => Err(format!("is absent, not {wanted}")),
    }
}

/// Equal, where whole numbers equal themselves written with a fraction.
fn same(value: &Value, wanted: &Value) -> bool {
    value == wanted || (value.is_number() && value.as_f64() == wanted.as_f64())
}

fn matches_by(name: &str, value: Option<&Value>, wanted: &Value, now_s: i64) -> Result<(), String> {
    if name == "$exists" {
        let exists = value.is_some();
        return if Some(exists) == wanted.as_bool() { Ok(()) } else { Err(format!("exists: {exists}")) };
    }
    let value = value.ok_or_else(|| "is absent".to_owned())?;
    let fits = match name {
        "$regex" => {
            let regex = Regex::new(wanted.as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
            value.as_str().is_some_and(|text| regex.is_match(text))
        }
        "$type" if wanted == "integer" => value.is_i64() || value.is_u64(),
        "$type" => wanted.as_str() == Some(type_name(value)),
        "$in" => wanted.as_array().is_some_and(|choices| choices.iter().any(|choice| same(value, choice))),
        "$about_utc" => is_about(value, wanted.as_str().unwrap_or_default(), now_s),
        other => return Err(format!("is compared with the unknown matcher {other}")),
    };
    if fits { Ok(()) } else { Err(format!("is {value}, which {name} {wanted} refuses")) }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Seconds that "about" allows: a slow machine, not another time zone.
const ABOUT_S: i64 = 300;

/// Whether `value` is a time close to now, shifted by `+7d`, `-3600s` and the like; as `YYYY-MM-DD HH:MM:SS+00:00`
/// or as seconds.
fn is_about(value: &Value, shift: &str, now_s: i64) -> bool {
    let seconds = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok().or_else(|| utc_seconds(text)),
        _ => None,
    };
    match (seconds, shift_seconds(shift)) {
        (Some(seconds), Some(shift)) => (seconds - now_s - shift).abs() <= ABOUT_S,
        _ => false,
    }
}

fn shift_seconds(shift: &str) -> Option<i64> {
    let shift = shift.strip_prefix("now").unwrap_or(shift);
    if shift.is_empty() {
        return Some(0);
    }
    let (number, unit) = shift.split_at_checked(shift.len() - 1)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(number.parse::<i64>().ok()? * unit)
}

/// Seconds since 1970 of `YYYY-MM-DD HH:MM:SS+00:00`.
fn utc_seconds(text: &str) -> Option<i64> {
    let text = text.strip_suffix("+00:00")?;
    let (date, time) = text.split_once(' ')?;
    let numbers = |text: &str, separator| text.split(separator).map(|part| part.parse::<i64>().ok()).collect::<Option<Vec<_>>>();
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let ([year, month, day], [hour, minute, second]) = (date.as_slice(), time.as_slice()) else { return None };
    // Days from the civil calendar, years beginning in March.
    let year = if *month <= 2 { year - 1 } else { *year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(body: Value, has: Value) -> Vec<String> {
        let has = serde_json::from_value(has).unwrap();
        mismatches(&body, &has, &["/errors".to_owned()], &Names::new(), 1_700_000_000)
    }

    #[test]
    fn names_are_filled_in_from_the_inside() {
        let mut names = Names::new();
        names.set("admin_user", "admin");
        names.set("admin_pass", "Adm1n!pass");
        assert_eq!(names.fill("Basic {{b64:{{admin_user}}:{{admin_pass}}}}").unwrap(), "Basic YWRtaW46QWRtMW4hcGFzcw==");
        assert!(names.fill("{{unknown}}").unwrap_err().to_string().contains("{{unknown}}"));
        let filled = names.fill_value(&json!({ "a": [{ "$repeat": ["xy", 3] }, "{{admin_user}}", 1] })).unwrap();
        assert_eq!(filled, json!({ "a": ["xyxyxy", "admin", 1] }));
    }

    #[test]
    fn matchers_accept_what_fits() {
        let body = json!({ "a": "v2.57", "b": [1, 2], "c": 2.0, "t": "2023-11-21 22:13:20+00:00", "s": "1700000010" });
        let has = json!({
            "/a": { "$regex": "^v\\d" }, "/b": { "$type": "array" }, "/b/0": { "$type": "integer" }, "/b/1": { "$in": [2, 3] }, "/c": 2,
            "/x": { "$exists": false }, "/t": { "$about_utc": "+7d" }, "/s": { "$about_utc": "now" },
        });
        assert_eq!(found(body, has), Vec::<String>::new());
    }

    #[test]
    fn each_mismatch_is_told() {
        let body = json!({ "a": "2.57", "errors": [], "t": "2023-11-21T22:13:20Z" });
        let has = json!({ "/a": { "$regex": "^v" }, "/b": 1, "/a/b": { "$exists": true }, "/t": { "$about_utc": "+7d" } });
        let found = found(body, has);
        assert_eq!(found.len(), 5, "{found:?}");
    }

    #[test]
    fn calendar_days_are_counted_from_1970() {
        assert_eq!(utc_seconds("1970-01-01 00:00:00+00:00"), Some(0));
        assert_eq!(utc_seconds("2000-02-29 12:00:00+00:00"), Some(951_825_600));
        assert_eq!(utc_seconds("2026-03-08T15:29:26Z"), None);
    }
}
