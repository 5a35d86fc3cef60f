//! A small XML reader over a whole request: byte ranges, namespaces where they matter, and a fast
//! way past everything else.
use std::borrow::Cow;
use std::ops::Range;

use memchr::memmem;
use smallvec::SmallVec;

use super::bindings::Bindings;
use super::find;
use super::outline_error::OutlineError;
use super::space::Space;
use super::tag::{Head, Tag, bang, close, instruction, tag, tag_from};

/// Elements inside elements, and namespaces declared at the same time: far more than EWS has, few
/// enough to stay quick.
const MAX_DEPTH: usize = 1024;

/// A start tag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    pub(super) space: Space,
    pub(super) local: &'a [u8],
    pub(super) attributes: &'a [u8],
    /// Where its `<` stands.
    pub(super) at: usize,
    /// Behind its `>`.
    pub(super) end: usize,
    pub(super) empty: bool,
}

impl<'a> Start<'a> {
    pub(super) fn is(&self, space: Space, local: &str) -> bool {
        self.space == space && self.local == local.as_bytes()
    }

    /// The raw value of an attribute without a prefix.
    pub(super) fn attribute(&self, name: &str) -> Option<&'a [u8]> {
        attributes(self.attributes)
            .find(|(key, _)| *key == name.as_bytes())
            .map(|(_, value)| value)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Event<'a> {
    Start(Start<'a>),
    End,
    Text(Range<usize>),
    CData(Range<usize>),
    Eof,
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    /// Names of the open elements, for their end tags.
    open: SmallVec<[(u32, u32); 16]>,
    bindings: Bindings<'a>,
}

/// The namespaces that are declared around a place, so that reading can begin there again: where
/// each prefix stands, and the namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope(SmallVec<[(u32, u32, Space); 4]>);

/// Ranges of members: most calls have one or two.
pub(super) type Members = SmallVec<[Range<usize>; 2]>;

type Result<T> = std::result::Result<T, OutlineError>;

impl<'a> Reader<'a> {
    /// Reads the byte order mark and the XML declaration, and refuses every encoding but UTF-8 and
    /// its subset.
    pub(super) fn new(body: &'a [u8]) -> Result<Reader<'a>> {
        if u32::try_from(body.len()).is_err() {
            return Err(OutlineError::TooLarge { len: body.len() });
        }
        if let [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] | [0, b'<', ..] | [b'<', 0, ..] = body {
            return Err(OutlineError::Encoding {
                name: "UTF-16".into(),
            });
        }
        let at = if body.starts_with(b"\xEF\xBB\xBF") {
            3
        } else {
            0
        };
        let mut reader = Reader {
            body,
            at,
            open: SmallVec::new(),
            bindings: Bindings::default(),
        };
        let rest = reader.rest(at);
        if rest.starts_with(b"<?xml") && rest.get(5).is_some_and(u8::is_ascii_whitespace) {
            let end =
                memmem::find(rest, b"?>").ok_or(OutlineError::Truncated { at: body.len() })?;
            let declared = attributes(rest.get(5..end).unwrap_or_default())
                .find(|(key, _)| *key == b"encoding");
            if let Some((_, name)) = declared {
                let known = [&b"utf-8"[..], b"utf8", b"us-ascii", b"ascii"];
                if !known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    let name = String::from_utf8_lossy(name.get(..40).unwrap_or(name)).into();
                    return Err(OutlineError::Encoding { name });
                }
            }
            reader.at = at + end + 2;
        }
        Ok(reader)
    }

    /// A reader of an element of which the scope is known.
    pub(super) fn within(body: &'a [u8], element: Range<usize>, scope: &Scope) -> Reader<'a> {
        let prefix = |at: u32, length: u32| body.get(at as usize..)?.get(..length as usize);
        let mut bindings = Bindings::default();
        for (at, length, space) in &scope.0 {
            if let Some(prefix) = prefix(*at, *length) {
                bindings.declare(0, prefix, *space);
            }
        }
        Reader {
            bindings,
            body: body.get(..element.end).unwrap_or_default(),
            at: element.start,
            open: SmallVec::new(),
        }
    }

    /// The namespaces that are declared here.
    pub(super) fn scope(&self) -> Scope {
        let begin = self.body.as_ptr().addr();
        let bindings = self.bindings.iter();
        Scope(
            bindings
                .map(|binding| match binding.prefix.len() {
                    0 => (0, 0, binding.space),
                    length => {
                        let at = binding.prefix.as_ptr().addr().saturating_sub(begin);
                        (at as u32, length as u32, binding.space)
                    }
                })
                .collect(),
        )
    }

    fn rest(&self, from: usize) -> &'a [u8] {
        self.body.get(from..).unwrap_or_default()
    }

