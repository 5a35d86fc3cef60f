//! Secrets in JSON: the values of keys, and values that have a name beside them.

use std::borrow::Cow;
use std::mem;
use std::ops::Range;

use memchr::memchr3;

use super::edit::{Edits, REDACTED};
use super::layers::plain;
use super::names::is_content;
use super::rules::Rules;
use super::text::Text;

/// The most objects in one another that are told apart.
const DEPTH: usize = 256;

/// The most values of one object that are kept until its name comes.
const VALUES: usize = 4;

/// Finds the secrets in JSON, or in a text with JSON in it. `strings` says that what is no string is
/// to be replaced by one, so that JSON stays JSON.
pub(super) fn find(rules: &Rules, input: &[u8], cut: bool, strings: bool) -> Edits {
    let mut reader = Reader {
        rules,
        text: Text::new(input, cut),
        strings,
        edits: Edits::default(),
        object: Object::default(),
        around: Vec::new(),
        deeper: 0,
    };
    let mut at = 0;
    while let Some(byte) = input.get(at) {
        // Of a text that is no JSON, what is in braces.
        let is_outside = !strings && reader.around.is_empty();
        at = match byte {
            b'"' | b'[' if is_outside => at + 1,
            b'"' => reader.string(at),
            b'{' | b'[' => reader.open(at),
            b'}' | b']' => reader.close(at + 1),
            _ => at + 1,
        };
    }
    if cut {
        reader.cut();
    }
    reader.edits
}

/// An object or a list that is not closed yet.
#[derive(Default)]
struct Object {
    start: usize,
    /// It is the value that a name beside it may name.
    is_value: bool,
    /// What opens next is such a value in it.
    value_next: bool,
    /// After `"name": "password"`.
    named_secret: bool,
    values: Vec<Range<usize>>,
}

struct Reader<'a, 'r> {
    rules: &'r Rules,
    text: Text<'a>,
    strings: bool,
    edits: Edits,
    /// The innermost object that is open, or what is around all.
    object: Object,
    around: Vec<Object>,
    /// Objects that are open besides.
    deeper: usize,
}

