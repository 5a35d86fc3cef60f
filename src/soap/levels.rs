//! Where an element of a response stands, and what its text means there.
use std::ops::Range;
use std::time::Duration;

use memchr::memchr;
use smallvec::SmallVec;

use super::code::ResponseCode;
use super::find;
use super::message::{ResponseClass, ResponseMessage, ScanError};
use super::xml::attributes;

///  back-off above this counts as this: larger ones do not fit the arithmetic of every platform's
///  clock.
const MAX_BACK_OFF: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Raw bytes that are kept of a value; EWS has none that comes near.
const MAX_VALUE: usize = 4 * 1024;
const MAX_TEXT: usize = 1024;

/// Elements that are looked at inside each other; what is deeper is passed over.
const MAX_LEVELS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Envelope,
    Body,
    Response,
    List,
    Message,
    FreeBusyArray,
    FreeBusy,
    FreeBusyMessage,
    Fault,
    FaultCode,
    Subcode,
    Reason,
    Detail,
    MessageXml,
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Code,
    FaultCode,
    Subcode,
    Text,
    InnerCode,
    BackOff,
    Limit,
}

/// A message whose end was not seen yet.
#[derive(Debug, Default)]
struct Draft {
    start: u64,
    class: Option<ResponseClass>,
    has_class: bool,
    code: Option<ResponseCode>,
    fault_code: Option<String>,
    subcode: Option<String>,
    inner_code: Option<ResponseCode>,
    back_off: Option<Duration>,
    limit: Option<u32>,
    text: Option<String>,
    is_fault: bool,
    is_entry: bool,
}

/// What a start tag opened.
pub(super) enum Opened {
    Entered,
    /// Nothing in it is looked at.
    Passed,
    NotSoap,
}

/// The elements that are open, and what is known of the messages that they belong to.
#[derive(Debug)]
pub(super) struct Levels {
    /// With the place of each one's name in `names`. What a good response has fits without an
    /// allocation, as in `names` and `value`.
    open: SmallVec<[(Level, u32); 8]>,
    /// Names of the open elements, one behind the other.
    names: SmallVec<[u8; 120]>,
    /// Raw text of the field that is being read; from `segment` on not yet unescaped.
    value: SmallVec<[u8; 40]>,
    segment: usize,
    own: Option<Draft>,
    entry: Option<Draft>,
    pub(super) list: Option<Range<u64>>,
    pub(super) messages: u64,
    pub(super) is_soap: Option<bool>,
    /// Whether something stands in a body.
    pub(super) responds: bool,
}

