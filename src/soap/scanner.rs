//! Reads an answer while it comes in: finds tags, text and CDATA in pieces of any size.
use std::ops::Range;

use memchr::{memchr, memchr2};

use super::find;
use super::levels::{Levels, Opened};
use super::message::{ResponseMessage, ScanError};
use super::xml::is_blank;

/// A tag that is looked at; EWS has none that comes near.
const MAX_TAG: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lex {
    /// At the very start, with so many bytes of a byte order mark seen.
    Start,
    Bom(u8),
    Text,
    /// Behind `<`.
    Open,
    /// In a start tag, in these quotes, with this byte before.
    Tag {
        quote: Option<u8>,
        last: u8,
    },
    Close,
    /// Behind `<!` and the bytes in `tag`.
    Bang,
    /// So many dashes, brackets, question marks of the end.
    Comment(u8),
    CData(u8),
    Instruction(bool),
    /// Not SOAP: nothing more is looked at.
    Other,
}

/// Reads an answer as it comes, in pieces of any size, and reports each fault and each response message when its end tag was
/// seen. It keeps a few kilobytes at most, however large the answer is.
///
/// Elements are known by their local names and by where they stand, so that what a user wrote into an item is never taken for a message.
/// Several envelopes behind each other, as GetStreamingEvents sends them, are fine. What is not SOAP at all (a page of a proxy,
/// JSON) costs nothing after its first bytes.
///
/// ```
/// use tower_ews::soap::ResponseScanner;
///
/// let mut scanner = ResponseScanner::new();
/// let mut codes = Vec::new();
/// for piece in ["<Envelope><Body><R><ResponseMessages><M Respo", "nseClass='Success'><ResponseCode>NoErr",
///     "or</ResponseCode></M></ResponseMessages></R></Body></Envelope>"]
/// {
///     scanner.push(piece.as_bytes(), &mut |message| codes.push(message.code))?;
/// }
/// scanner.finish()?;
/// assert_eq!(codes[0].as_str(), "NoError");
/// # Ok::<(), tower_ews::soap::ScanError>(())
/// ```
#[derive(Debug)]
pub struct ResponseScanner {
    lex: Lex,
    /// Offset of the next byte.
    at: u64,
    /// The part of a tag that came in earlier pieces, where it is looked at; without its brackets.
    tag: Vec<u8>,
    tag_at: u64,
    /// Elements open inside one that is passed over, that one included.
    passed: u64,
    levels: Levels,
    error: Option<ScanError>,
}

impl ResponseScanner {
    /// A scanner at the start of an answer.
    pub fn new() -> ResponseScanner {
        ResponseScanner {
            lex: Lex::Start,
            at: 0,
            tag: Vec::new(),
            tag_at: 0,
            passed: 0,
            levels: Levels::new(),
            error: None,
        }
    }

    /// Reads the next piece, and hands over the messages that end in it.
    ///
    /// A message that stands in an element of a list is reported before the message that the answer's own element carries.
    ///
    /// # Errors
    ///
    /// What is no XML, at the first byte that shows it. It can not go on: every later call gives the same error.
    pub fn push(
        &mut self,
        chunk: &[u8],
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let base = self.at;
        let result = self.scan(chunk, found);
        self.at = base.saturating_add(chunk.len() as u64);
        if let Err(error) = &result {
            self.error = Some(error.clone());
        }
        result
    }

    /// Says that the answer has ended. Something that is no SOAP, or nothing at all, has no error.
    ///
    /// # Errors
    ///
    /// [`ScanError::Truncated`] if the answer ended inside an envelope, or the error of an earlier call.
    pub fn finish(&mut self) -> Result<(), ScanError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let whole = match self.lex {
            Lex::Start | Lex::Other => true,
            Lex::Text => self.levels.is_empty(),
            _ => false,
        };
        if whole {
            return Ok(());
        }
        let error = ScanError::Truncated { at: self.at };
        self.error = Some(error.clone());
        Err(error)
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Whether the bytes read so far end inside a SOAP body.
    pub fn in_body(&self) -> bool {
        self.levels.in_body()
    }