impl<'a> Reader<'a, '_> {
    /// The quote that ends the string which begins at `open`.
    fn string_end(&self, open: usize) -> Option<usize> {
        let mut at = open + 1;
        loop {
            at = self.text.find_either(at, b'"', b'\\')?;
            if self.text.input.get(at) == Some(&b'"') {
                return Some(at);
            }
            at += 2;
        }
    }

    /// At a string. Returns where to go on: behind it, or behind its value if it is a key.
    fn string(&mut self, open: usize) -> usize {
        let Some(close) = self.string_end(open) else {
            return self.text.input.len();
        };
        let colon = self.text.skip_space(close + 1);
        // Behind a backslash it is the quote of JSON in a string.
        if self.text.at(colon) != Some(b':') || self.text.before(close).ends_with(b"\\") {
            return close + 1;
        }
        let start = self.text.skip_space(colon + 1);
        let key = decode(self.text.slice(open + 1, close));
        let first = self.text.at(start);
        let kind = self.rules.names.look(&key);
        if kind.is_naming_key && first == Some(b'"') {
            let end = self.string_end(start).unwrap_or(self.text.input.len());
            let name = decode(self.text.slice(start + 1, end));
            self.object.named_secret |= self.rules.names.secret(&name);
        }
        if kind.is_secret() || self.rules.mask && masked(&key, first) {
            let value = self.value(start);
            self.redact(value.clone());
            return value.end + usize::from(first == Some(b'"'));
        }
        if kind.is_value {
            return self.named_value(start);
        }
        start
    }

    /// A value that a name beside it may name.
    fn named_value(&mut self, start: usize) -> usize {
        let first = self.text.input.get(start);
        if matches!(first, Some(b'{' | b'[')) {
            self.object.value_next = true;
            return start;
        }
        let after = usize::from(first == Some(&b'"'));
        let value = self.value(start);
        let end = value.end + after;
        self.keep(value);
        end
    }

    fn keep(&mut self, value: Range<usize>) {
        let values = &mut self.object.values;
        if values.len() < VALUES {
            values.push(value);
        }
    }

    /// At the begin of an object or a list.
    fn open(&mut self, start: usize) -> usize {
        if self.deeper > 0 || self.around.len() == DEPTH {
            self.deeper += 1;
            return start + 1;
        }
        let object = Object {
            start,
            is_value: mem::take(&mut self.object.value_next),
            ..Object::default()
        };
        self.around.push(mem::replace(&mut self.object, object));
        start + 1
    }

    /// At the end of an object or a list.
    fn close(&mut self, end: usize) -> usize {
        if self.deeper > 0 {
            self.deeper -= 1;
            return end;
        }
        let around = self.around.pop().unwrap_or_default();
        let object = mem::replace(&mut self.object, around);
        if object.named_secret {
            object
                .values
                .into_iter()
                .for_each(|value| self.redact(value));
        }
        if object.is_value {
            self.keep(object.start..end);
        }
        end
    }

    /// The text is cut off: the names of these values may have followed. A list of objects is that of
    /// a collection as a rule.
    fn cut(&mut self) {
        let mut object = mem::take(&mut self.object);
        loop {
            let values = mem::take(&mut object.values).into_iter();
            for value in values {
                if object.named_secret || !self.is_of_objects(value.start) {
                    self.redact(value);
                }
            }
            let Some(around) = self.around.pop() else {
                break;
            };
            if object.is_value && (around.named_secret || !self.is_of_objects(object.start)) {
                self.redact(object.start..self.text.input.len());
            }
            object = around;
        }
    }

    /// Whether an object, or a list of anything but strings and numbers, begins here.
    fn is_of_objects(&self, start: usize) -> bool {
        match self.text.input.get(start) {
            Some(b'{') => true,
            Some(b'[') => {
                let first = self.text.input.get(self.text.skip_space(start + 1));
                matches!(first, None | Some(b'{' | b'[' | b']'))
            }
            _ => false,
        }
    }

    /// The value that begins at `start`; of a string its inside.
    fn value(&self, start: usize) -> Range<usize> {
        let range = match self.text.input.get(start) {
            Some(b'"') => start + 1..self.string_end(start).unwrap_or(self.text.input.len()),
            Some(b'{' | b'[') => start..self.bracketed(start),
            _ => {
                let end = self.text.until(start, |byte| {
                    byte <= b' ' || matches!(byte, b',' | b'}' | b']')
                });
                start..end
            }
        };
        range.start..range.end.max(range.start)
    }

    fn redact(&mut self, range: Range<usize>) {
        let value = self.text.slice(range.start, range.end);
        let is_string = self.text.before(range.start).ends_with(b"\"");
        match value {
            b"{}" | b"[]" | b"null" | b"true" | b"false" => {}
            _ if is_string => self.edits.redact(range),
            _ if self.strings => self.edits.replace(range, [b"\"", REDACTED, b"\""].concat()),
            // No number, but something in a text that is no JSON yet.
            _ if memchr3(b'\\', b'&', b'%', value).is_some() => self.edits.redact_open(range),
            _ => self.edits.redact(range),
        }
    }

    /// Past an object or a list.
    fn bracketed(&self, start: usize) -> usize {
        let mut depth = 0usize;
        let mut at = start;
        while let Some(byte) = self.text.input.get(at) {
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
                    None => break,
                },
                _ => {}
            }
            at += 1;
        }
        self.text.input.len()
    }
}

/// Of an object called `body` or `location` only the strings in it.
fn masked(key: &[u8], first: Option<u8>) -> bool {
    first == Some(b'"') && is_content(key) || first == Some(b'[') && key == b"categories"
}

/// A key whose letters were escaped, as they are.
fn decode(key: &[u8]) -> Cow<'_, [u8]> {
    match key.contains(&b'\\') {
        true => plain(key),
        false => Cow::Borrowed(key),
    }
}
