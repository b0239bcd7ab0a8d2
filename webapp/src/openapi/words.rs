//! The words schemas are written in: a thin layer over the builders of utoipa.

use serde_json::Value;
use utoipa::openapi::{
    RefOr,
    schema::{
        AdditionalProperties, AnyOfBuilder, ArrayBuilder, ObjectBuilder, OneOfBuilder, Ref, Schema as Described, SchemaType, Type,
    },
};

/// A schema, or the name of one.
pub(crate) type Schema = RefOr<Described>;

/// A member of an object.
pub(crate) struct Member {
    name: &'static str,
    is_needed: bool,
    schema: Schema,
}

/// A member that must be there.
pub(crate) fn need(name: &'static str, schema: Schema) -> Member {
    Member { name, is_needed: true, schema }
}

/// A member that may be absent.
pub(crate) fn may(name: &'static str, schema: Schema) -> Member {
    Member { name, is_needed: false, schema }
}

/// A schema of the components.
pub(crate) fn named(name: &str) -> Schema {
    Ref::from_schema_name(name).into()
}

fn of_type(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(kind))
}

/// Any text.
pub(crate) fn text() -> Schema {
    of_type(Type::String).into()
}

/// A text, and what is to be said about it.
pub(crate) fn text_that(description: &str) -> Schema {
    of_type(Type::String).description(Some(description)).into()
}

/// A text of so many characters; [`usize::MAX`] stands for any number.
pub(crate) fn text_of(least: usize, most: usize, description: Option<&str>) -> Schema {
    let (least, most) = ((least > 0).then_some(least), (most < usize::MAX).then_some(most));
    of_type(Type::String).min_length(least).max_length(most).description(description).into()
}

/// A text of a form.
pub(crate) fn text_like(pattern: &str, description: &str) -> Schema {
    of_type(Type::String).pattern(Some(pattern)).description(Some(description)).into()
}

/// One of these texts.
pub(crate) fn word(words: &[&str]) -> Schema {
    of_type(Type::String).enum_values(Some(words.iter().copied())).into()
}

/// Bytes.
pub(crate) fn bytes() -> Schema {
    let format = utoipa::openapi::schema::KnownFormat::Binary;
    of_type(Type::String).format(Some(utoipa::openapi::schema::SchemaFormat::KnownFormat(format))).into()
}

/// `true` or `false`.
pub(crate) fn flag() -> Schema {
    of_type(Type::Boolean).into()
}

/// A whole number in a range.
pub(crate) fn whole(least: u64, most: u64) -> Schema {
    of_type(Type::Integer).minimum(Some(least)).maximum(Some(most)).into()
}

/// Any whole number.
pub(crate) fn integer() -> Schema {
    of_type(Type::Integer).into()
}

/// Any number.
pub(crate) fn number() -> Schema {
    of_type(Type::Number).into()
}

/// `null`.
pub(crate) fn null() -> Schema {
    of_type(Type::Null).into()
}

/// One of these whole numbers.
pub(crate) fn one_of_numbers(numbers: impl IntoIterator<Item = u16>) -> Schema {
    of_type(Type::Integer).enum_values(Some(numbers.into_iter().map(Value::from).collect::<Vec<_>>())).into()
}

/// A number between minus and plus `limit`.
pub(crate) fn number_within(limit: f64) -> Schema {
    of_type(Type::Number).minimum(Some(-limit)).maximum(Some(limit)).into()
}

/// A list.
pub(crate) fn list(item: Schema, least: usize, most: usize) -> Schema {
    let (least, most) = ((least > 0).then_some(least), (most < usize::MAX).then_some(most));
    ArrayBuilder::new().items(item).min_items(least).max_items(most).into()
}

fn with_members(members: impl IntoIterator<Item = Member>) -> ObjectBuilder {
    members.into_iter().fold(of_type(Type::Object), |object, Member { name, is_needed, schema }| {
        let object = object.property(name, schema);
        if is_needed { object.required(name) } else { object }
    })
}

/// An object that may have other members, too: of requests, where these are ignored.
pub(crate) fn open(members: impl IntoIterator<Item = Member>) -> Schema {
    with_members(members).into()
}

/// An object with these members and no others: of answers.
pub(crate) fn closed(members: impl IntoIterator<Item = Member>) -> Schema {
    with_members(members).additional_properties(Some(AdditionalProperties::<Described>::FreeForm(false))).into()
}

/// An object whose members, however they are called, all look like this.
pub(crate) fn map(each: Schema) -> Schema {
    of_type(Type::Object).additional_properties(Some(AdditionalProperties::<Described>::RefOr(each))).into()
}

/// Any object.
pub(crate) fn any_object() -> Schema {
    of_type(Type::Object).into()
}

/// Exactly one of these.
pub(crate) fn one_of(schemas: impl IntoIterator<Item = Schema>) -> Schema {
    schemas.into_iter().fold(OneOfBuilder::new(), OneOfBuilder::item).into()
}

/// One of these, or several.
pub(crate) fn any_of(schemas: impl IntoIterator<Item = Schema>) -> Schema {
    schemas.into_iter().fold(AnyOfBuilder::new(), AnyOfBuilder::item).into()
}
