//! Secrets in any text, without knowing its format: `password=...`, `Bearer ...`, credentials in a
//! URL, keys and tokens that are known by their shape.
//!
//! One pass. What searches ahead either consumes what it has read or is bounded.

use super::edit::{Edits, REDACTED};
use super::names::{Names, Secrecy, is_header_line};
use super::shapes::{self, is_challenge_parameter, is_jwt, is_scheme};
use super::text::{Context, Text, in_word, is_blank};

/// The longest lower-case word that is taken for one of a language behind `Bearer` or `Basic`.
const LONGEST_WORD: usize = 15;

/// The shortest credentials that are recognised on the line behind their scheme.
const SHORTEST_ON_NEXT_LINE: usize = 16;

pub(super) fn find(names: &Names, input: &[u8], context: Context) -> Edits {
    let mut scan = Scan {
        names,
        text: Text { input, context },
        edits: Edits::default(),
        no_at_before: 0,
    };
    // Ids, addresses and names of servers, as most texts of a record are: `benches/audit`, `summary`.
    if context.cut || !is_bare(input) {
        scan.run();
    }
    scan.edits
}

/// Whether there are words alone, with nothing that could stand between a name and its secret.
pub(super) fn is_bare(text: &[u8]) -> bool {
    text.iter().all(|&byte| in_word(byte) || byte == b'@')
        && !text
            .split(|&byte| byte == b'@')
            .any(|word| is_jwt(word) || shapes::is_ntlm(word))
}

struct Scan<'a, 'n> {
    names: &'n Names,
    text: Text<'a>,
    edits: Edits,
    /// Up to here no `@` ends a userinfo.
    no_at_before: usize,
}