    /// Whether the answer is SOAP. None until its first element was seen.
    pub fn is_soap(&self) -> Option<bool> {
        self.levels.is_soap
    }

    /// How many messages were reported.
    pub fn messages(&self) -> u64 {
        self.levels.messages
    }

    /// Where the entries of the last list stand: what is between the tags of `ResponseMessages` or of `FreeBusyResponseArray`.
    /// Empty while the list is still open.
    pub fn list_content(&self) -> Option<Range<u64>> {
        self.levels.list.clone()
    }

    fn scan(
        &mut self,
        chunk: &[u8],
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        let base = self.at;
        let mut i = 0;
        while let Some(&byte) = chunk.get(i) {
            let rest = chunk.get(i..).unwrap_or_default();
            self.at = base + i as u64;
            match self.lex {
                Lex::Other => return Ok(()),
                Lex::Start => match byte {
                    0xEF => self.bom(1, &mut i),
                    0xFE | 0xFF | 0 => return Err(ScanError::Encoding),
                    _ => self.lex = Lex::Text,
                },
                Lex::Bom(seen) => match (seen, byte) {
                    (1, 0xBB) => self.bom(2, &mut i),
                    (2, 0xBF) => {
                        self.lex = Lex::Text;
                        i += 1;
                    }
                    _ => return self.stray(),
                },
                Lex::Text => {
                    if self.passed > 0 {
                        i = skim(chunk, i, &mut self.passed);
                        if self.passed == 0 {
                            continue;
                        }
                    }
                    let rest = chunk.get(i..).unwrap_or_default();
                    let length = find::markup(chunk, i).map_or(rest.len(), |at| at - i);
                    let text = rest.get(..length).unwrap_or_default();
                    if self.passed == 0 && length > 0 {
                        if self.levels.in_field() {
                            self.levels.capture(text);
                        } else if self.levels.is_empty() && !is_blank(text) {
                            let blank = text.iter().take_while(|byte| is_blank(&[**byte])).count();
                            if self.levels.is_soap == Some(true) && text.get(blank) == Some(&0xEF) {
                                i += blank;
                                self.bom(1, &mut i);
                                continue;
                            }
                            self.at += blank as u64;
                            return self.stray();
                        }
                    }
                    i += length;
                    if length < rest.len() {
                        self.tag_at = base + i as u64;
                        if let Some(whole) = whole_tag(chunk, i, MAX_TAG) {
                            let tag = chunk.get(i + 1..whole.end - 1).unwrap_or_default();
                            i = whole.end;
                            self.at = base + i as u64;
                            match tag.strip_prefix(b"/") {
                                Some(tag) => self.close(tag, found)?,
                                None => self.open(tag, whole.empty, found)?,
                            }
                            continue;
                        }
                        self.tag.clear();
                        self.lex = Lex::Open;
                        i += 1;
                    }
                }
                Lex::Open => match byte {
                    b'/' => {
                        self.lex = Lex::Close;
                        i += 1;
                    }
                    b'!' => {
                        self.lex = Lex::Bang;
                        i += 1;
                    }
                    b'?' => {
                        self.lex = Lex::Instruction(false);
                        i += 1;
                    }
                    b'>' | b'<' | b' ' | b'\t' | b'\r' | b'\n' | b'=' | b'"' | b'\'' | b'&' => {
                        return Err(ScanError::Malformed { at: self.tag_at });
                    }
                    0 => return Err(ScanError::Encoding),
                    _ => {
                        self.lex = Lex::Tag {
                            quote: None,
                            last: 0,
                        }
                    }
                },
                Lex::Tag {
                    quote: Some(quote), ..
                } => {
                    let length = memchr(quote, rest).map_or(rest.len(), |length| length + 1);
                    self.keep(rest.get(..length).unwrap_or_default())?;
                    if rest.get(length - 1) == Some(&quote) {
                        self.lex = Lex::Tag {
                            quote: None,
                            last: quote,
                        };
                    }
                    i += length;
                }
                Lex::Tag { quote: None, last } => {
                    let length = rest
                        .iter()
                        .position(|byte| matches!(byte, b'>' | b'"' | b'\'' | b'<'));
                    let part = rest.get(..length.unwrap_or(rest.len())).unwrap_or_default();
                    self.keep(part)?;
                    let last = part.last().copied().unwrap_or(last);
                    i += part.len();
                    match length.and_then(|length| rest.get(length)) {
                        None => self.lex = Lex::Tag { quote: None, last },
                        Some(b'>') => {
                            i += 1;
                            self.lex = Lex::Text;
                            self.at = base + i as u64;
                            let tag = std::mem::take(&mut self.tag);
                            self.open(&tag, last == b'/', found)?;
                            self.tag = tag;
                        }
                        Some(b'<') => return Err(ScanError::Malformed { at: self.tag_at }),
                        Some(quote) => {
                            self.keep(&[*quote])?;
                            self.lex = Lex::Tag {
                                quote: Some(*quote),
                                last,
                            };
                            i += 1;
                        }
                    }
                }
                Lex::Close => {
                    let length = memchr2(b'>', b'<', rest);
                    let part = rest.get(..length.unwrap_or(rest.len())).unwrap_or_default();
                    self.keep(part)?;
                    i += part.len();
                    match length.and_then(|length| rest.get(length)) {
                        None => {}
                        Some(b'>') => {
                            i += 1;
                            self.lex = Lex::Text;
                            self.at = base + i as u64;
                            let tag = std::mem::take(&mut self.tag);
                            self.close(&tag, found)?;
                            self.tag = tag;
                        }
                        Some(_) => return Err(ScanError::Malformed { at: self.tag_at }),
                    }
                }
                Lex::Bang => {
                    self.tag.push(byte);
                    i += 1;
                    match &*self.tag {
                        b"--" => {
                            self.lex = Lex::Comment(0);
                            self.levels.settle();
                        }
                        b"[CDATA[" => {
                            if self.levels.is_empty() {
                                return Err(ScanError::Malformed { at: self.tag_at });
                            }
                            self.lex = Lex::CData(0);
                            self.levels.settle();
                        }
                        begun if b"--".starts_with(begun) || b"[CDATA[".starts_with(begun) => {}
                        [b'D' | b'd', ..]
                            if self.levels.is_empty() && self.levels.is_soap.is_none() =>
                        {
                            self.other()
                        }
                        [b'D', ..] => return Err(ScanError::Dtd { at: self.tag_at }),
                        _ => return Err(ScanError::Malformed { at: self.tag_at }),
                    }
                }
                Lex::Comment(dashes) => {
                    let (end, seen) = ending(rest, b'-', dashes);
                    i += end.unwrap_or(rest.len());
                    self.lex = if end.is_some() {
                        Lex::Text
                    } else {
                        Lex::Comment(seen)
                    };
                }
                Lex::CData(brackets) => {
                    let (end, seen) = ending(rest, b']', brackets);
                    let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
                    i += part.len();
                    if self.passed == 0 && self.levels.in_field() {
                        self.levels.capture_cdata(part, end.is_some());
                    }
                    self.lex = if end.is_some() {
                        Lex::Text
                    } else {
                        Lex::CData(seen)
                    };
                }
                Lex::Instruction(question) => match memchr(b'>', rest) {
                    Some(length) => {
                        let before = length.checked_sub(1).and_then(|before| rest.get(before));
                        let ended = before.map_or(question, |before| *before == b'?');
                        i += length + 1;
                        self.lex = if ended {
                            Lex::Text
                        } else {
                            Lex::Instruction(false)
                        };
                    }
                    None => {
                        i += rest.len();
                        self.lex = Lex::Instruction(rest.last() == Some(&b'?'));
                    }
                },
            }
        }
        Ok(())
    }

