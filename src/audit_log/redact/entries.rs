//! [`Entries`]: the open elements of XML, in which one element can name the secret in another one.
//!
//! Such as `<DictionaryKey><Value>password</Value></DictionaryKey>` beside a `DictionaryValue`, or
//! `<key>password</key><string>...</string>`.

use std::ops::Range;

use super::edit::Edits;
use super::layers::plain;
use super::names::Kind;
use super::rules::Rules;

/// The most elements in one another that are told apart.
const DEPTH: usize = 256;

/// How many elements an end tag may close: HTML leaves some open.
const UNCLOSED: usize = 16;

/// The most values of one element that are kept until the name beside them comes.
const VALUES: usize = 4;

/// The longest text that is taken for a name.
const LONGEST_NAME: usize = 256;

/// The elements that are open.
#[derive(Default)]
pub(super) struct Entries<'a> {
    /// What is around all elements, or was when there were too many.
    around: Open<'a>,
    open: Vec<Open<'a>>,
    /// Elements that are open besides.
    deeper: usize,
}

#[derive(Default)]
struct Open<'a> {
    name: &'a [u8],
    kind: Kind,
    content: usize,
    /// Where the text behind its last child begins.
    text: usize,
    /// How many elements are around the entry that this one is, or is part of, the name of.
    names: Option<usize>,
    /// Whether the values beside its name are secret.
    named_secret: bool,
    has_name: bool,
    values: Vec<Range<usize>>,
}

impl Open<'_> {
    /// Its name is that of a secret.
    fn found(&mut self, edits: &mut Edits) {
        self.named_secret = true;
        for value in self.values.drain(..) {
            edits.redact(value);
        }
    }
}

impl<'a> Entries<'a> {
    fn entry(&mut self) -> &mut Open<'a> {
        self.open.last_mut().unwrap_or(&mut self.around)
    }

    /// Whether an element of this kind that begins here is named as a secret by one beside it.
    pub(super) fn names_secret(&mut self, kind: Kind) -> bool {
        self.deeper == 0 && kind.is_value && self.entry().named_secret
    }

    /// What is beside this place is named as a secret.
    pub(super) fn name_found(&mut self, edits: &mut Edits) {
        if self.deeper == 0 {
            self.entry().found(edits);
        }
    }

    pub(super) fn start_tag(&mut self, name: &'a [u8], kind: Kind, content: usize) {
        if self.deeper > 0 || self.open.len() == DEPTH {
            self.deeper += 1;
            return;
        }
        let around = self.open.len();
        let entry = self.entry();
        let names = entry.names.or(kind.is_naming.then_some(around));
        if kind.is_naming {
            if entry.has_name {
                // One name and value after the other.
                entry.values.clear();
            }
            (entry.named_secret, entry.has_name) = (false, true);
        }
        self.open.push(Open {
            name,
            kind,
            content,
            text: content,
            names,
            ..Open::default()
        });
    }

    /// At the end tag at `end`; `text` is what stands before it from a place on.
    pub(super) fn end_tag(
        &mut self,
        name: &[u8],
        end: usize,
        text: impl Fn(usize) -> &'a [u8],
        rules: &Rules,
        edits: &mut Edits,
    ) {
        if self.deeper > 0 {
            self.deeper -= 1;
            return;
        }
        let mut last = self.open.iter().rev().take(UNCLOSED);
        let Some(above) = last.position(|open| open.name == name) else {
            return;
        };
        self.open.truncate(self.open.len() - above);
        let Some(closed) = self.open.pop() else {
            return;
        };
        if let Some(around) = closed.names {
            if is_secret(rules, text(closed.text)) {
                match around.checked_sub(1).and_then(|at| self.open.get_mut(at)) {
                    Some(entry) => entry.found(edits),
                    None => self.around.found(edits),
                }
            }
        }
        let entry = self.entry();
        entry.text = end;
        if closed.kind.is_value && closed.names.is_none() && entry.values.len() < VALUES {
            entry.values.push(closed.content..end);
        }
    }

    /// The text is cut off at `end`: the names of these values may have followed.
    pub(super) fn cut(&mut self, end: usize, edits: &mut Edits) {
        let mut is_named = true;
        for open in &mut self.open {
            if open.kind.is_value && !is_named {
                edits.redact(open.content..end);
            }
            open.values.drain(..).for_each(|value| edits.redact(value));
            is_named = open.has_name;
        }
    }
}

/// Whether this text is the name of a secret.
fn is_secret(rules: &Rules, text: &[u8]) -> bool {
    let text = text.get(..text.len().min(LONGEST_NAME)).unwrap_or_default();
    let mut text = text.trim_ascii();
    // Behind the end tag of a child.
    if text.starts_with(b"</") {
        let tag = text.iter().position(|byte| *byte == b'>');
        text = tag
            .and_then(|tag| text.get(tag + 1..))
            .unwrap_or_default()
            .trim_ascii();
    }
    if let Some(inside) = text.strip_prefix(b"<![CDATA[") {
        text = inside.strip_suffix(b"]]>").unwrap_or(inside).trim_ascii();
    }
    !text.is_empty() && rules.names.secret(&plain(text))
}
