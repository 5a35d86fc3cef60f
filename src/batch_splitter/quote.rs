//! The beginning of a response that is not in the batch's format, for the text of an error.

use crate::body::rope::Rope;

/// How many bytes of a response are looked at: the head of a page can be long.
const MAX_BYTES: u64 = 8 * 1024;

/// How many characters are quoted.
const MAX_CHARS: usize = 120;

/// Adds the first readable characters of a page to what is said of it.
pub(super) fn with_quote(text: &str, page: &Rope) -> String {
    let bytes = page.slice(0..MAX_BYTES).to_bytes();
    let readable = readable(&String::from_utf8_lossy(&bytes));
    match &*readable {
        "" => text.to_owned(),
        readable => format!("{text}: \"{readable}\""),
    }
}

/// Returns the beginning of a text without tags, scripts, control characters and what turns the direction of writing.
fn readable(page: &str) -> String {
    let mut readable = String::new();
    let mut left = MAX_CHARS;
    let mut space = false;
    let mut rest = page;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '<' {
            rest = behind_tag(rest);
            space = true;
        } else if c.is_whitespace() || c.is_control() {
            space = true;
        } else if !is_invisible(c) {
            if std::mem::take(&mut space) && !readable.is_empty() {
                readable.push(' ');
                left = left.saturating_sub(1);
            }
            if left == 0 {
                readable.push('\u{2026}');
                break;
            }
            readable.push(c);
            left -= 1;
        }
    }
    readable
}

/// Returns what follows a tag, or a whole element whose content nobody is meant to read.
fn behind_tag(inside: &str) -> &str {
    let behind = |end: &str| {
        let at = inside.find(end).map_or(inside.len(), |at| at + end.len());
        inside.get(at..).unwrap_or_default()
    };
    let behind_element = |end: &str| {
        let at = inside.to_ascii_lowercase().find(end);
        inside.get(at.unwrap_or(inside.len())..).unwrap_or_default()
    };
    let is = |name: &str| {
        let begin = inside.get(..name.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(name))
    };
    match inside {
        _ if inside.starts_with("!--") => behind("-->"),
        _ if is("script") => behind_element("</script"),
        _ if is("style") => behind_element("</style"),
        _ => behind(">"),
    }
}

fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fffd}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_of_a_page() {
        let long = "x".repeat(1_000);
        let cut = format!("HTTP 500: \"{}\u{2026}\"", "x".repeat(120));
        for (page, expected) in [
            ("", "HTTP 500"),
            (" \r\n\u{feff}<html></html>", "HTTP 500"),
            ("Service Unavailable", "HTTP 500: \"Service Unavailable\""),
            (
                "<!DOCTYPE html>\r\n<html><head><title>Sign in</title><style>p{}</style><SCRIPT>var a = '<b>';</Script >\
                 <!-- build > 7 --></head><body>to your&nbsp;account</body></html>",
                "HTTP 500: \"Sign in to your&nbsp;account\"",
            ),
            ("{\"error\":\t\"no\"}", "HTTP 500: \"{\"error\": \"no\"}\""),
            (
                "a\u{202e}b\u{2028}c\u{7}d\u{1b}[31m",
                "HTTP 500: \"ab c d [31m\"",
            ),
            (&long, &cut),
            // A tag that does not end hides the rest.
            ("sorry<a href='", "HTTP 500: \"sorry\""),
        ] {
            let page = Rope::from(page.to_owned());
            assert_eq!(with_quote("HTTP 500", &page), expected);
        }
        let noise: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        let quoted = with_quote("", &Rope::from(noise));
        assert!(quoted.chars().count() < 130 && !quoted.chars().any(char::is_control));
    }
}