    fn bom(&mut self, seen: u8, i: &mut usize) {
        self.lex = Lex::Bom(seen);
        *i += 1;
    }

    /// Something that is no markup stands outside of every element.
    fn stray(&mut self) -> Result<(), ScanError> {
        if self.levels.is_soap.is_some() {
            return Err(ScanError::SecondRoot { at: self.at });
        }
        self.other();
        Ok(())
    }

    fn other(&mut self) {
        self.levels.is_soap = Some(false);
        self.lex = Lex::Other;
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), ScanError> {
        if self.passed > 0 {
            return Ok(());
        }
        if self.tag.len() + part.len() > MAX_TAG {
            return Err(ScanError::TagTooLong { at: self.tag_at });
        }
        self.tag.extend_from_slice(part);
        Ok(())
    }

    fn open(
        &mut self,
        tag: &[u8],
        empty: bool,
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        if self.passed > 0 {
            self.passed += u64::from(!empty);
            return Ok(());
        }
        let span = self.tag_at..self.at;
        let tag = tag.strip_suffix(b"/").filter(|_| empty).unwrap_or(tag);
        match self.levels.open(tag, empty, span, found)? {
            Opened::Entered => {}
            Opened::Passed => self.passed = u64::from(!empty),
            Opened::NotSoap => self.lex = Lex::Other,
        }
        Ok(())
    }

