//! The texts of a record: how long they may be, and how they are read from headers.

use std::borrow::Cow;

use http::HeaderValue;

use super::redact::Redaction;

/// Bytes of a name, and of an error's text.
pub(super) const MAX_TEXT: usize = 2048;

/// Bytes of the name of an operation. A body can name an unknown one as it likes.
const MAX_OPERATION: usize = 64;

/// Returns the first [`MAX_TEXT`] bytes.
pub(super) fn truncated(text: Box<str>) -> Box<str> {
    match text.len() <= MAX_TEXT {
        true => text,
        false => begin(&text, MAX_TEXT).into(),
    }
}

/// Returns the first bytes, up to whole characters.
fn begin(text: &str, most: usize) -> &str {
    let at = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..at.unwrap_or(0)).unwrap_or_default()
}

/// Returns the name of an operation as a log may show it.
pub(super) fn operation(name: Cow<'static, str>, redaction: &Redaction) -> Cow<'static, str> {
    let is_known =
        name.len() <= MAX_OPERATION && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match is_known {
        true => name,
        false => begin(&redaction.text(&name), MAX_OPERATION)
            .to_owned()
            .into(),
    }
}

/// Returns the value of a header, if it is visible ASCII.
pub(super) fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref()?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_operation_is_cut_and_redacted() {
        let shown = |name: &str| operation(name.to_owned().into(), &Redaction::new()).into_owned();
        assert_eq!(shown("CreateItem"), "CreateItem");
        assert_eq!(shown("GET /users/{id}"), "GET /users/{id}");
        assert_eq!(shown(&"x".repeat(100_000)), "x".repeat(64));
        assert_eq!(shown(&"ä".repeat(100)), "ä".repeat(32));
        let token = format!("eyJhbGciOiJub25lIn0.{}.x", "a".repeat(100));
        assert_eq!(shown(&token), "REDACTED");
    }
}
