//! Where an element of a response stands, and what its text means there.
use std::ops::Range;
use std::time::Duration;

use memchr::memchr;
use smallvec::SmallVec;

use super::back_off;
use super::code::ResponseCode;
use super::find;
use super::message::{ResponseClass, ResponseMessage, ScanError};
use super::xml::attributes;

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
    /// Whether something stands in a body: a fault, or a response that says how it went or has something in it.
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

    /// Whether text is looked at here.
    pub(super) fn in_field(&self) -> bool {
        matches!(
            self.open.last(),
            Some((Level::Field(_) | Level::MessageXml, _))
        )
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
        // Of a long one its beginning, and what may be the end of the section.
        let (begin, end) = match part.len().checked_sub(3) {
            Some(end) if end > MAX_VALUE => (part.get(..MAX_VALUE), part.get(end..)),
            _ => (Some(part), None),
        };
        self.value.extend_from_slice(begin.unwrap_or_default());
        self.value.extend_from_slice(end.unwrap_or_default());
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
        let parent = *parent;
        self.responds |= parent == Level::Response;
        if parent == Level::MessageXml {
            self.loose_text();
        }
        let level = match self.open.len() {
            0..MAX_LEVELS => self.level(parent, local(name), attributes, &span),
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
            Level::Response => {
                self.responds |= self.own.as_ref().is_some_and(|own| own.has_class);
            }
            Level::Fault => self.responds = true,
            Level::Field(_) | Level::MessageXml => self.clear(),
            _ => {}
        }
    }

    fn clear(&mut self) {
        self.value.clear();
        self.segment = 0;
    }

    /// What an element is, by where it stands. None is to be passed over.
    #[inline]
    fn level(
        &mut self,
        parent: Level,
        local: &[u8],
        attributes: &[u8],
        span: &Range<u64>,
    ) -> Option<Level> {
        match parent {
            Level::Envelope => (local == b"Body").then_some(Level::Body),
            Level::Body | Level::Response | Level::List => {
                self.response_level(parent, local, attributes, span)
            }
            Level::Message => message_part(local),
            Level::FreeBusyArray | Level::FreeBusy | Level::FreeBusyMessage => {
                self.free_busy_level(parent, local, attributes, span)
            }
            Level::Fault | Level::FaultCode | Level::Subcode | Level::Reason | Level::Detail => {
                fault_level(parent, local)
            }
            Level::MessageXml => Some(value_level(local, attributes)),
            Level::Field(_) => None,
        }
    }

    /// As [`Levels::level`], in the body, in a response, or in a list of messages.
    fn response_level(
        &mut self,
        parent: Level,
        local: &[u8],
        attributes: &[u8],
        span: &Range<u64>,
    ) -> Option<Level> {
        let draft = Draft::at(span.start);
        match (parent, local) {
            (Level::Body, b"Fault") => {
                self.entry = Some(Draft {
                    is_fault: true,
                    ..draft
                });
                Some(Level::Fault)
            }
            (Level::Body, _) => {
                self.own = Some(draft.with_class(attributes));
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
            (Level::Response, b"SuggestionsResponse") => {
                self.entry = Some(draft);
                Some(Level::FreeBusy)
            }
            (Level::Response, b"ResponseMessage") => {
                self.entry = Some(draft.with_class(attributes));
                Some(Level::Message)
            }
            (Level::List, _) => {
                self.entry = Some(draft.in_list().with_class(attributes));
                Some(Level::Message)
            }
            _ => message_part(local),
        }
    }

    /// As [`Levels::level`], in the response to GetUserAvailability.
    fn free_busy_level(
        &mut self,
        parent: Level,
        local: &[u8],
        attributes: &[u8],
        span: &Range<u64>,
    ) -> Option<Level> {
        match (parent, local) {
            (Level::FreeBusyArray, b"FreeBusyResponse") => {
                self.entry = Some(Draft::at(span.start).in_list());
                Some(Level::FreeBusy)
            }
            (Level::FreeBusy, b"ResponseMessage") => {
                self.entry = self.entry.take().map(|entry| entry.with_class(attributes));
                Some(Level::FreeBusyMessage)
            }
            (Level::FreeBusyMessage, _) => message_part(local),
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
                self.clear();
                None
            }
            Level::MessageXml => {
                self.loose_text();
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

    /// Looks for a back-off in text of `MessageXml` that is no field.
    fn loose_text(&mut self) {
        if self.value.is_empty() {
            return;
        }
        self.settle();
        let back_off = back_off::in_text(&String::from_utf8_lossy(&self.value));
        self.clear();
        if let Some(draft) = self.entry.as_mut().or(self.own.as_mut()) {
            draft.back_off = draft.back_off.max(back_off);
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
            Field::BackOff => draft.back_off = draft.back_off.max(back_off::milliseconds(text)),
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
    fn at(start: u64) -> Draft {
        Draft {
            start,
            ..Draft::default()
        }
    }

    fn in_list(self) -> Draft {
        Draft {
            is_entry: true,
            ..self
        }
    }

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
        let text = self.text.unwrap_or_default();
        let back_off = match class {
            ResponseClass::Success => self.back_off,
            _ => self.back_off.max(back_off::in_text(&text)),
        };
        ResponseMessage {
            class,
            code,
            inner_code: self.inner_code,
            back_off,
            max_concurrency: self.limit,
            text: text.into(),
            range: self.start..end,
            is_fault: self.is_fault,
            is_entry: self.is_entry,
        }
    }
}

/// What an element of a message is.
fn message_part(local: &[u8]) -> Option<Level> {
    match local {
        b"ResponseCode" => Some(Level::Field(Field::Code)),
        b"MessageText" => Some(Level::Field(Field::Text)),
        b"MessageXml" => Some(Level::MessageXml),
        _ => None,
    }
}

/// As [`Levels::level`], in a fault of either version of SOAP.
fn fault_level(parent: Level, local: &[u8]) -> Option<Level> {
    let field = |field| Some(Level::Field(field));
    match (parent, local) {
        (Level::Fault, b"faultcode") => field(Field::FaultCode),
        (Level::Fault, b"faultstring") => field(Field::Text),
        (Level::Fault, b"detail" | b"Detail") => Some(Level::Detail),
        (Level::Fault, b"Code") => Some(Level::FaultCode),
        (Level::Fault, b"Reason") => Some(Level::Reason),
        (Level::FaultCode, b"Value") => field(Field::FaultCode),
        (Level::FaultCode | Level::Subcode, b"Subcode") => Some(Level::Subcode),
        (Level::Subcode, b"Value") => field(Field::Subcode),
        (Level::Reason, b"Text") => field(Field::Text),
        (Level::Detail, b"Message") => field(Field::Text),
        (Level::Detail, _) => message_part(local),
        _ => None,
    }
}

/// What an element of `MessageXml` is. Text in one that has no meaning of its own may still tell of a back-off.
fn value_level(local: &[u8], attributes: &[u8]) -> Level {
    let name = match local {
        b"Value" => {
            let name = self::attributes(attributes).find(|(key, _)| *key == b"Name");
            name.map(|(_, name)| name.trim_ascii())
        }
        other => Some(other),
    };
    match name {
        Some(b"BackOffMilliseconds") => Level::Field(Field::BackOff),
        Some(b"InnerErrorResponseCode") => Level::Field(Field::InnerCode),
        Some(b"MaxConcurrencyLimit") => Level::Field(Field::Limit),
        _ => Level::MessageXml,
    }
}

fn local(name: &[u8]) -> &[u8] {
    memchr(b':', name)
        .and_then(|colon| name.get(colon + 1..))
        .unwrap_or(name)
}
