//! Reads a response while it comes in: finds tags, text and CDATA in pieces of any size.
use std::ops::Range;

use memchr::{memchr, memchr2};

use super::find;
use super::levels::{Levels, Opened};
use super::message::{ResponseMessage, ScanError};
use super::skim::{ending, skim, whole_tag};
use super::xml::is_blank;

/// A tag that is looked at; EWS has none that comes near.
const MAX_TAG: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lex {
    /// At the very start, with this many bytes of a byte order mark seen.
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
    /// How many dashes, brackets, question marks of the end.
    Comment(u8),
    CData(u8),
    Instruction(bool),
    /// Not SOAP: nothing more is looked at.
    Other,
}

/// Reads a response as it comes, in pieces of any size, and reports each fault and each response
/// message when its end tag was seen. It keeps a few kilobytes at most, however large the response
/// is.
///
/// Elements are known by their local names and by where they stand, so that what a user wrote into
/// an item is never taken for a message. Several envelopes behind each other, as GetStreamingEvents
/// sends them, are fine. What is not SOAP at all (a page of a proxy, JSON) costs nothing after its
/// first bytes.
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
    /// A scanner at the start of a response.
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
    /// A message that stands in an element of a list is reported before the message that the
    /// response's own element carries.
    ///
    /// # Errors
    ///
    /// What is no XML, at the first byte that shows it. It can not go on: every later call gives
    /// the same error.
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

    /// Says that the response has ended. Something that is no SOAP, or nothing at all, has no
    /// error.
    ///
    /// # Errors
    ///
    /// [`ScanError::Truncated`] if the response ended inside an envelope, or the error of an
    /// earlier call.
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

    /// Whether the response is SOAP. None until its first element was seen.
    pub fn is_soap(&self) -> Option<bool> {
        self.levels.is_soap
    }

    /// Whether the response, which has ended, says nothing: it is empty, has no body, nothing in it, an element alone, or a list
    /// of messages without any.
    pub(crate) fn says_nothing(&self) -> bool {
        match self.is_soap() {
            None => true,
            Some(false) => false,
            Some(true) => {
                let empty_list = self.levels.messages == 0 && self.levels.list.is_some();
                empty_list || !self.levels.responds
            }
        }
    }

    /// How many messages were reported.
    pub fn messages(&self) -> u64 {
        self.levels.messages
    }

    /// Where the entries of the last list stand: what is between the tags of `ResponseMessages` or
    /// of `FreeBusyResponseArray`. Empty while the list is still open.
    pub fn list_content(&self) -> Option<Range<u64>> {
        self.levels.list.clone()
    }

    fn scan(
        &mut self,
        chunk: &[u8],
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        let mut piece = Piece {
            bytes: chunk,
            base: self.at,
            next: 0,
        };
        while let Some(byte) = piece.peek() {
            self.at = piece.offset();
            match self.lex {
                Lex::Other => return Ok(()),
                Lex::Start => self.start(byte, &mut piece)?,
                Lex::Bom(seen) => self.bom(seen, byte, &mut piece)?,
                Lex::Text => self.text(&mut piece, found)?,
                Lex::Open => self.markup(byte, &mut piece)?,
                Lex::Tag {
                    quote: Some(quote), ..
                } => self.quoted(quote, &mut piece)?,
                Lex::Tag { quote: None, last } => self.tag(last, &mut piece, found)?,
                Lex::Close => self.end_tag(&mut piece, found)?,
                Lex::Bang => self.bang(byte, &mut piece)?,
                Lex::Comment(dashes) => self.comment(dashes, &mut piece),
                Lex::CData(brackets) => self.cdata(brackets, &mut piece),
                Lex::Instruction(question) => self.instruction(question, &mut piece),
            }
        }
        Ok(())
    }

    fn start(&mut self, byte: u8, piece: &mut Piece<'_>) -> Result<(), ScanError> {
        match byte {
            0xEF => {
                self.lex = Lex::Bom(1);
                piece.next += 1;
            }
            0xFE | 0xFF | 0 => return Err(ScanError::Encoding),
            _ => self.lex = Lex::Text,
        }
        Ok(())
    }

    fn bom(&mut self, seen: u8, byte: u8, piece: &mut Piece<'_>) -> Result<(), ScanError> {
        self.lex = match (seen, byte) {
            (1, 0xBB) => Lex::Bom(2),
            (2, 0xBF) => Lex::Text,
            _ => return self.stray(),
        };
        piece.next += 1;
        Ok(())
    }

    /// Reads up to the next tag, and the tag too if all of it is here. The benchmark `batch`
    /// watches it.
    #[inline(always)]
    fn text(
        &mut self,
        piece: &mut Piece<'_>,
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        if self.passed > 0 {
            piece.next = skim(piece.bytes, piece.next, &mut self.passed);
            if self.passed == 0 {
                return Ok(());
            }
        }
        let rest = piece.rest();
        let length = find::markup(piece.bytes, piece.next).map_or(rest.len(), |at| at - piece.next);
        if self.passed == 0 && length > 0 {
            let text = rest.get(..length).unwrap_or_default();
            if self.levels.in_field() {
                self.levels.capture(text);
            } else if self.levels.is_empty() && !is_blank(text) {
                return self.outside(text, piece);
            }
        }
        piece.next += length;
        if length == rest.len() {
            return Ok(());
        }
        self.tag_at = piece.offset();
        let Some(whole) = whole_tag(piece.bytes, piece.next, MAX_TAG) else {
            self.tag.clear();
            self.lex = Lex::Open;
            piece.next += 1;
            return Ok(());
        };
        let tag = piece.bytes.get(piece.next + 1..whole.end - 1);
        let tag = tag.unwrap_or_default();
        piece.next = whole.end;
        self.at = piece.offset();
        match tag.strip_prefix(b"/") {
            Some(tag) => self.close(tag, found),
            None => self.open(tag, whole.empty, found),
        }
    }

    /// Text outside of every element: the byte order mark of another envelope, or anything but
    /// SOAP.
    fn outside(&mut self, text: &[u8], piece: &mut Piece<'_>) -> Result<(), ScanError> {
        let blank = text.iter().take_while(|byte| is_blank(&[**byte])).count();
        if self.levels.is_soap == Some(true) && text.get(blank) == Some(&0xEF) {
            piece.next += blank + 1;
            self.lex = Lex::Bom(1);
            return Ok(());
        }
        self.at += blank as u64;
        self.stray()
    }

    /// The byte behind a `<` tells what begins.
    fn markup(&mut self, byte: u8, piece: &mut Piece<'_>) -> Result<(), ScanError> {
        self.lex = match byte {
            b'/' => Lex::Close,
            b'!' => Lex::Bang,
            b'?' => Lex::Instruction(false),
            b'>' | b'<' | b' ' | b'\t' | b'\r' | b'\n' | b'=' | b'"' | b'\'' | b'&' => {
                return Err(ScanError::Malformed { at: self.tag_at });
            }
            0 => return Err(ScanError::Encoding),
            _ => {
                self.lex = Lex::Tag {
                    quote: None,
                    last: 0,
                };
                return Ok(());
            }
        };
        piece.next += 1;
        Ok(())
    }

    /// A start tag, inside of a quoted value.
    fn quoted(&mut self, quote: u8, piece: &mut Piece<'_>) -> Result<(), ScanError> {
        let part = piece.through(memchr(quote, piece.rest()));
        self.keep(part)?;
        if part.last() == Some(&quote) {
            self.lex = Lex::Tag {
                quote: None,
                last: quote,
            };
        }
        Ok(())
    }

    /// A start tag, outside of quotes. `last` is the byte before.
    fn tag(
        &mut self,
        last: u8,
        piece: &mut Piece<'_>,
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        let mut rest = piece.rest().iter();
        let part = piece.until(rest.position(|byte| matches!(byte, b'>' | b'"' | b'\'' | b'<')));
        self.keep(part)?;
        let last = part.last().copied().unwrap_or(last);
        match piece.peek() {
            None => self.lex = Lex::Tag { quote: None, last },
            Some(b'>') => {
                self.end_of_tag(piece);
                let tag = std::mem::take(&mut self.tag);
                self.open(&tag, last == b'/', found)?;
                self.tag = tag;
            }
            Some(b'<') => return Err(ScanError::Malformed { at: self.tag_at }),
            Some(quote) => {
                self.keep(&[quote])?;
                self.lex = Lex::Tag {
                    quote: Some(quote),
                    last,
                };
                piece.next += 1;
            }
        }
        Ok(())
    }

    fn end_tag(
        &mut self,
        piece: &mut Piece<'_>,
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        let part = piece.until(memchr2(b'>', b'<', piece.rest()));
        self.keep(part)?;
        match piece.peek() {
            None => {}
            Some(b'>') => {
                self.end_of_tag(piece);
                let tag = std::mem::take(&mut self.tag);
                self.close(&tag, found)?;
                self.tag = tag;
            }
            Some(_) => return Err(ScanError::Malformed { at: self.tag_at }),
        }
        Ok(())
    }

    /// Goes behind the `>` of a tag.
    fn end_of_tag(&mut self, piece: &mut Piece<'_>) {
        piece.next += 1;
        self.lex = Lex::Text;
        self.at = piece.offset();
    }

    /// Behind `<!`: a comment, a CDATA section or a document type declaration.
    fn bang(&mut self, byte: u8, piece: &mut Piece<'_>) -> Result<(), ScanError> {
        self.tag.push(byte);
        piece.next += 1;
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
            [b'D' | b'd', ..] if self.levels.is_empty() && self.levels.is_soap.is_none() => {
                self.other()
            }
            [b'D', ..] => return Err(ScanError::Dtd { at: self.tag_at }),
            _ => return Err(ScanError::Malformed { at: self.tag_at }),
        }
        Ok(())
    }

    fn comment(&mut self, dashes: u8, piece: &mut Piece<'_>) {
        let (end, seen) = ending(piece.rest(), b'-', dashes);
        piece.until(end);
        self.lex = match end {
            Some(_) => Lex::Text,
            None => Lex::Comment(seen),
        };
    }

    fn cdata(&mut self, brackets: u8, piece: &mut Piece<'_>) {
        let (end, seen) = ending(piece.rest(), b']', brackets);
        let part = piece.until(end);
        if self.passed == 0 && self.levels.in_field() {
            self.levels.capture_cdata(part, end.is_some());
        }
        self.lex = match end {
            Some(_) => Lex::Text,
            None => Lex::CData(seen),
        };
    }

    /// A processing instruction. `question` says whether the byte before is a `?`.
    fn instruction(&mut self, question: bool, piece: &mut Piece<'_>) {
        let end = memchr(b'>', piece.rest());
        let part = piece.until(end);
        let question = part.last().map_or(question, |last| *last == b'?');
        self.lex = match end {
            Some(_) if question => Lex::Text,
            Some(_) => Lex::Instruction(false),
            None => Lex::Instruction(question),
        };
        piece.next += usize::from(end.is_some());
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

/// A piece of the response, and how far it was read.
struct Piece<'a> {
    bytes: &'a [u8],
    /// Offset of its first byte in the response.
    base: u64,
    next: usize,
}

impl<'a> Piece<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.next).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.next..).unwrap_or_default()
    }

    /// Offset of the next byte in the response.
    fn offset(&self) -> u64 {
        self.base + self.next as u64
    }

    /// Reads `length` bytes, or all that are left.
    fn until(&mut self, length: Option<usize>) -> &'a [u8] {
        let rest = self.rest();
        let part = rest.get(..length.unwrap_or(rest.len())).unwrap_or(rest);
        self.next += part.len();
        part
    }

    /// As [`Piece::until`], and one byte more.
    fn through(&mut self, length: Option<usize>) -> &'a [u8] {
        self.until(length.map(|length| length + 1))
    }
}