impl Levels {
    pub(super) fn new() -> Levels {
        Levels {
            open: SmallVec::new(),
            names: SmallVec::new(),
            value: SmallVec::new(),
            segment: 0,
            own: None,
            entry: None,
            list: None,
            messages: 0,
            is_soap: None,
            responds: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn in_body(&self) -> bool {
        self.open.get(1).is_some_and(|open| open.0 == Level::Body)
    }

    pub(super) fn in_field(&self) -> bool {
        matches!(self.open.last(), Some((Level::Field(_), _)))
    }

    pub(super) fn capture(&mut self, text: &[u8]) {
        let room = MAX_VALUE.saturating_sub(self.value.len());
        self.value
            .extend_from_slice(text.get(..room).unwrap_or(text));
    }

    /// Unescapes the text that was captured since the last markup. Unlike in a request, what can
    /// not be unescaped stays.
    pub(super) fn settle(&mut self) {
        let raw = self.value.get(self.segment..).unwrap_or_default();
        if memchr(b'&', raw).is_some() {
            let plain = String::from_utf8_lossy(raw);
            if let Ok(plain) = quick_xml::escape::unescape(&plain) {
                let plain = plain.into_owned();
                self.value.truncate(self.segment);
                self.value.extend_from_slice(plain.as_bytes());
            }
        }
        self.segment = self.value.len();
    }

    /// Takes a piece of a CDATA section, its end included. Brackets are kept until it shows that
    /// they belong to the end.
    pub(super) fn capture_cdata(&mut self, part: &[u8], ended: bool) {
        self.value.extend_from_slice(part);
        let length = self.value.len().saturating_sub(3);
        if ended {
            self.value.truncate(length.min(MAX_VALUE));
        } else if length > MAX_VALUE {
            self.value.drain(MAX_VALUE..length);
        }
        self.segment = self.value.len();
    }

    /// Enters the element of a start tag, or says that it is nothing to look at.
    pub(super) fn open(
        &mut self,
        tag: &[u8],
        empty: bool,
        span: Range<u64>,
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<Opened, ScanError> {
        let (name, attributes) = tag.split_at(find::blank(tag).unwrap_or(tag.len()));
        let Some((parent, _)) = self.open.last() else {
            match (local(name), self.is_soap) {
                (b"Envelope", _) => self.is_soap = Some(true),
                (_, None) => {
                    self.is_soap = Some(false);
                    return Ok(Opened::NotSoap);
                }
                (_, Some(_)) => return Err(ScanError::SecondRoot { at: span.start }),
            }
            self.enter(Level::Envelope, name);
            if empty {
                self.leave(Level::Envelope, &span, found);
            }
            return Ok(Opened::Entered);
        };
        let level = match self.open.len() {
            0..MAX_LEVELS => self.level(*parent, local(name), attributes, &span),
            _ => None,
        };
        let Some(level) = level else {
            // An element inside a value cuts its text in two.
            self.settle();
            return Ok(Opened::Passed);
        };
        self.enter(level, name);
        if empty {
            self.leave(level, &span, found);
        }
        Ok(Opened::Entered)
    }

    fn enter(&mut self, level: Level, name: &[u8]) {
        // A tag has 64 KiB at most, and there are 32 levels.
        self.open.push((level, self.names.len() as u32));
        self.names.extend_from_slice(name);
        match level {
            Level::Response | Level::Fault => self.responds = true,
            Level::Field(_) => {
                self.value.clear();
                self.segment = 0;
            }
            _ => {}
        }
    }

    /// What an element is, by where it stands. None is to be passed over.
    fn level(
        &mut self,
        parent: Level,
        local: &[u8],
        attributes: &[u8],
        span: &Range<u64>,
    ) -> Option<Level> {
        let draft = || Draft {
            start: span.start,
            ..Draft::default()
        };
        let message_part = || match local {
            b"ResponseCode" => Some(Level::Field(Field::Code)),
            b"MessageText" => Some(Level::Field(Field::Text)),
            b"MessageXml" => Some(Level::MessageXml),
            _ => None,
        };
        match (parent, local) {
            (Level::Envelope, b"Body") => Some(Level::Body),
            (Level::Body, b"Fault") => {
                self.entry = Some(Draft {
                    is_fault: true,
                    ..draft()
                });
                Some(Level::Fault)
            }
            (Level::Body, _) => {
                self.own = Some(draft().with_class(attributes));
                Some(Level::Response)
            }
            (Level::Response, b"ResponseMessages") => {
                self.list = Some(span.end..span.end);
                Some(Level::List)
            }
            (Level::Response, b"FreeBusyResponseArray") => {
                self.list = Some(span.end..span.end);
                Some(Level::FreeBusyArray)
            }
            (Level::List, _) => {
                self.entry = Some(
                    Draft {
                        is_entry: true,
                        ..draft()
                    }
                    .with_class(attributes),
                );
                Some(Level::Message)
            }
            (Level::Response, b"ResponseMessage") => {
                self.entry = Some(draft().with_class(attributes));
                Some(Level::Message)
            }
            (Level::FreeBusyArray, b"FreeBusyResponse") => {
                self.entry = Some(Draft {
                    is_entry: true,
                    ..draft()
                });
                Some(Level::FreeBusy)
            }
            (Level::Response, b"SuggestionsResponse") => {
                self.entry = Some(draft());
                Some(Level::FreeBusy)
            }
            (Level::FreeBusy, b"ResponseMessage") => {
                self.entry = self.entry.take().map(|entry| entry.with_class(attributes));
                Some(Level::FreeBusyMessage)
            }
            (Level::Response | Level::Message | Level::FreeBusyMessage, _) => message_part(),
            (Level::Fault, b"faultcode") => Some(Level::Field(Field::FaultCode)),
            (Level::Fault, b"faultstring") => Some(Level::Field(Field::Text)),
            (Level::Fault, b"detail" | b"Detail") => Some(Level::Detail),
            (Level::Fault, b"Code") => Some(Level::FaultCode),
            (Level::Fault, b"Reason") => Some(Level::Reason),
            (Level::FaultCode, b"Value") => Some(Level::Field(Field::FaultCode)),
            (Level::FaultCode | Level::Subcode, b"Subcode") => Some(Level::Subcode),
            (Level::Subcode, b"Value") => Some(Level::Field(Field::Subcode)),
            (Level::Reason, b"Text") => Some(Level::Field(Field::Text)),
            (Level::Detail, b"Message") => Some(Level::Field(Field::Text)),
            (Level::Detail, _) => message_part(),
            (Level::MessageXml, b"Value") => {
                let name = self::attributes(attributes).find(|(key, _)| *key == b"Name");
                match name.map(|(_, name)| name.trim_ascii()) {
                    Some(b"BackOffMilliseconds") => Some(Level::Field(Field::BackOff)),
                    Some(b"InnerErrorResponseCode") => Some(Level::Field(Field::InnerCode)),
                    Some(b"MaxConcurrencyLimit") => Some(Level::Field(Field::Limit)),
                    _ => None,
                }
            }
            (Level::MessageXml, _) => Some(Level::MessageXml),
            _ => None,
        }
    }

    /// Leaves the element of an end tag.
    pub(super) fn close(
        &mut self,
        tag: &[u8],
        span: Range<u64>,
        found: &mut dyn FnMut(ResponseMessage),
    ) -> Result<(), ScanError> {
        let Some(&(level, name)) = self.open.last() else {
            return Err(ScanError::Unbalanced { at: span.start });
        };
        if self.names.get(name as usize..) != Some(tag.trim_ascii_end()) {
            return Err(ScanError::Unbalanced { at: span.start });
        }
        self.leave(level, &span, found);
        Ok(())
    }

    /// Closes the innermost level.
    fn leave(&mut self, level: Level, span: &Range<u64>, found: &mut dyn FnMut(ResponseMessage)) {
        if let Some((_, name)) = self.open.pop() {
            self.names.truncate(name as usize);
        }
        let report = match level {
            Level::Field(field) => {
                self.field(field);
                None
            }
            Level::List | Level::FreeBusyArray => {
                if let Some(list) = &mut self.list {
                    list.end = list.start.max(span.start);
                }
                None
            }
            Level::Fault | Level::Message | Level::FreeBusy => self.entry.take(),
            Level::Response => self
                .own
                .take()
                .filter(|own| own.has_class || own.code.is_some()),
            _ => None,
        };
        if let Some(draft) = report {
            self.messages += 1;
            found(draft.finish(span.end));
        }
    }

    fn field(&mut self, field: Field) {
        self.settle();
        let text = String::from_utf8_lossy(&self.value);
        let text = text.trim();
        let Some(draft) = self.entry.as_mut().or(self.own.as_mut()) else {
            return;
        };
        match field {
            Field::Code if !text.is_empty() && draft.code.is_none() => {
                draft.code = Some(ResponseCode::from_text(text))
            }
            Field::Code => {}
            Field::FaultCode => draft.fault_code = Some(text.to_owned()),
            Field::Subcode => draft.subcode = Some(text.to_owned()),
            Field::InnerCode if !text.is_empty() => {
                draft.inner_code = Some(ResponseCode::from_text(text))
            }
            Field::InnerCode => {}
            Field::BackOff => draft.back_off = draft.back_off.max(back_off(text)),
            Field::Limit => draft.limit = text.parse().ok().or(draft.limit),
            Field::Text if draft.text.as_ref().is_some_and(|text| !text.is_empty()) => {}
            Field::Text => {
                let mut end = text.len().min(MAX_TEXT);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                draft.text = Some(text.get(..end).unwrap_or_default().to_owned());
            }
        }
    }
}

impl Draft {
    fn with_class(mut self, attributes: &[u8]) -> Draft {
        if let Some((_, class)) =
            self::attributes(attributes).find(|(key, _)| *key == b"ResponseClass")
        {
            self.has_class = true;
            self.class = match class.trim_ascii() {
                b"Success" => Some(ResponseClass::Success),
                b"Warning" => Some(ResponseClass::Warning),
                b"Error" => Some(ResponseClass::Error),
                _ => None,
            };
        }
        self
    }

    fn finish(self, end: u64) -> ResponseMessage {
        let fallback = || {
            let code = self.subcode.or(self.fault_code);
            let code = code
                .as_deref()
                .map(|code| code.rsplit(':').next().unwrap_or(code));
            match (code, self.class) {
                (Some(code), _) => ResponseCode::from_text(code),
                (None, Some(ResponseClass::Success)) => ResponseCode::NO_ERROR,
                (None, _) => ResponseCode::from_text(""),
            }
        };
        let code = self.code.unwrap_or_else(fallback);
        let class = match self.class {
            _ if self.is_fault => ResponseClass::Error,
            Some(class) => class,
            None if code == ResponseCode::NO_ERROR => ResponseClass::Success,
            None => ResponseClass::Error,
        };
        ResponseMessage {
            class,
            code,
            inner_code: self.inner_code,
            back_off: self.back_off,
            max_concurrency: self.limit,
            text: self.text.unwrap_or_default().into(),
            range: self.start..end,
            is_fault: self.is_fault,
            is_entry: self.is_entry,
        }
    }
}

fn local(name: &[u8]) -> &[u8] {
    memchr(b':', name)
        .and_then(|colon| name.get(colon + 1..))
        .unwrap_or(name)
}

/// Milliseconds, as the server writes them.
fn back_off(text: &str) -> Option<Duration> {
    if let Ok(milliseconds) = text.parse() {
        return Some(Duration::from_millis(milliseconds).min(MAX_BACK_OFF));
    }
    let number = text
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E'));
    let milliseconds: f64 = text.parse().ok().filter(|_| number)?;
    if milliseconds.is_sign_negative() && milliseconds != 0.0 {
        return None;
    }
    let back_off =
        Duration::try_from_secs_f64((milliseconds / 1000.0).abs()).unwrap_or(Duration::MAX);
    Some(back_off.min(MAX_BACK_OFF))
}
