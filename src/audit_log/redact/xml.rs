//! Secrets in XML and HTML: the content of elements and the values of attributes, wherever they end.
//!
//! A reader of tags that forgives: what is malformed is read so that rather more than less is taken
//! for a secret.

use std::ops::Range;

use memchr::{memchr, memchr2, memmem};

use super::edit::Edits;
use super::entries::Entries;
use super::layers::plain;
use super::names::is_content;
use super::rules::Rules;

/// Finds the secrets in XML, or in a text with tags in it.
pub(super) fn find(rules: &Rules, input: &[u8], cut: bool) -> Edits {
    read(rules, input, cut, false)
}

/// `nested`: this is the inside of a comment or a CDATA section, which can have none inside.
fn read(rules: &Rules, input: &[u8], cut: bool, nested: bool) -> Edits {
    let mut reader = Reader {
        rules,
        input,
        edits: Edits::default(),
        entries: Entries::default(),
        envelope: false,
        in_envelope: false,
    };
    let mut at = 0;
    while let Some(next) = memchr(b'<', reader.rest(at)) {
        at = reader.markup(at + next, cut, nested);
    }
    if cut {
        reader.entries.cut(input.len(), &mut reader.edits);
    }
    reader.edits
}

struct Reader<'a, 'r> {
    rules: &'r Rules,
    input: &'a [u8],
    edits: Edits,
    entries: Entries<'a>,
    /// The next `Body` is the one of the envelope.
    envelope: bool,
    in_envelope: bool,
}

/// A start tag that was read.
struct Tag {
    end: usize,
    closed: bool,
    /// Values of attributes that are secret.
    values: Vec<Range<usize>>,
    /// It has an attribute that says that its value is secret.
    named_secret: bool,
    has_name: bool,
    has_value: bool,
}

fn local(name: &[u8]) -> &[u8] {
    name.rsplit(|&byte| byte == b':').next().unwrap_or_default()
}

fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b':' || byte >= 0x80
}

fn ends_name(byte: u8) -> bool {
    byte <= b' ' || matches!(byte, b'/' | b'>' | b'<' | b'=' | b'"' | b'\'')
}

