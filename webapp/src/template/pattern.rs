//! A text of a template with places for parameters, `{{1}}` to `{{n}}`. A place may come up more
//! than once, and in any order; none may be left out.

/// A text with places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Vec<Piece>,
    count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Counted from 0.
    Place(usize),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Something else than a number between the braces.
    #[error("{{{{{0}}}}} is not a numbered parameter")]
    NotNumbered(String),
    /// The numbers have a gap.
    #[error("{{{{{missing}}}}} is missing, although {{{{{highest}}}}} is there")]
    Gap {
        /// The first number that does not come up.
        missing: usize,
        /// The highest that does.
        highest: usize,
    },
}

/// More places than any template has; keeps the count of what is missing cheap.
const HIGHEST: usize = 1000;

impl Pattern {
    /// Finds the places.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, place, after)) = next_place(rest) {
            let number: usize = place.trim().parse().ok().filter(|number| (1..=HIGHEST).contains(number)).ok_or_else(|| {
                // Named ones belong to later generations of the Cloud API.
                Error::NotNumbered(place.to_owned())
            })?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Place(number - 1));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let places = || pieces.iter().filter_map(|piece| if let Piece::Place(place) = piece { Some(*place) } else { None });
        let count = places().max().map_or(0, |highest| highest + 1);
        match (0..count).find(|wanted| !places().any(|place| place == *wanted)) {
            Some(missing) => Err(Error::Gap { missing: missing + 1, highest: count }),
            None => Ok(Self { pieces, count }),
        }
    }

    /// How many parameters it takes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The text before the only place, if that is at the end; for URLs.
    pub(super) fn prefix(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(prefix), Piece::Place(0)] => Some(prefix),
            _ => None,
        }
    }

    /// The text with `values` in their places; a place without a value stays empty.
    pub(super) fn render(&self, values: &[&str]) -> String {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Place(place) => values.get(*place).copied().unwrap_or_default(),
            })
            .collect()
    }
}

/// Text before the next pair of braces, between them, and after.
fn next_place(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (place, after) = rest.split_once("}}")?;
    Some((before, place, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_to_their_places_and_are_not_read_again() {
        let pattern = Pattern::parse("{{2}}, {{ 1 }} and {{2}}!").unwrap();
        assert_eq!((pattern.count(), pattern.render(&["{{2}}", "é"]).as_str()), (2, "é, {{2}} and é!"));
        assert_eq!(Pattern::parse("no {{ place }").unwrap().render(&[]), "no {{ place }");
        assert_eq!(Pattern::parse("https://example.org/{{1}}").unwrap().prefix(), Some("https://example.org/"));
        assert_eq!(Pattern::parse("https://example.org/{{1}}/x").unwrap().prefix(), None);
    }

    #[test]
    fn gaps_and_names_are_told() {
        for (text, told) in [
            ("{{2}}", "{{1}} is missing, although {{2}} is there"),
            ("{{1}} {{4}} {{2}}", "{{3}} is missing, although {{4}} is there"),
            ("{{name}}", "{{name}} is not a numbered parameter"),
            ("{{0}}", "{{0}} is not a numbered parameter"),
            ("{{}}", "{{}} is not a numbered parameter"),
            ("{{99999999999999999999}}", "{{99999999999999999999}} is not a numbered parameter"),
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err().to_string(), told);
        }
    }
}
