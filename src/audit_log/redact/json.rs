//! Secrets in JSON: the values of keys, whatever they are.
use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

use super::edit::Edit;
use super::names::{is_content, is_naming};
use super::rules::Rules;

const REDACTED: &[u8] = br#""REDACTED""#;

pub(super) fn redact<'a>(rules: &Rules, input: &'a [u8]) -> Cow<'a, [u8]> {
    let mut edit = Edit::new(input);
    let text = Text(input);
    let mut at = 0;
    // After `"name": "password"`, up to the end of the object.
    let mut named_secret = false;
    while let Some(found) = memchr(b'"', text.rest(at)) {
        let open = at + found;
        if memchr(b'}', text.get(at, open)).is_some() {
            named_secret = false;
        }
        let Some(close) = text.string_end(open) else {
            break;
        };
        at = close + 1;
        let colon = text.skip_blanks(at);
        if input.get(colon) != Some(&b':') {
            continue;
        }
        let value = text.skip_blanks(colon + 1);
        let key = decode(text.get(open + 1, close));
        let named_value = named_secret && key.eq_ignore_ascii_case(b"value");
        if is_naming(&key) && input.get(value) == Some(&b'"') {
            let end = text.string_end(value).unwrap_or(input.len());
            named_secret = rules.names.secret(&decode(text.get(value + 1, end)));
        }
        if rules.names.secret(&key) || named_value || rules.mask && masked(&key, input.get(value)) {
            at = replace(&mut edit, text, value);
        } else {
            at = colon + 1;
        }
    }
    edit.finish()
}

/// Of an object called `body` or `location` only the strings in it.
fn masked(key: &[u8], first: Option<&u8>) -> bool {
    first == Some(&b'"') && is_content(key) || first == Some(&b'[') && key == b"categories"
}

fn replace(edit: &mut Edit<'_>, text: Text<'_>, start: usize) -> usize {
    match text.0.get(start) {
        None => start,
        Some(b'"') => {
            let end = text.string_end(start).unwrap_or(text.0.len());
            edit.redact(start + 1..end);
            end + 1
        }
        Some(b'{' | b'[') => {
            let end = text.bracketed(start);
            if !matches!(text.get(start, end), b"{}" | b"[]") {
                edit.replace(start..end, REDACTED);
            }
            end
        }
        Some(_) => {
            let rest = text.rest(start);
            let length = rest
                .iter()
                .position(|&byte| byte <= b' ' || matches!(byte, b',' | b'}' | b']'))
                .unwrap_or(rest.len());
            let end = start + length;
            if !matches!(text.get(start, end), b"null" | b"true" | b"false") {
                edit.replace(start..end, REDACTED);
            }
            end
        }
    }
}

/// A key whose letters were escaped, as they are.
fn decode(key: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\\', key).is_none() {
        return Cow::Borrowed(key);
    }
    let mut plain = Vec::with_capacity(key.len());
    let mut bytes = key.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
        } else if let Some(&escaped) = bytes.next() {
            let code = bytes
                .as_slice()
                .get(..4)
                .filter(|_| escaped == b'u')
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits.strip_prefix("00")?, 16).ok());
            match code {
                Some(code) => {
                    plain.push(code);
                    bytes.nth(3);
                }
                None => plain.push(escaped),
            }
        }
    }
    Cow::Owned(plain)
}

#[derive(Clone, Copy)]
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn rest(self, at: usize) -> &'a [u8] {
        self.0.get(at..).unwrap_or_default()
    }

    fn get(self, start: usize, end: usize) -> &'a [u8] {
        self.0.get(start..end).unwrap_or_default()
    }

    fn skip_blanks(self, at: usize) -> usize {
        let rest = self.rest(at);
        at + rest
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count()
    }

    /// The quote that ends the string which begins at `open`.
    fn string_end(self, open: usize) -> Option<usize> {
        let mut at = open + 1;
        loop {
            at += memchr2(b'"', b'\\', self.rest(at))?;
            if self.0.get(at) == Some(&b'"') {
                return Some(at);
            }
            at += 2;
        }
    }

    /// Past an object or an array.
    fn bracketed(self, start: usize) -> usize {
        let mut depth = 0usize;
        let mut at = start;
        while let Some(byte) = self.0.get(at) {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return at + 1;
                    }
                }
                b'"' => match self.string_end(at) {
                    Some(end) => at = end,
                    None => return self.0.len(),
                },
                _ => match memchr3(b'"', b'}', b']', self.rest(at)) {
                    // An opening bracket on the way counts too.
                    Some(next) => {
                        at += self
                            .get(at, at + next)
                            .iter()
                            .position(|byte| matches!(byte, b'{' | b'['))
                            .unwrap_or(next);
                        continue;
                    }
                    None => return self.0.len(),
                },
            }
            at += 1;
        }
        self.0.len()
    }
}