    pub(super) fn bytes(&self, range: &Range<usize>) -> &'a [u8] {
        self.body.get(range.clone()).unwrap_or_default()
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn truncated<T>(&self) -> Result<T> {
        Err(OutlineError::Truncated {
            at: self.body.len(),
        })
    }

    /// The next event; comments and processing instructions are none. An empty element has no end
    /// of its own.
    pub(super) fn next(&mut self) -> Result<Event<'a>> {
        loop {
            let from = self.at;
            let end = find::markup(self.body, from).unwrap_or(self.body.len());
            if end > from {
                self.at = end;
                return Ok(Event::Text(from..end));
            }
            match self.body.get(from + 1) {
                Some(b'/') => {
                    let Some((start, length)) = self.open.pop() else {
                        return Err(OutlineError::Unbalanced { at: from });
                    };
                    self.at = close(self.body, from, start, length)?;
                    self.unbind();
                    return Ok(Event::End);
                }
                Some(b'!') => {
                    let (end, cdata) = bang(self.body, from)?;
                    self.at = end;
                    if cdata {
                        return Ok(Event::CData(from + 9..end - 3));
                    }
                }
                Some(b'?') => self.at = instruction(self.body, from)?,
                Some(_) => return self.start(from).map(Event::Start),
                None if from >= self.body.len() && self.open.is_empty() => return Ok(Event::Eof),
                None => return self.truncated(),
            }
        }
    }

