//! Secrets in XML and HTML: the content of elements and the values of attributes, wherever they end.
//!
//! A reader of tags that forgives: what is malformed is read so that rather more than less is taken
//! for a secret.

use std::ops::Range;

use memchr::memchr;

use super::edit::Edits;
use super::entries::Entries;
use super::layers::plain;
use super::names::is_content;
use super::rules::Rules;
use super::text::Text;

/// Finds the secrets in XML, or in a text with tags in it.
pub(super) fn find(rules: &Rules, input: &[u8], cut: bool) -> Edits {
    read(rules, input, cut, false)
}

/// `nested`: this is the inside of a comment or a CDATA section, which can have none inside.
fn read(rules: &Rules, input: &[u8], cut: bool, nested: bool) -> Edits {
    let mut reader = Reader {
        rules,
        text: Text::new(input, cut),
        edits: Edits::default(),
        entries: Entries::default(),
        envelope: false,
        in_envelope: false,
    };
    let mut at = 0;
    while let Some(next) = reader.text.find_byte(at, b'<') {
        at = reader.markup(next, nested);
    }
    if cut {
        reader.entries.cut(input.len(), &mut reader.edits);
    }
    reader.edits
}

struct Reader<'a, 'r> {
    rules: &'r Rules,
    text: Text<'a>,
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
    /// Values of attributes that one beside them may name.
    unnamed: Vec<Range<usize>>,
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
    /// What begins with the `<` at `at`; the place where to go on.
    fn markup(&mut self, at: usize, nested: bool) -> usize {
        let rest = self.text.rest(at);
        if rest.starts_with(b"<!--") {
            return self.section(at + 4, b"-->", nested);
        }
        if rest.starts_with(b"<![CDATA[") {
            return self.section(at + 9, b"]]>", nested);
        }
        match rest.get(1) {
            Some(b'!') => {
                let end = self.doctype(at + 2);
                // An entity of it can hold anything.
                if rest
                    .get(2..9)
                    .is_some_and(|word| word.eq_ignore_ascii_case(b"doctype"))
                    && memchr(b'[', self.text.slice(at, end)).is_some()
                {
                    self.edits.redact(at + 2..end.saturating_sub(1).max(at + 2));
                }
                end
            }
            Some(b'/') => {
                let end = self.text.until(at + 2, ends_name);
                let name = self.text.slice(at + 2, end);
                let text = |from: usize| self.text.slice(from, at);
                self.entries
                    .end_tag(name, at, text, self.rules, &mut self.edits);
                end
            }
            Some(&byte) if begins_name(byte) => self.element(at + 1),
            _ => at + 1,
        }
    }

    /// A comment or a CDATA section: there may be tags in it.
    fn section(&mut self, start: usize, mark: &[u8], nested: bool) -> usize {
        if nested {
            return start;
        }
        let found = self.text.find(start, mark);
        let end = found.unwrap_or(self.text.input.len());
        let inside = self.text.slice(start, end);
        let found = read(
            self.rules,
            inside,
            self.text.context.cut || found.is_none(),
            true,
        );
        self.edits.extend(found, start);
        end
    }

    /// Past the `>` that ends a declaration.
    fn doctype(&self, start: usize) -> usize {
        let mut depth = 0usize;
        let mut at = start;
        while let Some(&byte) = self.text.input.get(at) {
            match byte {
                b'[' => depth += 1,
                b']' => depth = depth.saturating_sub(1),
                b'"' | b'\'' if depth > 0 => {
                    let Some(close) = self.text.find_byte(at + 1, byte) else {
                        return self.text.input.len();
                    };
                    at = close;
                }
                b'>' if depth == 0 => return at + 1,
                _ => {}
            }
            at += 1;
        }
        at
    }

