//! A small XML reader over a whole request: byte ranges, namespaces where they matter, and a fast way past everything else.
use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memmem};

use super::outline::OutlineError;

/// Elements inside elements, and namespaces declared at the same time: far more than EWS has, few enough to stay quick.
const MAX_DEPTH: usize = 1024;

/// The namespaces that EWS requests are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Soap,
    Messages,
    Types,
    Other,
}

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
    open: Vec<(u32, u32)>,
    /// Prefix and namespace, with the number of elements that were open where they were declared.
    bindings: Vec<(usize, &'a [u8], Space)>,
}

type Result<T> = std::result::Result<T, OutlineError>;

impl<'a> Reader<'a> {
    /// Reads the byte order mark and the XML declaration, and refuses every encoding but UTF-8 and its subset.
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
            open: Vec::with_capacity(16),
            bindings: Vec::with_capacity(8),
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

    /// The next event; comments and processing instructions are none. An empty element has no end of its own.
    pub(super) fn next(&mut self) -> Result<Event<'a>> {
        loop {
            let from = self.at;
            let text = match memchr(b'<', self.rest(from)) {
                Some(0) => None,
                Some(length) => Some(length),
                None if from >= self.body.len() => {
                    return if self.open.is_empty() {
                        Ok(Event::Eof)
                    } else {
                        self.truncated()
                    };
                }
                None => Some(self.body.len() - from),
            };
            if let Some(length) = text {
                self.at = from + length;
                return Ok(Event::Text(from..self.at));
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
            self.bindings.push((depth + 1, prefix, space(value)));
        }
        if !is_blank(declared.rest) {
            return Err(OutlineError::Malformed { at });
        }
        let (prefix, local) = match memchr(b':', name) {
            Some(colon) => (
                name.get(..colon).unwrap_or_default(),
                name.get(colon + 1..).unwrap_or_default(),
            ),
            None => (&[][..], name),
        };
        let bound = self
            .bindings
            .iter()
            .rev()
            .find(|binding| binding.1 == prefix);
        let space = bound.map_or(Space::Other, |binding| binding.2);
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
        let depth = self.open.len();
        while self
            .bindings
            .last()
            .is_some_and(|binding| binding.0 > depth)
        {
            self.bindings.pop();
        }
    }

    /// As [`Reader::skip`], and takes down the range of each child element. Says also whether there was text between them.
    pub(super) fn members(&mut self) -> Result<(Range<usize>, Vec<Range<usize>>, bool)> {
        let mut members = Vec::new();
        let (end, text) = self.walk::<true>(|member| members.push(member))?;
        Ok((end, members, text))
    }

    /// The hot path: finds `<` after `<`, follows quotes, CDATA, comments and names, and resolves nothing. The benchmark `outline`
    /// watches it.
    fn walk<const MEMBERS: bool>(
        &mut self,
        mut member: impl FnMut(Range<usize>),
    ) -> Result<(Range<usize>, bool)> {
        let body = self.body;
        let floor = self.open.len();
        let mut at = self.at;
        let mut begun = 0;
        let mut text = false;
        loop {
            let Some(length) = memchr(b'<', body.get(at..).unwrap_or_default()) else {
                return self.truncated();
            };
            let from = at;
            at += length;
            if MEMBERS && self.open.len() == floor {
                text |= !is_blank(self.bytes(&(from..at)));
            }
            match body.get(at + 1) {
                Some(b'/') => {
                    let Some((start, length)) = self.open.pop() else {
                        return Err(OutlineError::Unbalanced { at });
                    };
                    let end = close(body, at, start, length)?;
                    let depth = self.open.len();
                    if depth < floor {
                        self.at = end;
                        self.unbind();
                        return Ok((at..end, text));
                    }
                    if MEMBERS && depth == floor {
                        member(begun..end);
                    }
                    at = end;
                }
                Some(b'!') => {
                    let (end, cdata) = bang(body, at)?;
                    if MEMBERS && cdata && self.open.len() == floor {
                        text = true;
                    }
                    at = end;
                }
                Some(b'?') => at = instruction(body, at)?,
                Some(_) => {
                    let Tag {
                        name_end,
                        end,
                        empty,
                    } = tag(body, at)?;
                    if MEMBERS && self.open.len() == floor {
                        begun = at;
                        if empty {
                            member(at..end);
                        }
                    }
                    if !empty {
                        if self.open.len() >= MAX_DEPTH {
                            return Err(OutlineError::TooDeep { at });
                        }
                        self.open.push((at as u32 + 1, (name_end - at - 1) as u32));
                    }
                    at = end;
                }
                None => return self.truncated(),
            }
        }
    }

    /// The text of an element whose start tag was just read, without the white space around it, entities resolved.
    pub(super) fn text(&mut self, start: &Start<'a>) -> Result<String> {
        let mut text = String::new();
        if start.empty {
            return Ok(text);
        }
        loop {
            match self.next()? {
                Event::Start(inner) if !inner.empty => {
                    self.skip()?;
                }
                Event::Start(_) => {}
                Event::Text(range) => text.push_str(&unescape(self.bytes(&range), range.start)?),
                Event::CData(range) => text.push_str(utf8(self.bytes(&range), range.start)?),
                Event::End => return Ok(trimmed(text)),
                Event::Eof => return self.truncated(),
            }
        }
    }

    /// The value of an attribute, without the white space around it, entities resolved.
    pub(super) fn value(&self, start: &Start<'a>, name: &str) -> Result<Option<String>> {
        let Some(raw) = start.attribute(name) else {
            return Ok(None);
        };
        unescape(raw, start.at).map(|value| Some(trimmed(value.into_owned())))
    }
}

