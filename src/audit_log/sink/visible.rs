//! Characters that do not show, or that change how the rest of a log shows.

use std::borrow::Cow;

/// Whether a character ends a line for some readers, changes the direction of a text, or does not
/// show: a text from outside can forge a line or hide a part of one by it.
pub(super) fn is_hidden(letter: char) -> bool {
    matches!(
        letter,
        '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Returns the text with such characters as `\u{2028}`.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_hidden(letter) {
            true => shown.extend(letter.escape_unicode()),
            false => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_shows() {
        for (text, expected) in [
            ("plain", "plain"),
            ("Zoë\u{1f600}\n", "Zoë\u{1f600}\n"),
            ("a\u{2028}b\u{202e}c\u{85}", "a\\u{2028}b\\u{202e}c\\u{85}"),
            ("\u{feff}x\u{2066}\u{200b}", "\\u{feff}x\\u{2066}\\u{200b}"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }
}
