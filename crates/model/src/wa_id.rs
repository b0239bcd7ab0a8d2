//! Phone numbers: the digits-only `wa_id` and the notations people write it in
//! (spec/contacts.md, "Number rules").

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A phone number in international form, digits only: a user's `wa_id`, or the number of
/// a business. 7 to 15 digits, the first not zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaId(u64);

/// Why a text is not a phone number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Something else than digits and the usual separators.
    #[error("contains a character that is not part of a phone number")]
    Character,
    /// Fewer than 7 or more than 15 digits.
    #[error("has {0} digits, a phone number has 7 to 15")]
    Length(usize),
    /// Country codes do not begin with zero.
    #[error("begins with zero")]
    LeadingZero,
}

/// Shortest and longest number of digits (ITU-T E.164 allows 15 at most).
pub const DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

impl WaId {
    /// Takes the number as an integer, as the database and the wire carry it.
    pub fn from_u64(value: u64) -> Result<Self, Invalid> {
        let digits = decimal_digits(value);
        if DIGITS.contains(&digits) { Ok(Self(value)) } else { Err(Invalid::Length(digits)) }
    }

    /// The number as an integer.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number as the databases store it.
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// Reads a number in any common notation: separators are dropped, one leading `+` is
    /// allowed, and without it the number must already be in international form (no area
    /// code is guessed, except for a national trunk zero, which is refused).
    /// Numbers whose `wa_id` differs from what people dial are converted (Brazil, Mexico, Argentina).
    pub fn from_input(input: &str) -> Result<Self, Invalid> {
        let text = input.trim_matches(' ');
        let text = text.strip_prefix('+').unwrap_or(text);
        let mut digits = String::with_capacity(text.len().min(16));
        for c in text.chars() {
            match c {
                '0'..='9' => digits.push(c),
                ' ' | '-' | '(' | ')' | '.' => {}
                _ => return Err(Invalid::Character),
            }
            if digits.len() > 32 {
                return Err(Invalid::Length(digits.len()));
            }
        }
        canonical(&digits).parse()
    }
}

/// Converts a dialled number to the `wa_id` the network uses for it.
fn canonical(digits: &str) -> String {
    let bytes = digits.as_bytes();
    // Brazil: mobile numbers lost the ninth digit in their wa_id (area code, then 9, then eight).
    if digits.starts_with("55") && bytes.len() == 13 && bytes[4] == b'9' {
        return format!("{}{}", &digits[..4], &digits[5..]);
    }
    // Mexico: 52 + ten digits is known as 521 + ten digits.
    if digits.starts_with("52") && bytes.len() == 12 {
        return format!("521{}", &digits[2..]);
    }
    // Argentina: 54 + area and number is known as 549 + the same.
    if digits.starts_with("54") && bytes.len() == 12 && bytes[2] != b'9' {
        return format!("549{}", &digits[2..]);
    }
    digits.to_owned()
}

fn decimal_digits(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

impl FromStr for WaId {
    type Err = Invalid;

    /// Reads digits only, no conversion.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Invalid::Character);
        }
        if !DIGITS.contains(&text.len()) {
            return Err(Invalid::Length(text.len()));
        }
        if text.starts_with('0') {
            return Err(Invalid::LeadingZero);
        }
        Ok(Self(text.parse().map_err(|_| Invalid::Length(text.len()))?))
    }
}

impl fmt::Display for WaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for WaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaId({})", self.0)
    }
}

impl Serialize for WaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WaId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_notations_lead_to_the_same_wa_id() {
        for input in ["+1 (631) 555-1234", "16315551234", "+1.631.555.1234", " +16315551234", "1-631-555-1234"] {
            assert_eq!(WaId::from_input(input).unwrap().to_string(), "16315551234", "{input}");
        }
    }

    #[test]
    fn wa_ids_that_differ_from_the_dialled_number_are_converted() {
        for (input, wa_id) in [
            ("+5582999887766", "558299887766"),
            ("5511987654321", "551187654321"),
            ("558299887766", "558299887766"),
            ("+525512345678", "5215512345678"),
            ("+541112345678", "5491112345678"),
            ("5491112345678", "5491112345678"),
        ] {
            assert_eq!(WaId::from_input(input).unwrap().to_string(), wa_id, "{input}");
        }
    }

    #[test]
    fn odd_forms_are_refused_with_the_reason() {
        use Invalid::*;
        for (input, reason) in [
            ("", Length(0)),
            ("+", Length(0)),
            ("not-a-number", Character),
            ("++16315551234", Character),
            ("1631+5551234", Character),
            ("0016315551234", LeadingZero),
            ("06315551234", LeadingZero),
            ("123456", Length(6)),
            ("1234567890123456", Length(16)),
            ("١٦٣١٥٥٥١٢٣٤", Character),
            ("1631555\u{0}1234", Character),
            ("1631555１234", Character),
        ] {
            assert_eq!(WaId::from_input(input), Err(reason), "{input:?}");
        }
        assert!(WaId::from_input(&"9".repeat(1_000_000)).is_err());
    }
}