fn trimmed(text: String) -> String {
    let short = text.trim();
    if short.len() == text.len() {
        text
    } else {
        short.to_owned()
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

fn space(uri: &[u8]) -> Space {
    match uri {
        b"http://schemas.xmlsoap.org/soap/envelope/"
        | b"http://www.w3.org/2003/05/soap-envelope" => Space::Soap,
        b"http://schemas.microsoft.com/exchange/services/2006/messages" => Space::Messages,
        b"http://schemas.microsoft.com/exchange/services/2006/types" => Space::Types,
        _ if memchr(b'&', uri).is_some() => match unescape(uri, 0) {
            Ok(plain) if memchr(b'&', plain.as_bytes()).is_none() => space(plain.as_bytes()),
            _ => Space::Other,
        },
        _ => Space::Other,
    }
}

/// Bytes that end a name, and bytes that mean something behind it.
const NAME: [bool; 256] = marks(b"<>/=\"'& \t\r\n");
const TAG: [bool; 256] = marks(b"<>/\"'");

const fn marks(bytes: &[u8]) -> [bool; 256] {
    let mut marks = [false; 256];
    let mut i = 0;
    while i < bytes.len() {
        marks[bytes[i] as usize] = true;
        i += 1;
    }
    marks
}

struct Tag {
    name_end: usize,
    end: usize,
    empty: bool,
}

/// Finds the ends of the start tag at `at` and of its name.
#[inline]
fn tag(body: &[u8], at: usize) -> Result<Tag> {
    let truncated = || OutlineError::Truncated { at: body.len() };
    let malformed = || OutlineError::Malformed { at };
    let find = |marks: &[bool; 256], from: usize| {
        let mut i = from;
        loop {
            match body.get(i) {
                Some(&byte) if marks[usize::from(byte)] => return Ok((i, byte)),
                Some(_) => i += 1,
                None => return Err(truncated()),
            }
        }
    };
    let (name_end, byte) = find(&NAME, at + 1)?;
    if name_end == at + 1 || matches!(byte, b'<' | b'=' | b'"' | b'\'' | b'&') {
        return Err(malformed());
    }
    let mut from = name_end;
    loop {
        let (i, byte) = find(&TAG, from)?;
        match byte {
            b'>' => {
                return Ok(Tag {
                    name_end,
                    end: i + 1,
                    empty: false,
                });
            }
            b'/' => {
                return match body.get(i + 1) {
                    Some(b'>') => Ok(Tag {
                        name_end,
                        end: i + 2,
                        empty: true,
                    }),
                    Some(_) => Err(malformed()),
                    None => Err(truncated()),
                };
            }
            b'<' => return Err(malformed()),
            quote => match memchr(quote, body.get(i + 1..).unwrap_or_default()) {
                Some(length) => from = i + length + 2,
                None => return Err(truncated()),
            },
        }
    }
}

/// Reads the end tag at `at`, which has to close the name at `start`, and returns where it ends.
#[inline]
fn close(body: &[u8], at: usize, start: u32, length: u32) -> Result<usize> {
    let (start, length) = (start as usize, length as usize);
    let mut i = at + 2 + length;
    let Some(name) = body.get(at + 2..i) else {
        return Err(OutlineError::Truncated { at: body.len() });
    };
    if Some(name) != body.get(start..start + length) {
        return Err(OutlineError::Unbalanced { at });
    }
    loop {
        match body.get(i) {
            Some(b'>') => return Ok(i + 1),
            Some(b' ' | b'\t' | b'\r' | b'\n') => i += 1,
            Some(_) => return Err(OutlineError::Unbalanced { at }),
            None => return Err(OutlineError::Truncated { at: body.len() }),
        }
    }
}

/// Where the comment or CDATA section at `at` ends, and whether it is the latter.
#[cold]
fn bang(body: &[u8], at: usize) -> Result<(usize, bool)> {
    let rest = body.get(at..).unwrap_or_default();
    let (opening, closing, cdata) = match rest.get(2) {
        Some(b'-') => (&b"<!--"[..], &b"-->"[..], false),
        Some(b'[') => (&b"<![CDATA["[..], &b"]]>"[..], true),
        Some(b'D') => return Err(OutlineError::Dtd { at }),
        Some(_) => return Err(OutlineError::Malformed { at }),
        None => return Err(OutlineError::Truncated { at: body.len() }),
    };
    if !rest.starts_with(opening) {
        return Err(match opening.starts_with(rest) {
            true => OutlineError::Truncated { at: body.len() },
            false => OutlineError::Malformed { at },
        });
    }
    match memmem::find(rest.get(opening.len()..).unwrap_or_default(), closing) {
        Some(length) => Ok((at + opening.len() + length + 3, cdata)),
        None => Err(OutlineError::Truncated { at: body.len() }),
    }
}

#[cold]
fn instruction(body: &[u8], at: usize) -> Result<usize> {
    if let Some(b'>' | b'?' | b'<' | b' ' | b'\t' | b'\r' | b'\n') = body.get(at + 2) {
        return Err(OutlineError::Malformed { at });
    }
    match memmem::find(body.get(at + 2..).unwrap_or_default(), b"?>") {
        Some(length) => Ok(at + 2 + length + 2),
        None => Err(OutlineError::Truncated { at: body.len() }),
    }
}

/// Names and raw values of attributes. Ends at the first thing that is none, which `rest` then holds.
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
        let equals = memchr(b'=', self.rest)?;
        let name = self.rest.get(..equals)?.trim_ascii_end();
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return None;
        }
        let value = self.rest.get(equals + 1..)?.trim_ascii_start();
        let (&quote, value) = value.split_first()?;
        if !matches!(quote, b'"' | b'\'') {
            return None;
        }
        let end = memchr(quote, value)?;
        self.rest = value.get(end + 1..)?;
        Some((name, value.get(..end)?))
    }
}