impl<'a> Scan<'a, '_> {
    fn run(&mut self) {
        let mut at = 0;
        while let Some(byte) = self.text.at(at) {
            at = if in_word(byte) {
                self.word(at)
            } else if byte == b'/' && self.text.rest(at).starts_with(b"//") {
                self.userinfo(at)
            } else {
                at + 1
            };
        }
    }

    /// Whether what ends here may go on, since the text is cut off.
    fn is_cut(&self, end: usize) -> bool {
        self.text.context.cut && end == self.text.input.len()
    }

    /// Redacts up to `to`, and returns where to go on.
    fn redact(&mut self, from: usize, to: usize) -> usize {
        if self.text.slice(from, to) != REDACTED {
            self.edits.redact(from..to);
        }
        to
    }

    /// At `//`: credentials before an `@`.
    fn userinfo(&mut self, slashes: usize) -> usize {
        let start = slashes + 2;
        let is_url = self.text.before(slashes).ends_with(b":");
        let ends = |byte: u8| byte <= b' ' || matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'`');
        let mut end = self.text.until(start, |byte| {
            ends(byte) || matches!(byte, b'/' | b'?' | b'#' | b'\\')
        });
        let authority = self.text.slice(start, end);
        let mut at = memchr::memrchr(b'@', authority).map(|at| start + at);
        let has_password = memchr::memchr(b':', authority).is_some_and(|colon| {
            let port = authority.get(colon + 1..).unwrap_or_default();
            !authority.starts_with(b"[") && !port.iter().all(u8::is_ascii_digit)
        });
        if !is_url && !has_password {
            return start;
        }
        // A password with a `/` in it ought to be escaped.
        if at.is_none() && is_url && has_password && start >= self.no_at_before {
            end = self.text.until(start, ends);
            at = memchr::memrchr(b'@', self.text.slice(start, end)).map(|at| start + at);
            if at.is_none() {
                self.no_at_before = end;
            }
        }
        if let Some(at) = at {
            return self.redact(start, at);
        }
        if self.is_cut(end) {
            return self.redact(start, end);
        }
        start
    }

    fn word(&mut self, start: usize) -> usize {
        let end = self.text.until(start, |byte| !in_word(byte));
        let word = self.text.slice(start, end);
        if word.ends_with(shapes::PEM_BEGIN) {
            return self.pem(end);
        }
        if is_jwt(word) || self.is_cut(end) && shapes::begins_jwt(word) {
            return self.redact(start, end);
        }
        if shapes::is_ntlm(word) {
            let end = self.text.until(end, |byte| !shapes::in_base64(byte));
            return self.redact(start, end);
        }
        if is_scheme(word) {
            if let Some(after) = self.credentials(end) {
                return after;
            }
        }
        if !self.text.may_separate(end) && !word.starts_with(b"-") {
            return end;
        }
        let kind = self.names.look(word);
        let named = if kind.is_naming_key {
            self.naming(end)
        } else {
            None
        };
        named
            .or_else(|| self.name(start, end, kind.secrecy))
            .unwrap_or(end)
    }

    /// A private key, or another block of PEM.
    fn pem(&mut self, begin: usize) -> usize {
        let Some((label, content)) = shapes::pem_label(self.text.rest(begin)) else {
            return begin;
        };
        // The text between them was written to be read.
        if label.starts_with(b" PGP SIGN") {
            return begin;
        }
        let content = begin + content;
        let end = self.text.find(content, b"-----END");
        self.redact(content, end.unwrap_or(self.text.input.len()))
    }

    /// After the name of a scheme: what was used to authenticate. `None` if there is no such thing.
    fn credentials(&mut self, scheme_end: usize) -> Option<usize> {
        let mut start = self.text.until(scheme_end, |byte| !is_blank(byte));
        if start == scheme_end && self.text.at(start) == Some(b'+') {
            start += 1;
        }
        let is_next_line = matches!(self.text.at(start), Some(b'\r' | b'\n'));
        if is_next_line {
            start = self.text.skip_space(start);
        }
        if start == scheme_end {
            return None;
        }
        if let Some((from, to)) = self.text.quoted(start) {
            return Some(self.redact_unless_name(from, to));
        }
        let begins = |byte: u8| in_word(byte) || matches!(byte, b'/' | b'+' | b'~' | b'=');
        if !self.text.at(start).is_some_and(begins) {
            return None;
        }
        let name = self.text.until(start, |byte| !in_word(byte));
        let word = self.text.slice(start, name);
        let is_parameter = self.text.at(name) == Some(b'=') && is_challenge_parameter(word);
        if is_parameter || word.ends_with(shapes::PEM_BEGIN) {
            return None;
        }
        if self.is_prose(start) {
            return None;
        }
        let end = self.text.until(start, shapes::ends_credentials);
        if is_next_line && end - start < SHORTEST_ON_NEXT_LINE && !self.is_cut(end) {
            return None;
        }
        Some(self.redact_unless_name(start, end))
    }

    /// Redacts what may itself be the name of a secret that follows. Returns where to go on.
    fn redact_unless_name(&mut self, from: usize, to: usize) -> usize {
        let word_end = self.text.until(from, |byte| !in_word(byte));
        if word_end <= to && self.names.secret(self.text.slice(from, word_end)) {
            self.edits.redact_open(from..to);
            return from;
        }
        self.redact(from, to)
    }

    /// `Bearer authentication`, `Basic is off.`: words of a language.
    fn is_prose(&self, start: usize) -> bool {
        let first = self.text.at(start);
        let letters = self
            .text
            .until(start + 1, |byte| !byte.is_ascii_lowercase());
        let dot = letters + usize::from(matches!(self.text.at(letters), Some(b'.' | b':')));
        let ends = self.text.at(dot).map_or(!self.text.context.cut, |byte| {
            shapes::ends_credentials(byte)
        });
        let is_word = first.is_some_and(|byte| byte.is_ascii_alphabetic());
        is_word && ends && letters - start <= LONGEST_WORD
    }

    /// A name that has a secret behind it. Returns where to go on, if there is a value.
    fn name(&mut self, start: usize, end: usize, secrecy: Secrecy) -> Option<usize> {
        let word = self.text.slice(start, end);
        if secrecy == Secrecy::Harmless || self.text.before(start).ends_with(b"xmlns:") {
            return self.digest_response(word, end);
        }
        // What is in quotes is no parameter of a URL.
        let is_string = matches!(self.text.at(end + 1), Some(b'"' | b'\'' | b'`' | b'\\'));
        if secrecy < Secrecy::Anywhere && self.text.at(end) == Some(b'=') && !is_string {
            if let Some(ends) = self.parameter_of(start) {
                let to = self
                    .text
                    .until(end + 1, |byte| byte <= b' ' || ends.contains(&byte));
                return Some(self.redact(end + 1, to));
            }
        }
        let is_quoted = self.text.is_quoted(start, end);
        if let Some((from, to)) = self.text.second_of_pair(start, end) {
            if secrecy >= Secrecy::Name {
                return Some(self.redact(from, to));
            }
        }
        // `--password hunter2`
        if secrecy == Secrecy::Anywhere && word.starts_with(b"-") {
            if let Some(b' ') = self.text.at(end) {
                let value = self.text.until(end, |byte| !is_blank(byte));
                return Some(self.value_at(value, false));
            }
        }
        let separated = self.text.separated(end)?;
        let counts = match secrecy {
            Secrecy::Anywhere => true,
            Secrecy::Name => {
                separated.is_equals || is_quoted || self.text.quoted(separated.start).is_some()
            }
            _ => false,
        };
        counts.then(|| self.value_at(separated.start, is_header_line(word)))
    }

    /// `response="..."` of `Digest`.
    fn digest_response(&mut self, word: &[u8], end: usize) -> Option<usize> {
        if !word.eq_ignore_ascii_case(b"response") || !self.text.rest(end).starts_with(b"=\"") {
            return None;
        }
        let from = end + 2;
        let to = self.text.until(from, |byte| !byte.is_ascii_hexdigit());
        (to - from >= 32).then(|| self.redact(from, to))
    }

    /// `name: DB_PASSWORD, value: ...`; `name_end` is where the first word ends.
    fn naming(&mut self, name_end: usize) -> Option<usize> {
        let text = self.text;
        let next_word = |at: usize| {
            let near = text.near(at);
            let marks = near.iter().take_while(|byte| !in_word(**byte)).count();
            let start = at + marks;
            (start, text.until(start, |byte| !in_word(byte)))
        };
        let (start, end) = next_word(text.separated(name_end)?.start);
        if !self.names.secret(self.text.slice(start, end)) {
            return None;
        }
        let (value, value_end) = next_word(end);
        if !self.names.look(self.text.slice(value, value_end)).is_value {
            return None;
        }
        let separated = text.separated(value_end)?;
        Some(self.value_at(separated.start, false))
    }

    /// Where a name is a key of a query, a form or a path: after its mark, or at the begin of a text.
    /// Returns what ends its value.
    fn parameter_of(&self, start: usize) -> Option<&'static [u8]> {
        let before = self.text.near_before(start);
        let is_url = || {
            let url = before.rsplit(|byte| *byte <= b' ' || *byte == b'"').next();
            url.is_some_and(|url| url.contains(&b'/'))
        };
        match before.last() {
            None | Some(b'?' | b'&' | b'#') => Some(b"&#\"'<>"),
            Some(b';') if before.ends_with(b"&amp;") => Some(b"&#\"'<>"),
            Some(b';') if is_url() => Some(b"&#\"'<>;/?"),
            _ => None,
        }
    }

    /// The value that begins at `start`. Returns where it ends.
    fn value_at(&mut self, start: usize, is_line: bool) -> usize {
        if let Some((from, to)) = self.text.quoted(start) {
            return self.secret_value(from, to);
        }
        if matches!(self.text.at(start), Some(b'{' | b'[')) {
            return self.secret_value(start, self.text.bracketed(start));
        }
        let end = match is_line {
            true => self.text.line(start),
            false => self
                .text
                .block(start)
                .unwrap_or_else(|| self.text.bare(start)),
        };
        let is_open = self
            .text
            .slice(start, self.text.input.len().min(end + 1))
            .iter()
            .any(|byte| matches!(byte, b'&' | b'\\' | b'%'));
        if is_open {
            self.edits.redact_open(start..end);
            return end;
        }
        if shapes::is_nothing(self.text.slice(start, end)) {
            return end;
        }
        self.redact_unless_name(start, end)
    }

    fn secret_value(&mut self, from: usize, to: usize) -> usize {
        if shapes::is_nothing(self.text.slice(from, to)) {
            return to;
        }
        self.redact(from, to)
    }
}
