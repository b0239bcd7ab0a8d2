//! The search for the highest rate that is sustained: pure, so that its bounds are tested.
//!
//! Grows geometrically until a rate fails, then halves the gap. Ends after a bounded number of trials.

/// First rate tried, messages per second.
const FIRST: u32 = 500;
/// Growth while nothing has failed.
const GROWTH: f64 = 1.7;
/// Highest rate tried.
const HIGHEST: u32 = 200_000;
/// Trials after the first failure: the gap of 70 % shrinks to about 4 %.
const REFINEMENTS: u32 = 4;

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search {
    sustained: Option<u32>,
    failed: Option<u32>,
    refinements: u32,
    next: u32,
}

impl Default for Search {
    fn default() -> Self {
        Self { sustained: None, failed: None, refinements: 0, next: FIRST }
    }
}

impl Search {
    /// The rate to try, or none when the search has ended.
    pub(crate) fn next(&self) -> Option<u32> {
        let is_exhausted = self.refinements > REFINEMENTS || self.sustained == Some(HIGHEST) || self.next == 0;
        (!is_exhausted).then_some(self.next)
    }

    /// Takes the result of trying [`Search::next`].
    pub(crate) fn tried(&mut self, is_sustained: bool) {
        if is_sustained {
            self.sustained = Some(self.next);
        } else {
            self.failed = Some(self.next);
        }
        self.next = match (self.sustained, self.failed) {
            (Some(sustained), None) => ((f64::from(sustained) * GROWTH) as u32).min(HIGHEST),
            (sustained, Some(failed)) => {
                self.refinements += 1;
                u32::midpoint(sustained.unwrap_or(0), failed)
            }
            (None, None) => FIRST,
        };
    }

    /// The highest rate that was sustained.
    pub(crate) fn best(&self) -> Option<u32> {
        self.sustained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(capacity: u32) -> (Option<u32>, usize) {
        let (mut search, mut trials) = (Search::default(), 0);
        while let Some(rate) = search.next() {
            search.tried(rate <= capacity);
            trials += 1;
            assert!(trials < 40, "the search does not end");
        }
        (search.best(), trials)
    }

    #[test]
    fn the_rate_found_is_sustained_and_close_to_the_capacity() {
        for capacity in [600, 1_000, 4_321, 12_000, 55_000] {
            let (best, trials) = search(capacity);
            let best = best.unwrap();
            assert!(best <= capacity && f64::from(best) >= f64::from(capacity) * 0.9, "{best} of {capacity}");
            assert!(trials <= 18, "{trials} trials");
        }
    }

    #[test]
    fn it_ends_where_nothing_or_everything_is_sustained() {
        assert_eq!(search(0).0, None);
        assert_eq!(search(u32::MAX).0, Some(HIGHEST));
        assert!(search(100).0.is_some_and(|best| best <= 100));
    }
}
