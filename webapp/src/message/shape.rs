//! Message types as data: which members an object has, and what each of them may hold.
//!
//! One description serves for everything: [`Shape::check`] refuses what does not fit, in the order
//! of spec/messages.md §2.5 and each phase over the whole message; [`Kept`] writes the canonical
//! form, without members nobody described; [`Shape::no_strangers`] refuses those for strict numbers.
//! What a description cannot say is a [`Rule`] at the object it is about.

use std::fmt;

use estafet_model::{ApiError, Code};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{characters, interactive::header};
use crate::json::{Json, Object};

/// What is looked at, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Members that must be there (1008).
    Required,
    /// JSON types and values (1009), structure of headers (2036).
    Types,
    /// How many things there are (1009, 2015, 2016, 2023).
    Counts,
    /// How long texts are, and what must differ (1009).
    Lengths,
    /// Which characters there are (2017).
    Characters,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Required, Self::Types, Self::Counts, Self::Lengths, Self::Characters];
}

/// What a description cannot say about an object. It is asked in every phase, after the object's
/// members, and may meet members that do not fit before the phase that refuses them has come.
pub(super) type Rule = fn(Phase, &Object<'_>, &Path<'_>) -> Result<(), ApiError>;

/// What a value may be.
pub(super) enum Shape {
    /// A text of at most so many characters.
    Text(usize, Characters),
    /// A text that the function takes; else the reason.
    Form(fn(&str) -> bool, &'static str),
    /// One of these texts.
    Word(&'static [&'static str]),
    /// A number, or a text that is one, between minus and plus this.
    Degrees(f64),
    /// An object with these members.
    Object(&'static [Member]),
    /// An object with these members, under a rule.
    Ruled(&'static [Member], Rule),
    /// A list.
    List(&'static List),
    /// Any object, kept as it came.
    Free,
    /// The header of an interactive message, of one of these kinds.
    Header(&'static [header::Kind]),
}

/// Which characters a text may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Characters {
    /// All.
    Any,
    /// No emoji.
    NoEmoji,
    /// No emoji and no markup.
    Plain,
}

/// A member of an object.
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) need: Need,
    pub(super) shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// May be absent.
    Optional,
    /// Must be there.
    Present,
    /// Must be there and, if it is a text, not empty.
    Filled,
}

/// A list.
pub(super) struct List {
    pub(super) item: Shape,
    pub(super) at_least: usize,
    pub(super) at_most: usize,
    /// The code when there are fewer or more.
    pub(super) code: Code,
}

/// A text of any length.
pub(super) const TEXT: Shape = Shape::Text(usize::MAX, Characters::Any);

/// A text of at most so many characters.
pub(super) const fn up_to(characters: usize) -> Shape {
    Shape::Text(characters, Characters::Any)
}

/// A member that may be absent.
pub(super) const fn optional(name: &'static str, shape: Shape) -> Member {
    Member { name, need: Need::Optional, shape }
}

/// A member that must be there but may be an empty text.
pub(super) const fn present(name: &'static str, shape: Shape) -> Member {
    Member { name, need: Need::Present, shape }
}

/// A member that must be there and not empty.
pub(super) const fn required(name: &'static str, shape: Shape) -> Member {
    Member { name, need: Need::Filled, shape }
}

/// Where in the message a value is; written only when something is wrong with it.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root(&'a str),
    Member(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(super) fn member(&'a self, name: &'a str) -> Self {
        Self::Member(self, name)
    }

    pub(super) fn item(&'a self, index: usize) -> Self {
        Self::Item(self, index)
    }

    /// 1008 for the member at this place.
    pub(super) fn missing(&self) -> ApiError {
        ApiError::missing(&self.to_string())
    }

    /// 1009 for the member at this place.
    pub(super) fn invalid(&self, why: impl fmt::Display) -> ApiError {
        ApiError::invalid(&self.to_string(), why)
    }

    /// Any code for the member at this place.
    pub(super) fn refused(&self, code: Code, why: impl fmt::Display) -> ApiError {
        ApiError { code, ..self.invalid(why) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Shape {
    /// Refuses what does not fit.
    pub(super) fn check(&self, value: &Json<'_>, path: &Path<'_>) -> Result<(), ApiError> {
        Phase::ALL.into_iter().try_for_each(|phase| self.in_phase(phase, value, path))
    }

    pub(super) fn in_phase(&self, phase: Phase, value: &Json<'_>, path: &Path<'_>) -> Result<(), ApiError> {
        match (self, value) {
            (Self::Object(members), Json::Object(object)) => members_in_phase(members, phase, object, path),
            (Self::Ruled(members, rule), Json::Object(object)) => {
                members_in_phase(members, phase, object, path)?;
                rule(phase, object, path)
            }
            (Self::List(list), Json::List(items)) => list.in_phase(phase, items, path),
            (Self::Header(kinds), Json::Object(object)) => header::in_phase(kinds, phase, object, path),
            (Self::Text(at_most, characters), Json::Text(text)) => match phase {
                Phase::Types => no_nul(value, path),
                Phase::Lengths if is_longer_than(text, *at_most) => {
                    Err(path.invalid(format_args!("must not be longer than {at_most} characters")))
                }
                Phase::Characters => only(*characters, text, path),
                _ => Ok(()),
            },
            _ if phase == Phase::Types => self.type_of(value, path),
            _ => Ok(()),
        }
    }

    /// The JSON type, and what can be said of a value that has no parts.
    fn type_of(&self, value: &Json<'_>, path: &Path<'_>) -> Result<(), ApiError> {
        match (self, value) {
            (Self::Form(fits, _), Json::Text(text)) if fits(text) => no_nul(value, path),
            (Self::Form(_, why), _) => Err(path.invalid(why)),
            (Self::Word(words), Json::Text(text)) if words.contains(&text.as_ref()) => Ok(()),
            (Self::Word(words), _) => Err(path.invalid(format_args!("must be {}", words.join(" or ")))),
            (Self::Degrees(limit), Json::Number(number)) if number.as_f64().is_some_and(|n| n.abs() <= *limit) => Ok(()),
            (Self::Degrees(limit), Json::Text(text)) if text.parse().is_ok_and(|n: f64| n.abs() <= *limit) => Ok(()),
            (Self::Degrees(limit), _) => Err(path.invalid(format_args!("must be a number from -{limit} to {limit}"))),
            (Self::Free, Json::Object(_)) => no_nul(value, path),
            (Self::Text(..), _) => Err(path.invalid("must be a string")),
            (Self::List(_), _) => Err(path.invalid("must be an array")),
            (Self::Header(_), _) => Err(path.refused(Code::InvalidHeader, "must be an object")),
            (Self::Object(_) | Self::Ruled(..) | Self::Free, _) => Err(path.invalid("must be an object")),
        }
    }

    /// Refuses members that are not described (1010).
    pub(super) fn no_strangers(&self, value: &Json<'_>, path: &Path<'_>) -> Result<(), ApiError> {
        match (self, value) {
            (Self::Object(members) | Self::Ruled(members, _), Json::Object(object)) => no_strangers_among(members, object, path),
            (Self::Header(kinds), Json::Object(object)) => {
                header::one_source(object, path)?;
                no_strangers_among(header::members(kinds, object)?, object, path)
            }
            (Self::List(list), Json::List(items)) => {
                items.iter().enumerate().try_for_each(|(n, item)| list.item.no_strangers(item, &path.item(n)))
            }
            _ => Ok(()),
        }
    }
}

impl List {
    fn in_phase(&self, phase: Phase, items: &[Json<'_>], path: &Path<'_>) -> Result<(), ApiError> {
        let Self { item, at_least, at_most, code } = self;
        if phase == Phase::Counts && !(*at_least..=*at_most).contains(&items.len()) {
            return Err(path.refused(*code, format_args!("must have {at_least} to {at_most} elements")));
        }
        items.iter().enumerate().try_for_each(|(n, value)| item.in_phase(phase, value, &path.item(n)))
    }
}

/// Looks at the members of an object.
pub(super) fn members_in_phase(members: &[Member], phase: Phase, object: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    for member in members {
        let path = path.member(member.name);
        match (object.get(member.name), member.need) {
            (None, Need::Optional) => {}
            (None, _) if phase == Phase::Required => return Err(path.missing()),
            (None, _) => {}
            (Some(Json::Text(text)), Need::Filled) if text.is_empty() && phase == Phase::Required => {
                return Err(path.missing());
            }
            (Some(value), _) => member.shape.in_phase(phase, value, &path)?,
        }
    }
    Ok(())
}

fn no_strangers_among(members: &[Member], object: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    for (name, value) in object.members() {
        match members.iter().find(|member| member.name == name) {
            Some(member) => member.shape.no_strangers(value, &path.member(name))?,
            None => return Err(not_required(&path.member(name))),
        }
    }
    Ok(())
}

/// 1010 for a member nobody asked for.
pub(super) fn not_required(path: &Path<'_>) -> ApiError {
    ApiError::new(Code::ParameterNotRequired, format!("Parameter '{path}' is not required"))
}

fn only(characters: Characters, text: &str, path: &Path<'_>) -> Result<(), ApiError> {
    let (emoji, markup) = match characters {
        Characters::Any => (false, false),
        Characters::NoEmoji => (true, false),
        Characters::Plain => (true, true),
    };
    if emoji && characters::has_emoji(text) {
        return Err(path.refused(Code::CharacterPolicy, "must not contain emoji"));
    }
    if markup && characters::has_markup(text) {
        return Err(path.refused(Code::CharacterPolicy, "must not contain markup"));
    }
    Ok(())
}

/// Texts with NUL are refused everywhere: databases and phones cut them.
fn no_nul(value: &Json<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    if has_nul(value) { Err(path.invalid("must not contain NUL")) } else { Ok(()) }
}

fn has_nul(value: &Json<'_>) -> bool {
    match value {
        Json::Text(text) => text.contains('\0'),
        Json::List(items) => items.iter().any(has_nul),
        Json::Object(object) => object.members().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

/// Whether a text has more code points than that.
pub(super) fn is_longer_than(text: &str, limit: usize) -> bool {
    // A text has at most as many code points as bytes.
    text.len() > limit && text.chars().count() > limit
}

/// The canonical form of a value that fits: members in the order of the description, and no others.
pub(super) struct Kept<'a> {
    pub(super) shape: &'static Shape,
    pub(super) value: &'a Json<'a>,
}

impl Serialize for Kept<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (members, object) = match (self.shape, self.value) {
            (Shape::Object(members) | Shape::Ruled(members, _), Json::Object(object)) => (*members, object),
            (Shape::Header(kinds), Json::Object(object)) => (header::members(kinds, object).unwrap_or_default(), object),
            (Shape::List(list), Json::List(items)) => {
                return serializer.collect_seq(items.iter().map(|value| Kept { shape: &list.item, value }));
            }
            _ => return self.value.serialize(serializer),
        };
        let mut map = serializer.serialize_map(None)?;
        for member in members {
            if let Some(value) = object.get(member.name) {
                map.serialize_entry(member.name, &Kept { shape: &member.shape, value })?;
            }
        }
        map.end()
    }
}
