//! `interactive.type: list`: a button that opens 1 to 10 sections with at most 10 rows in all.

use estafet_model::{ApiError, Code};

use super::{
    super::shape::{Characters, List, Path, Phase, Shape, optional, required, up_to},
    BODY, Distinct, FOOTER, TYPE, header, objects, sections_have_titles,
};
use crate::json::Object;

const MOST_ROWS: usize = 10;

pub(super) static SHAPE: Shape = Shape::Object(&[
    TYPE,
    optional("header", header::TEXT_ONLY),
    BODY,
    FOOTER,
    required(
        "action",
        Shape::Ruled(
            &[required("button", Shape::Text(20, Characters::NoEmoji)), required("sections", Shape::List(&SECTIONS))],
            rows_fit,
        ),
    ),
]);

static SECTIONS: List = List {
    item: Shape::Object(&[optional("title", up_to(24)), required("rows", Shape::List(&ROWS))]),
    at_least: 1,
    at_most: 10,
    code: Code::SectionCount,
};

static ROWS: List = List {
    item: Shape::Object(&[required("id", up_to(200)), required("title", up_to(24)), optional("description", up_to(72))]),
    at_least: 1,
    at_most: MOST_ROWS,
    code: Code::RowCount,
};

fn rows_fit(phase: Phase, action: &Object<'_>, path: &Path<'_>) -> Result<(), ApiError> {
    let list = path.member("sections");
    match phase {
        Phase::Required => sections_have_titles(action, path),
        Phase::Counts => {
            let rows: usize = objects(action, "sections").map(|(_, section)| objects(section, "rows").count()).sum();
            if rows > MOST_ROWS {
                return Err(list.refused(Code::RowCount, format_args!("must have at most {MOST_ROWS} rows in all")));
            }
            Ok(())
        }
        Phase::Lengths => {
            let mut ids = Distinct::default();
            for (n, section) in objects(action, "sections") {
                for (m, row) in objects(section, "rows") {
                    ids.add(row, "id", &list.item(n).member("rows").item(m))?;
                }
            }
            Ok(())
        }
        Phase::Types | Phase::Characters => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::message::testing::{accepts, canonical, codes, with};

    /// A list with so many rows in each section.
    fn list(rows: &[usize]) -> Value {
        let mut sections = Vec::new();
        for (n, count) in rows.iter().enumerate() {
            let rows: Vec<Value> = (0..*count).map(|m| json!({"id": format!("{n}-{m}"), "title": format!("Row {m}")})).collect();
            sections.push(json!({"title": format!("Section {n}"), "rows": rows}));
        }
        json!({"type": "list", "body": {"text": "Choose"}, "action": {"button": "Menu", "sections": sections}})
    }

    const FIRST: &str = "interactive.action.sections[0]";

    #[test]
    fn up_to_ten_sections_and_ten_rows_in_all_may_be_sent() {
        accepts(
            "interactive",
            [list(&[10]), list(&[1; 10]), list(&[4, 6]), with(&list(&[2]), "/action/sections/0/title", json!(null))],
        );
        codes(
            "interactive",
            [
                (list(&[]), 2015, "interactive.action.sections"),
                (list(&[1; 11]), 2015, "interactive.action.sections"),
                (list(&[0]), 2016, &*format!("{FIRST}.rows")),
                (list(&[3, 0]), 2016, "interactive.action.sections[1].rows"),
                (list(&[11]), 2016, &*format!("{FIRST}.rows")),
                (list(&[5, 6]), 2016, "interactive.action.sections"),
            ],
        );
        let mut given = list(&[1, 2]);
        given["action"]["sections"][1]["rows"][0]["description"] = json!("d");
        let clean = given.clone();
        given["action"]["sections"][1]["rows"][0]["x"] = json!("x");
        assert_eq!(canonical("interactive", given), clean);
    }

    #[test]
    fn sections_have_titles_as_soon_as_there_are_two() {
        let title = "/action/sections/1/title";
        codes(
            "interactive",
            [
                (with(&list(&[1, 1]), title, json!(null)), 1008, "interactive.action.sections[1].title"),
                (with(&list(&[1, 1]), title, json!("")), 1008, "interactive.action.sections[1].title"),
                (with(&list(&[1, 1]), title, json!(5)), 1009, "interactive.action.sections[1].title"),
            ],
        );
    }

    #[test]
    fn texts_have_lengths_and_ids_differ() {
        let list = list(&[1, 2]);
        let (button, title, row) = ("/action/button", "/action/sections/0/title", "/action/sections/0/rows/0");
        accepts(
            "interactive",
            [
                with(&list, button, json!("b".repeat(20))),
                with(&list, title, json!("t".repeat(24))),
                with(&list, &format!("{row}/id"), json!("i".repeat(200))),
                with(&list, &format!("{row}/title"), json!("😀".repeat(24))),
                with(&list, &format!("{row}/description"), json!("d".repeat(72))),
            ],
        );
        codes(
            "interactive",
            [
                (with(&list, button, json!("b".repeat(21))), 1009, "interactive.action.button"),
                (with(&list, button, json!(null)), 1008, "interactive.action.button"),
                (with(&list, button, json!("Menu 😀")), 2017, "interactive.action.button"),
                (with(&list, title, json!("t".repeat(25))), 1009, &*format!("{FIRST}.title")),
                (with(&list, &format!("{row}/id"), json!("i".repeat(201))), 1009, &*format!("{FIRST}.rows[0].id")),
                (with(&list, &format!("{row}/title"), json!("t".repeat(25))), 1009, &*format!("{FIRST}.rows[0].title")),
                (
                    with(&list, &format!("{row}/description"), json!("d".repeat(73))),
                    1009,
                    &*format!("{FIRST}.rows[0].description"),
                ),
                (with(&list, &format!("{row}/title"), json!(null)), 1008, &*format!("{FIRST}.rows[0].title")),
                (with(&list, &format!("{row}/id"), json!("1-1")), 1009, "interactive.action.sections[1].rows[1].id"),
                (with(&list, "/action/sections/0/rows", json!(null)), 1008, &*format!("{FIRST}.rows")),
                (with(&list, "/action/sections", json!(null)), 1008, "interactive.action.sections"),
            ],
        );
    }
}
