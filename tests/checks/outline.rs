//! The outline of a request against a full walk of quick-xml's `NsReader`: for the tests and for
//! the fuzz target.
use std::ops::Range;

use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;
use tower_ews::soap::{Operation, Outline};

pub(crate) const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
pub(crate) const SOAP12: &str = "http://www.w3.org/2003/05/soap-envelope";
pub(crate) const M: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
pub(crate) const T: &str = "http://schemas.microsoft.com/exchange/services/2006/types";

/// A child of the operation's element.
#[derive(Debug, PartialEq)]
struct Container {
    name: String,
    element: Range<usize>,
    members: Vec<Range<usize>>,
    /// Words of the text in it.
    words: Vec<Range<usize>>,
    /// It holds text that is no white space.
    stray: bool,
    /// It holds anything but one plain text.
    mixed: bool,
}

impl Container {
    fn text(&mut self, text: &[u8], at: usize) {
        let mut from = 0;
        for (end, byte) in text.iter().chain(b" ").enumerate() {
            if b" \t\r\n".contains(byte) {
                if from < end {
                    self.words.push(at + from..at + end);
                }
                from = end + 1;
            }
        }
        self.stray |= !self.words.is_empty();
        self.mixed |= text.contains(&b'&');
    }
}

#[derive(Debug, Default, PartialEq)]
struct Walked {
    operation: Option<String>,
    element: Range<usize>,
    arrays: Vec<Container>,
}

/// The same facts by a full walk of quick-xml's reader.
fn walk(body: &[u8]) -> Result<Walked, String> {
    let bom = if body.starts_with(b"\xEF\xBB\xBF") {
        3
    } else {
        0
    };
    let mut reader = NsReader::from_reader(&body[bom..]);
    // Entities of members are the server's to find wrong.
    reader.config_mut().allow_dangling_amp = true;
    let mut open: Vec<String> = Vec::new();
    let mut walked = Walked::default();
    let path = |open: &[String]| open.join("/");
    loop {
        let before = bom + reader.buffer_position() as usize;
        let (space, event) = reader
            .read_resolved_event()
            .map_err(|error| error.to_string())?;
        let space = match space {
            ResolveResult::Bound(space) => match std::str::from_utf8(space.as_ref()).unwrap_or("?")
            {
                SOAP | SOAP12 => "s",
                M => "m",
                T => "t",
                _ => "other",
            },
            _ => "none",
        };
        let name = |name: &[u8]| format!("{space}:{}", String::from_utf8_lossy(name));
        let event = event.into_owned();
        let after = bom + reader.buffer_position() as usize;
        let at = path(&open);
        match &event {
            Event::Start(tag) | Event::Empty(tag) => {
                let name = name(tag.local_name().as_ref());
                match open.len() {
                    2 if at == "s:Envelope/s:Body" => {
                        walked.operation = Some(name.clone());
                        walked.element = before..after;
                    }
                    3 if at.starts_with("s:Envelope/s:Body/") => {
                        walked.arrays.push(Container {
                            name: name.clone(),
                            element: before..after,
                            members: Vec::new(),
                            words: Vec::new(),
                            stray: false,
                            mixed: false,
                        });
                    }
                    4 if at.starts_with("s:Envelope/s:Body/") => {
                        let array = walked.arrays.last_mut().unwrap();
                        array.members.push(before..after);
                        array.mixed = true;
                    }
                    _ => {}
                }
                if matches!(event, Event::Start(_)) {
                    open.push(name);
                }
            }
            Event::End(_) => {
                open.pop();
                if at.starts_with("s:Envelope/s:Body/") {
                    match open.len() {
                        2 => walked.element.end = after,
                        3 => walked.arrays.last_mut().unwrap().element.end = after,
                        4 => {
                            let array = walked.arrays.last_mut().unwrap();
                            array.members.last_mut().unwrap().end = after;
                        }
                        _ => {}
                    }
                }
            }
            Event::Text(text) if open.len() == 4 && at.starts_with("s:Envelope/s:Body/") => {
                walked.arrays.last_mut().unwrap().text(text, before);
            }
            Event::CData(_) | Event::GeneralRef(_)
                if open.len() == 4 && at.starts_with("s:Envelope/s:Body/") =>
            {
                let array = walked.arrays.last_mut().unwrap();
                (array.stray, array.mixed) = (true, true);
            }
            Event::Comment(_) | Event::PI(_)
                if open.len() == 4 && at.starts_with("s:Envelope/s:Body/") =>
            {
                walked.arrays.last_mut().unwrap().mixed = true;
            }
            Event::Eof if open.is_empty() => return Ok(walked),
            Event::Eof => return Err("cut off".into()),
            _ => {}
        }
    }
}

/// What the outline says is what the walk finds.
pub(crate) fn assert_agrees(body: &[u8], outline: &Outline) {
    let shown = String::from_utf8_lossy(body);
    let walked = match walk(body) {
        Ok(walked) => walked,
        // Declarations are resolved down to the array alone.
        Err(error) if error.contains("cannot be bound") => return,
        Err(error) => panic!("quick-xml says {error}: {shown}"),
    };
    let name = walked
        .operation
        .unwrap_or_else(|| panic!("quick-xml sees no operation: {shown}"));
    assert_eq!(
        name.split_once(':').unwrap().1,
        outline.operation_name(),
        "{shown}"
    );
    assert_eq!(outline.operation_element(), walked.element, "{shown}");
    let kinds = outline.operation().map_or(&[][..], Operation::arrays);
    let expected: Vec<_> = walked
        .arrays
        .into_iter()
        .filter_map(|array| {
            let kind = kinds
                .iter()
                .find(|kind| array.name == format!("m:{}", kind.container))?;
            let members = match array.stray {
                false => array.members,
                // A list in one text.
                true if kind.members.is_empty() && !array.mixed => array.words,
                true => return None,
            };
            Some((array.element, members))
        })
        .collect();
    let found: Vec<_> = outline
        .arrays()
        .iter()
        .map(|array| (array.element(), array.members().to_vec()))
        .collect();
    assert_eq!(found, expected, "{shown}");
}