    fn start(&mut self, at: usize) -> Result<Start<'a>> {
        let Tag {
            name_end,
            end,
            empty,
        } = tag(self.body, at)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(OutlineError::TooDeep { at });
        }
        let name = self.bytes(&(at + 1..name_end));
        let inner = if empty { end - 2 } else { end - 1 };
        let attributes = self.bytes(&(name_end..inner));
        let depth = self.open.len();
        let mut declared = self::attributes(attributes);
        for (key, value) in declared.by_ref() {
            let prefix = match key.strip_prefix(b"xmlns") {
                Some([]) => &[][..],
                Some([b':', prefix @ ..]) => prefix,
                _ => continue,
            };
            if self.bindings.len() >= MAX_DEPTH {
                return Err(OutlineError::TooDeep { at });
            }
            self.bindings.declare(depth + 1, prefix, Space::of(value));
        }
        if !is_blank(declared.rest) {
            return Err(OutlineError::Malformed { at });
        }
        let (prefix, local) = match name.iter().position(|byte| *byte == b':') {
            Some(colon) => (
                name.get(..colon).unwrap_or_default(),
                name.get(colon + 1..).unwrap_or_default(),
            ),
            None => (&[][..], name),
        };
        let space = self.bindings.find(prefix).unwrap_or(Space::Other);
        if empty {
            self.unbind();
        } else {
            self.open.push((at as u32 + 1, (name_end - at - 1) as u32));
        }
        self.at = end;
        Ok(Start {
            space,
            local,
            attributes,
            at,
            end,
            empty,
        })
    }

    /// Goes past the end of the innermost open element, whose end tag's range it returns.
    pub(super) fn skip(&mut self) -> Result<Range<usize>> {
        self.walk::<false>(|_| {}).map(|(end, _)| end)
    }

    /// As [`Reader::skip`], where the element's end is known already.
    pub(super) fn skip_to(&mut self, end: usize) {
        self.open.pop();
        self.unbind();
        self.at = end;
    }

    /// Forgets the namespaces of the elements that were closed.
    fn unbind(&mut self) {
        self.bindings.leave(self.open.len());
    }

    /// As [`Reader::skip`], and collects the range of each child element. Says also whether there
    /// was text between them.
    pub(super) fn members(&mut self) -> Result<(Range<usize>, Members, bool)> {
        let mut members = SmallVec::new();
        let (end, text) = self.walk::<true>(|member| members.push(member))?;
        Ok((end, members, text))
    }

    /// The hot path: finds `<` after `<`, follows quotes, CDATA, comments and names, and resolves
    /// nothing. The benchmark `batch` watches it. It is long: each part of it that was made a function
    /// of its own cost some three per cent.
    fn walk<const MEMBERS: bool>(
        &mut self,
        mut member: impl FnMut(Range<usize>),
    ) -> Result<(Range<usize>, bool)> {
        let body = self.body;
        let floor = self.open.len();
        let mut from = self.at;
        let mut next = find::markup(body, from);
        let mut begun = 0;
        let mut text = false;
        let mut head: Option<Head<'a>> = None;
        loop {
            let Some(at) = next else {
                return self.truncated();
            };
            let depth = self.open.len();
            if MEMBERS && depth == floor && from < at {
                text |= !is_blank(self.bytes(&(from..at)));
            }
            match body.get(at + 1) {
                Some(b'/') => {
                    let Some((start, length)) = self.open.pop() else {
                        return Err(OutlineError::Unbalanced { at });
                    };
                    from = close(body, at, start, length)?;
                    if depth == floor {
                        self.at = from;
                        self.unbind();
                        return Ok((at..from, text));
                    }
                    if MEMBERS && depth == floor + 1 {
                        member(begun..from);
                    }
                    next = find::markup(body, from);
                }
                Some(b'!') => {
                    let (end, cdata) = bang(body, at)?;
                    if MEMBERS && cdata && depth == floor {
                        text = true;
                    }
                    from = end;
                    next = find::markup(body, from);
                }
                Some(b'?') => {
                    from = instruction(body, at)?;
                    next = find::markup(body, from);
                }
                Some(_) => {
                    let tag = if MEMBERS && depth == floor {
                        let alike = head.filter(|head| head.begins(body, at));
                        let tag = match alike {
                            Some(head) => {
                                tag_from(body, at, at + head.name, at + head.bytes.len() - 1)?
                            }
                            None => tag(body, at)?,
                        };
                        if alike.is_none() {
                            head = Head::of(body, at, tag.name_end);
                        }
                        tag
                    } else {
                        tag(body, at)?
                    };
                    from = tag.end;
                    next = if from == tag.name_end + 1 {
                        // No wait for where the name ends: the processor can look for both at once.
                        find::next_markup(body, at + 2)
                    } else {
                        find::markup(body, from)
                    };
                    if tag.empty {
                        if MEMBERS && depth == floor {
                            member(at..from);
                        }
                        continue;
                    }
                    if depth >= MAX_DEPTH {
                        return Err(OutlineError::TooDeep { at });
                    }
                    let (start, length) = (at as u32 + 1, (tag.name_end - at - 1) as u32);
                    // Most elements hold a text and nothing else.
                    if let Some(closing) = next.filter(|next| body.get(next + 1) == Some(&b'/')) {
                        from = close(body, closing, start, length)?;
                        next = find::markup(body, from);
                        if MEMBERS && depth == floor {
                            member(at..from);
                        }
                        continue;
                    }
                    begun = if depth == floor { at } else { begun };
                    self.open.push((start, length));
                }
                None => return self.truncated(),
            }
        }
    }

    /// The text of an element whose start tag was just read, without the white space around it,
    /// entities resolved.
    pub(super) fn text(&mut self, start: &Start<'a>) -> Result<Cow<'a, str>> {
        let mut text = Cow::Borrowed("");
        if start.empty {
            return Ok(text);
        }
        loop {
            let part = match self.next()? {
                Event::Start(inner) if !inner.empty => {
                    self.skip()?;
                    continue;
                }
                Event::Start(_) => continue,
                Event::Text(range) => unescape(self.bytes(&range), range.start)?,
                Event::CData(range) => utf8(self.bytes(&range), range.start)?.into(),
                Event::End => return Ok(trimmed(text)),
                Event::Eof => return self.truncated(),
            };
            if text.is_empty() {
                text = part;
            } else {
                text.to_mut().push_str(&part);
            }
        }
    }

    /// The value of an attribute, without the white space around it, entities resolved.
    pub(super) fn value(&self, start: &Start<'a>, name: &str) -> Result<Option<Cow<'a, str>>> {
        let Some(raw) = start.attribute(name) else {
            return Ok(None);
        };
        unescape(raw, start.at).map(|value| Some(trimmed(value)))
    }
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => text.trim().into(),
        Cow::Owned(text) if text.trim().len() == text.len() => text.into(),
        Cow::Owned(text) => text.trim().to_owned().into(),
    }
}

fn utf8(bytes: &[u8], at: usize) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| OutlineError::InvalidUtf8 {
        at: at + error.valid_up_to(),
    })
}

fn unescape(raw: &[u8], at: usize) -> Result<Cow<'_, str>> {
    let raw = utf8(raw, at)?;
    quick_xml::escape::unescape(raw).map_err(|_| OutlineError::Entity { at })
}

pub(super) fn is_blank(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Names and raw values of attributes. Ends at the first thing that is none, which `rest` then
/// holds.
pub(super) fn attributes(rest: &[u8]) -> Attributes<'_> {
    Attributes { rest }
}

pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.trim_ascii_start();
        let is_end = |byte: &u8| *byte == b'=' || byte.is_ascii_whitespace();
        let (name, rest) = self.rest.split_at(self.rest.iter().position(is_end)?);
        if name.is_empty() {
            return None;
        }
        let value = rest
            .trim_ascii_start()
            .strip_prefix(b"=")?
            .trim_ascii_start();
        let (&quote, value) = value.split_first()?;
        if !matches!(quote, b'"' | b'\'') {
            return None;
        }
        let end = find::quote(value, 0, quote)?;
        self.rest = value.get(end + 1..)?;
        Some((name, value.get(..end)?))
    }
}
