//! Secrets in forms and in the queries of URLs.
use std::borrow::Cow;

use memchr::memchr;

use super::edit::Edit;
use super::loose;
use super::rules::Rules;
use super::text::Context;

/// `a=b&c=d`
pub(super) fn redact<'a>(rules: &Rules, input: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
    let mut edit = Edit::new(input);
    let mut start = 0;
    for field in input.split(|&byte| byte == b'&') {
        let end = start + field.len();
        let equals = memchr(b'=', field);
        let value = equals.map_or(start, |equals| start + equals + 1);
        let key = field.get(..equals.unwrap_or(0)).unwrap_or_default();
        let key = decode(key.strip_prefix(b"amp;").unwrap_or(key));
        if equals.is_some() && rules.names.secret_field(&key) {
            edit.redact(value..end);
        } else {
            let context = Context {
                cut: cut && end == input.len(),
                markup: false,
            };
            let text = decode(input.get(value..end).unwrap_or_default());
            // A secret inside of a value that is escaped: all of the value, since it would have to be escaped again.
            if let Cow::Owned(_) = loose::redact(&rules.names, &text, context) {
                edit.redact(value..end);
            }
        }
        start = end + 1;
    }
    edit.finish()
}

/// Undoes up to three rounds of percent-encoding.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    let mut plain = Cow::Borrowed(text);
    for _ in 0..3 {
        if memchr(b'%', &plain).is_none() && memchr(b'+', &plain).is_none() {
            break;
        }
        plain = Cow::Owned(decode_once(&plain));
    }
    plain
}

fn decode_once(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let escaped = bytes
            .as_slice()
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(escaped) => {
                plain.push(escaped);
                bytes.nth(1);
            }
            None if byte == b'+' => plain.push(b' '),
            None => plain.push(byte),
        }
    }
    plain
}
