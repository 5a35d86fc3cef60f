//! Secrets in any text, without knowing its format: `password=...`, `Bearer ...`, credentials in a URL, tags in a string.
//!
//! It runs over plain texts, and after the reader of a format over what that one left, since what is malformed is read by nobody.
//! One pass; searches ahead either consume what they have read, or are paid out of a budget.
use std::borrow::Cow;

use memchr::memmem;

use super::edit::Edit;
use super::names::{Folded, Names, is_header_line};
use super::text::{Context, Text, blank, in_word};

/// The ways in which `<` and `>` are written inside of other formats.
const BRACKETS: [(&[u8], &[u8]); 7] = [
    (b"<", b">"),
    (b"&lt;", b"&gt;"),
    (b"\\u003c", b"\\u003e"),
    (b"\\u003C", b"\\u003E"),
    (b"%3C", b"%3E"),
    (b"%3c", b"%3e"),
    (b"&#60;", b"&#62;"),
];

const SCHEMES: [&[u8]; 6] = [
    b"bearer",
    b"basic",
    b"negotiate",
    b"ntlm",
    b"kerberos",
    b"pop",
];

/// The parameters of a challenge, which tell how to authenticate.
const CHALLENGE: [&[u8]; 12] = [
    b"realm",
    b"error",
    b"error_description",
    b"error_codes",
    b"client_id",
    b"trusted_issuers",
    b"authorization_uri",
    b"token_types",
    b"algorithm",
    b"charset",
    b"scope",
    b"resource_id",
];

pub(super) fn is_challenge_parameter(name: &[u8]) -> bool {
    CHALLENGE
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

pub(super) fn redact<'a>(names: &Names, input: &'a [u8], context: Context) -> Cow<'a, [u8]> {
    // Ids, addresses and names of servers, as most texts of a record are: `benches/audit`, `summary`.
    if !context.cut && is_bare(input) {
        return Cow::Borrowed(input);
    }
    let mut scan = Scan {
        names,
        text: Text { input, context },
        edit: Edit::new(input),
        no_at_before: 0,
        budget: input.len().saturating_mul(8),
    };
    scan.run();
    scan.edit.finish()
}

/// Whether there are words alone, with nothing that could stand between a name and its secret.
fn is_bare(text: &[u8]) -> bool {
    text.iter().all(|&byte| in_word(byte) || byte == b'@')
        && !text.split(|&byte| byte == b'@').any(is_jwt)
}

/// A JSON Web Token: base64url of `{"`, and dots.
fn is_jwt(word: &[u8]) -> bool {
    word.len() >= 20
        && word.contains(&b'.')
        && (word.starts_with(b"eyJ") || memmem::find(word, b".eyJ").is_some())
}

struct Scan<'a, 'n> {
    names: &'n Names,
    text: Text<'a>,
    edit: Edit<'a>,
    /// Up to here no `@` ends a userinfo.
    no_at_before: usize,
    /// What searches for closing tags may still read.
    budget: usize,
}