    fn close(
        &mut self,
        tag: &[u8],
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        if self.passed > 0 {
            self.passed -= 1;
            return Ok(());
        }
        self.levels.close(tag, self.tag_at..self.at, found)
    }
}

impl Default for ResponseScanner {
    fn default() -> ResponseScanner {
        ResponseScanner::new()
    }
}

struct WholeTag {
    /// Behind its `>`.
    end: usize,
    empty: bool,
}

/// The tag whose `<` stands at `at`, if all of it is here and all is well with it. What it gives up on, the scanner reads byte by
/// byte, and says what is wrong.
#[inline(always)]
fn whole_tag(chunk: &[u8], at: usize, longest: usize) -> Option<WholeTag> {
    let (mut i, mut byte) = match *chunk.get(at + 1)? {
        b'/' => find::bracket(chunk, at + 2)?,
        // No name, or an odd one.
        ..=b'?' => return None,
        _ => find::bracket_or_quote(chunk, at + 2)?,
    };
    while matches!(byte, b'"' | b'\'') {
        i = find::quote(chunk, i + 1, byte)?;
        (i, byte) = find::next_quote(chunk, i + 1)?;
    }
    if byte != b'>' || i - at > longest {
        return None;
    }
    let empty = chunk.get(i - 1) == Some(&b'/');
    Some(WholeTag { end: i + 1, empty })
}

/// Goes through elements that nobody looks at, `depth` of which are open, up to the end of the last one or to something else than a
/// whole tag.
fn skim(chunk: &[u8], mut at: usize, depth: &mut u64) -> usize {
    at = match find::markup(chunk, at) {
        Some(at) => at,
        None => return chunk.len(),
    };
    while *depth > 0 {
        // Where the next tag is does not wait for what this one is: that lets the processor do both at once.
        let next = find::next_markup(chunk, at + 2);
        let Some(tag) = whole_tag(chunk, at, usize::MAX) else {
            return at;
        };
        if chunk.get(at + 1) == Some(&b'/') {
            *depth -= 1;
            if *depth == 0 {
                return tag.end;
            }
        } else if !tag.empty {
            *depth += 1;
        }
        at = match next {
            Some(next) if next >= tag.end => next,
            None => return chunk.len(),
            Some(_) => match find::markup(chunk, tag.end) {
                Some(next) => next,
                None => return chunk.len(),
            },
        };
    }
    at
}

/// Finds the end of a comment (`-->`) or a CDATA section (`]]>`) of whose end `seen` bytes (2 at most) came in the piece before.
fn ending(rest: &[u8], mark: u8, seen: u8) -> (Option<usize>, u8) {
    let mut from = 0;
    while let Some(length) = memchr(b'>', rest.get(from..).unwrap_or_default()) {
        let end = from + length;
        let before = rest.get(..end).unwrap_or_default();
        let marks = before
            .iter()
            .rev()
            .take(2)
            .take_while(|byte| **byte == mark)
            .count();
        if marks == 2 || (marks == before.len() && marks + usize::from(seen) >= 2) {
            return (Some(end + 1), 0);
        }
        from = end + 1;
    }
    let marks = rest
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| **byte == mark)
        .count();
    let all = if marks == rest.len() {
        marks + usize::from(seen)
    } else {
        marks
    };
    (None, all.min(2) as u8)
}