impl<'a> Reader<'a, '_> {
    fn rest(&self, at: usize) -> &'a [u8] {
        self.input.get(at..).unwrap_or_default()
    }

    fn find(&self, at: usize, what: &[u8]) -> Option<usize> {
        memmem::find(self.rest(at), what).map(|found| at + found)
    }

    fn until(&self, at: usize, stop: impl Fn(u8) -> bool) -> usize {
        let rest = self.rest(at);
        at + rest
            .iter()
            .position(|&byte| stop(byte))
            .unwrap_or(rest.len())
    }

    /// What begins with the `<` at `at`; the place where to go on.
    fn markup(&mut self, at: usize, cut: bool, nested: bool) -> usize {
        let rest = self.rest(at);
        if rest.starts_with(b"<!--") {
            return self.section(at + 4, b"-->", cut, nested);
        }
        if rest.starts_with(b"<![CDATA[") {
            return self.section(at + 9, b"]]>", cut, nested);
        }
        match rest.get(1) {
            Some(b'!') => {
                let end = self.doctype(at + 2);
                // An entity of it can hold anything.
                if rest
                    .get(2..9)
                    .is_some_and(|word| word.eq_ignore_ascii_case(b"doctype"))
                    && memchr(b'[', self.input.get(at..end).unwrap_or_default()).is_some()
                {
                    self.edits.redact(at + 2..end.saturating_sub(1).max(at + 2));
                }
                end
            }
            Some(b'/') => {
                let end = self.until(at + 2, ends_name);
                let name = self.input.get(at + 2..end).unwrap_or_default();
                let text = |from: usize| self.input.get(from..at).unwrap_or_default();
                self.entries
                    .end_tag(name, at, text, self.rules, &mut self.edits);
                end
            }
            Some(&byte) if begins_name(byte) => self.element(at + 1),
            _ => at + 1,
        }
    }

    /// A comment or a CDATA section: there may be tags in it.
    fn section(&mut self, start: usize, mark: &[u8], cut: bool, nested: bool) -> usize {
        if nested {
            return start;
        }
        let found = self.find(start, mark);
        let end = found.unwrap_or(self.input.len());
        let inside = self.input.get(start..end).unwrap_or_default();
        let found = read(self.rules, inside, cut || found.is_none(), true);
        self.edits.extend(found, start);
        end
    }

    /// Past the `>` that ends a declaration.
    fn doctype(&self, start: usize) -> usize {
        let mut depth = 0usize;
        let mut at = start;
        while let Some(&byte) = self.input.get(at) {
            match byte {
                b'[' => depth += 1,
                b']' => depth = depth.saturating_sub(1),
                b'"' | b'\'' if depth > 0 => {
                    let Some(close) = memchr(byte, self.rest(at + 1)) else {
                        return self.input.len();
                    };
                    at += close + 1;
                }
                b'>' if depth == 0 => return at + 1,
                _ => {}
            }
            at += 1;
        }
        at
    }

    fn element(&mut self, start: usize) -> usize {
        let name_end = self.until(start, ends_name);
        let name = self.input.get(start..name_end).unwrap_or_default();
        let word = local(name);
        let kind = self.rules.names.look(word);
        let tag = self.tag(name_end, word);
        for value in &tag.values {
            self.edits.redact(value.clone());
        }
        let secret = kind.is_secret()
            || tag.named_secret
            || self.entries.names_secret(kind)
            || self.rules.mask && self.is_content(word, &tag);
        if tag.closed {
            // `<ExtendedFieldURI PropertyName="Password"/><Value>...</Value>`
            if tag.named_secret && !tag.has_value {
                self.entries.name_found(&mut self.edits);
            }
            return tag.end;
        }
        if !secret {
            self.entries.start_tag(name, kind, tag.end);
            return tag.end;
        }
        let end = self.end_of(tag.end, name).unwrap_or(self.input.len());
        let content = self.input.get(tag.end..end).unwrap_or_default();
        if !content.iter().all(u8::is_ascii_whitespace) {
            self.edits.redact(tag.end..end);
        }
        // Past its end tag.
        self.until(end, |byte| byte == b'>')
    }

    fn is_content(&mut self, word: &[u8], tag: &Tag) -> bool {
        match word {
            b"Envelope" if !self.in_envelope => {
                (self.envelope, self.in_envelope) = (true, true);
                false
            }
            // Not the body of a message.
            b"Body" if self.envelope => {
                self.envelope = false;
                false
            }
            // An extended property's; the ones with a name are the server's own, such as BackOffMilliseconds.
            b"Value" => !tag.has_name,
            _ => is_content(word),
        }
    }

    /// Reads attributes up to the end of a start tag.
    fn tag(&self, mut at: usize, element: &[u8]) -> Tag {
        let mut tag = Tag {
            end: self.input.len(),
            closed: false,
            values: Vec::new(),
            named_secret: false,
            has_name: false,
            has_value: false,
        };
        let mut unnamed = Vec::new();
        loop {
            at = self.until(at, |byte| byte > b' ');
            match self.input.get(at) {
                None => {
                    // What the value is called may have been cut off.
                    tag.named_secret = true;
                    break;
                }
                Some(b'>') => {
                    tag.end = at + 1;
                    break;
                }
                // Malformed: another tag begins.
                Some(b'<') => {
                    tag.end = at;
                    break;
                }
                Some(b'/') => {
                    at += 1;
                    tag.closed = self.input.get(at) == Some(&b'>');
                    continue;
                }
                Some(b'=' | b'"' | b'\'') => {
                    at += 1;
                    continue;
                }
                Some(_) => {}
            }
            let name_end = self.until(at, ends_name);
            let full = self.input.get(at..name_end).unwrap_or_default();
            let name = local(full);
            let equals = self.until(name_end, |byte| byte > b' ');
            if self.input.get(equals) != Some(&b'=') {
                at = name_end;
                continue;
            }
            let start = self.until(equals + 1, |byte| byte > b' ');
            let kind = self.rules.names.look(name);
            let secret = !full.starts_with(b"xmlns") && kind.is_secret()
                || self.rules.mask && element == b"Constant" && name == b"Value";
            let (value, after) = self.attribute(start, secret);
            let is_input = element.eq_ignore_ascii_case(b"input");
            tag.has_value |= kind.is_value;
            if secret || is_input && name.eq_ignore_ascii_case(b"value") {
                tag.values.push(value);
            } else if kind.is_value {
                unnamed.push(value);
            } else if kind.is_naming {
                tag.has_name = true;
                let named = plain(self.input.get(value).unwrap_or_default());
                tag.named_secret |= self.rules.names.secret(&named);
            }
            at = after;
        }
        if tag.named_secret {
            tag.values.extend(unnamed);
        }
        tag
    }

    /// The value of an attribute that begins at `start`, and the place after it.
    fn attribute(&self, start: usize, secret: bool) -> (Range<usize>, usize) {
        let Some(&quote) = self
            .input
            .get(start)
            .filter(|byte| matches!(byte, b'"' | b'\''))
        else {
            let end = self.until(start, |byte| byte <= b' ' || byte == b'>');
            return (start..end, end);
        };
        let from = start + 1;
        let close = if secret {
            memchr(quote, self.rest(from))
        } else {
            // No value has a `<`: one that was not closed ends there.
            memchr2(quote, b'<', self.rest(from))
        };
        let end = from + close.unwrap_or(self.rest(from).len());
        let after = end + usize::from(self.input.get(end) == Some(&quote));
        (from..end, after)
    }

    /// Where the end tag of the element begins whose content begins at `at`.
    fn end_of(&self, mut at: usize, name: &[u8]) -> Option<usize> {
        let mut depth = 1usize;
        loop {
            at = self.find(at, b"<")?;
            let rest = self.rest(at + 1);
            if rest.starts_with(b"!--") {
                at = self.find(at + 4, b"-->")?;
                continue;
            }
            if rest.starts_with(b"![CDATA[") {
                at = self.find(at + 9, b"]]>")?;
                continue;
            }
            let closing = rest.first() == Some(&b'/');
            let begin = at + 1 + usize::from(closing);
            let same = self
                .rest(begin)
                .strip_prefix(name)
                .is_some_and(|after| after.first().is_none_or(|&byte| ends_name(byte)));
            if same && closing {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            } else if same {
                let (end, closed) = self.end_of_tag(begin)?;
                depth += usize::from(!closed);
                at = end;
                continue;
            }
            at = begin;
        }
    }

    /// Past a start tag, and whether it is an element of its own.
    fn end_of_tag(&self, mut at: usize) -> Option<(usize, bool)> {
        loop {
            at = self.until(at, |byte| matches!(byte, b'>' | b'"' | b'\''));
            match *self.input.get(at)? {
                b'>' => {
                    let before = at.checked_sub(1).and_then(|at| self.input.get(at));
                    return Some((at + 1, before == Some(&b'/')));
                }
                quote => at += memchr(quote, self.rest(at + 1))? + 2,
            }
        }
    }
}