impl<'a> Scan<'a, '_> {
    fn run(&mut self) {
        let mut at = 0;
        while let Some(byte) = self.text.at(at) {
            at = if in_word(byte) {
                self.word(at)
            } else if byte == b':' {
                self.userinfo(at)
            } else {
                at + 1
            };
        }
    }

    /// At a colon: credentials between `://` and `@`.
    fn userinfo(&mut self, colon: usize) -> usize {
        let start = if self.text.rest(colon).starts_with(b"://") {
            colon + 3
        } else if self.text.rest(colon).starts_with(b":\\/\\/") {
            colon + 5
        } else {
            return colon + 1;
        };
        let ends = |byte: u8| byte <= b' ' || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`');
        let mut end = self.text.until(start, |byte| {
            ends(byte) || matches!(byte, b'/' | b'?' | b'#' | b'\\')
        });
        let authority = self.text.input.get(start..end).unwrap_or_default();
        let mut at = memchr::memrchr(b'@', authority).map(|at| start + at);
        let password = memchr::memchr(b':', authority).is_some_and(|colon| {
            let port = authority.get(colon + 1..).unwrap_or_default();
            !authority.starts_with(b"[") && !port.iter().all(u8::is_ascii_digit)
        });
        // A password with a `/` in it ought to be escaped.
        if at.is_none() && password && start >= self.no_at_before {
            end = self.text.until(start, ends);
            at = memchr::memrchr(b'@', self.text.input.get(start..end).unwrap_or_default())
                .map(|at| start + at);
            if at.is_none() {
                self.no_at_before = end;
            }
        }
        if let Some(at) = at {
            self.edit.redact(start..at);
            return at;
        }
        if self.text.context.cut && end == self.text.input.len() {
            self.edit.redact(start..end);
            return end;
        }
        start
    }

    fn word(&mut self, start: usize) -> usize {
        let end = self.text.until(start, |byte| !in_word(byte));
        let word = self.text.input.get(start..end).unwrap_or_default();
        let half_a_jwt = self.text.context.cut && end == self.text.input.len();
        if is_jwt(word) || (half_a_jwt && word.starts_with(b"eyJ")) {
            self.edit.redact(start..end);
            return end;
        }
        if SCHEMES
            .iter()
            .any(|scheme| scheme.eq_ignore_ascii_case(word))
        {
            return self.credentials(end);
        }
        let folded = Folded::new(word);
        if self.names.in_text(&folded) && !self.text.before(start).ends_with(b"xmlns:") {
            if let Some(after) = self.tagged(start, end) {
                return after;
            }
            return self.value(end, is_header_line(&folded));
        }
        if self.in_query(start) && self.names.secret_field(word) {
            let equals = self.text.at(end) == Some(b'=');
            if equals {
                let stop = |byte: u8| {
                    byte <= b' ' || matches!(byte, b'&' | b'#' | b'"' | b'\'' | b'<' | b'>')
                };
                let value = self.text.until(end + 1, stop);
                self.edit.redact(end + 1..value);
                return value;
            }
        }
        end
    }

    /// A key of a query: after its mark, or at the begin of a form.
    fn in_query(&self, start: usize) -> bool {
        let before = self.text.before(start);
        match before.last() {
            None => true,
            Some(b'?' | b'&' | b'#') => true,
            Some(b';') => before.ends_with(b"&amp;"),
            Some(_) => before.ends_with(b"\\u0026"),
        }
    }

    /// After the name of a scheme: what was used to authenticate.
    fn credentials(&mut self, scheme_end: usize) -> usize {
        let mut start = self.text.until(scheme_end, |byte| !blank(byte));
        while self.text.rest(start).starts_with(b"%20") {
            start += 3;
        }
        if start == scheme_end && self.text.at(start) == Some(b'+') {
            start += 1;
        }
        if start == scheme_end {
            return scheme_end;
        }
        if let Some((from, to)) = self.text.quoted(start) {
            self.edit.redact(from..to);
            return to;
        }
        let ends = |byte: u8| {
            byte <= b' '
                || matches!(
                    byte,
                    b'"' | b'\'' | b'<' | b'>' | b',' | b';' | b'&' | b')' | b'\\' | b'`' | b'}'
                )
        };
        let begins = |byte: u8| in_word(byte) || matches!(byte, b'/' | b'+' | b'~' | b'=');
        if !self.text.at(start).is_some_and(begins) {
            return start;
        }
        let ahead = self.text.rest(start);
        let ahead = ahead.get(..ahead.len().min(32)).unwrap_or_default();
        let name = ahead.iter().take_while(|&&byte| in_word(byte)).count();
        if ahead.get(name) == Some(&b'=')
            && is_challenge_parameter(ahead.get(..name).unwrap_or_default())
        {
            return start;
        }
        // `Bearer authentication`, `Basic is off.`: words of a text.
        let letters = self
            .text
            .until(start + 1, |byte| !byte.is_ascii_lowercase());
        let dot = letters + usize::from(matches!(self.text.at(letters), Some(b'.' | b':')));
        if self
            .text
            .at(start)
            .is_some_and(|byte| byte.is_ascii_alphabetic())
            && self.text.at(dot).map_or(!self.text.context.cut, ends)
        {
            return start;
        }
        let end = self.text.until(start, ends);
        self.edit.redact(start..end);
        end
    }

    /// The content of an element, if the word names one: as such, or escaped inside of another text. The place where to go on.
    fn tagged(&mut self, start: usize, end: usize) -> Option<usize> {
        let mut name = start;
        if self.text.before(name).last() == Some(&b':') {
            let prefix = self.text.before(name - 1);
            let letters = prefix
                .iter()
                .rev()
                .take(64)
                .take_while(|&&byte| in_word(byte))
                .count();
            name -= letters + 1;
        }
        let before = self.text.before(name);
        if let Some(opening) = before.strip_suffix(b"/") {
            // The end of an element.
            if BRACKETS.iter().any(|(open, _)| opening.ends_with(open)) {
                return Some(end);
            }
        }
        let mut word = self.text.input.get(start..end).unwrap_or_default();
        let plain = BRACKETS.iter().find(|(open, _)| before.ends_with(open));
        let (open, close) = match plain {
            Some(brackets) => brackets,
            // `\u003c` and `%3C` end in letters, which were taken for the begin of the word.
            None => {
                let mark = name.checked_sub(1)?;
                let mut brackets = BRACKETS.iter().filter(|(open, _)| open.len() > 1);
                let found = brackets.find(|(open, _)| self.text.rest(mark).starts_with(open))?;
                if name == start {
                    word = word.get(found.0.len() - 1..).unwrap_or_default();
                }
                found
            }
        };
        if self.text.at(end) == Some(b':') {
            return Some(end);
        }
        let Some(tag_end) = self.text.end_of_tag(end, close) else {
            self.edit.redact(end..self.text.input.len());
            return Some(self.text.input.len());
        };
        let content = tag_end + close.len();
        if self.text.before(tag_end).ends_with(b"/") {
            return Some(content);
        }
        let until = self
            .closing_tag(content, open, word)
            .or_else(|| self.text.find(content, open))
            .unwrap_or(self.text.input.len());
        let text = self.text.input.get(content..until).unwrap_or_default();
        if !text.iter().all(u8::is_ascii_whitespace) {
            self.edit.redact(content..until);
        }
        Some(until)
    }

    /// Where the end tag of an element begins.
    fn closing_tag(&mut self, mut at: usize, open: &[u8], name: &[u8]) -> Option<usize> {
        loop {
            let found = self.text.find(at, open)?;
            self.budget = self.budget.checked_sub(found - at + 1)?;
            at = found + open.len();
            if let Some(tag) = self.text.rest(at).strip_prefix(b"/") {
                let tag = tag.get(..tag.len().min(128)).unwrap_or_default();
                let length = tag
                    .iter()
                    .position(|&byte| !in_word(byte) && byte != b':')
                    .unwrap_or(tag.len());
                let tag = tag.get(..length).unwrap_or_default();
                let local = tag.rsplit(|&byte| byte == b':').next().unwrap_or_default();
                if local.eq_ignore_ascii_case(name) {
                    return Some(found);
                }
            }
        }
    }

    /// After a name that has a secret behind it.
    fn value(&mut self, name_end: usize, line: bool) -> usize {
        let Some(start) = self.text.separated(name_end) else {
            return name_end;
        };
        let (from, to) = match self.text.quoted(start) {
            Some(value) => value,
            None if matches!(self.text.at(start), Some(b'{' | b'[')) => {
                (start, self.text.bracketed(start))
            }
            None if line => (start, self.text.line(start)),
            None => (start, self.text.bare(start)),
        };
        if matches!(
            self.text.input.get(from..to),
            Some(b"null" | b"true" | b"false" | b"None")
        ) {
            return to;
        }
        self.edit.redact(from..to);
        to
    }
}
