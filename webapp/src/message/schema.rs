//! The schemas of messages for the OpenAPI document. Types described by data ([`shape`](super::shape)) tell theirs
//! by the same description they are checked with; texts and templates, which are read by hand, have them here.

use super::{
    contacts, interactive, location, media, reaction,
    shape::{Characters, Member as Described, Need, Shape},
    text,
};
use crate::openapi::words::{
    Schema, any_object, any_of, closed, flag, list, may, need, number_within, one_of, open, text as any_text, text_like, text_of,
    text_that, whole, word,
};

/// The message types, with the schema of a request of each.
pub(crate) fn all() -> Vec<(&'static str, Schema)> {
    let mut all = vec![("text", message("text", false, text_content()))];
    all.extend(media::KINDS.into_iter().map(|kind| (kind, message(kind, true, any_of(media::shapes(kind).map(of))))));
    all.extend([
        ("location", message("location", true, of(&location::SHAPE))),
        ("contacts", message("contacts", true, of(&contacts::SHAPE))),
        ("interactive", message("interactive", true, one_of(interactive::kinds().map(|(kind, shape)| of_kind(kind, shape))))),
        ("reaction", message("reaction", true, of(&reaction::SHAPE))),
        ("template", message("template", true, template())),
        ("hsm", message("hsm", true, hsm())),
    ]);
    all
}

/// A request of a type, of which only texts may leave the type out.
fn message(kind: &'static str, is_named: bool, content: Schema) -> Schema {
    let members = [
        need("to", text_that("Phone number or wa_id of the user")),
        if is_named { need("type", word(&[kind])) } else { may("type", word(&[kind])) },
        need(kind, content),
        may("recipient_type", word(&["individual"])),
        may("preview_url", flag()),
        may("context", open([need("message_id", text_of(1, super::QUOTED_ID_LIMIT, Some("The message that is quoted")))])),
        may("biz_opaque_callback_data", text_of(0, super::OPAQUE_LIMIT, Some("Comes back with the statuses"))),
        may("messaging_product", word(&["whatsapp"])),
    ];
    open(members)
}

fn text_content() -> Schema {
    open([need("body", text_of(1, text::LIMIT, None)), may("preview_url", flag())])
}

/// The schema of what a description takes.
pub(super) fn of(shape: &Shape) -> Schema {
    filled(shape, false)
}

fn filled(shape: &Shape, is_filled: bool) -> Schema {
    match shape {
        Shape::Text(most, characters) => text_of(usize::from(is_filled), *most, only(*characters)),
        Shape::Form(_, rule) => text_that(rule),
        Shape::Word(words) => word(words),
        Shape::Degrees(limit) => any_of([number_within(*limit), text_like(r"^-?[0-9]+(\.[0-9]+)?$", "The same as a text")]),
        Shape::Object(members) | Shape::Ruled(members, _) => open(members.iter().filter_map(member)),
        Shape::List(each) => list(of(&each.item), each.at_least, each.at_most),
        Shape::Free => any_object(),
        Shape::Header(kinds) => {
            one_of(interactive::header::layouts(kinds).map(|(kind, forms)| any_of(forms.map(|form| with_type(kind, form)))))
        }
    }
}

fn member(Described { name, need: needed, shape }: &Described) -> Option<crate::openapi::words::Member> {
    match (shape, needed) {
        // There may be none.
        (Shape::Header([]), _) => None,
        (shape, Need::Optional) => Some(may(name, of(shape))),
        (shape, needed) => Some(need(name, filled(shape, *needed == Need::Filled))),
    }
}

/// The schema of an object whose member `type` is this word.
fn with_type(kind: &str, members: &[Described]) -> Schema {
    let others = members.iter().filter(|member| member.name != "type").filter_map(member);
    open([need("type", word(&[kind]))].into_iter().chain(others))
}

fn of_kind(kind: &str, shape: &Shape) -> Schema {
    match shape {
        Shape::Object(members) | Shape::Ruled(members, _) => with_type(kind, members),
        other => of(other),
    }
}

fn only(characters: Characters) -> Option<&'static str> {
    match characters {
        Characters::Any => None,
        Characters::NoEmoji => Some("Without emoji"),
        Characters::Plain => Some("Without emoji and markup"),
    }
}

fn template() -> Schema {
    let component = |kind: &str| open([need("type", word(&[kind])), may("parameters", parameters())]);
    let button = open([
        need("type", word(&["button"])),
        need("sub_type", any_text()),
        need("index", any_of([whole(0, 9), text_like("^[0-9]$", "The same as a text")])),
        may("parameters", parameters()),
    ]);
    open([
        need("namespace", text_of(1, usize::MAX, None)),
        need("name", name()),
        need("language", language()),
        may("components", list(one_of([component("header"), component("body"), component("footer"), button]), 0, 1000)),
    ])
}

fn hsm() -> Schema {
    let parameter = open([
        need("default", text_of(1, usize::MAX, None)),
        may("currency", open([need("currency_code", code()), need("amount_1000", amount())])),
        may("date_time", any_of([open([need("component", any_object())]), open([need("unix_epoch", any_object())])])),
    ]);
    open([
        need("namespace", text_of(1, usize::MAX, None)),
        need("element_name", name()),
        need("language", language()),
        may("localizable_params", list(parameter, 0, 1000)),
    ])
}

fn name() -> Schema {
    text_like("^[a-z0-9_]{1,512}$", "The name of the template")
}

fn language() -> Schema {
    open([need("code", text_that("For instance en or en_US")), may("policy", word(&["deterministic", "fallback"]))])
}

fn code() -> Schema {
    text_like("^[A-Za-z]{3}$", "ISO 4217")
}

fn amount() -> Schema {
    any_of([whole(0, 1 << 53), text_like("^-?[0-9]{1,15}$", "The same as a text")])
}

fn parameters() -> Schema {
    let shown = || need("fallback_value", text_of(1, usize::MAX, None));
    let text = |member: &'static str| open([need("type", word(&[member])), need(member, text_of(1, usize::MAX, None))]);
    let object = |member: &'static str, content: Schema| open([need("type", word(&[member])), need(member, content)]);
    let currency = open([shown(), need("code", code()), need("amount_1000", amount())]);
    let media = |kind: &'static str| object(kind, any_of(media::shapes(kind).map(of)));
    let kinds = [
        text("text"),
        object("currency", currency),
        object("date_time", open([shown()])),
        media("image"),
        media("video"),
        media("document"),
        text("payload"),
        text("coupon_code"),
        object("action", any_object()),
    ];
    list(one_of(kinds), 0, 1000)
}

/// What `POST /v1/messages` answers.
pub(crate) fn sent() -> Vec<crate::openapi::words::Member> {
    let contact = closed([need("input", any_text()), need("wa_id", any_text())]);
    let message = closed([need("id", any_text())]);
    vec![need("contacts", list(contact, 1, 1)), need("messages", list(message, 1, 1))]
}
