//! Secrets in forms and in the queries of URLs.

use std::borrow::Cow;

use memchr::memchr;

use super::edit::Edits;
use super::layers::plain;
use super::rules::Rules;

/// Finds the secrets in `a=b&c=d`. `has_secret` tells whether there are any in a text, which may be cut
/// off.
pub(super) fn find(
    rules: &Rules,
    input: &[u8],
    cut: bool,
    has_secret: impl Fn(&Rules, &[u8], bool) -> bool,
) -> Edits {
    let mut edits = Edits::default();
    let mut start = 0;
    for field in input.split(|&byte| byte == b'&') {
        let end = start + field.len();
        let equals = memchr(b'=', field);
        let (key, value) = field.split_at(equals.unwrap_or(0));
        let key = key.strip_prefix(b"amp;").unwrap_or(key);
        let from = start + equals.map_or(0, |equals| equals + 1);
        let is_secret = || rules.names.secret_field(&plain(&spaced(key)));
        // A secret inside of a value that is escaped: all of the value, since it would have to be
        // escaped again.
        if equals.is_some() && is_secret()
            || has_secret(
                rules,
                &spaced(value.strip_prefix(b"=").unwrap_or(value)),
                cut && end == input.len(),
            )
        {
            edits.redact(from..end);
        }
        start = end + 1;
    }
    edits
}

/// A plus is a space.
fn spaced(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'+', text).is_none() {
        return Cow::Borrowed(text);
    }
    let space = |byte: &u8| if *byte == b'+' { b' ' } else { *byte };
    Cow::Owned(text.iter().map(space).collect())
}