    fn element(&mut self, start: usize) -> usize {
        let name_end = self.text.until(start, ends_name);
        let name = self.text.slice(start, name_end);
        let word = local(name);
        let kind = self.rules.names.look(word);
        let tag = self.tag(name_end, word);
        for value in &tag.values {
            let quote = self.text.before(value.start).last();
            match quote {
                Some(b'"' | b'\'') => self.edits.redact(value.clone()),
                _ => self.edits.redact_open(value.clone()),
            }
        }
        let secret = kind.is_secret()
            || tag.named_secret && !tag.has_value
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
        let end = self.end_of(tag.end, name).unwrap_or(self.text.input.len());
        let content = self.text.slice(tag.end, end);
        if !content.iter().all(u8::is_ascii_whitespace) {
            self.edits.redact(tag.end..end);
        }
        // Past its end tag.
        self.text.until(end, |byte| byte == b'>')
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
            end: self.text.input.len(),
            closed: false,
            values: Vec::new(),
            unnamed: Vec::new(),
            named_secret: false,
            has_name: false,
            has_value: false,
        };
        loop {
            at = self.text.until(at, |byte| byte > b' ');
            match self.text.input.get(at) {
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
                    tag.closed = self.text.input.get(at) == Some(&b'>');
                    continue;
                }
                Some(b'=' | b'"' | b'\'') => {
                    at += 1;
                    continue;
                }
                Some(_) => {}
            }
            at = self.attribute(at, element, &mut tag);
        }
        if tag.named_secret {
            tag.values.append(&mut tag.unnamed);
        }
        tag
    }

    /// Reads the attribute at `at`. Returns where to go on.
    fn attribute(&self, at: usize, element: &[u8], tag: &mut Tag) -> usize {
        let name_end = self.text.until(at, ends_name);
        let full = self.text.slice(at, name_end);
        let name = local(full);
        let equals = self.text.until(name_end, |byte| byte > b' ');
        if self.text.at(equals) != Some(b'=') {
            return name_end;
        }
        let start = self.text.until(equals + 1, |byte| byte > b' ');
        let kind = self.rules.names.look(name);
        let secret = !full.starts_with(b"xmlns") && kind.is_secret()
            || self.rules.mask && element == b"Constant" && name == b"Value";
        let (value, after) = self.attribute_value(start, secret);
        let is_input = element.eq_ignore_ascii_case(b"input");
        tag.has_value |= kind.is_value;
        if secret || is_input && name.eq_ignore_ascii_case(b"value") {
            tag.values.push(value);
        } else if kind.is_value {
            tag.unnamed.push(value);
        } else if kind.is_naming_key {
            tag.has_name = true;
            let named = plain(self.text.slice(value.start, value.end));
            tag.named_secret |= self.rules.names.secret(&named);
        }
        after
    }

    /// The value of an attribute that begins at `start`, and the place after it.
    fn attribute_value(&self, start: usize, secret: bool) -> (Range<usize>, usize) {
        let quote = self.text.at(start);
        let Some(quote) = quote.filter(|byte| matches!(byte, b'"' | b'\'')) else {
            let end = self.text.until(start, |byte| byte <= b' ' || byte == b'>');
            // The end of an element of its own.
            let is_closed =
                self.text.at(end) == Some(b'>') && self.text.before(end).ends_with(b"/");
            let end = end - usize::from(is_closed && end > start);
            return (start..end, end);
        };
        let from = start + 1;
        // No value has a `<`: one that was not closed ends there, unless it is a secret.
        let other = if secret { quote } else { b'<' };
        let close = self.text.find_either(from, quote, other);
        let end = close.unwrap_or(self.text.input.len());
        let after = end + usize::from(self.text.input.get(end) == Some(&quote));
        (from..end, after)
    }

    /// Where the end tag of the element begins whose content begins at `at`.
    fn end_of(&self, mut at: usize, name: &[u8]) -> Option<usize> {
        let mut depth = 1usize;
        loop {
            at = self.text.find_byte(at, b'<')?;
            let rest = self.text.rest(at + 1);
            if rest.starts_with(b"!--") {
                at = self.text.find(at + 4, b"-->")?;
                continue;
            }
            if rest.starts_with(b"![CDATA[") {
                at = self.text.find(at + 9, b"]]>")?;
                continue;
            }
            let closing = rest.first() == Some(&b'/');
            let begin = at + 1 + usize::from(closing);
            let same = self
                .text
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
            at = self
                .text
                .until(at, |byte| matches!(byte, b'>' | b'"' | b'\''));
            match *self.text.input.get(at)? {
                b'>' => {
                    let before = at.checked_sub(1).and_then(|at| self.text.input.get(at));
                    return Some((at + 1, before == Some(&b'/')));
                }
                quote => at = self.text.find_byte(at + 1, quote)? + 1,
            }
        }
    }
}
