//! The character policy of short labels (2017): what phones would draw as an emoji or read as markup.

use unicode_properties::{EmojiStatus, UnicodeEmoji as _};

/// Asks for the picture of the character before it (UTS #51).
const EMOJI_SELECTOR: char = '\u{fe0f}';
/// Makes a keycap of the character before it.
const KEYCAP: char = '\u{20e3}';

/// Whether there is an emoji: a character that is drawn as one by itself or by a selector.
/// Digits, `#`, `©` and the like are emoji only with a selector.
pub(super) fn has_emoji(text: &str) -> bool {
    !text.is_ascii() && text.chars().any(|c| c == EMOJI_SELECTOR || c == KEYCAP || is_drawn_as_emoji(c))
}

fn is_drawn_as_emoji(c: char) -> bool {
    matches!(
        c.emoji_status(),
        EmojiStatus::EmojiPresentation
            | EmojiStatus::EmojiPresentationAndModifierBase
            | EmojiStatus::EmojiPresentationAndEmojiComponent
            | EmojiStatus::EmojiPresentationAndModifierAndEmojiComponent
    )
}

/// Whether there is `*bold*`, `_italic_`, `~gone~` or text between triple backticks. A mark counts
/// only at the edges of words, as on phones: `snake_case_name` is no markup.
pub(super) fn has_markup(text: &str) -> bool {
    ["*", "_", "~", "```"].into_iter().any(|mark| is_marked(text, mark))
}

fn is_marked(text: &str, mark: &str) -> bool {
    let opens = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + mark.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric()) && after.is_some_and(|c| !c.is_whitespace() && !mark.contains(c))
    };
    let closes = |at: usize| {
        let before = text[..at].chars().next_back();
        let after = text[at + mark.len()..].chars().next();
        before.is_some_and(|c| !c.is_whitespace() && !mark.contains(c)) && after.is_none_or(|c| !c.is_alphanumeric())
    };
    let first = text.match_indices(mark).map(|(at, _)| at).find(|&at| opens(at));
    first.is_some_and(|first| text.match_indices(mark).any(|(at, _)| at > first && closes(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_are_what_is_drawn_as_one() {
        for text in ["😀", "ok 👍🏽", "👩‍👩‍👧", "🇮🇩", "☎\u{fe0f}", "1\u{fe0f}\u{20e3}", "⌚"] {
            assert!(has_emoji(text), "{text}");
        }
        for text in ["", "Yes", "1 # *", "© 2024 ™", "Größe", "日本語", "العربية", "नमस्ते", "→ ✓ ☎"]
        {
            assert!(!has_emoji(text), "{text}");
        }
    }

    #[test]
    fn every_character_has_an_answer() {
        assert!(('\0'..=char::MAX).filter(|c| is_drawn_as_emoji(*c)).count() > 1000);
    }

    #[test]
    fn marks_count_at_the_edges_of_words() {
        for text in ["*a*", "say _it_ now", "~x y~", "```code```", "(*b*)"] {
            assert!(has_markup(text), "{text}");
        }
        for text in ["", "2 * 3 * 4", "snake_case_name", "a*b*c", "*", "**", "* a *", "~5 to ~6", "5*", "`code`"] {
            assert!(!has_markup(text), "{text}");
        }
    }
}
