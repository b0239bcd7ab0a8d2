//! `type: contacts` (spec/messages.md §2.4): 1 to 257 cards. The kinds of phones, addresses and so
//! on (`HOME`, `CELL`, ...) are any text: phones write others too, and cards are sent on.

use estafet_model::{ApiError, Code};

use super::shape::{List, Member, Path, Phase, Shape, TEXT, optional, required};
use crate::json::Object;

const MOST_CONTACTS: usize = 257;

pub(super) static SHAPE: Shape =
    Shape::List(&List { item: Shape::Object(CONTACT), at_least: 1, at_most: MOST_CONTACTS, code: Code::ParameterInvalid });

const CONTACT: &[Member] = &[
    required("name", Shape::Ruled(NAME, is_a_name)),
    optional("addresses", Shape::List(&ADDRESSES)),
    optional("birthday", Shape::Form(is_a_date, "must be a date, YYYY-MM-DD")),
    optional("emails", Shape::List(&EMAILS)),
    optional("org", Shape::Object(&[optional("company", TEXT), optional("department", TEXT), optional("title", TEXT)])),
    optional("phones", Shape::List(&PHONES)),
    optional("urls", Shape::List(&URLS)),
];

const NAME: &[Member] = &[
    required("formatted_name", TEXT),
    optional("first_name", TEXT),
    optional("last_name", TEXT),
    optional("middle_name", TEXT),
    optional("prefix", TEXT),
    optional("suffix", TEXT),
];

static ADDRESSES: List = some(&[
    optional("street", TEXT),
    optional("city", TEXT),
    optional("state", TEXT),
    optional("zip", TEXT),
    optional("country", TEXT),
    optional("country_code", TEXT),
    optional("type", TEXT),
]);
static EMAILS: List = some(&[optional("email", TEXT), optional("type", TEXT)]);
static PHONES: List = some(&[optional("phone", TEXT), optional("type", TEXT), optional("wa_id", TEXT)]);
static URLS: List = some(&[optional("url", TEXT), optional("type", TEXT)]);

/// Any number of such objects.
const fn some(members: &'static [Member]) -> List {
    List { item: Shape::Object(members), at_least: 0, at_most: usize::MAX, code: Code::ParameterInvalid }
}

/// One part of the name must be given besides the formatted one.
fn is_a_name(phase: Phase, name: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    let parts = &NAME[1..];
    if phase == Phase::Required && !parts.iter().any(|part| name.get(part.name).is_some()) {
        return Err(ApiError::new(
            Code::ParameterMissing,
            format!("Parameter '{path}' must have first_name, last_name, middle_name, prefix or suffix besides formatted_name"),
        ));
    }
    Ok(())
}

fn is_a_date(text: &str) -> bool {
    text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::message::testing::{accepts, canonical, codes};

    fn ana() -> Value {
        json!({"name": {"formatted_name": "Ana Lee", "first_name": "Ana"}})
    }

    fn ana_with(member: &str, value: Value) -> Value {
        let mut ana = ana();
        ana[member] = value;
        json!([ana])
    }

    #[test]
    fn cards_travel_whole_and_without_members_of_others() {
        let card = json!({
            "name": {"formatted_name": "Dr Ana M Lee jr", "first_name": "Ana", "last_name": "Lee", "middle_name": "M",
                "prefix": "Dr", "suffix": "jr"},
            "addresses": [{"street": "1 Hacker Way", "city": "Menlo Park", "state": "CA", "zip": "94025",
                "country": "United States", "country_code": "us", "type": "HOME"}],
            "birthday": "2012-08-18",
            "emails": [{"email": "ana@example.org", "type": "WORK"}, {"email": "lee@example.org"}],
            "org": {"company": "Example", "department": "Design", "title": "Manager"},
            "phones": [{"phone": "+1 650 555 1234", "type": "WORK", "wa_id": "16505551234"}, {"phone": "1", "type": "Mobile"}],
            "urls": [{"url": "https://example.org", "type": "WORK"}],
        });
        let mut given = card.clone();
        given["ims"] = json!([{"service": "x"}]);
        given["phones"][0]["x"] = json!(1);
        assert_eq!(canonical("contacts", json!([given])), json!([card]));
    }

    #[test]
    fn one_to_257_contacts_may_be_sent() {
        accepts("contacts", [json!([ana()]), json!(vec![ana(); 257])]);
        codes("contacts", [(json!([]), 1009, "contacts"), (json!(vec![ana(); 258]), 1009, "contacts")]);
    }

    #[test]
    fn refusals_name_the_contact_and_its_member() {
        codes(
            "contacts",
            [
                (json!({}), 1009, "contacts"),
                (json!([null]), 1009, "contacts[0]"),
                (json!([ana(), "Bob"]), 1009, "contacts[1]"),
                (json!([{}]), 1008, "contacts[0].name"),
                (json!([ana(), {"name": {"first_name": "Bob"}}]), 1008, "contacts[1].name.formatted_name"),
                (json!([{"name": {"formatted_name": "Ana"}}]), 1008, "contacts[0].name"),
                (json!([{"name": {"formatted_name": "", "first_name": "Ana"}}]), 1008, "contacts[0].name.formatted_name"),
                (json!([{"name": "Ana"}]), 1009, "contacts[0].name"),
                (ana_with("birthday", json!("18.08.2012")), 1009, "contacts[0].birthday"),
                (ana_with("birthday", json!("2012-02-30")), 1009, "contacts[0].birthday"),
                (ana_with("phones", json!({"phone": "1"})), 1009, "contacts[0].phones"),
                (ana_with("phones", json!([{"phone": 16505551234u64}])), 1009, "contacts[0].phones[0].phone"),
                (ana_with("org", json!([])), 1009, "contacts[0].org"),
                (ana_with("urls", json!([{"url": "a\u{0}b"}])), 1009, "contacts[0].urls[0].url"),
            ],
        );
    }
}
