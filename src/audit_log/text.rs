//! The texts of a record: how long they may be, and how they are read from headers.

use http::HeaderValue;

/// Bytes of a name, and of an error's text.
pub(super) const MAX_TEXT: usize = 2048;

/// Returns the first [`MAX_TEXT`] bytes.
pub(super) fn truncated(text: Box<str>) -> Box<str> {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let at = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at));
    text.get(..at.unwrap_or(0)).unwrap_or_default().into()
}

/// Returns the value of a header, if it is visible ASCII.
pub(super) fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref()?.to_str().ok()
}
